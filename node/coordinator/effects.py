"""What applying a batch asks of the shell. Followers drop everything but `finished`."""

from __future__ import annotations

from msgspec import Struct

from node.coordinator.state import Attempt, AttemptKey, Definition, Execution, Scope


class Accepted(Struct, frozen=True, gc=False):
    """Answer to Start. `execution` is None when the one that a repeated key led to is no longer live."""

    id: str
    execution: Execution | None
    deduplicated: bool = False


class Refused(Struct, frozen=True):
    """Answer to a command that changed nothing; `code` is that of the error in node/errors.py, or its detail."""

    code: str
    message: str
    limit: str = ""


Answer = Accepted | Refused | Execution | object | None


class TimerKey(Struct, frozen=True, array_like=True, gc=False):
    """Which deadline: of an attempt, or with segment -1 of the execution."""

    id: str
    segment: int
    path: tuple[int, ...]
    attempt: int


class Ready(Struct, frozen=True, gc=False):
    """An attempt that may be dispatched (ACTIVE) or asks for a grant (QUEUED). Stale once its `number` differs."""

    execution: Execution
    scope: Scope
    attempt: Attempt
    number: int


class TimerSet(Struct, frozen=True, gc=False):
    """Fire `key` at `due`, not before. `wall`: due is wall time, not cluster time."""

    key: TimerKey
    due: float
    wall: bool = False


class Finished(Struct, frozen=True, gc=False):
    """An execution that has become terminal; nothing changes it any more."""

    execution: Execution
    definition: Definition


class Effects(Struct):
    """Collected over one batch, each list in order of application. `answers` has one entry per command."""

    answers: list[Answer]
    ready: list[Ready]
    timers: list[TimerSet]
    timers_cleared: list[TimerSet]
    cancels: list[AttemptKey]
    finished: list[Finished]
    touched: list[Execution]  # something a follower of its events can see has changed
    dropped: int = 0  # reports that were fenced off


def no_effects() -> Effects:
    """An empty collection."""
    return Effects([], [], [], [], [], [], [])
