"""Comparison of values, and the simple condition (SC) that the other evaluators fall back to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from workflow.expressions.scan import scan_number
from workflow.values import Value, to_number

OPERATORS: Final = ("==", "!=", "<=", ">=", "<", ">")
"""In the order in which a condition looks for them."""


def equal(left: Value, right: Value) -> bool:
    """`==`: nulls, instants, numbers (numeric text included), texts, booleans; anything else is unequal."""
    if left is None or right is None:
        return left is right
    if type(left) is datetime and type(right) is datetime:
        return left == right
    left_number = to_number(left)
    if left_number is not None:
        right_number = to_number(right)
        if right_number is not None:
            return left_number == right_number
    kind = type(left)
    if kind is type(right) and (kind is str or kind is bool):
        return bool(left == right)
    return False


def _not_equal(left: Value, right: Value) -> bool:
    return not equal(left, right)


def _ordering(
    operator: Callable[[float | datetime, float | datetime], bool],
) -> Callable[[Value, Value], bool]:
    def compare(left: Value, right: Value) -> bool:
        if type(left) is datetime and type(right) is datetime:
            return operator(left, right)
        left_number = to_number(left)
        right_number = to_number(right)
        return left_number is not None and right_number is not None and operator(left_number, right_number)

    return compare


COMPARE: Final[dict[str, Callable[[Value, Value], bool]]] = {
    "==": equal,
    "!=": _not_equal,
    "<": _ordering(lambda a, b: a < b),  # type: ignore[operator]
    "<=": _ordering(lambda a, b: a <= b),  # type: ignore[operator]
    ">": _ordering(lambda a, b: a > b),  # type: ignore[operator]
    ">=": _ordering(lambda a, b: a >= b),  # type: ignore[operator]
}


def compile_simple(text: str) -> Callable[[Value], bool]:
    """SC: an operator at the start of the text and a number after it (0 if none), against a float or its
    `value`.
    """
    if text in ("true", "false"):
        answer = text == "true"
        return lambda value: answer
    operator = ""
    if len(text.encode("utf-8", "replace")) >= 2:
        if text[:2] in (">=", "<=", "==", "!="):
            operator = text[:2]
        elif text[0] in "<>":
            operator = text[0]
    if not operator:
        return lambda value: False
    threshold = scan_number(text[len(operator) :])
    compare = COMPARE[operator]

    def simple(value: Value) -> bool:
        if type(value) is dict:
            value = value.get("value")
        return type(value) is float and compare(value, threshold)

    return simple
