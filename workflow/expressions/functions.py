"""Value functions (`sum`, `sort`, `zip` …) and the mathematics of arithmetic, as Go computes it.

A value function gets evaluated arguments and returns its value, or MISSING where the original reports an
error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from workflow.expressions.paths import MISSING
from workflow.values import Value, text_form, to_number

_INT64_MIN = -(1 << 63)


def to_int64(number: float) -> int:
    """Go's int(x) on amd64: cut toward zero; NaN and what does not fit become the smallest int64."""
    if -9.223372036854775808e18 <= number < 9.223372036854775808e18:
        return int(number)
    return _INT64_MIN


def modulo(left: float, right: float) -> float | None:
    """`left % right` on truncated operands, sign of the left; None where the right one truncates to 0."""
    divisor = to_int64(right)
    if divisor == 0:
        return None
    dividend = to_int64(left)
    rest = abs(dividend) % abs(divisor)
    return float(-rest if dividend < 0 else rest)


def round_half_away(number: float) -> float:
    if number != number or abs(number) >= 4503599627370496.0:
        return number
    whole = float(int(number))
    if abs(number - whole) >= 0.5:
        whole += math.copysign(1.0, number)
    return math.copysign(whole, number)


def floor(number: float) -> float:
    if number != number or abs(number) >= 4503599627370496.0 or number == 0.0:
        return number
    return float(math.floor(number))


def ceil(number: float) -> float:
    if number != number or abs(number) >= 4503599627370496.0:
        return number
    return math.copysign(float(math.ceil(number)), number)


def power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
    except ValueError:
        if base == 0.0:  # a negative power of zero
            odd = exponent % 2 == 1
            return math.copysign(math.inf, base) if odd else math.inf
        return math.nan


MATH: Final[dict[str, Callable[[float], float]]] = {
    "round": round_half_away,
    "floor": floor,
    "ceil": ceil,
    "abs": abs,
}


def numbers(items: Sequence[Value]) -> list[float] | None:
    """All items as numbers, None if one is none."""
    found: list[float] = []
    for item in items:
        number = item if type(item) is float else to_number(item)
        if number is None:
            return None
        found.append(number)
    return found


def _add_up(found: list[float]) -> float:
    # Left to right: math.fsum and, from Python 3.12 on, sum() would round differently.
    total = 0.0
    for number in found:
        total += number
    return total


def _sum(arguments: Sequence[Value]) -> Value:
    if len(arguments) == 1 and not isinstance(arguments[0], list):
        number = to_number(arguments[0])
        return MISSING if number is None else number
    found = numbers(arguments[0] if len(arguments) == 1 else arguments)
    return MISSING if found is None else _add_up(found)


def _avg(arguments: Sequence[Value]) -> Value:
    if len(arguments) == 1 and not isinstance(arguments[0], list):
        number = to_number(arguments[0])
        return MISSING if number is None else number
    found = numbers(arguments[0] if len(arguments) == 1 else arguments)
    return _add_up(found) / len(found) if found else MISSING


def extreme(found: Sequence[float], *, largest: bool) -> float:
    """The first smallest or largest; a NaN wins only from the first place, as in a plain loop."""
    result = found[0]
    for number in found:
        if number > result if largest else number < result:
            result = number
    return result


def _extreme(largest: bool) -> Callable[[Sequence[Value]], Value]:
    def function(arguments: Sequence[Value]) -> Value:
        if len(arguments) == 1 and not isinstance(arguments[0], list):
            return MISSING
        found = numbers(arguments[0] if len(arguments) == 1 else arguments)
        return extreme(found, largest=largest) if found else MISSING

    return function


def _elementwise(name: str) -> Callable[[Sequence[Value]], Value]:
    compute = MATH[name]

    def function(arguments: Sequence[Value]) -> Value:
        value = arguments[0]
        if isinstance(value, list):
            found = numbers(value)
            return MISSING if found is None else [compute(number) for number in found]
        number = to_number(value)
        return MISSING if number is None else compute(number)

    return function


def _reverse(arguments: Sequence[Value]) -> Value:
    return list(arguments[0][::-1]) if isinstance(arguments[0], list) else MISSING


def _unique(arguments: Sequence[Value]) -> Value:
    if not isinstance(arguments[0], list):
        return MISSING
    first_of: dict[str, Value] = {}
    for item in arguments[0]:
        first_of.setdefault(text_form(item), item)
    return list(first_of.values())


def _flatten(arguments: Sequence[Value]) -> Value:
    if not isinstance(arguments[0], list):
        return MISSING
    flat: list[Value] = []
    pending = [iter(arguments[0])]
    while pending:
        for item in pending[-1]:
            if isinstance(item, list):
                pending.append(iter(item))
                break
            flat.append(item)
        else:
            pending.pop()
    return flat


