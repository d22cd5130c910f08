"""Arithmetic (EA): recursive descent over the text, compiled to closures.

The original parses and evaluates in one pass, so what stands before a syntax error is still evaluated, and
may kill its process before the error is found. The parser here keeps that order: at a syntax error it
stops, and what it has read so far is evaluated up to that point, where MISSING comes out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from workflow.expressions.context import EvalContext
from workflow.expressions.functions import MATH, extreme, modulo, power
from workflow.expressions.parts import NOTHING, Part, Run, charge, constant, with_names
from workflow.expressions.paths import MISSING, crash
from workflow.expressions.references import (
    compile_context_reference,
    compile_result_reference,
    compile_variable,
)
from workflow.expressions.scan import call_end
from workflow.values import Value, parse_float, to_number

if TYPE_CHECKING:
    from workflow.expressions.compiler import Compiler

_MATH_NAMES: Final = ("pow", "sqrt", "abs", "floor", "ceil", "round", "min", "max")
_VALUE_MARKS: Final = re.compile(r"[-+*/%(]|" + "|".join(_MATH_NAMES))
_MARKS: Final = re.compile(r"[*/%+]|(?:" + "|".join(_MATH_NAMES) + r")\(")
_BLANK: Final = " \t\n\r"
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_PATH_PART: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]", re.ASCII)
_nested_operands_max: Final = 6  # a chain this long is a closure per operator, a longer one a loop
_CRASH_MODULO: Final = crash("invalid expression: the right side of % is less than one")


def looks_like_value_arithmetic(text: str) -> bool:
    """Whether a value expression is tried as arithmetic."""
    return _VALUE_MARKS.search(text) is not None


def looks_like_arithmetic(text: str) -> bool:
    """Whether a reference is tried as arithmetic; a minus alone does not count."""
    return _MARKS.search(text) is not None


def _missing(context: EvalContext) -> Value:
    return MISSING


class ArithmeticParser:
    """Parses one arithmetic text. After a syntax error `_broken` is set and every level returns what it
    has.
    """

    def __init__(self, text: str, compiler: Compiler) -> None:
        self._text = text
        self._at = 0
        self._compiler = compiler
        self._broken = False

    def compile(self) -> Part:
        if not self._text:
            return NOTHING
        part = self._sum()
        self._skip_blanks()
        if not self._broken and self._at < len(self._text):
            part = self._break_after(part)
        if isinstance(part, float):
            return constant(part)
        return NOTHING if part is _missing else Part(part)

    # Operands are floats where they are known now, closures elsewhere.

    def _break_after(self, operand: float | Run) -> float | Run:
        """A syntax error after `operand`: it is evaluated (it may be what kills), and then there is no
        value.
        """
        self._broken = True
        if isinstance(operand, float) or operand is _missing:
            return _missing
        run = operand

        def evaluate_then_fail(context: EvalContext) -> Value:
            run(context)
            return MISSING

        return evaluate_then_fail

    def _skip_blanks(self) -> None:
        text = self._text
        while self._at < len(text) and text[self._at] in _BLANK:
            self._at += 1

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _sum(self) -> float | Run:
        return self._chain("+-", self._product)

    def _product(self) -> float | Run:
        return self._chain("*/%", self._factor)

    def _chain(self, operators: str, operand: Callable[[], float | Run]) -> float | Run:
        left = operand()
        more: list[tuple[str, float | Run]] = []
        while not self._broken:
            self._skip_blanks()
            operator = self._peek()
            if not operator or operator not in operators:
                break
            self._at += 1
            more.append((operator, operand()))
        if len(more) > _nested_operands_max:
            return _combine_in_loop(left, more)
        for operator, right in more:
            left = _combine(operator, left, right)
        return left

    def _factor(self) -> float | Run:
        self._compiler.enter()
        try:
            return self._factor_inside()
        finally:
            self._compiler.leave()

    def _factor_inside(self) -> float | Run:
        self._skip_blanks()
        char = self._peek()
        if char == "+":
            self._at += 1
            return self._factor()
        if char == "-":
            self._at += 1
            return _negate(self._factor())
        if char == "(":
            return self._parenthesis()
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            self._at = number.end()
            value = parse_float(number.group())
            return self._break_after(_missing) if value is None else value
        identifier = _IDENTIFIER.match(self._text, self._at)
        if identifier is not None:
            return self._identifier(identifier.group(), identifier.end())
        return self._break_after(_missing)

    def _parenthesis(self) -> float | Run:
        self._at += 1
        inner = self._sum()
        if self._broken:
            return inner
        self._skip_blanks()
        if self._peek() != ")":
            return self._break_after(inner)
        self._at += 1
        return inner

    def _identifier(self, name: str, end: int) -> float | Run:
        start = self._at
        self._at = end
        self._skip_blanks()
        char = self._peek()
        if char == "(":
            return self._math_call(name) if name in _MATH_NAMES else self._value_call(start)
        if char != "." and char != "[":
            return _to_number(compile_variable(name))
        path = name
        while self._peek() in (".", "["):
            part = _PATH_PART.match(self._text, self._at)
            if part is None:
                return self._break_after(_missing)
            path += part.group()
            self._at = part.end()
        return _to_number(_path(path))

    def _math_call(self, name: str) -> float | Run:
        self._at += 1
        self._skip_blanks()
        arguments: list[float | Run] = []
        if self._peek() == ")":
            self._at += 1
            return _call(name, arguments)
        while True:
            arguments.append(self._sum())
            if self._broken:
                return _evaluate_all(arguments)
            self._skip_blanks()
            char = self._peek()
            if char not in (")", ","):
                return self._break_after(_evaluate_all(arguments))
            self._at += 1
            if char == ")":
                return _call(name, arguments)

    def _value_call(self, start: int) -> float | Run:
        end = call_end(self._text, self._at)
        if end < 0:
            return self._break_after(_missing)
        self._at = end
        call = self._compiler.value(self._text[start:end], in_arithmetic=True).run
        return _to_number(_call_on_input(call))


# --- closures ---------------------------------------------------------------------------------------------


def _to_number(get: Run) -> Run:
    def number(context: EvalContext) -> Value:
        value = get(context)
        if type(value) is float or value is MISSING:
            return value
        converted = to_number(value)
        return MISSING if converted is None else converted

    return number


def _path(path: str) -> Run:
    """A path in arithmetic: a root that needs no current value, else a variable."""
    as_variable = compile_variable(path)
    if path.startswith("node."):
        first = compile_result_reference(path[5:])
    elif path.startswith("variables."):
        first = compile_variable(path[10:])
    elif path.startswith("context."):
        first = compile_context_reference(path[8:])
    else:
        return as_variable

    def resolve(context: EvalContext) -> Value:
        value = first(context)
        return as_variable(context) if value is MISSING else value

    return resolve


def _call_on_input(call: Run) -> Run:
    """A value function inside arithmetic: its current value is the variable `input`, else `item`, else
    null.
    """

    def call_on_input(context: EvalContext) -> Value:
        charge(context, 1)
        variables = context.variables
        if "input" in variables:
            current = variables["input"]
        elif context.value is not None:
            current = context.value
        else:
            current = variables.get("item")
        if current is context.value:
            return call(context)
        inner = with_names(context, current)
        value = call(inner)
        context.spent = inner.spent
        return value

    return call_on_input


def _negate(operand: float | Run) -> float | Run:
    if isinstance(operand, float):
        return -operand
    if operand is _missing:
        return _missing
    run = operand

    def negate(context: EvalContext) -> Value:
        value = run(context)
        return MISSING if value is MISSING else -value

    return negate


def _combine(operator: str, left: float | Run, right: float | Run) -> float | Run:
    if left is _missing:
        return _missing
    if isinstance(left, float) and isinstance(right, float) and operator not in "/%":
        return left + right if operator == "+" else left - right if operator == "-" else left * right
    if isinstance(right, float):
        return _combine_with_number(operator, _run(left), right)
    return _combine_runs(operator, _run(left), _run(right))


def _combine_in_loop(first: float | Run, more: list[tuple[str, float | Run]]) -> Run:
    """A long chain, left to right, without a closure in a closure for each operand."""
    start = _run(first)
    rest = [(operator, _run(operand)) for operator, operand in more]

    def combine(context: EvalContext) -> Value:
        total = start(context)
        for operator, operand in rest:
            if total is MISSING:
                return MISSING
            value = operand(context)
            if value is MISSING:
                return MISSING
            total = _apply(operator, total, value)
        return total

    return combine


def _apply(operator: str, left: float, right: float) -> Value:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if right == 0.0:
        return MISSING
    return left / right if operator == "/" else _modulo(left, right)


def _run(operand: float | Run) -> Run:
    if isinstance(operand, float):
        value = operand
        return lambda context: value
    return operand


def _combine_with_number(operator: str, left: Run, number: float) -> Run:
    if operator in "/%" and number == 0.0:
        return _evaluate_all_then_fail([left])

    def add(context: EvalContext) -> Value:
        value = left(context)
        return MISSING if value is MISSING else value + number

    def subtract(context: EvalContext) -> Value:
        value = left(context)
        return MISSING if value is MISSING else value - number

    def multiply(context: EvalContext) -> Value:
        value = left(context)
        return MISSING if value is MISSING else value * number

    def divide(context: EvalContext) -> Value:
        value = left(context)
        return MISSING if value is MISSING else value / number

    def rest(context: EvalContext) -> Value:
        value = left(context)
        return MISSING if value is MISSING else _modulo(value, number)

    closures: dict[str, Run] = {"+": add, "-": subtract, "*": multiply, "/": divide, "%": rest}
    return closures[operator]


def _combine_runs(operator: str, left: Run, right: Run) -> Run:
    def add(context: EvalContext) -> Value:
        value = left(context)
        if value is MISSING:
            return MISSING
        other = right(context)
        return MISSING if other is MISSING else value + other

    def subtract(context: EvalContext) -> Value:
        value = left(context)
        if value is MISSING:
            return MISSING
        other = right(context)
        return MISSING if other is MISSING else value - other

    def multiply(context: EvalContext) -> Value:
        value = left(context)
        if value is MISSING:
            return MISSING
        other = right(context)
        return MISSING if other is MISSING else value * other

    def divide(context: EvalContext) -> Value:
        value = left(context)
        if value is MISSING:
            return MISSING
        other = right(context)
        return MISSING if other is MISSING or other == 0.0 else value / other

    def rest(context: EvalContext) -> Value:
        value = left(context)
        if value is MISSING:
            return MISSING
        other = right(context)
        return MISSING if other is MISSING or other == 0.0 else _modulo(value, other)

    closures: dict[str, Run] = {"+": add, "-": subtract, "*": multiply, "/": divide, "%": rest}
    return closures[operator]


def _modulo(left: float, right: float) -> Value:
    value = modulo(left, right)
    return _CRASH_MODULO(None) if value is None else value


def _evaluate_all(arguments: list[float | Run]) -> float | Run:
    runs = [argument for argument in arguments if not isinstance(argument, float)]
    return _evaluate_all_then_fail(runs)


def _evaluate_all_then_fail(runs: list[Run]) -> Run:
    if not runs or runs[0] is _missing:
        return _missing

    def evaluate_then_fail(context: EvalContext) -> Value:
        for run in runs:
            if run(context) is MISSING:
                break
        return MISSING

    return evaluate_then_fail


def _sqrt(values: list[float]) -> Value:
    return MISSING if values[0] < 0 else math.sqrt(values[0])


def _call(name: str, arguments: list[float | Run]) -> float | Run:
    count = len(arguments)
    if name == "pow":
        fits = count == 2
    elif name in ("min", "max"):
        fits = count >= 2
    else:
        fits = count == 1
    if not fits:
        return _evaluate_all(arguments)
    compute: Callable[[list[float]], Value]
    if name in MATH:
        math_function = MATH[name]

        def compute(values: list[float]) -> Value:
            return math_function(values[0])
    elif name == "pow":

        def compute(values: list[float]) -> Value:
            return power(values[0], values[1])
    elif name == "sqrt":
        compute = _sqrt
    else:
        largest = name == "max"

        def compute(values: list[float]) -> Value:
            return extreme(values, largest=largest)

    runs = [_run(argument) for argument in arguments]

    def call(context: EvalContext) -> Value:
        values = []
        for run in runs:
            value = run(context)
            if value is MISSING:
                return MISSING
            values.append(value)
        return compute(values)

    return call
