"""Durations in Go's words."""

from __future__ import annotations

import pytest

from workflow.durations import DurationInvalid, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("300ms", 300_000_000),
        ("1.5h", 5_400_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("-2s", -2_000_000_000),
        ("+1us", 1_000),
        ("1µs", 1_000),
        ("0", 0),
        ("1500", 1_500_000_000),
        ("-5", -5_000_000),
        (".5s", 500_000_000),
    ],
)
def test_durations_are_read(text: str, nanoseconds: int):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "s", "1 s", "1d", "1.s.", "5x", "-", "9" * 25, "99999999999h", "1.5"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(DurationInvalid, match="invalid duration format: "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (5, "5ns"),
        (250_000, "250µs"),
        (1_500_000, "1.5ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (5_400_000_000_000, "1h30m0s"),
        (-2_000_000_000, "-2s"),
    ],
)
def test_durations_are_written(nanoseconds: int, text: str):
    assert format_duration(nanoseconds) == text