def _bound(value: Value, size: int) -> int | None:
    number = to_number(value)
    if number is None:
        return None
    index = to_int64(number)
    return max(0, min(size, index + size if index < 0 else index))


def _slice(arguments: Sequence[Value]) -> Value:
    items = arguments[0]
    if not isinstance(items, list):
        return MISSING
    start = _bound(arguments[1], len(items))
    end = _bound(arguments[2], len(items)) if len(arguments) == 3 else len(items)
    if start is None or end is None:
        return MISSING
    return list(items[start:end])


def _sample(arguments: Sequence[Value]) -> Value:
    items = arguments[0]
    number = to_number(arguments[1])
    if not isinstance(items, list) or number is None or (count := to_int64(number)) < 0:
        return MISSING
    if count == 0:
        return []
    if count >= len(items):
        mixed = list(items)
        for index in range(len(mixed) - 1, 0, -1):
            other = (index + 1) // 2
            mixed[index], mixed[other] = mixed[other], mixed[index]
        return mixed
    step = max(1, len(items) // count)
    return [items[index * step] for index in range(count)]


def _zip(arguments: Sequence[Value]) -> Value:
    if not all(isinstance(argument, list) for argument in arguments):
        return MISSING
    longest = max(len(argument) for argument in arguments)
    return [
        [argument[index] if index < len(argument) else None for argument in arguments]
        for index in range(longest)
    ]


def sort_cost(items: list[Value]) -> int:
    """Comparisons that sort_values needs for these items."""
    if _sorts_natively(items):
        return len(items)
    return len(items) * (len(items) - 1) // 2


def _sorts_natively(items: list[Value]) -> bool:
    kinds = set(map(type, items))
    if kinds == {float}:
        return not any(item != item or item == 0.0 for item in items)
    return kinds == {str} and all(to_number(item) is None for item in items)


def sort_values(items: list[Value]) -> list[Value]:
    """The original's exchange sort. Where all items are plain texts or numbers any sort gives the same."""
    if _sorts_natively(items):
        return sorted(items)
    rows = [(to_number(item), text_form(item), item) for item in items]
    for left in range(len(rows)):
        for right in range(left + 1, len(rows)):
            if _sorts_after(rows[left], rows[right]):
                rows[left], rows[right] = rows[right], rows[left]
    return [row[2] for row in rows]


def _sorts_after(left: tuple[float | None, str, Value], right: tuple[float | None, str, Value]) -> bool:
    if left[0] is not None and right[0] is not None:
        return left[0] > right[0]
    return left[1] > right[1]


def _sort(arguments: Sequence[Value]) -> Value:
    return sort_values(arguments[0]) if isinstance(arguments[0], list) else MISSING


def argument_count_fits(name: str, count: int) -> bool:
    low, high = _ARITY[name]
    return low <= count <= high


_MANY = 1 << 30
_ARITY: Final[dict[str, tuple[int, int]]] = {
    "map": (2, 2),
    "sum": (1, _MANY),
    "avg": (1, _MANY),
    "min": (1, _MANY),
    "max": (1, _MANY),
    "round": (1, 1),
    "floor": (1, 1),
    "ceil": (1, 1),
    "abs": (1, 1),
    "sort": (1, 1),
    "reverse": (1, 1),
    "unique": (1, 1),
    "flatten": (1, 1),
    "slice": (2, 3),
    "sample": (2, 2),
    "zip": (2, _MANY),
}

VALUE_FUNCTIONS: Final[dict[str, Callable[[Sequence[Value]], Value]]] = {
    "sum": _sum,
    "avg": _avg,
    "min": _extreme(largest=False),
    "max": _extreme(largest=True),
    "round": _elementwise("round"),
    "floor": _elementwise("floor"),
    "ceil": _elementwise("ceil"),
    "abs": _elementwise("abs"),
    "sort": _sort,
    "reverse": _reverse,
    "unique": _unique,
    "flatten": _flatten,
    "slice": _slice,
    "sample": _sample,
    "zip": _zip,
}
"""All but `map`, which needs its second argument unevaluated."""

CONDITION_FUNCTIONS: Final = frozenset(
    {
        "now",
        "parseDate",
        "toEpoch",
        "toEpochMillis",
        "fromEpoch",
        "fromEpochMillis",
        "dateDiff",
        "dateAdd",
        "year",
        "month",
        "day",
        "hour",
        "minute",
        "isNull",
        "coalesce",
    }
)
