"""JSON text as Go's `json.Decoder` reads it: the first value of the text, with Go's error texts.

The standard library's decoder does the work; only when it refuses is the text scanned again, for the words
that Go would have used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from workflow.values import JsonNumber, Value

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = b" \t\r\n"


class JsonError(ValueError):
    """The text does not start with a JSON value; the message is Go's."""


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _float_or_text(text: str) -> float | str:
    number = float(text)
    return text if number - number != 0.0 else number  # out of range: the original keeps the text


_FLOATS = json.JSONDecoder(parse_float=_float_or_text, parse_int=_float_or_text, parse_constant=_no_constant)
_NUMBERS = json.JSONDecoder(parse_float=JsonNumber, parse_int=JsonNumber, parse_constant=_no_constant)


def decode_floats(text: str) -> Value:
    """The first JSON value of `text`, numbers as float64; one beyond float64 stays as its text."""
    return _decode(text, _FLOATS.raw_decode)


def decode_numbers(text: str) -> Value:
    """The first JSON value of `text`, numbers as json.Number."""
    return _decode(text, _NUMBERS.raw_decode)


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value whose numbers fit into float64."""
    try:
        _value, end = _FLOATS.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return not text[end:].strip(" \t\r\n")


def _decode(text: str, raw_decode: Callable[[str], tuple[Any, int]]) -> Value:
    text = text.lstrip(" \t\r\n")
    try:
        value, end = raw_decode(text)
    except RecursionError:
        raise JsonError("exceeded max depth") from None
    except ValueError:
        raise JsonError(error_text(text)) from None
    if text[0] in "-0123456789" and text[end : end + 1] in (".", "e", "E"):
        raise JsonError(error_text(text))  # a number cut short, of which the decoder took the first part
    if _SURROGATE_ESCAPE.search(text):
        value = _without_surrogates(value)
    return value


def _without_surrogates(value: Value) -> Value:
    kind = type(value)
    if kind is str:
        return _SURROGATE.sub("\ufffd", value)
    if kind is list:
        return [_without_surrogates(item) for item in value]
    if kind is dict:
        return {_SURROGATE.sub("\ufffd", key): _without_surrogates(item) for key, item in value.items()}
    return value


def error_text(text: str) -> str:
    """What Go's decoder says of a text that does not start with a JSON value."""
    try:
        _scan(text.encode("utf-8", "replace"))
    except JsonError as error:
        return str(error)
    return "invalid value"


def _scan(data: bytes) -> None:
    """Walks over the first value byte by byte as Go's scanner does. Raises JsonError where that stops."""
    position, open_brackets, expecting = 0, bytearray(), "value"
    while True:
        while position < len(data) and data[position] in _SPACE:
            position += 1
        if position == len(data):
            raise JsonError("unexpected EOF" if data.strip(_SPACE) else "EOF")
        char = data[position : position + 1]
        if expecting in ("value", "value or end"):
            if char == b"]" and expecting == "value or end":
                open_brackets.pop()
                position, expecting = position + 1, "end"
            elif char in b"{[":
                open_brackets += char
                position += 1
                expecting = "key or end" if char == b"{" else "value or end"
            else:
                position, expecting = _scan_scalar(data, position), "end"
        elif expecting in ("key", "key or end"):
            if char == b"}" and expecting == "key or end":
                open_brackets.pop()
                position, expecting = position + 1, "end"
            elif char == b'"':
                position, expecting = _scan_string(data, position + 1), "colon"
            else:
                raise _unexpected(char, "looking for beginning of object key string")
        elif expecting == "colon":
            if char != b":":
                raise _unexpected(char, "after object key")
            position, expecting = position + 1, "value"
        if expecting == "end" and not open_brackets:
            return
        if expecting == "end":
            position, expecting = _scan_after_value(data, position, open_brackets)


def _scan_after_value(data: bytes, position: int, open_brackets: bytearray) -> tuple[int, str]:
    while position < len(data) and data[position] in _SPACE:
        position += 1
    if position == len(data):
        raise JsonError("unexpected EOF")
    char = data[position : position + 1]
    in_object = open_brackets[-1] == ord("{")
    if char == b",":
        return position + 1, "key" if in_object else "value"
    if char == (b"}" if in_object else b"]"):
        open_brackets.pop()
        return position + 1, "end"
    raise _unexpected(char, "after object key:value pair" if in_object else "after array element")


def _scan_scalar(data: bytes, position: int) -> int:
    char = data[position : position + 1]
    if char == b'"':
        return _scan_string(data, position + 1)
    for literal in (b"true", b"false", b"null"):
        if char == literal[:1]:
            return _scan_literal(data, position, literal)
    if char == b"-" or char.isdigit():
        return _scan_number(data, position)
    raise _unexpected(char, "looking for beginning of value")


def _scan_literal(data: bytes, position: int, literal: bytes) -> int:
    for offset in range(1, len(literal)):
        char = _at(data, position + offset)
        if char != literal[offset : offset + 1]:
            where = f"in literal {literal.decode()} (expecting {_quoted(literal[offset : offset + 1])})"
            raise _unexpected(char, where)
    return position + len(literal)


def _scan_number(data: bytes, position: int) -> int:
    if data[position : position + 1] == b"-":
        position += 1
        if not _at(data, position).isdigit():
            raise _unexpected(_at(data, position), "in numeric literal")
    if _at(data, position) == b"0":
        position += 1
    else:
        position = _skip_digits(data, position)
    if data[position : position + 1] == b".":
        position += 1
        if not _at(data, position).isdigit():
            raise _unexpected(_at(data, position), "after decimal point in numeric literal")
        position = _skip_digits(data, position)
    if data[position : position + 1] in (b"e", b"E"):
        position += 1
        if _at(data, position) in (b"+", b"-"):
            position += 1
        if not _at(data, position).isdigit():
            raise _unexpected(_at(data, position), "in exponent of numeric literal")
        position = _skip_digits(data, position)
    return position


def _scan_string(data: bytes, position: int) -> int:
    while True:
        char = _at(data, position)
        position += 1
        if char == b'"':
            return position
        if char < b" ":
            raise _unexpected(char, "in string literal")
        if char != b"\\":
            continue
        escape = _at(data, position)
        position += 1
        if escape == b"u":
            for _ in range(4):
                if _at(data, position) not in b"0123456789abcdefABCDEF":
                    raise _unexpected(_at(data, position), "in \\u hexadecimal character escape")
                position += 1
        elif escape not in b'bfnrt\\/"':
            raise _unexpected(escape, "in string escape code")


def _skip_digits(data: bytes, position: int) -> int:
    while position < len(data) and data[position : position + 1].isdigit():
        position += 1
    return position


def _at(data: bytes, position: int) -> bytes:
    if position >= len(data):
        raise JsonError("unexpected EOF")
    return data[position : position + 1]


def _unexpected(char: bytes, where: str) -> JsonError:
    return JsonError(f"invalid character {_quoted(char)} {where}")


_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 39: "\\'", 92: "\\\\"}


def _quoted(char: bytes) -> str:
    code = char[0]  # Go's scanner shows the byte as if it were a code point
    if code in _ESCAPES:
        return f"'{_ESCAPES[code]}'"
    if code < 0x20 or code == 0x7F:
        return f"'\\x{code:02x}'"
    if 0x80 <= code <= 0xA0 or code == 0xAD:
        return f"'\\u{code:04x}'"
    return f"'{chr(code)}'"
