"""From expression text to closures: the procedure of the original, decided once per text.

The original evaluates by cutting strings at run time. Nearly every cut depends on the text alone, so it is
made here, once; what is left is a closure from EvalContext to a value. MISSING stands for the original's
errors, EngineCrash for what killed its process. Compilers of the language's three evaluators and of
references (names as in the language's description):

    condition (EB)   true, false or MISSING
    value (EV)       any value or MISSING
    arithmetic (EA)  a float or MISSING (arithmetic.py)
    reference        any value or MISSING

Texts repeat inside an expression (a comparison that cannot be made is tried again as a whole), so compiled
parts are remembered by text; without that, a hostile expression would take exponential time to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from workflow.errors import LimitExceeded
from workflow.expressions import arithmetic
from workflow.expressions.compare import COMPARE, OPERATORS, compile_simple, equal
from workflow.expressions.context import EvalContext
from workflow.expressions.functions import (
    CONDITION_FUNCTIONS,
    VALUE_FUNCTIONS,
    argument_count_fits,
    sort_cost,
)
from workflow.expressions.parts import NOTHING, Part, Run, charge, constant, with_names
from workflow.expressions.paths import MISSING, crash, lone_quote
from workflow.expressions.references import compile_name, current_value_unwrapped
from workflow.expressions.scan import find_operator, split_arguments, unwrap
from workflow.steps.casing import SPACE
from workflow.values import MapSlice, Value, parse_float, text_form

length_max: Final = 65_536  # characters; a longer expression is a mistake or an attack
depth_max: Final = 120  # nesting of parts; each level costs a few frames of the interpreter's stack
parts_max: Final = 20_000  # compiled parts of one expression


class Compiler:
    """Compiles one expression; owns the memory of its parts."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], Part] = {}
        self._depth = 0

    def _remember(self, kind: str, text: str, make: Callable[[str], Part]) -> Part:
        key = (kind, text)
        part = self._parts.get(key)
        if part is not None:
            return part
        if len(self._parts) >= parts_max:
            raise LimitExceeded(f"expression too complex: more than {parts_max} parts")
        if self._depth >= depth_max:
            raise LimitExceeded(f"expression too deeply nested (limit: {depth_max} levels)")
        self._depth += 1
        part = self._parts[key] = make(text)
        self._depth -= 1
        return part

    # --- conditions (EB) ------------------------------------------------------------------------------------

    def condition(self, text: str) -> Part:
        return self._remember("condition", text.strip(SPACE), self._condition)

    def _condition(self, text: str) -> Part:
        text = unwrap(text, SPACE)
        if text == "true" or text == "false":
            return constant(text == "true")
        for operator in ("||", "&&"):
            at = find_operator(text, operator)
            if at >= 0:
                return self._logic(text, operator, at)
        return self._single_condition(text)

    def _logic(self, text: str, operator: str, at: int) -> Part:
        left = self.condition(text[:at]).run
        right = self.condition(text[at + 2 :]).run
        otherwise = self._single_condition(text).run
        is_or = operator == "||"

        def both(context: EvalContext) -> Value:
            left_is = left(context)
            if left_is is MISSING:
                return otherwise(context)
            right_is = right(context)
            if right_is is MISSING:
                return otherwise(context)
            return (left_is or right_is) if is_or else (left_is and right_is)

        return Part(both)

    def _single_condition(self, text: str) -> Part:
        """Steps 5 to 10: everything but the logical operators."""
        if text.startswith("!") and not text.startswith("!="):
            return self._negation(text)
        opening = text.find("(")
        if opening > 0 and text.endswith(")"):
            name = text[:opening].strip(SPACE)
            if name in CONDITION_FUNCTIONS:
                return self._condition_call(name, text[opening + 1 : -1])
        if text.startswith("contains(") and text.endswith(")"):
            return self._contains(text[9:-1])
        return self._comparison(text)

    def _negation(self, text: str) -> Part:
        inner = self.condition(text[1:]).run

        def negate(context: EvalContext) -> Value:
            value = inner(context)
            return MISSING if value is MISSING else not value

        return Part(negate)

    def _condition_call(self, name: str, arguments_text: str) -> Part:
        arguments = [
            self.reference(text).run for text in split_arguments(arguments_text, SPACE, nested=False)
        ]
        if name == "coalesce":
            return Part(_coalesce(arguments))
        if name == "isNull" and len(arguments) == 1:
            argument = arguments[0]

            def is_null(context: EvalContext) -> Value:
                value = argument(context)
                return MISSING if value is MISSING else value is None

            return Part(is_null)

        def not_a_boolean(context: EvalContext) -> Value:
            for argument in arguments:  # one of them may be what killed the original
                if argument(context) is MISSING:
                    break
            return MISSING

        return Part(not_a_boolean)

    def _contains(self, arguments_text: str) -> Part:
        arguments = split_arguments(arguments_text, SPACE, nested=False)
        if len(arguments) != 2:
            return NOTHING
        haystack = self.reference(arguments[0]).run
        needle = self.reference(arguments[1]).run

        def contains(context: EvalContext) -> Value:
            where = haystack(context)
            if where is MISSING:
                return MISSING
            what = needle(context)
            return MISSING if what is MISSING else text_form(what) in text_form(where)

        return Part(contains)

    def _comparison(self, text: str) -> Part:
        for operator in OPERATORS:
            at = find_operator(text, operator)
            if at < 0:
                continue
            otherwise = self._lone_reference(text)
            left_text = text[:at].strip(SPACE)
            left = self.reference(left_text) if left_text else Part(current_value_unwrapped)
            right = self.reference(text[at + len(operator) :])
            return Part(_compare(operator, left, right, otherwise))
        return Part(self._lone_reference(text))

    def _lone_reference(self, text: str) -> Run:
        """Steps 9 and 10: a reference that is a boolean, else the simple condition."""
        reference = self.reference(text)
        simple = compile_simple(text)
        if reference.constant:
            if type(reference.value) is bool:
                return reference.run
            return lambda context: simple(context.value)
        resolve = reference.run

        def lone_reference(context: EvalContext) -> Value:
            value = resolve(context)
            return value if type(value) is bool else simple(context.value)

        return lone_reference

    # --- values (EV) ----------------------------------------------------------------------------------------

    def value(self, text: str, *, in_arithmetic: bool = False) -> Part:
        """`in_arithmetic`: the text is one call out of an arithmetic expression."""
        if in_arithmetic:
            return self._remember("call", text.strip(SPACE), self._called_value)
        return self._remember("value", text.strip(SPACE), self._value)

    def _called_value(self, text: str) -> Part:
        return self._value_of(text, in_arithmetic=True)

    def _value(self, text: str) -> Part:
        return self._value_of(text, in_arithmetic=False)

    def _value_of(self, text: str, *, in_arithmetic: bool) -> Part:
        question = text.find("?")
        if question > 0:
            colon = text.find(":", question)
            if colon > 0:
                return self._ternary(text[:question], text[question + 1 : colon], text[colon + 1 :])
        opening = text.find("(")
        if opening > 0 and text.endswith(")"):
            name = text[:opening].strip(SPACE)
            if name == "map" or name in VALUE_FUNCTIONS:
                return self._value_call(name, text[opening + 1 : -1])
        if in_arithmetic:
            # Arithmetic would cut out this very call again and hand it back here, without end.
            return Part(crash(f"invalid expression: unknown function in {text}"))
        computed: Part = NOTHING
        if arithmetic.looks_like_value_arithmetic(text):
            computed = self.arithmetic(text)
            if computed.constant and computed.value is not MISSING:
                return computed
        resolved = self._resolve(text, try_arithmetic=False)
        if resolved.constant and resolved.value is MISSING and text == "null":
            resolved = constant(None)
        if computed.constant:
            if text == "null":
                return _null_if_missing(resolved)
            return resolved
        return Part(_first_of(computed.run, resolved.run))

    def _ternary(self, condition_text: str, true_text: str, false_text: str) -> Part:
        condition = self.condition(condition_text).run
        if_true = self.value(true_text).run
        if_false = self.value(false_text).run

        def choose(context: EvalContext) -> Value:
            is_met = condition(context)
            if is_met is MISSING:
                return MISSING
            return if_true(context) if is_met else if_false(context)

        return Part(choose)

    def _value_call(self, name: str, arguments_text: str) -> Part:
        texts = split_arguments(arguments_text, SPACE, nested=True)
        if not argument_count_fits(name, len(texts)):
            return NOTHING
        arguments = [self.value(text).run for text in texts]
        if name == "map":
            return Part(_map(arguments[0], arguments[1]))
        function = VALUE_FUNCTIONS[name]
        is_sort = name == "sort"

        def call(context: EvalContext) -> Value:
            charge(context, 1)
            values = []
            for argument in arguments:
                value = argument(context)
                if value is MISSING:
                    return MISSING
                if isinstance(value, list):
                    charge(context, sort_cost(value) if is_sort else len(value))
                values.append(value)
            return function(values)

        return Part(call)

    # --- arithmetic (EA) ------------------------------------------------------------------------------------

    def arithmetic(self, text: str) -> Part:
        return self._remember("arithmetic", text.strip(SPACE), self._arithmetic)

    def _arithmetic(self, text: str) -> Part:
        return arithmetic.ArithmeticParser(text, self).compile()

    # --- references -----------------------------------------------------------------------------------------

    def reference(self, text: str) -> Part:
        return self._remember("reference", text.strip(SPACE), self._reference)

    def _reference(self, text: str) -> Part:
        return self._resolve(text, try_arithmetic=True)

    def _resolve(self, text: str, *, try_arithmetic: bool) -> Part:
        """The first form that `text` has. `try_arithmetic` is off where arithmetic has failed on it
        before.
        """
        if text and text[0] in "\"'" and text[0] == text[-1]:
            return Part(crash(lone_quote(text))) if len(text) == 1 else constant(text[1:-1])
        number = parse_float(text)
        if number is not None:
            return constant(number)
        if text == "true" or text == "false":
            return constant(text == "true")
        if try_arithmetic and arithmetic.looks_like_arithmetic(text):
            computed = self.arithmetic(text)
            if not computed.constant:
                return Part(_first_of(computed.run, compile_name(text).run))
            if computed.value is not MISSING:
                return computed
        return compile_name(text)


