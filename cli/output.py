"""Printing: rich tables, progress and colours on a terminal, plain lines elsewhere, JSON for programs.

Results go to standard output, everything about the way there to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from thaiyyal.client import TERMINAL, Event, Execution

COLOURS: Final = {
    "completed": "green",
    "failed": "red",
    "terminated": "red",
    "outcome_unknown": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "waiting": "blue",
    "paused": "blue",
    "skipped": "bright_black",
    "pending": "bright_black",
    "queued": "bright_black",
}
SYMBOLS: Final = {
    "completed": "✓",
    "failed": "✗",
    "outcome_unknown": "?",
    "cancelled": "■",
    "running": "▶",
    "waiting": "◷",
    "skipped": "–",
}
# A screen shows so many steps; of longer workflows the ones that matter now.
_shown_steps_max: Final = 24
# Of tables that go to a file or a pipe; there is no screen to fit.
_plain_width: Final = 160


def out_console() -> Console:
    """Standard output."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=_plain_width)


def err_console() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def print_json(document: Any) -> None:
    """One JSON document, indented on a terminal, on one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(document, ensure_ascii=False, indent=indent))


def note(text: str) -> None:
    """A line about what is going on, on standard error."""
    err_console().print(text, markup=False)


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=COLOURS.get(status, ""))


def age_text(moment: str | None, now: datetime | None = None) -> str:
    """`12 s ago` of an RFC 3339 time."""
    if moment is None:
        return ""
    seconds = max(0.0, ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def duration_text(started: str | None, finished: str | None) -> str:
    """`1.25 s` between two RFC 3339 times; to now without the second."""
    if started is None:
        return ""
    end = datetime.fromisoformat(finished) if finished else datetime.now(UTC)
    seconds = max(0.0, (end - datetime.fromisoformat(started)).total_seconds())
    if seconds < 60:
        return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def value_text(value: Any, *, width: int = 100) -> str:
    """A JSON value on one line, cut to `width`."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table without frames."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    lines = [[cell if isinstance(cell, Text) else str(cell) for cell in row] for row in rows]
    for position, heading in enumerate(headings):
        if heading in _CUT_COLUMNS:
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
            continue
        right = heading in ("STEPS", "SEQ", "ATTEMPT", "VERSION")
        widest = max([len(heading), *(len(line[position]) for line in lines)])
        table.add_column(heading, justify="right" if right else "left", no_wrap=True, min_width=widest)
    for line in lines:
        table.add_row(*line)
    return table


