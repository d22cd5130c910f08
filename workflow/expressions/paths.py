"""Paths into a value: `profile.tags[0].toUpperCase()`, compiled to a closure over the value.

A path that leads nowhere gives MISSING; nothing here raises but EngineCrash.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from workflow.errors import EngineCrash
from workflow.expressions.scan import split_arguments, split_path
from workflow.steps.casing import SPACE, lower, trim_space, upper
from workflow.values import Value, byte_len, parse_float, text_form


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What a compiled expression returns where the original reports an error."""

Getter = Callable[[Value], Value]


def crash(text: str) -> Callable[[object], Value]:
    """A closure that fails as the original's process did, with `text` as the explanation."""

    def fail(_: object) -> Value:
        raise EngineCrash(text)

    return fail


def lone_quote(text: str) -> str:
    return f"invalid expression: a lone quote ({text}) is no text"


def compile_path(path: str) -> Getter:
    """The closure that follows `path` from a value; an empty path gives the value itself."""
    parts = split_path(path)
    if len(parts) == 1:
        return _compile_part(parts[0])
    steps: list[Getter] = []
    for part in parts:
        steps.append(_compile_part(part))
        if part == "length":  # ends the path at once, whatever follows
            break
    if not steps:
        return lambda value: value
    if len(steps) == 2:
        first, second = steps

        def follow_two(value: Value) -> Value:
            value = first(value)
            return value if value is MISSING else second(value)

        return follow_two

    def follow(value: Value) -> Value:
        for step in steps:
            value = step(value)
            if value is MISSING:
                return MISSING
        return value

    return follow


def _compile_part(part: str) -> Getter:
    if part.endswith(")") and "(" in part:
        return _compile_method(part)
    if part.endswith("]") and "[" in part:
        return _compile_index(part)
    if part == "length":
        return _length

    def field(value: Value) -> Value:
        return value.get(part, MISSING) if type(value) is dict else MISSING

    return field


def _length(value: Value) -> Value:
    if isinstance(value, list):
        return float(len(value))
    return float(byte_len(value)) if type(value) is str else MISSING


_INDEX = re.compile(r"[+-]?\d{1,19}", re.ASCII)


def _compile_index(part: str) -> Getter:
    name, _, rest = part.partition("[")
    digits = rest[:-1]
    index = int(digits) if _INDEX.fullmatch(digits) else -1

    def item(value: Value) -> Value:
        if name:
            if type(value) is not dict:
                return MISSING
            value = value.get(name)
        if isinstance(value, list) and 0 <= index < len(value):
            return value[index]
        return MISSING

    return item


# --- methods ------------------------------------------------------------------------------------------------


def parse_literal(text: str) -> Value:
    """A literal's value, MISSING for anything else. Raises EngineCrash for a lone quote."""
    if text and text[0] in "\"'" and text[0] == text[-1]:
        if len(text) == 1:
            raise EngineCrash(lone_quote(text))
        return text[1:-1]
    if text == "true":
        return True
    if text == "false":
        return False
    if text == "null":
        return None
    number = parse_float(text)
    return MISSING if number is None else number


def _compile_method(part: str) -> Getter:
    name, _, rest = part.partition("(")
    arguments: list[Value] = []
    for text in split_arguments(rest[:-1], SPACE, nested=False):
        try:
            literal = parse_literal(text)
        except EngineCrash as error:
            return crash(error.text)
        arguments.append(text.strip("\"'") if literal is MISSING else literal)
    if name in _PLAIN_METHODS:
        return _PLAIN_METHODS[name]
    method = _METHODS.get(name)
    if method is None or len(arguments) != (2 if name == "replace" else 1):
        return _wrong_call
    return method(arguments)


def _wrong_call(value: Value) -> Value:
    return MISSING


def _to_upper(value: Value) -> Value:
    return upper(value) if type(value) is str else MISSING


def _to_lower(value: Value) -> Value:
    return lower(value) if type(value) is str else MISSING


def _trim(value: Value) -> Value:
    return trim_space(value) if type(value) is str else MISSING


def _reverse(value: Value) -> Value:
    return value[::-1] if isinstance(value, list) else MISSING


def _first(value: Value) -> Value:
    if isinstance(value, list):
        return value[0] if value else None
    return MISSING


def _last(value: Value) -> Value:
    if isinstance(value, list):
        return value[-1] if value else None
    return MISSING


def _includes(arguments: list[Value]) -> Getter:
    wanted = arguments[0]
    text = text_form(wanted)

    def includes(value: Value) -> Value:
        if type(value) is str:
            return text in value
        if isinstance(value, list):
            return any(
                (type(item) is type(wanted) and item == wanted) or text_form(item) == text for item in value
            )
        return MISSING

    return includes


def _starts_with(arguments: list[Value]) -> Getter:
    text = text_form(arguments[0])
    return lambda value: value.startswith(text) if type(value) is str else MISSING


def _ends_with(arguments: list[Value]) -> Getter:
    text = text_form(arguments[0])
    return lambda value: value.endswith(text) if type(value) is str else MISSING


def _replace(arguments: list[Value]) -> Getter:
    old, new = text_form(arguments[0]), text_form(arguments[1])
    return lambda value: value.replace(old, new) if type(value) is str else MISSING


def _split(arguments: list[Value]) -> Getter:
    separator = text_form(arguments[0])

    def split(value: Value) -> Value:
        if type(value) is not str:
            return MISSING
        return value.split(separator) if separator else list(value)

    return split


def _join(arguments: list[Value]) -> Getter:
    separator = text_form(arguments[0])

    def join(value: Value) -> Value:
        return separator.join([text_form(item) for item in value]) if isinstance(value, list) else MISSING

    return join


_PLAIN_METHODS: Final[dict[str, Getter]] = {
    "toUpperCase": _to_upper,
    "toLowerCase": _to_lower,
    "trim": _trim,
    "reverse": _reverse,
    "first": _first,
    "last": _last,
}
_METHODS: Final[dict[str, Callable[[list[Value]], Getter]]] = {
    "includes": _includes,
    "startsWith": _starts_with,
    "endsWith": _ends_with,
    "replace": _replace,
    "split": _split,
    "join": _join,
}