# --- closures that need no compiler -----------------------------------------------------------------------


def _map(array: Run, expression: Run) -> Run:
    def map_elements(context: EvalContext) -> Value:
        items = array(context)
        if type(items) is MapSlice:
            items = items.items
        elif not isinstance(items, list):
            return MISSING
        charge(context, 1)
        inner = with_names(context, None)
        mapped = []
        for item in items:
            charge(inner, 1)
            inner.value = item
            value = expression(inner)
            if value is MISSING:
                break
            mapped.append(value)
        context.spent = inner.spent
        return mapped if len(mapped) == len(items) else MISSING

    return map_elements


def _coalesce(arguments: list[Run]) -> Run:
    def coalesce(context: EvalContext) -> Value:
        found: Value = None
        for argument in arguments:
            value = argument(context)
            if value is MISSING:
                return MISSING
            if found is None:
                found = value
        return found if type(found) is bool else MISSING

    return coalesce


def _first_of(first: Run, second: Run) -> Run:
    def first_of(context: EvalContext) -> Value:
        value = first(context)
        return second(context) if value is MISSING else value

    return first_of


def _null_if_missing(part: Part) -> Part:
    if part.constant:
        return part
    run = part.run

    def null_if_missing(context: EvalContext) -> Value:
        value = run(context)
        return None if value is MISSING else value

    return Part(null_if_missing)