# Of these a part says enough when the screen is narrow; all others are shown whole.
_CUT_COLUMNS: Final = frozenset(("RESULT", "ERROR", "VALUE", "NAME"))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The table on a terminal; tab-separated lines without a heading elsewhere, for cut and awk."""
    if sys.stdout.isatty():
        out_console().print(plain_table(headings, rows))
        return
    for row in rows:
        click.echo("\t".join(str(cell).replace("\t", " ").replace("\n", " ") for cell in row))


def print_execution(execution: Execution, *, steps: bool = False) -> None:
    """An execution for people."""
    console = out_console()
    line = Text.assemble(
        (execution.id, "bold"),
        "  ",
        status_text(execution.status),
        f"  {execution.steps_done} of {execution.steps_total} steps",
    )
    if execution.started_at is not None:
        line.append(f"  {duration_text(execution.started_at, execution.finished_at)}")
    console.print(line)
    if execution.workflow_id:
        version = f" version {execution.workflow_version}" if execution.workflow_version else ""
        console.print(f"workflow  {execution.workflow_id}{version}", markup=False)
    if execution.tags:
        tags = " ".join(f"{name}={value}" for name, value in execution.tags.items())
        console.print(f"tags      {tags}", markup=False)
    if execution.error is not None:
        console.print(
            Text.assemble(("error     ", "red"), f"{execution.error.message} ({execution.error.code})")
        )
    if steps and execution.steps:
        console.print(steps_table(execution))
    elif steps and execution.node_results:
        console.print(
            plain_table(
                ("STEP", "RESULT"),
                [(name, value_text(value)) for name, value in execution.node_results.items()],
            )
        )
    if execution.status == "completed":
        console.print(Text.assemble(("result    ", "green"), _result_text(execution.final_output)))


def _result_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else "\n" + json.dumps(value, ensure_ascii=False, indent=2)


def steps_table(execution: Execution) -> Table:
    """One line per step, with its result when it has one."""
    rows = []
    for step in execution.steps or ():
        path = "".join(f"[{index}]" for index in step.path)
        result = "" if step.path else value_text(execution.node_results.get(step.id, ""), width=60)
        if step.id not in execution.node_results or step.path:
            result = step.error.message if step.error else step.waits_for or ""
        rows.append(
            (
                Text(SYMBOLS.get(step.status, "·"), style=COLOURS.get(step.status, "")),
                step.id + path,
                step.type,
                status_text(step.status),
                step.attempt or "",
                duration_text(step.started_at, step.finished_at) if step.finished_at else "",
                result,
            )
        )
    return plain_table(("", "STEP", "TYPE", "STATUS", "ATTEMPT", "TIME", "RESULT"), rows)


class StepBoard:
    """The live picture of an execution: fed with events, drawn by rich. Knows nothing of where events come from."""

    def __init__(self, execution_id: str, steps: Sequence[tuple[str, str]]) -> None:
        self.execution_id = execution_id
        self.status = "queued"
        self._types = dict(steps)
        self._states: dict[str, str] = dict.fromkeys(self._types, "pending")
        self._notes: dict[str, str] = {}
        self._times: dict[str, tuple[str | None, str | None]] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bar = self._progress.add_task(f"execution {execution_id}", total=len(self._types) or None)

    def update(self, event: Event) -> None:
        """Take in one event."""
        kind = event.type
        if kind.startswith("execution_"):
            status = kind.removeprefix("execution_")
            self.status = {"accepted": "queued", "started": "running"}.get(status, status)
        elif event.step is not None:
            self._update_step(event, event.step)
        settled = sum(1 for state in self._states.values() if state in _SETTLED)
        self._progress.update(self._bar, completed=settled)
        if self.status in TERMINAL:
            self._progress.stop_task(self._bar)

    def _update_step(self, event: Event, step: str) -> None:
        state = _STATE_AFTER.get(event.type)
        if event.path:
            self._notes[step] = f"{'.'.join(str(index) for index in event.path)}: {state or event.type}"
            return
        if state is not None:
            self._states[step] = state
        started, finished = self._times.get(step, (None, None))
        if event.type in ("step_scheduled", "step_started") and started is None:
            started = event.time
        elif state in _SETTLED:
            finished = event.time
            self._notes.pop(step, None)
        self._times[step] = (started, finished)
        text = note_of(event)
        if text:
            self._notes[step] = text

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False)
        for step in self._shown():
            state = self._states[step]
            style = COLOURS.get(state, "")
            symbol: Any = Text(SYMBOLS.get(state, "·"), style=style)
            if state == "running":
                symbol = Spinner("dots", style=style)
            started, finished = self._times.get(step, (None, None))
            time = duration_text(started, finished) if started and (finished or state != "pending") else ""
            table.add_row(
                symbol, step, Text(self._types.get(step, ""), style="bright_black"), Text(state, style=style), time,
                Text(self._notes.get(step, ""), style="bright_black"),
            )  # fmt: skip
        hidden = len(self._states) - len(self._shown())
        more = [Text(f"  … and {hidden} more", style="bright_black")] if hidden else []
        return Group(table, *more, self._progress)

    def _shown(self) -> list[str]:
        names = list(self._states)
        if len(names) <= _shown_steps_max:
            return names
        moving = [name for name in names if self._states[name] not in (*_SETTLED, "pending")]
        chosen = set(moving[:_shown_steps_max])
        for name in reversed([name for name in names if self._states[name] in _SETTLED]):
            if len(chosen) >= _shown_steps_max:
                break
            chosen.add(name)
        for name in names:
            if len(chosen) >= _shown_steps_max:
                break
            chosen.add(name)
        return [name for name in names if name in chosen]


_SETTLED = ("completed", "failed", "skipped", "cancelled", "outcome_unknown")
_STATE_AFTER = {
    "step_scheduled": "queued",
    "step_started": "running",
    "step_completed": "completed",
    "step_failed": "failed",
    "step_skipped": "skipped",
    "step_waiting": "waiting",
    "timer_fired": "running",
    "signal_received": "running",
    "attempt_failed": "queued",
}


def note_of(event: Event) -> str:
    """What an event says beside its type, in a few words."""
    detail = event.detail
    message = detail.get("message") or detail.get("reason")
    if message:
        return str(message)
    if event.type == "step_waiting":
        return _waiting_note(event)
    if event.attempt is not None and event.attempt > 1:
        return f"attempt {event.attempt}"
    return ""


def _waiting_note(event: Event) -> str:
    until = event.detail.get("until")
    if isinstance(until, int | float):
        seconds = until - datetime.fromisoformat(event.time).timestamp()
        return (
            f"for {seconds:.1f} s"
            if seconds < 60
            else f"until {datetime.fromtimestamp(until, UTC):%F %T} UTC"
        )
    return str(event.detail.get("waits_for") or "")


def event_line(event: Event) -> str:
    """An event on one line, for output that is no terminal."""
    step = event.step or ""
    if event.path:
        step += "".join(f"[{index}]" for index in event.path)
    parts = [event.time, event.type, step, note_of(event)]
    return "  ".join(part for part in parts if part)
