"""The value model of the original engine: what may travel between steps, and how it looks as text.

The original is written in Go and keeps Go's dynamic types between steps; JSON hides them, but steps and
expressions look at them. Python carriers:

| Go type                     | carrier here                                             |
| --------------------------- | -------------------------------------------------------- |
| float64                     | float                                                    |
| int                         | int (never bool)                                         |
| int64                       | Int64                                                    |
| json.Number                 | JsonNumber (deliberately no str)                         |
| string, bool, nil           | str, bool, None                                          |
| []interface {}              | list; a nil slice (JSON null) is a NilSlice              |
| map[string]interface {}     | dict                                                     |
| time.Time                   | aware datetime                                           |
| []map[string]interface {}   | MapSlice                                                 |
| map[string][]interface {}   | SliceMap                                                 |
| []string                    | StringSlice                                              |
| *string                     | StringPtr                                                |

The last four are opaque: no list, no dict, so steps and expressions cannot look into them by accident.
Strings are str without lone surrogates; where the original counts bytes, use byte_len.
Nothing here reads a clock, and nothing changes a value that it is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from json.encoder import encode_basestring as _quote_json
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""Any carrier of the table above. `Any`, because the union is recursive and every step function narrows it
anyway.
"""


class Int64(int):
    """Go's int64: an int under another name."""

    __slots__ = ()


class JsonNumber:
    """Go's json.Number: a number kept as its source text. Neither a number nor a string to expressions."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonNumber) and other.text == self.text

    def __hash__(self) -> int:
        return hash((JsonNumber, self.text))

    def __repr__(self) -> str:
        return f"JsonNumber({self.text!r})"


class NilSlice(list[Any]):
    """An empty array that JSON shows as null (a nil slice of Go). Never add to one: make a new list."""

    __slots__ = ()


class MapSlice:
    """Go's []map[string]interface {}: a list of objects that array steps do not accept as an array."""

    __slots__ = ("items",)

    def __init__(self, items: list[dict[str, Value]]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MapSlice) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MapSlice({self.items!r})"


class SliceMap:
    """Go's map[string][]interface {}: an object of arrays that object steps do not accept as an object."""

    __slots__ = ("items",)

    def __init__(self, items: dict[str, list[Value]]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SliceMap) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SliceMap({self.items!r})"


class StringSlice:
    """Go's []string."""

    __slots__ = ("items",)

    def __init__(self, items: list[str]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StringSlice) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StringSlice({self.items!r})"


class StringPtr:
    """Go's *string: a string or null in JSON, never unwrapped inside the engine."""

    __slots__ = ("value",)

    def __init__(self, value: str | None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StringPtr) and other.value == self.value

    def __hash__(self) -> int:
        return hash((StringPtr, self.value))

    def __repr__(self) -> str:
        return f"StringPtr({self.value!r})"


_TYPE_NAMES: dict[type, str] = {
    float: "float64",
    int: "int",
    Int64: "int64",
    JsonNumber: "json.Number",
    str: "string",
    bool: "bool",
    type(None): "<nil>",
    list: "[]interface {}",
    NilSlice: "[]interface {}",
    dict: "map[string]interface {}",
    datetime: "time.Time",
    MapSlice: "[]map[string]interface {}",
    SliceMap: "map[string][]interface {}",
    StringSlice: "[]string",
    StringPtr: "*string",
}


def type_name(value: Value) -> str:
    """Go's name of the value's type, as it appears in error texts and in `original_type`."""
    name = _TYPE_NAMES.get(type(value))
    if name is None:
        raise TypeError(f"{type(value).__name__} is not a value of the language")
    return name


# --- text forms -------------------------------------------------------------------------------------------


