"""Dates of level 2: aware instants. Texts without a zone are UTC. Units: second, minute, hour, day, week; month and
year move by the calendar (31 January + 1 month = 28 or 29 February).
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from workflow.level2.operators import kind_name, number
from workflow.level2.scope import ExpressionError
from workflow.values import Value

_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}


def to_date(value: Value) -> datetime:
    """A date from a date, RFC 3339 / ISO 8601 text, RFC 822 or 1123 text, or Unix seconds."""
    kind = type(value)
    if kind is datetime:
        return value  # type: ignore[no-any-return]
    if kind is str:
        return _read(value)
    return from_epoch(number(value, "a date"))


def _read(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise ExpressionError(
                f"{text[:60]!r} is not a date; use 2026-01-31, 2026-01-31T12:00:00Z or Unix seconds"
            ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def from_epoch(seconds: float) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError) as error:
        raise ExpressionError(f"{seconds} seconds is out of the range of dates") from error


def epoch(value: Value) -> float:
    return to_date(value).timestamp()


def _unit(name: Value) -> str:
    if type(name) is not str:
        raise ExpressionError(f'a unit is a text such as "day", got {kind_name(name)}')
    unit = name.removesuffix("s")
    if unit not in _SECONDS and unit not in ("month", "year"):
        raise ExpressionError(f"unknown unit {name!r}: use second, minute, hour, day, week, month or year")
    return unit


def add(value: Value, amount: Value, unit_name: Value = "second") -> datetime:
    moment, count, unit = to_date(value), number(amount, "dateAdd"), _unit(unit_name)
    try:
        if unit in _SECONDS:
            return moment + timedelta(seconds=count * _SECONDS[unit])
        months = int(count) * (12 if unit == "year" else 1)
        years, month = divmod(moment.month - 1 + months, 12)
        year = moment.year + years
        day = min(moment.day, monthrange(year, month + 1)[1])
        return moment.replace(year=year, month=month + 1, day=day)
    except (OverflowError, ValueError) as error:
        raise ExpressionError(f"dateAdd leaves the range of dates: {error}") from error


def difference(left: Value, right: Value, unit_name: Value = "second") -> float:
    """left - right, in units (no month and year: their length varies)."""
    unit = _unit(unit_name)
    if unit not in _SECONDS:
        raise ExpressionError("dateDiff counts in seconds, minutes, hours, days or weeks")
    return (to_date(left) - to_date(right)).total_seconds() / _SECONDS[unit]


def form(value: Value, pattern: Value = None) -> str:
    """RFC 3339 text, or the date written after a strftime pattern such as "%d.%m.%Y"."""
    moment = to_date(value)
    if pattern is None:
        return moment.isoformat().replace("+00:00", "Z")
    if type(pattern) is not str or len(pattern) > 200:
        raise ExpressionError('formatDate needs a pattern of at most 200 characters, such as "%Y-%m-%d"')
    try:
        return moment.strftime(pattern)
    except (ValueError, UnicodeError) as error:
        raise ExpressionError(f"cannot write a date as {pattern!r}: {error}") from error