def _compare(operator: str, left: Part, right: Part, otherwise: Run) -> Run:
    """A comparison; a side that does not resolve leaves the decision to `otherwise`."""
    compare = COMPARE[operator]
    left_run, right_run = left.run, right.run
    if right.constant and type(right.value) is float and right.value == right.value:
        return _compare_with_number(operator, left_run, right.value, otherwise)
    if (
        right.constant
        and type(right.value) is str
        and parse_float(right.value) is None
        and operator in ("==", "!=")
    ):
        return _compare_with_text(operator, left_run, right.value, otherwise)

    def compare_sides(context: EvalContext) -> Value:
        left_value = left_run(context)
        if left_value is MISSING:
            return otherwise(context)
        right_value = right_run(context)
        if right_value is MISSING:
            return otherwise(context)
        return compare(left_value, right_value)

    return compare_sides


def _compare_with_number(operator: str, left: Run, number: float, otherwise: Run) -> Run:
    """The commonest condition, without calls for a float on the left; one closure for each operator."""
    compare = COMPARE[operator]

    def slow(value: Value, context: EvalContext) -> Value:
        return otherwise(context) if value is MISSING else compare(value, number)

    def is_less(context: EvalContext) -> Value:
        value = left(context)
        return value < number if type(value) is float else slow(value, context)

    def is_at_most(context: EvalContext) -> Value:
        value = left(context)
        return value <= number if type(value) is float else slow(value, context)

    def is_greater(context: EvalContext) -> Value:
        value = left(context)
        return value > number if type(value) is float else slow(value, context)

    def is_at_least(context: EvalContext) -> Value:
        value = left(context)
        return value >= number if type(value) is float else slow(value, context)

    def is_equal(context: EvalContext) -> Value:
        value = left(context)
        return value == number if type(value) is float else slow(value, context)

    def is_unequal(context: EvalContext) -> Value:
        value = left(context)
        return value != number if type(value) is float else slow(value, context)

    closures: dict[str, Run] = {
        "<": is_less,
        "<=": is_at_most,
        ">": is_greater,
        ">=": is_at_least,
        "==": is_equal,
        "!=": is_unequal,
    }
    return closures[operator]


def _compare_with_text(operator: str, left: Run, text: str, otherwise: Run) -> Run:
    wanted = operator == "=="

    def is_text(context: EvalContext) -> Value:
        value = left(context)
        if type(value) is str:
            return (value == text) is wanted
        return otherwise(context) if value is MISSING else equal(value, text) is wanted

    return is_text