def text_form(value: Value) -> str:
    """The text of a value as Go's %v prints it: visible in group keys, join, contains, CSV and error
    texts.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is float:
        return _float_text(value)
    if value is None:
        return "<nil>"
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is Int64:
        return int.__repr__(value)
    if kind is list or kind is NilSlice:
        return "[" + " ".join([text_form(item) for item in value]) + "]"
    if kind is dict:
        return "map[" + " ".join([f"{key}:{text_form(value[key])}" for key in sorted(value)]) + "]"
    if kind is JsonNumber:
        return value.text  # type: ignore[no-any-return]
    if kind is datetime:
        return _time_text(value)
    if kind is MapSlice or kind is StringSlice or kind is SliceMap:
        return text_form(value.items)
    if kind is StringPtr:
        # Go prints an address here, different in each run; the text pointed to is the nearest fixed thing.
        return "<nil>" if value.value is None else value.value
    raise TypeError(f"{kind.__name__} is not a value of the language")


def _float_text(number: float) -> str:
    """Go's %v of a float64: shortest digits; scientific when the exponent is below -4 or above 5."""
    if number - number != 0.0:  # NaN or infinite
        if number != number:
            return "NaN"
        return "+Inf" if number > 0 else "-Inf"
    if -1e6 < number < 1e6:
        text = repr(number)
        if text.endswith(".0"):
            return text[:-2]
        if "e" not in text:
            return text
    sign, digits, exponent = _decimal_parts(number)
    if -4 <= exponent < 6:
        return sign + _plain_decimal(digits, exponent)
    mantissa = digits if len(digits) == 1 else digits[0] + "." + digits[1:]
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _decimal_parts(number: float) -> tuple[str, str, int]:
    """Sign, shortest round-trip digits d1d2d3…, and the exponent e of d1.d2d3… x 10^e."""
    mantissa, _, power = f"{number!r}".partition("e")
    sign = ""
    if mantissa[0] == "-":
        sign, mantissa = "-", mantissa[1:]
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    exponent = len(whole) - 1 + (int(power) if power else 0)
    stripped = digits.lstrip("0")
    if not stripped:
        return sign, "0", 0
    exponent -= len(digits) - len(stripped)
    return sign, stripped.rstrip("0"), exponent


def _plain_decimal(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    if len(digits) <= exponent + 1:
        return digits + "0" * (exponent + 1 - len(digits))
    return digits[: exponent + 1] + "." + digits[exponent + 1 :]


def _time_text(moment: datetime) -> str:
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    zone = moment.strftime("%z")
    name = "UTC" if moment.utcoffset() is not None and not moment.utcoffset() else zone
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} {zone} {name}"


def time_rfc3339(moment: datetime) -> str:
    """RFC 3339 text with the shortest fraction, as Go writes a time in JSON."""
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    zone = moment.strftime("%z")
    zone = "Z" if zone in ("+0000", "") else f"{zone[:3]}:{zone[3:5]}"
    return f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}{fraction}{zone}"


def json_form(value: Value, indent: str | None = None) -> str:
    """The JSON text that Go's encoder writes: keys sorted, `<`, `>` and `&` escaped, floats in Go's form.

    `indent` is the text of one level ("  " for the pretty form). Raises ValueError with Go's text
    (`json: unsupported value: NaN`) for numbers that JSON cannot write.
    """
    parts: list[str] = []
    _write_json(value, parts.append, indent, "\n" if indent is not None else "")
    return "".join(parts)


def _write_json(value: Value, write: Any, indent: str | None, newline: str) -> None:
    kind = type(value)
    if kind is str:
        write(json_string(value))
    elif kind is float:
        write(json_float(value))
    elif value is None or kind is NilSlice:
        write("null")
    elif kind is bool:
        write("true" if value else "false")
    elif kind is int or kind is Int64:
        write(int.__repr__(value))
    elif kind is dict:
        _write_json_object(value, write, indent, newline)
    elif kind is list:
        _write_json_array(value, write, indent, newline)
    elif kind is JsonNumber:
        write(value.text or "0")
    elif kind is datetime:
        write('"' + time_rfc3339(value) + '"')
    elif kind is SliceMap:
        _write_json_object(value.items, write, indent, newline)
    elif kind is MapSlice or kind is StringSlice:
        _write_json_array(value.items, write, indent, newline)
    elif kind is StringPtr:
        write("null" if value.value is None else json_string(value.value))
    else:
        raise TypeError(f"{kind.__name__} is not a value of the language")


def _write_json_object(items: Mapping[str, Value], write: Any, indent: str | None, newline: str) -> None:
    if not items:
        write("{}")
        return
    inner = newline + indent if indent is not None else ""
    colon = ": " if indent is not None else ":"
    lead = "{" + inner
    for key in sorted(items):
        write(lead + json_string(key) + colon)
        _write_json(items[key], write, indent, inner)
        lead = "," + inner
    write(newline + "}")


def _write_json_array(items: list[Value], write: Any, indent: str | None, newline: str) -> None:
    if not items:
        write("[]")
        return
    inner = newline + indent if indent is not None else ""
    lead = "[" + inner
    for item in items:
        write(lead)
        _write_json(item, write, indent, inner)
        lead = "," + inner
    write(newline + "]")


_HTML_ESCAPES = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_NEEDS_HTML_ESCAPE = re.compile("[<>&\u2028\u2029]")


