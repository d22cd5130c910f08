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


@dataclass(slots=True, eq=False)
class Dispatch:
    """One task in a pool, from submit to outcome. Owned by the pool."""

    frame: TaskFrame
    key: TaskKey
    wall_s: float
    kind: SegmentKind | None = None  # once the plan is known
    runner: Runner | None = None  # that has it now
    ticket: int = 0  # there; 0: with none
    handed_at: float = 0.0  # monotonic
    times_handed: int = 0
    stop: ToStop | None = None  # once its end was asked for

    @property
    def is_io(self) -> bool:
        assert self.kind is not None
        return self.kind.is_io

    def has_started(self, cpu_last_started: int) -> bool:
        """False only if it certainly has not. I/O tasks start as soon as their runner reads them."""
        return self.is_io or self.ticket <= cpu_last_started

    def error(self, code: str, message: str, *, retryable: bool = True) -> StepError:
        """An error from outside the step, in the form of the language's own."""
        return outside_error(self.kind, code, message, retryable=retryable)

    def stop_error(self, stop: ToStop) -> StepError:
        return self.error(stop.code, stop.message, retryable=stop.code == "timeout")

    def overrun_message(self) -> str:
        return f"the step took longer than {self.wall_s:g} s"

    def failed(self, error: StepError) -> TaskOutcome:
        """The outcome of a task that ended with this error, without results."""
        return TaskOutcome(*self.key, _encode(error_result(error)))

    def lost(self, code: LostCode, reason: str, *, started: bool, at_fault: bool = False) -> TaskOutcome:
        return TaskOutcome(*self.key, None, Lost(code, reason, started, at_fault))
