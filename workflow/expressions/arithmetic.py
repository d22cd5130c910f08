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

from workflow.errors import LimitExceeded
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
depth_max: Final = 250  # parentheses in each other
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


def _broken(context: EvalContext) -> Value:
    """Stands for a syntax error in place of an operand; never called."""
    return MISSING


Operand = float | Run
"""What is known now, or a closure that finds it out."""


class _Frame:
    """One level of the descent: the whole text, a parenthesis, or the arguments of a mathematical function."""

    __slots__ = ("arguments", "factors", "is_negative", "name", "operator", "sum_operator", "terms")

    def __init__(self, name: str | None) -> None:
        self.name = name  # "" for a parenthesis, None for the whole text
        self.arguments: list[Operand] = []
        self.terms: list[tuple[str, Operand]] = []
        self.factors: list[tuple[str, Operand]] = []
        self.sum_operator = "+"  # before the factors that are being read
        self.operator = "*"  # before the next factor
        self.is_negative = False  # the sign before the next factor

    def add(self, operand: Operand) -> None:
        """The next factor, with its sign."""
        if self.is_negative:
            operand = _negate(operand)
            self.is_negative = False
        self.factors.append((self.operator, operand))

    def end_product(self) -> None:
        self.terms.append((self.sum_operator, _chain(self.factors)))
        self.factors = []
        self.operator = "*"

    def end_sum(self) -> Operand:
        self.end_product()
        operand = _chain(self.terms)
        self.terms = []
        self.sum_operator = "+"
        return operand


class ArithmeticParser:
    """Parses one arithmetic text, with a stack of its own instead of the interpreter's."""

    def __init__(self, text: str, compiler: Compiler) -> None:
        self._text = text
        self._at = 0
        self._compiler = compiler
        self._stack = [_Frame(None)]

    def compile(self) -> Part:
        if not self._text:
            return NOTHING
        operand = self._parse()
        if isinstance(operand, float):
            return constant(operand)
        return NOTHING if operand is _missing else Part(operand)

    def _parse(self) -> Operand:
        while True:
            operand = self._operand()
            if operand is None:  # a level was opened: its first operand is next
                continue
            if operand is _broken:
                return self._give_up(_missing)
            while True:
                frame = self._stack[-1]
                frame.add(operand)
                operator = self._peek()
                if operator and operator in "*/%":
                    self._at += 1
                    frame.operator = operator
                    break
                if operator and operator in "+-":
                    self._at += 1
                    frame.end_product()
                    frame.sum_operator = operator
                    break
                value = frame.end_sum()
                if frame.name is None:
                    return value if not operator else self._give_up(_after(value))
                if operator == ")":
                    self._at += 1
                    self._stack.pop()
                    operand = value if not frame.name else _call(frame.name, [*frame.arguments, value])
                    continue
                if operator == "," and frame.name:
                    self._at += 1
                    frame.arguments.append(value)
                    break
                return self._give_up(_after(value))

    def _give_up(self, operand: Operand) -> Run:
        """A syntax error: what was read before it is evaluated (it may be what kills), and then there is no value."""
        while self._stack:
            frame = self._stack.pop()
            frame.add(operand)
            operand = _evaluate_all([*frame.arguments, frame.end_sum()])
        assert not isinstance(operand, float)
        return operand

    def _peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        text = self._text
        while self._at < len(text) and text[self._at] in _BLANK:
            self._at += 1
        return text[self._at] if self._at < len(text) else ""

    def _open(self, name: str) -> None:
        self._at += 1
        if len(self._stack) >= depth_max:
            raise LimitExceeded(f"expression too deeply nested (limit: {depth_max} parentheses)")
        self._stack.append(_Frame(name))

    def _operand(self) -> Operand | None:
        """The next operand; None when it opens a level, _broken for a syntax error."""
        char = self._peek()
        while char == "+" or char == "-":
            self._stack[-1].is_negative ^= char == "-"
            self._at += 1
            char = self._peek()
        if char == "(":
            self._open("")
            return None
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            self._at = number.end()
            value = parse_float(number.group())
            return _broken if value is None else value
        identifier = _IDENTIFIER.match(self._text, self._at)
        if identifier is None:
            return _broken
        return self._identifier(identifier.group(), identifier.end())

    def _identifier(self, name: str, end: int) -> Operand | None:
        start = self._at
        self._at = end
        char = self._peek()
        if char == "(" and name in _MATH_NAMES:
            self._open(name)
            if self._peek() != ")":
                return None
            self._at += 1
            self._stack.pop()
            return _call(name, [])
        if char == "(":
            return self._value_call(start)
        if char != "." and char != "[":
            return _to_number(compile_variable(name))
        path = name
        while self._text[self._at : self._at + 1] in (".", "["):
            part = _PATH_PART.match(self._text, self._at)
            if part is None:
                return _broken
            path += part.group()
            self._at = part.end()
        return _to_number(_path(path))

    def _value_call(self, start: int) -> Operand:
        end = call_end(self._text, self._at)
        if end < 0:
            return _broken
        self._at = end
        call = self._compiler.value(self._text[start:end], in_arithmetic=True).run
        return _to_number(_call_on_input(call))


def _after(operand: Operand) -> Operand:
    """A syntax error right behind `operand`."""
    return _evaluate_all([operand])


def _chain(parts: list[tuple[str, Operand]]) -> Operand:
    """Operands of one level, left to right. The operator of the first does not count."""
    left = parts[0][1]
    if len(parts) > _nested_operands_max:
        return _combine_in_loop(left, parts[1:])
    for operator, right in parts[1:]:
        left = _combine(operator, left, right)
    return left


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


def _negate(operand: Operand) -> Operand:
    if isinstance(operand, float):
        return -operand
    if operand is _missing:
        return _missing
    run = operand

    def negate(context: EvalContext) -> Value:
        value = run(context)
        return MISSING if value is MISSING else -value

    return negate


def _combine(operator: str, left: Operand, right: Operand) -> Operand:
    if left is _missing:
        return _missing
    if isinstance(left, float) and isinstance(right, float) and operator not in "/%":
        return left + right if operator == "+" else left - right if operator == "-" else left * right
    if isinstance(right, float):
        return _combine_with_number(operator, _run(left), right)
    return _combine_runs(operator, _run(left), _run(right))


def _combine_in_loop(first: Operand, more: list[tuple[str, Operand]]) -> Run:
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


def _run(operand: Operand) -> Run:
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


def _evaluate_all(arguments: list[Operand]) -> Operand:
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


def _call(name: str, arguments: list[Operand]) -> Operand:
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
