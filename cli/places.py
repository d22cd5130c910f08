"""Where in a JSON text a path like `nodes[3].data.op` stands: line and column, from 1.

The text has been parsed before, so it is JSON; for anything else the places found are only less exact.
"""

from __future__ import annotations

import re
from json import JSONDecoder
from typing import NamedTuple

_DECODER = JSONDecoder(strict=False)
_PART = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]*")


class Place(NamedTuple):
    """A position for people: both from 1."""

    line: int
    column: int


def parse_path(path: str) -> list[str | int]:
    """`nodes[3].data.op` as ["nodes", 3, "data", "op"]."""
    return [int(index) if index else name for name, index in _PART.findall(path)]


def place_of(text: str, path: str) -> Place | None:
    """The value that the path leads to, or the deepest place on the way that exists; None for an empty path."""
    offset = _start_of_value(text, 0)
    found = None
    for part in parse_path(path):
        inner = _enter(text, offset, part)
        if inner is None:
            break
        offset = found = inner
    return None if found is None else place_at(text, found)


def place_at(text: str, offset: int) -> Place:
    """Line and column of an offset."""
    line_start = text.rfind("\n", 0, offset) + 1
    return Place(text.count("\n", 0, offset) + 1, offset - line_start + 1)


def _start_of_value(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    return match.end() if match else offset


def _enter(text: str, offset: int, part: str | int) -> int | None:
    """Offset of a member or an item of the value at `offset`."""
    opening = text[offset : offset + 1]
    if opening == "{" and isinstance(part, str):
        return _member(text, offset, part)
    if opening == "[" and isinstance(part, int):
        return _item(text, offset, part)
    return None


def _member(text: str, offset: int, name: str) -> int | None:
    found = None
    offset = _start_of_value(text, offset + 1)
    while text[offset : offset + 1] == '"':
        key, offset = _DECODER.raw_decode(text, offset)
        offset = _start_of_value(text, _start_of_value(text, offset) + 1)
        if key == name:
            found = offset  # the last duplicate wins, as in the loader
        offset = _start_of_value(text, _end_of_value(text, offset))
        if text[offset : offset + 1] != ",":
            break
        offset = _start_of_value(text, offset + 1)
    return found


def _item(text: str, offset: int, index: int) -> int | None:
    offset = _start_of_value(text, offset + 1)
    while text[offset : offset + 1] not in ("]", ""):
        if index == 0:
            return offset
        index -= 1
        offset = _start_of_value(text, _end_of_value(text, offset))
        if text[offset : offset + 1] != ",":
            break
        offset = _start_of_value(text, offset + 1)
    return None


def _end_of_value(text: str, offset: int) -> int:
    depth = 0
    while offset < len(text):
        character = text[offset]
        if character == '"':
            offset = _DECODER.raw_decode(text, offset)[1]
        elif character in "[{":
            depth += 1
            offset += 1
        elif character in "]}":
            if depth == 0:
                return offset
            depth -= 1
            offset += 1
        elif character in ", :\t\r\n":
            if depth == 0:
                return offset
            offset += 1
        else:
            match = _SCALAR.match(text, offset)
            offset = max(match.end() if match else 0, offset + 1)
        if depth == 0:
            return offset
    return offset
