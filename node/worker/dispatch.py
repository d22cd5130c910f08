"""A task's way through a pool, and the errors that a pool gives to tasks by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from node.worker.messages import (
    Lost,
    LostCode,
    SegmentKind,
    StepError,
    TaskFrame,
    TaskKey,
    TaskOutcome,
    ToStop,
)
from node.worker.outside_errors import error_result, outside_error

if TYPE_CHECKING:
    from node.worker.supervisor import Runner

_encode: Final = msgspec.msgpack.Encoder().encode


UNKNOWN_COST_US: Final = 1000.0  # of a segment that has not run yet: spread its tasks rather than queue them
OVERHEAD_US: Final = 10.0  # of a task beside its steps
COST_KEPT: Final = 0.9  # of the old estimate when a task took less; one that took more counts at once


@dataclass(slots=True, eq=False)
class SegmentProfile:
    """A segment of a plan, and what one of its tasks is likely to take."""

    kind: SegmentKind
    cost_us: float = UNKNOWN_COST_US

    def learn_cost(self, wall_us: int) -> None:
        cost_us = wall_us + OVERHEAD_US
        self.cost_us = max(cost_us, self.cost_us * COST_KEPT + cost_us * (1.0 - COST_KEPT))


@dataclass(slots=True, eq=False)
class Dispatch:
    """One task in a pool, from submit to outcome. Owned by the pool."""

    frame: TaskFrame
    key: TaskKey
    wall_s: float
    profile: SegmentProfile | None = None  # once the plan is known
    runner: Runner | None = None  # that has it now
    ticket: int = 0  # there; 0: with none
    handed_at: float = 0.0  # monotonic
    cost_us: float = 0.0  # what it was expected to take when it was handed out
    times_handed: int = 0
    stop: ToStop | None = None  # once its end was asked for

    @property
    def is_io(self) -> bool:
        assert self.profile is not None
        return self.profile.kind.is_io

    def has_started(self, cpu_last_started: int) -> bool:
        """False only if it certainly has not. I/O tasks start as soon as their runner reads them."""
        return self.is_io or self.ticket <= cpu_last_started

    def error(self, code: str, message: str, *, retryable: bool = True) -> StepError:
        """An error from outside the step, in the form of the language's own."""
        kind = self.profile.kind if self.profile is not None else None
        return outside_error(kind, code, message, retryable=retryable)

    def stop_error(self, stop: ToStop) -> StepError:
        return self.error(stop.code, stop.message, retryable=stop.code == "timeout")

    def overrun_message(self) -> str:
        return f"the step took longer than {self.wall_s:g} s"

    def failed(self, error: StepError) -> TaskOutcome:
        """The outcome of a task that ended with this error, without results."""
        return TaskOutcome(*self.key, _encode(error_result(error)))

    def lost(self, code: LostCode, reason: str, *, started: bool, at_fault: bool = False) -> TaskOutcome:
        return TaskOutcome(*self.key, None, Lost(code, reason, started, at_fault))
