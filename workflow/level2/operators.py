"""What the operators of level 2 do to values. Numbers are numbers, texts are texts, and nothing is converted silently
but a number or boolean that is added to a text.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from workflow.level2.scope import LIST_LENGTH_MAX, TEXT_LENGTH_MAX, ExpressionError
from workflow.values import (
    Int64,
    JsonNumber,
    MapSlice,
    SliceMap,
    StringPtr,
    StringSlice,
    Value,
    json_float,
    to_json,
)

KIND_NAMES = {
    float: "number",
    int: "number",
    Int64: "number",
    str: "text",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    datetime: "date",
}


def kind_name(value: Value) -> str:
    """The name of a value's kind as level 2 shows it: number, text, boolean, null, array, object, date."""
    return KIND_NAMES.get(type(value)) or ("array" if isinstance(value, list) else type(value).__name__)


def plain(value: Value) -> Value:
    """The value without the original's special carriers: what a level-1 step made becomes plain data, copied only
    where something has to change.
    """
    kind = type(value)
    if kind is float or kind is str or kind is bool or value is None:
        return value
    if kind is int or kind is Int64:
        return float(value)
    if kind is dict:
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if kind is JsonNumber:
        return float(value.text)
    if kind is MapSlice or kind is StringSlice:
        return [plain(item) for item in value.items]
    if kind is SliceMap:
        return {key: [plain(item) for item in items] for key, items in value.items.items()}
    if kind is StringPtr:
        return value.value
    return value


def equal(left: Value, right: Value) -> bool:
    """Deep equality; a boolean is never a number, and "5" is never 5."""
    left_kind, right_kind = type(left), type(right)
    if left_kind is right_kind:
        if left_kind is dict:
            return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
        if left_kind is list:
            return len(left) == len(right) and all(map(equal, left, right))
        return bool(left == right)
    if left_kind is bool or right_kind is bool:
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def number(value: Value, what: str) -> float:
    """The value as a float. Raises ExpressionError naming `what` for anything that is not a number."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int or kind is Int64:
        return float(value)
    raise ExpressionError(f"{what} needs a number, got {kind_name(value)}")


def boolean(value: Value, what: str) -> bool:
    if value is True or value is False:
        return value
    raise ExpressionError(f"{what} needs true or false, got {kind_name(value)}")


def number_text(value: float) -> str:
    """A number as text: JSON's form, so 3.0 is `3`; NaN and the infinities by name."""
    if math.isfinite(value):
        return json_float(value)
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")


def scalar_text(value: Value) -> str | None:
    """Text of a text, number, boolean or date; None for other kinds."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is bool:
        return "true" if value else "false"
    if kind is float or kind is int or kind is Int64:
        return number_text(float(value))
    if kind is datetime:
        return value.isoformat()  # type: ignore[no-any-return]
    return None


def json_text(value: Value) -> str:
    """A value as JSON text, whole numbers without a point. Raises ValueError for what JSON cannot write."""
    plain_json = _whole_as_int(to_json(value))
    return json.dumps(plain_json, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _whole_as_int(value: Any) -> Any:
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    if isinstance(value, list):
        return [_whole_as_int(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole_as_int(item) for key, item in value.items()}
    return value


def add(left: Value, right: Value) -> Value:
    left_kind, right_kind = type(left), type(right)
    if left_kind is float and right_kind is float:
        return left + right
    if left_kind is str or right_kind is str:
        left_text, right_text = scalar_text(left), scalar_text(right)
        if left_text is not None and right_text is not None:
            if len(left_text) + len(right_text) > TEXT_LENGTH_MAX:
                raise ExpressionError(f"the text grows past {TEXT_LENGTH_MAX} characters")
            return left_text + right_text
    if isinstance(left, list) and isinstance(right, list):
        if len(left) + len(right) > LIST_LENGTH_MAX:
            raise ExpressionError(f"the array grows past {LIST_LENGTH_MAX} elements")
        return [*left, *right]
    if left_kind in _NUMBERS and right_kind in _NUMBERS:
        return float(left) + float(right)
    raise ExpressionError(f"+ adds two numbers, two arrays, or something to a text; got {_pair(left, right)}")


_NUMBERS = frozenset({float, int, Int64})


def _pair(left: Value, right: Value) -> str:
    return f"{kind_name(left)} and {kind_name(right)}"


def subtract(left: Value, right: Value) -> Value:
    if type(left) is float and type(right) is float:
        return left - right
    if type(left) is datetime and type(right) is datetime:
        return (left - right).total_seconds()
    return number(left, "-") - number(right, "-")


def multiply(left: Value, right: Value) -> Value:
    if type(left) is float and type(right) is float:
        return left * right
    return number(left, "*") * number(right, "*")


def divide(left: Value, right: Value) -> Value:
    divisor = number(right, "/")
    if divisor == 0.0:
        raise ExpressionError("division by zero")
    return number(left, "/") / divisor


def remainder(left: Value, right: Value) -> Value:
    """Remainder with the sign of the left side, as in C and JavaScript."""
    divisor = number(right, "%")
    if divisor == 0.0:
        raise ExpressionError("division by zero")
    dividend = number(left, "%")
    if not math.isfinite(dividend):
        raise ExpressionError("% needs finite numbers")
    return math.fmod(dividend, divisor)


def power(left: Value, right: Value) -> Value:
    try:
        result = number(left, "**") ** number(right, "**")
    except (OverflowError, ZeroDivisionError) as error:
        raise ExpressionError(f"** has no result: {error}") from error
    if isinstance(result, complex):
        raise ExpressionError("** of a negative number needs a whole exponent")
    return result


def less(left: Value, right: Value) -> bool:
    _check_order(left, right)
    return bool(left < right)


def less_or_equal(left: Value, right: Value) -> bool:
    _check_order(left, right)
    return bool(left <= right)


def _check_order(left: Value, right: Value) -> None:
    left_kind, right_kind = type(left), type(right)
    if left_kind is right_kind and (left_kind is float or left_kind is str or left_kind is datetime):
        return
    if left_kind in _NUMBERS and right_kind in _NUMBERS:
        return
    raise ExpressionError(f"< and > compare two numbers, two texts or two dates; got {_pair(left, right)}")


def contains(needle: Value, haystack: Value) -> bool:
    """`needle in haystack`: an element of an array, a key of an object, a part of a text."""
    if isinstance(haystack, list):
        return any(equal(needle, item) for item in haystack)
    if type(haystack) is str and type(needle) is str:
        return needle in haystack
    if type(haystack) is dict and type(needle) is str:
        return needle in haystack
    raise ExpressionError(
        f"in looks into an array, an object (for a key) or a text (for a text); got {_pair(needle, haystack)}"
    )
