"""The functions of level 2. Each is a row of `FUNCTIONS`: what it takes and what it does; docs/language.md lists them.

A function gets its arguments evaluated, in order. An argument that is a function (`x => …`) arrives as a Python
callable; where one is expected, the row says so with `calls`. A bad argument raises ExpressionError that names the
function.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from difflib import get_close_matches
from functools import cmp_to_key
from typing import Any, NamedTuple

from workflow.level2 import dates, operators
from workflow.level2.operators import kind_name, number
from workflow.level2.scope import (
    LIST_LENGTH_MAX,
    TEXT_LENGTH_MAX,
    Closure,
    ExpressionError,
    Function,
    Missing,
    Scope,
)
from workflow.values import Value, from_json


class Row(NamedTuple):
    """One function: least and most arguments (None: any number), positions that take `x => …`, and what it does."""

    least: int
    most: int | None
    run: Callable[..., Value]
    about: str
    calls: tuple[int, ...] = ()


def bind(name: str, arguments: Sequence[Closure | Function], position: int) -> Closure:
    """A closure for a call. Raises ExpressionError for an unknown name, a wrong count or a misplaced function."""
    if name == "now":
        _check_count(name, 0, 0, len(arguments))
        return lambda scope: scope.now()
    row = FUNCTIONS.get(name)
    if row is None:
        raise ExpressionError(f"unknown function {name!r}{_near(name)}")
    _check_count(name, row.least, row.most, len(arguments))
    for at, argument in enumerate(arguments):
        if isinstance(argument, Function) and at not in row.calls:
            raise ExpressionError(f"{name} takes no function (x => …) as argument {at + 1}")
        if at in row.calls and not isinstance(argument, Function):
            raise ExpressionError(f"{name} takes a function (x => …) as argument {at + 1}")
    if name in ("default", "coalesce", "get"):
        return _lenient(name, row.run, arguments, position)
    return _call(name, row.run, arguments, position)


def _check_count(name: str, least: int, most: int | None, count: int) -> None:
    if count < least or (most is not None and count > most):
        wanted = (
            str(least) if least == most else (f"{least} or more" if most is None else f"{least} to {most}")
        )
        raise ExpressionError(f"{name} takes {wanted} argument{'' if wanted == '1' else 's'}, got {count}")


def _near(name: str) -> str:
    near = get_close_matches(name, [*FUNCTIONS, "now"], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _call(
    name: str, function: Callable[..., Value], arguments: Sequence[Closure | Function], position: int
) -> Closure:
    def run(scope: Scope) -> Value:
        values = [a.caller(scope) if isinstance(a, Function) else a(scope) for a in arguments]
        try:
            return function(*values)
        except ExpressionError as error:
            if error.position is not None:
                raise
            raise type(error)(f"{name}: {error.reason}", position) from None
        except (ArithmeticError, MemoryError, UnicodeError) as error:
            raise ExpressionError(f"{name} has no result: {error}", position) from error

    return run


def _lenient(
    name: str, function: Callable[..., Value], arguments: Sequence[Closure | Function], position: int
) -> Closure:
    """As _call, but an argument that is missing counts as null."""

    def quiet(argument: Closure) -> Closure:
        def run(scope: Scope) -> Value:
            try:
                return argument(scope)
            except Missing:
                return None

        return run

    return _call(name, function, [a if isinstance(a, Function) else quiet(a) for a in arguments], position)


# --- arguments --------------------------------------------------------------------------------------------


def _array(value: Value) -> list[Value]:
    if isinstance(value, list):
        return value
    plain = operators.plain(value)
    if isinstance(plain, list):
        return plain
    raise ExpressionError(f"needs an array, got {kind_name(value)}")


def _object(value: Value) -> dict[str, Value]:
    plain = value if type(value) is dict else operators.plain(value)
    if type(plain) is dict:
        return plain
    raise ExpressionError(f"needs an object, got {kind_name(value)}")


def _text(value: Value) -> str:
    if type(value) is str:
        return value
    raise ExpressionError(f"needs a text, got {kind_name(value)}")


def _whole(value: Value) -> int:
    result = number(value, "this place")
    if not math.isfinite(result) or result != int(result):
        raise ExpressionError(f"needs a whole number, got {operators.number_text(result)}")
    return int(result)


def _numbers(arguments: Sequence[Value]) -> list[float]:
    """The elements of one array, or the arguments themselves."""
    items = _array(arguments[0]) if len(arguments) == 1 and not _is_number(arguments[0]) else arguments
    return [number(item, "each element") for item in items]


def _is_number(value: Value) -> bool:
    return kind_name(value) == "number"


def _bounded(text: str) -> str:
    if len(text) > TEXT_LENGTH_MAX:
        raise ExpressionError(f"the text grows past {TEXT_LENGTH_MAX} characters")
    return text


# --- functions with more than a line ----------------------------------------------------------------------


def text_of(value: Value) -> str:
    """Any value as text: arrays and objects as JSON."""
    text = operators.scalar_text(value)
    return text if text is not None else _to_json(value)


def _to_number(value: Value) -> float:
    if type(value) is str:
        try:
            return float(value.strip()) if "_" not in value else _no_number(value)
        except ValueError:
            return _no_number(value)
    if type(value) is bool:
        return 1.0 if value else 0.0
    return number(value, "number()")


def _no_number(text: str) -> float:
    raise ExpressionError(f"{text[:40]!r} is not a number")


def _to_json(value: Value) -> str:
    try:
        return _bounded(operators.json_text(value))
    except ValueError as error:
        raise ExpressionError(f"cannot be written as JSON: {error}") from error


def _parse_json(text: Value) -> Value:
    try:
        return from_json(json.loads(_text(text)))
    except ValueError as error:
        raise ExpressionError(f"not JSON: {error}") from error
    except RecursionError:
        raise ExpressionError("the JSON nests too deeply") from None


def _round(value: Value, digits: Value = 0.0) -> float:
    """Half away from zero, as people expect of money, and as level 1 does."""
    places = _whole(digits)
    if not -15 <= places <= 15:
        raise ExpressionError("digits go from -15 to 15")
    amount = number(value, "round")
    if not math.isfinite(amount) or abs(amount) >= 1e15:
        return amount
    # repr() is the shortest decimal that means this float: 1.005 rounds as it reads, not as it is stored
    exact = Decimal(repr(amount)).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)
    return float(exact)


def _floor_like(function: Callable[[float], int]) -> Callable[[Value], float]:
    def run(value: Value) -> float:
        amount = number(value, "this")
        return float(function(amount)) if math.isfinite(amount) else amount

    return run


def _sqrt(value: Value) -> float:
    amount = number(value, "sqrt")
    if amount < 0:
        raise ExpressionError("no root of a negative number")
    return math.sqrt(amount)


def _extreme(choose: Callable[[Sequence[Any]], Any], name: str) -> Callable[..., Value]:
    def run(*arguments: Value) -> Value:
        items = _array(arguments[0]) if len(arguments) == 1 else list(arguments)
        if not items:
            raise ExpressionError(f"an empty array has no {name}")
        for item in items[1:]:
            operators.less(items[0], item)  # raises when they cannot be ordered
        return choose(items)

    return run


def _average(*arguments: Value) -> float:
    values = _numbers(arguments)
    if not values:
        raise ExpressionError("an empty array has no average")
    return math.fsum(values) / len(values)


def _map(items: Value, function: Callable[..., Value]) -> list[Value]:
    return [function(item, float(at)) for at, item in enumerate(_array(items))]


def _test(function: Callable[..., Value], item: Value, at: int) -> bool:
    return operators.boolean(function(item, float(at)), "the function")


def _filter(items: Value, function: Callable[..., Value]) -> list[Value]:
    return [item for at, item in enumerate(_array(items)) if _test(function, item, at)]


def _find(items: Value, function: Callable[..., Value]) -> Value:
    return next((item for at, item in enumerate(_array(items)) if _test(function, item, at)), None)


def _reduce(items: Value, function: Callable[..., Value], start: Value) -> Value:
    result = start
    for at, item in enumerate(_array(items)):
        result = function(result, item, float(at))
    return result


def _compare(left: Value, right: Value) -> int:
    if left is None or right is None:
        return (left is not None) - (right is not None)
    if operators.less(left, right):
        return -1
    return 1 if operators.less(right, left) else 0


def _sort(items: Value, key: Any = None, order: Value = "asc") -> list[Value]:
    """Stable; nulls first; `order` is "asc" or "desc" (also stable)."""
    return sorted_by([(item if key is None else key(item), item) for item in _array(items)], order)


def sorted_by(keyed: list[tuple[Value, Value]], order: Value) -> list[Value]:
    """The second of each pair, sorted by the first: stable, nulls first. Raises ExpressionError for mixed kinds."""
    if order not in ("asc", "desc"):
        raise ExpressionError('the order is "asc" or "desc"')
    sign = 1 if order == "asc" else -1

    def compare(left: tuple[Value, Value], right: tuple[Value, Value]) -> int:
        return sign * _compare(left[0], right[0])

    return [item for _, item in sorted(keyed, key=cmp_to_key(compare))]


def _identity_key(value: Value) -> str:
    return (
        kind_name(value) + _to_json(value)
        if not isinstance(value, (str, float, bool))
        else f"{kind_name(value)}{value}"
    )


def _unique(items: Value, key: Any = None) -> list[Value]:
    seen: dict[str, Value] = {}
    for item in _array(items):
        seen.setdefault(_identity_key(item if key is None else key(item)), item)
    return list(seen.values())


def _flatten(items: Value, depth: Value = 1.0) -> list[Value]:
    levels = _whole(depth)
    result = list(_array(items))
    for _ in range(min(max(levels, 0), 100)):
        if not any(isinstance(item, list) for item in result):
            break
        result = [inner for item in result for inner in (item if isinstance(item, list) else [item])]
        if len(result) > LIST_LENGTH_MAX:
            raise ExpressionError(f"the array grows past {LIST_LENGTH_MAX} elements")
    return result


def _slice(value: Value, start: Value, end: Value = None) -> Value:
    items = value if isinstance(value, (list, str)) else _array(value)
    return items[_whole(start) : None if end is None else _whole(end)]


def _range(first: Value, second: Value = None, step: Value = 1.0) -> list[float]:
    """range(n): 0 to n-1; range(a, b, step): a up to, without, b."""
    start, stop = (
        (0.0, number(first, "range")) if second is None else (number(first, "range"), number(second, "range"))
    )
    stride = number(step, "range")
    if stride == 0 or not all(map(math.isfinite, (start, stop, stride))):
        raise ExpressionError("the step of a range is not 0, and its numbers are finite")
    count = max(0, math.ceil((stop - start) / stride))
    if count > LIST_LENGTH_MAX:
        raise ExpressionError(f"a range has at most {LIST_LENGTH_MAX} elements, this has {count}")
    return [start + at * stride for at in range(count)]


def _zip(*arrays: Value) -> list[Value]:
    return [list(row) for row in zip(*map(_array, arrays), strict=False)]


def _group_by(items: Value, key: Callable[..., Value]) -> dict[str, Value]:
    groups: dict[str, Value] = {}
    for item in _array(items):
        groups.setdefault(text_of(key(item)), []).append(item)
    return groups


def _key_by(items: Value, key: Callable[..., Value]) -> dict[str, Value]:
    return {text_of(key(item)): item for item in _array(items)}


def _from_entries(entries: Value) -> dict[str, Value]:
    rows = [_object(entry) for entry in _array(entries)]
    if not all("key" in row and "value" in row for row in rows):
        raise ExpressionError("each element needs a key and a value")
    return {_text(row["key"]): row["value"] for row in rows}


def _pick(value: Value, keys: Value, *, keep: bool) -> dict[str, Value]:
    chosen = {_text(key) for key in _array(keys)}
    return {key: item for key, item in _object(value).items() if (key in chosen) is keep}


def _merge(*objects: Value) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for item in objects:
        result.update(_object(item))
    return result


def _get(value: Value, path: Value, otherwise: Value = None) -> Value:
    """A dotted path, with numbers for elements; `otherwise` when a part is missing or null."""
    for part in _text(path).split("."):
        value = value if isinstance(value, (dict, list)) else operators.plain(value)
        if type(value) is dict and part in value:
            value = value[part]
        elif (
            isinstance(value, list) and part.lstrip("-").isdecimal() and -len(value) <= int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return otherwise
    return otherwise if value is None else value


def _replace(text: Value, old: Value, new: Value) -> str:
    source, search, put = _text(text), _text(old), _text(new)
    if len(source) + source.count(search) * len(put) > 2 * TEXT_LENGTH_MAX:
        raise ExpressionError(f"the text grows past {TEXT_LENGTH_MAX} characters")
    return _bounded(source.replace(search, put))


def _split(text: Value, separator: Value) -> list[Value]:
    return list(_text(text).split(separator)) if _text(separator) else list(_text(text))


def _join(items: Value, separator: Value = "") -> str:
    return _bounded(_text(separator).join(map(text_of, _array(items))))


def _repeat(text: Value, times: Value) -> str:
    source, count = _text(text), _whole(times)
    if len(source) * max(count, 0) > TEXT_LENGTH_MAX:
        raise ExpressionError(f"the text grows past {TEXT_LENGTH_MAX} characters")
    return source * count


def _pad(text: Value, width: Value, fill: Value = " ", *, left: bool) -> str:
    source, size, filler = text_of(text), _whole(width), _text(fill)
    if len(filler) != 1 or size > TEXT_LENGTH_MAX:
        raise ExpressionError("pads with one character, to a bounded width")
    return source.rjust(size, filler) if left else source.ljust(size, filler)


def _length(value: Value) -> float:
    if isinstance(value, (list, str, dict)):
        return float(len(value))
    return float(len(_array(value)))


def _index_of(value: Value, item: Value) -> float:
    if type(value) is str:
        return float(value.find(_text(item)))
    return next((float(at) for at, other in enumerate(_array(value)) if operators.equal(other, item)), -1.0)


def _from_base64(text: Value) -> str:
    try:
        return base64.b64decode(_text(text), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ExpressionError(f"not base64 of UTF-8 text: {error}") from error


def _sha256(text: Value) -> str:
    return hashlib.sha256(_text(text).encode("utf-8", "surrogatepass")).hexdigest()


def _reverse(value: Value) -> Value:
    return value[::-1] if type(value) is str else _array(value)[::-1]


def _chunk(items: Value, size: Value) -> list[Value]:
    count = _whole(size)
    if count < 1:
        raise ExpressionError("a chunk has at least one element")
    array = _array(items)
    return [array[at : at + count] for at in range(0, len(array), count)]


def _ends(value: Value, at: int) -> Value:
    items = value if type(value) is str else _array(value)
    return items[at] if items else None


FUNCTIONS: dict[str, Row] = {
    # texts
    "upper": Row(1, 1, lambda s: _text(s).upper(), "text in capitals"),
    "lower": Row(1, 1, lambda s: _text(s).lower(), "text in small letters"),
    "trim": Row(1, 1, lambda s: _text(s).strip(), "text without white space at its ends"),
    "split": Row(2, 2, _split, "parts of a text between separators"),
    "join": Row(1, 2, _join, "elements as one text, with a separator"),
    "replace": Row(3, 3, _replace, "every occurrence of a text replaced"),
    "startsWith": Row(2, 2, lambda s, p: _text(s).startswith(_text(p)), "whether a text starts so"),
    "endsWith": Row(2, 2, lambda s, p: _text(s).endswith(_text(p)), "whether a text ends so"),
    "contains": Row(2, 2, lambda h, n: operators.contains(n, h), "the same as `b in a`"),
    "includes": Row(2, 2, lambda h, n: operators.contains(n, h), "the same as contains"),
    "indexOf": Row(2, 2, _index_of, "place of a part or element, -1 when absent"),
    "substring": Row(
        2, 3, lambda s, a, b=None: _slice(_text(s), a, b), "part of a text from a to, without, b"
    ),
    "repeat": Row(2, 2, _repeat, "a text n times"),
    "padStart": Row(2, 3, lambda s, w, f=" ": _pad(s, w, f, left=True), "text filled up at its start"),
    "padEnd": Row(2, 3, lambda s, w, f=" ": _pad(s, w, f, left=False), "text filled up at its end"),
    "toUpperCase": Row(1, 1, lambda s: _text(s).upper(), "the same as upper"),
    "toLowerCase": Row(1, 1, lambda s: _text(s).lower(), "the same as lower"),
    # numbers
    "abs": Row(1, 1, lambda x: abs(number(x, "abs")), "without its sign"),
    "floor": Row(1, 1, _floor_like(math.floor), "next whole number below"),
    "ceil": Row(1, 1, _floor_like(math.ceil), "next whole number above"),
    "round": Row(1, 2, _round, "rounded to digits (default 0), half away from zero"),
    "sqrt": Row(1, 1, _sqrt, "square root"),
    "pow": Row(2, 2, operators.power, "the same as `a ** b`"),
    "min": Row(1, None, _extreme(min, "smallest"), "smallest of an array or of the arguments"),
    "max": Row(1, None, _extreme(max, "largest"), "largest of an array or of the arguments"),
    "sum": Row(1, None, lambda *a: float(math.fsum(_numbers(a))), "sum of an array or of the arguments"),
    "avg": Row(1, None, _average, "average of an array or of the arguments"),
    # arrays
    "map": Row(2, 2, _map, "each element through a function (element, index)", (1,)),
    "filter": Row(2, 2, _filter, "elements for which a function is true", (1,)),
    "find": Row(2, 2, _find, "first element for which a function is true, or null", (1,)),
    "any": Row(
        2, 2, lambda a, f: any(_test(f, x, i) for i, x in enumerate(_array(a))), "true for some element", (1,)
    ),
    "all": Row(
        2, 2, lambda a, f: all(_test(f, x, i) for i, x in enumerate(_array(a))), "true for each element", (1,)
    ),
    "reduce": Row(3, 3, _reduce, "one value out of all: function (result, element, index), start", (1,)),
    "sort": Row(1, 3, _sort, 'sorted, by a key function, "asc" or "desc"', (1,)),
    "unique": Row(1, 2, _unique, "first of each, by a key function", (1,)),
    "groupBy": Row(2, 2, _group_by, "object of arrays, by a key function", (1,)),
    "keyBy": Row(2, 2, _key_by, "object of elements, by a key function", (1,)),
    "reverse": Row(1, 1, _reverse, "back to front"),
    "flatten": Row(1, 2, _flatten, "nested arrays opened, by levels (default 1)"),
    "slice": Row(2, 3, _slice, "elements from a to, without, b; negative from the end"),
    "chunk": Row(2, 2, _chunk, "arrays of n elements"),
    "range": Row(1, 3, _range, "numbers from a to, without, b"),
    "zip": Row(1, None, _zip, "first elements together, second elements together, …"),
    "first": Row(1, 1, lambda a: _ends(a, 0), "first element, or null"),
    "last": Row(1, 1, lambda a: _ends(a, -1), "last element, or null"),
    "length": Row(1, 1, _length, "characters, elements or keys"),
    # objects
    "keys": Row(1, 1, lambda o: sorted(_object(o)), "keys, sorted"),
    "values": Row(
        1, 1, lambda o: [_object(o)[k] for k in sorted(_object(o))], "values, in the order of the keys"
    ),
    "entries": Row(
        1,
        1,
        lambda o: [{"key": k, "value": _object(o)[k]} for k in sorted(_object(o))],
        "{key, value} of each",
    ),
    "fromEntries": Row(1, 1, _from_entries, "object of {key, value}"),
    "merge": Row(1, None, _merge, "one object out of several, later ones win"),
    "pick": Row(2, 2, lambda o, k: _pick(o, k, keep=True), "only these keys"),
    "omit": Row(2, 2, lambda o, k: _pick(o, k, keep=False), "without these keys"),
    "has": Row(2, 2, lambda o, k: _text(k) in _object(o), "whether a key is there"),
    "get": Row(2, 3, _get, "value at a dotted path, or a default"),
    # kinds
    "text": Row(1, 1, text_of, "as text; arrays and objects as JSON"),
    "string": Row(1, 1, text_of, "the same as text"),
    "number": Row(1, 1, _to_number, "text or boolean as a number"),
    "type": Row(1, 1, kind_name, "number, text, boolean, null, array, object or date"),
    "isNull": Row(1, 1, lambda v: v is None, "whether it is null"),
    "coalesce": Row(
        1, None, lambda *a: next((x for x in a if x is not None), None), "first that is not null or missing"
    ),
    "default": Row(2, 2, lambda v, d: d if v is None else v, "the second when the first is null or missing"),
    "toJson": Row(1, 1, _to_json, "as JSON text"),
    "parseJson": Row(1, 1, _parse_json, "value of a JSON text"),
    "base64": Row(1, 1, lambda s: base64.b64encode(_text(s).encode()).decode(), "base64 of a text"),
    "fromBase64": Row(1, 1, _from_base64, "text of base64"),
    "sha256": Row(1, 1, _sha256, "hash of a text, in hex"),
    # dates
    "parseDate": Row(1, 1, dates.to_date, "date of RFC 3339, RFC 1123 text or Unix seconds"),
    "formatDate": Row(1, 2, dates.form, 'RFC 3339 text, or after a pattern such as "%d.%m.%Y"'),
    "toEpoch": Row(1, 1, dates.epoch, "Unix seconds"),
    "toEpochMillis": Row(1, 1, lambda d: dates.epoch(d) * 1000.0, "Unix milliseconds"),
    "fromEpoch": Row(1, 1, lambda s: dates.from_epoch(number(s, "fromEpoch")), "date of Unix seconds"),
    "fromEpochMillis": Row(
        1, 1, lambda s: dates.from_epoch(number(s, "fromEpochMillis") / 1000.0), "date of milliseconds"
    ),
    "dateAdd": Row(2, 3, dates.add, "date moved by an amount of a unit (default second)"),
    "dateDiff": Row(2, 3, dates.difference, "a - b in a unit (default second)"),
    "year": Row(1, 1, lambda d: float(dates.to_date(d).year), "year of a date"),
    "month": Row(1, 1, lambda d: float(dates.to_date(d).month), "month, 1 to 12"),
    "day": Row(1, 1, lambda d: float(dates.to_date(d).day), "day of the month"),
    "hour": Row(1, 1, lambda d: float(dates.to_date(d).hour), "hour, 0 to 23"),
    "minute": Row(1, 1, lambda d: float(dates.to_date(d).minute), "minute"),
    "second": Row(1, 1, lambda d: float(dates.to_date(d).second), "second"),
    "weekday": Row(1, 1, lambda d: float(dates.to_date(d).isoweekday()), "1 (Monday) to 7 (Sunday)"),
}
