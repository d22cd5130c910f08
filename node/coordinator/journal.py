"""The history of an execution: compact entries while it lives, `ExecutionEvent`s when somebody reads.

An entry is one transition; a reader sees one event per step in it. `seq` is the event's place in the expansion, which
is a pure function of the entries and the plan: it counts from 1 without gaps, and never changes once it was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from node.engine import ExecutionEvent
from workflow.messages import ControlPlan, StepError


class Kind(IntEnum):
    """What an entry records. Numbers are on disk: never reused, only added."""

    ACCEPTED = 1
    SCHEDULED = 2  # a segment became ready
    DONE = 3  # a segment completed
    SKIPPED = 4
    WAITING = 5  # `text` says for what, `number` until when (0: no end)
    FIRED = 6
    SIGNALLED = 7  # `text` is the signal's name
    ATTEMPT_FAILED = 8  # another attempt follows; `number` is when
    FAILED = 9  # a step failed for good
    CANCELLING = 10  # `text` is the reason
    STOPPED = 11  # an attempt ended without a result because its execution is ending
    FINISHED = 12  # `text` is the final status
    LOOP = 13  # bodies were spawned; `number` is how many


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One transition. `timings` is an encoded dict: step -> (start offset µs, duration µs) within the attempt."""

    kind: int
    at: float
    segment: int = -1
    path: tuple[int, ...] = ()
    attempt: int = 0
    timings: bytes | None = None
    error: StepError | None = None
    text: str | None = None
    number: float = 0.0


encode_timings: Final = msgspec.msgpack.Encoder().encode
_decode_timings: Final = msgspec.msgpack.Decoder(dict[int, tuple[int, int]]).decode


def timings_of(entry: Entry) -> dict[int, tuple[int, int]]:
    """Decoded timings of an entry, empty if it has none."""
    return _decode_timings(entry.timings) if entry.timings is not None else {}


def expand(entries: Sequence[Entry], plan: ControlPlan) -> Iterator[ExecutionEvent]:
    """Every event of these entries, oldest first, `seq` from 1."""
    return Expansion(plan).feed(entries)


class Expansion:
    """Expands entries as they come; keeps only its place, so following a live execution costs what is new."""

    __slots__ = ("_plan", "_seq", "entries_read")

    def __init__(self, plan: ControlPlan) -> None:
        self._plan = plan
        self._seq = 0
        self.entries_read = 0

    def feed(self, entries: Sequence[Entry]) -> Iterator[ExecutionEvent]:
        """Events of `entries[self.entries_read:]`."""
        while self.entries_read < len(entries):
            entry = entries[self.entries_read]
            self.entries_read += 1
            yield from self._events(entry)

    def _events(self, entry: Entry) -> Iterator[ExecutionEvent]:
        kind = entry.kind
        if kind == Kind.DONE:
            yield from self._done(entry)
        elif kind == Kind.ACCEPTED:
            about = {} if entry.text is None else {"parent": entry.text}
            yield self._event(entry, "execution_accepted", detail=about)
            yield self._event(entry, "execution_started")
        elif kind == Kind.SCHEDULED:
            names = [self._plan.step_ids[step] for step in self._plan.segments[entry.segment].steps]
            yield self._event(entry, "step_scheduled", step=self._first(entry), detail={"steps": names})
        elif kind == Kind.SKIPPED:
            for step in self._plan.segments[entry.segment].steps:
                yield self._event(entry, "step_skipped", step=step)
        elif kind == Kind.WAITING:
            detail: dict[str, Any] = {"waits_for": entry.text}
            if entry.number:
                detail["until"] = entry.number
            yield self._event(entry, "step_waiting", step=self._first(entry), detail=detail)
        elif kind == Kind.LOOP:
            detail = {"waits_for": "loop", "items": int(entry.number)}
            yield self._event(entry, "step_waiting", step=self._first(entry), detail=detail)
        elif kind == Kind.FIRED:
            yield self._event(entry, "timer_fired", step=self._first(entry) if entry.segment >= 0 else None)
        elif kind == Kind.SIGNALLED:
            yield self._event(entry, "signal_received", detail={"name": entry.text})
        elif kind == Kind.ATTEMPT_FAILED:
            detail = _error_detail(entry.error)
            if entry.number:
                detail["retry_at"] = entry.number
            yield self._event(entry, "attempt_failed", step=self._failed_step(entry), detail=detail)
        elif kind == Kind.FAILED:
            for step, (start, duration) in sorted(timings_of(entry).items(), key=lambda item: item[1]):
                if step != self._failed_step(entry):
                    yield from self._ran(entry, step, start, duration)
            detail = _error_detail(entry.error)
            yield self._event(entry, "step_failed", step=self._failed_step(entry), detail=detail)
        elif kind == Kind.CANCELLING:
            yield self._event(entry, "execution_cancelling", detail={"reason": entry.text or ""})
        elif kind == Kind.FINISHED:
            yield self._event(entry, f"execution_{entry.text}", detail=_error_detail(entry.error))
        # STOPPED says nothing to a reader beyond the execution's own end

    def _done(self, entry: Entry) -> Iterator[ExecutionEvent]:
        timings = timings_of(entry)
        ran = [step for step in self._plan.segments[entry.segment].steps if step in timings]
        ran.sort(key=lambda step: timings[step])
        for step in ran:
            yield from self._ran(entry, step, *timings[step])
        for step in self._plan.segments[entry.segment].steps:
            if step not in timings:
                yield self._event(entry, "step_skipped", step=step)

    def _ran(self, entry: Entry, step: int, start: int, duration: int) -> Iterator[ExecutionEvent]:
        began = entry.at - entry.number + start / 1e6
        yield self._event(entry, "step_started", step=step, at=began)
        yield self._event(
            entry, "step_completed", step=step, at=began + duration / 1e6, detail={"duration_us": duration}
        )

    def _first(self, entry: Entry) -> int:
        return self._plan.segments[entry.segment].steps[0]

    def _failed_step(self, entry: Entry) -> int | None:
        if (
            entry.error is not None
            and entry.error.node is not None
            and entry.error.node in self._plan.step_ids
        ):
            return self._plan.step_ids.index(entry.error.node)
        return self._plan.segments[entry.segment].steps[-1] if entry.segment >= 0 else None

    def _event(
        self,
        entry: Entry,
        kind: str,
        *,
        step: int | None = None,
        at: float | None = None,
        detail: dict[str, Any] | None = None,
    ) -> ExecutionEvent:
        self._seq += 1
        return ExecutionEvent(
            seq=self._seq,
            time=entry.at if at is None else at,
            type=kind,
            step=None if step is None else self._plan.step_ids[step],
            path=entry.path,
            attempt=entry.attempt or None,
            detail={} if detail is None else detail,
        )


def _error_detail(error: StepError | None) -> dict[str, Any]:
    return {} if error is None else {"code": error.code, "message": error.message}
