"""What people see: the live board, tables, durations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from cli.output import (
    StepBoard,
    age_text,
    duration_text,
    event_line,
    plain_table,
    value_text,
)
from thaiyyal.client import Event


def seen(board: Any, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(board)
    console.file.close()
    return console.export_text()


def event(seq: int, kind: str, step: str | None = None, **more: Any) -> Event:
    return Event(seq=seq, time=f"2026-01-02T03:04:0{seq}.000Z", type=kind, step=step, **more)


def line_of(text: str, step: str) -> str:
    return next(line for line in text.splitlines() if f" {step} " in line)


def test_the_board_follows_the_events_of_each_step() -> None:
    board = StepBoard("e1", [("a", "number"), ("b", "delay"), ("c", "expression")])
    assert "· " in line_of(seen(board), "a")
    for number, (kind, step, more) in enumerate(
        [
            ("execution_accepted", None, {}),
            ("step_started", "a", {}),
            ("step_completed", "a", {}),
            (
                "step_waiting",
                "b",
                {"detail": {"until": datetime(2026, 1, 2, 3, 4, 9, tzinfo=UTC).timestamp()}},
            ),
            ("step_skipped", "c", {}),
        ]
    ):
        board.update(event(number, kind, step, **more))
    text = seen(board)
    assert "✓" in line_of(text, "a")
    assert "1.000 s" in line_of(text, "a")
    assert "waiting" in line_of(text, "b")
    assert "for 6.0 s" in line_of(text, "b")
    assert "skipped" in line_of(text, "c")
    assert "2/3" in text
    board.update(event(6, "timer_fired", "b"))
    board.update(event(7, "step_completed", "b"))
    board.update(event(8, "execution_completed"))
    assert board.status == "completed"
    assert "3/3" in seen(board)
    assert "for 6.0 s" not in seen(board)


def test_the_board_says_why_an_attempt_failed_and_where_a_loop_is() -> None:
    board = StepBoard("e1", [("a", "http"), ("loop", "for_each")])
    board.update(event(1, "attempt_failed", "a", attempt=1, detail={"message": "no answer"}))
    board.update(event(2, "step_completed", "loop", path=(3,)))
    text = seen(board)
    assert "no answer" in line_of(text, "a")
    assert "queued" in line_of(text, "a")
    assert "3: completed" in line_of(text, "loop")
    assert "0/2" in text


def test_a_long_workflow_shows_what_moves_and_counts_the_rest() -> None:
    board = StepBoard("e1", [(f"s{number:03}", "number") for number in range(100)])
    board.update(event(1, "step_started", "s090"))
    board.update(event(2, "step_failed", "s050"))
    text = seen(board)
    assert "running" in line_of(text, "s090")
    assert "✗" in line_of(text, "s050")
    assert "… and 76 more" in text


def test_a_narrow_screen_cuts_errors_and_never_ids() -> None:
    table = plain_table(("ID", "ERROR"), [("0" * 26, "a very long reason " * 10)])
    text = seen(table, width=60)
    assert "0" * 26 in text
    assert len(text.splitlines()[1].rstrip()) <= 60


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-01-02T03:04:05Z", "0 s ago"),
        ("2026-01-02T03:03:35Z", "30 s ago"),
        ("2026-01-02T02:34:05Z", "30 min ago"),
        ("2026-01-01T23:04:05Z", "4 h ago"),
        ("2025-12-30T03:04:05Z", "3 d ago"),
        (None, ""),
    ],
)
def test_ages_are_rounded_to_one_unit(moment: str | None, text: str) -> None:
    assert age_text(moment, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == text


@pytest.mark.parametrize(
    ("finished", "text"),
    [
        ("2026-01-02T03:04:05.250Z", "0.250 s"),
        ("2026-01-02T03:04:25.250Z", "20.2 s"),
        ("2026-01-02T03:06:06Z", "2 min 1 s"),
        ("2026-01-02T05:04:05Z", "2 h 0 min"),
    ],
)
def test_durations_have_the_precision_that_matters(finished: str, text: str) -> None:
    assert duration_text("2026-01-02T03:04:05.000Z", finished) == text


def test_values_are_cut_to_one_line() -> None:
    assert value_text({"a": "ü"}) == '{"a": "ü"}'
    assert value_text("x" * 200, width=10) == '"xxxxxxxx…'


def test_an_event_is_one_line() -> None:
    found = event_line(event(1, "step_started", "a", path=(2, 0), attempt=3))
    assert found == "2026-01-02T03:04:01.000Z  step_started  a[2][0]  attempt 3"
    assert event_line(event(2, "execution_failed", detail={"message": "boom"})).endswith(
        "execution_failed  boom"
    )