def json_string(text: str) -> str:
    """A JSON string literal as Go's encoder writes it (HTML escapes on, other non-ASCII characters raw)."""
    quoted: str = _quote_json(text)
    if _NEEDS_HTML_ESCAPE.search(quoted):
        quoted = quoted.translate(_HTML_ESCAPES)
    return quoted


def json_float(number: float) -> str:
    """A JSON number as Go's encoder writes a float64. Raises ValueError for NaN and the infinities."""
    if number - number != 0.0:
        raise ValueError("json: unsupported value: " + _float_text(number))
    if -1e15 < number < 1e15 and number == int(number) and (number != 0.0 or math.copysign(1.0, number) > 0):
        return str(int(number))
    size = abs(number)
    sign, digits, exponent = _decimal_parts(number)
    if size == 0.0 or 1e-6 <= size < 1e21:
        return sign + _plain_decimal(digits, exponent)
    mantissa = digits if len(digits) == 1 else digits[0] + "." + digits[1:]
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent)}"


# --- numbers ----------------------------------------------------------------------------------------------

_DECIMAL = re.compile(
    r"[+-]?(?:\d+(?:_\d+)*(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+(?:_\d+)*)(?:[eE][+-]?\d+(?:_\d+)*)?", re.ASCII
)
_HEX = re.compile(
    r"[+-]?0[xX](?:_?[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*(?:\.(?:[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*)?)?"
    r"|\.[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*)[pP][+-]?\d+(?:_\d+)*",
    re.ASCII,
)
_SPECIAL = {"nan": math.nan}
for _sign, _factor in (("", 1.0), ("+", 1.0), ("-", -1.0)):
    for _word in ("inf", "infinity"):
        _SPECIAL[_sign + _word] = _factor * math.inf


def parse_float(text: str) -> float | None:
    """The float64 that Go's strconv.ParseFloat reads from `text`, or None where it reports an error.

    Accepts `5`, `.5`, `1e3`, `1_000`, `0x1p4`, and inf, infinity, nan in any case; no white space.
    A number out of range is an error, as there.
    """
    if _DECIMAL.fullmatch(text):
        number = float(text)
        return None if number - number != 0.0 else number
    if _HEX.fullmatch(text):
        try:
            return float.fromhex(text.replace("_", ""))
        except OverflowError:
            return None
    return _SPECIAL.get(text.lower()) if len(text) <= 9 and text.isascii() else None


def to_number(value: Value) -> float | None:
    """Conversion to a number as expressions do it: float64, int, int64, and strings that parse; else None."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int or kind is Int64:
        return float(value)
    if kind is str:
        return parse_float(value)
    return None


def byte_len(text: str) -> int:
    """Length in UTF-8 bytes: what the original calls the length of a string."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# --- JSON at the edge -------------------------------------------------------------------------------------

_FLOAT_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: Value) -> Any:
    """The value as plain Python data that any JSON encoder can write.

    Integral floats stay floats; non-finite floats become {"$float": "NaN" | "Infinity" | "-Infinity"}.
    """
    kind = type(value)
    if kind is float:
        if value - value != 0.0:
            return {"$float": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}
        return value
    if kind is str or value is None or kind is bool or kind is int:
        return value
    if kind is dict:
        return {key: to_json(item) for key, item in value.items()}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is NilSlice:
        return None
    if kind is Int64:
        return int(value)
    if kind is JsonNumber:
        return _json_number(value.text)
    if kind is datetime:
        return time_rfc3339(value)
    if kind is SliceMap:
        return {key: to_json(item) for key, item in value.items.items()}
    if kind is MapSlice:
        return [to_json(item) for item in value.items]
    if kind is StringSlice:
        return list(value.items)
    if kind is StringPtr:
        return value.value
    raise TypeError(f"{kind.__name__} is not a value of the language")


def _json_number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return to_json(float(text))


def from_json(data: Any) -> Value:
    """Plain JSON data as a value: every number is a float64, {"$float": "NaN"} is that number again.

    Raises TypeError for what no JSON decoder returns, OverflowError for an integer beyond float64.
    """
    kind = type(data)
    if kind is str or data is None or kind is bool or kind is float:
        return data
    if kind is int:
        return float(data)
    if kind is list:
        return [from_json(item) for item in data]
    if kind is dict:
        if len(data) == 1 and data.get("$float") in _FLOAT_NAMES:
            return _FLOAT_NAMES[data["$float"]]
        return {key: from_json(item) for key, item in data.items()}
    raise TypeError(f"{kind.__name__} is not JSON data")
