"""Durations as the original reads and prints them: Go's text syntax, in integer nanoseconds."""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5 micro sign
    "μs": 1_000,  # U+03BC Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_INT = re.compile(r"[+-]?\d+", re.ASCII)
_INT64_MAX = (1 << 63) - 1


class DurationInvalid(ValueError):
    """The text is no duration; the message is the original's."""


def parse_go_duration(text: str) -> int | None:
    """Nanoseconds of Go's duration syntax (`300ms`, `1h30m`, `-1.5h`, `0`), or None where Go reports an
    error.
    """
    rest = text
    negative = False
    if rest[:1] in ("+", "-"):
        negative = rest[0] == "-"
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        return None
    total = 0
    while rest:
        part = _PART.match(rest)
        if part is None:
            return None
        whole, fraction, unit = part[1], part[2], part[3]
        if not whole and not fraction:
            return None
        size = _UNITS_NS[unit]
        total += int(whole or "0") * size
        if fraction:
            total += int(int(fraction) * (size / 10 ** len(fraction))) if len(fraction) <= 18 else 0
        if total > _INT64_MAX + negative:
            return None
        rest = rest[part.end() :]
    return -total if negative else total


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration field: Go's syntax, or a bare integer for milliseconds. Raises
    DurationInvalid.
    """
    nanoseconds = parse_go_duration(text)
    if nanoseconds is None and _INT.fullmatch(text) and len(text) <= 20 and abs(int(text)) <= _INT64_MAX:
        return int(text) * 1_000_000
    if nanoseconds is None:
        raise DurationInvalid(f"invalid duration format: {text} (use formats like '5s', '10m', '1h')")
    return nanoseconds


def format_duration(nanoseconds: int) -> str:
    """Go's text of a duration: `1h30m0s`, `1.5s`, `250µs`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    size = abs(nanoseconds)
    if size < 1_000:
        return f"{sign}{size}ns"
    if size < 1_000_000:
        return f"{sign}{_decimal(size, 1_000)}µs"
    if size < 1_000_000_000:
        return f"{sign}{_decimal(size, 1_000_000)}ms"
    minutes, rest = divmod(size, 60_000_000_000)
    seconds = _decimal(rest, 1_000_000_000) + "s"
    if not minutes:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"


def _decimal(count: int, unit: int) -> str:
    whole, rest = divmod(count, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}".rstrip("0")
