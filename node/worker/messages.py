"""What passes between the scheduler and a worker pool, and between a pool and its runner processes.

`TaskFrame` goes in, `TaskOutcome`, `TaskHeartbeat` and `LogLine` come out; these four may cross the mesh unchanged.
The `To…`/`From…` messages never leave the host: node and runner are started from the same files, so they
carry no version. A runner is not trusted: what comes from it is decoded against `FromRunner` and checked by the
pool, and a runner that sends anything else is replaced.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from workflow.messages import SegmentResult, StepError, Task
from workflow.steps.base import NamedClient

Effect = Literal["pure", "read", "write", "wait"]

Stream = Literal["log", "stdout", "stderr"]
"""Where a line came from: `ctx.log`, or one of the two standard streams."""

TaskKey = tuple[str, int, tuple[int, ...], int]
"""(execution id, segment, loop path, attempt): names one attempt in the whole cluster."""


class TaskFrame(Struct, frozen=True, array_like=True):
    """One attempt, handed to a worker. `effect` is the class of the strongest step in its segment."""

    task: Task
    effect: Effect = "write"
    tenant: str = "default"


LostCode = Literal[
    "runner_died", "out_of_memory", "runner_hung", "runner_replaced", "plan_unavailable", "pool_closed"
]


class Lost(Struct, frozen=True, array_like=True):
    """An attempt that ended without a result, and what is known about it.

    `started=False`: it certainly did not run, re-dispatching it repeats nothing. `at_fault=True`: the runner died
    while it ran this very task, so it counts as a failed attempt; otherwise the task only shared a runner with
    whatever went wrong.
    """

    code: LostCode
    reason: str  # for people: what happened, with exit status or signal
    started: bool
    at_fault: bool


class Usage(Struct, frozen=True, array_like=True):
    """What an attempt used, where it is cheap to know."""

    wall_us: int = 0
    cpu_us: int = 0  # async steps: their own turns on the loop, not what they waited
    memory_peak_bytes: int = 0  # of the runner, if this attempt raised it; 0: it stayed below an earlier peak
    bytes_in: int = 0
    bytes_out: int = 0


class TaskOutcome(Struct, frozen=True, array_like=True):
    """The end of an attempt: `result` (an encoded SegmentResult that was checked to decode) or `lost`, never both.

    A task that overran its time, or was cancelled, has a result with the error `timeout` or `cancelled`.
    """

    execution_id: str
    segment: int
    path: tuple[int, ...]
    attempt: int
    result: bytes | None = None
    lost: Lost | None = None
    usage: Usage | None = None


class TaskHeartbeat(Struct, frozen=True, array_like=True):
    """A running attempt's sign of life; `details` is an encoded value."""

    execution_id: str
    segment: int
    path: tuple[int, ...]
    attempt: int
    details: bytes | None


class LogLine(Struct, frozen=True, array_like=True):
    """What a step logged or printed. Without `execution_id` the line could not be tied to an attempt."""

    text: str
    stream: Stream
    runner_pid: int
    execution_id: str | None = None
    segment: int = 0
    path: tuple[int, ...] = ()
    attempt: int = 0
    fields: dict[str, Any] = {}


# ---- node -> runner. A ticket is the pool's own number for one dispatch to one runner; it only ever grows.


class RunnerSettings(Struct, frozen=True):
    """First message to a runner: everything that it needs to know about its node."""

    parent_pid: int
    load: tuple[str, ...]
    import_path: tuple[str, ...]
    language: dict[str, Any]  # settings of the language (FORMAT §13), by field name
    address_space_bytes_max: int
    open_files_max: int
    result_bytes_max: int
    frame_bytes_max: int
    stop_grace_s: float
    log_line_bytes_max: int
    log_bytes_per_attempt_max: int
    http_clients: dict[str, NamedClient] = {}


class ToPlan(Struct, frozen=True, array_like=True, tag=1):
    """Remember this definition under its hash; comes before the first task that uses it. Answered by FromPlan."""

    plan_hash: bytes
    definition: bytes


class ToForget(Struct, frozen=True, array_like=True, tag=2):
    """Drop a plan; no task of this runner uses it any more."""

    plan_hash: bytes


class ToTasks(Struct, frozen=True, array_like=True, tag=3):
    """Run these, in this order, tickets ascending: (ticket, wall limit in seconds, task)."""

    tasks: list[tuple[int, float, Task]]


class ToStop(Struct, frozen=True, array_like=True, tag=4):
    """Stop this task: drop it if it waits, cancel it if it runs. Answered by its result either way."""

    ticket: int
    code: Literal["cancelled", "timeout"]
    message: str


class ToReturn(Struct, frozen=True, array_like=True, tag=5):
    """Give back every CPU task that has not started: another runner is idle."""


ToRunner = ToPlan | ToForget | ToTasks | ToStop | ToReturn


# ---- runner -> node


class FromReady(Struct, frozen=True, array_like=True, tag=1):
    """Modules are loaded, limits are set: tasks may come."""

    step_types: list[str]


class FromFailed(Struct, frozen=True, array_like=True, tag=2):
    """The runner cannot work and ends: a module does not load, a limit cannot be set."""

    message: str


class FromResults(Struct, frozen=True, array_like=True, tag=3):
    """(ticket, encoded SegmentResult, wall µs, CPU µs, peak memory bytes or 0)."""

    results: list[tuple[int, bytes, int, int, int]]


class FromHeartbeat(Struct, frozen=True, array_like=True, tag=4):
    ticket: int
    details: bytes | None


class FromLog(Struct, frozen=True, array_like=True, tag=5):
    ticket: int  # 0: no task
    stream: Stream
    text: str
    fields: dict[str, Any] = {}


class FromReturned(Struct, frozen=True, array_like=True, tag=6):
    """Tickets that have not started and never will, here."""

    tickets: list[int]


class FromStuck(Struct, frozen=True, array_like=True, tag=7):
    """An async step swallows its cancellation: only killing the runner ends it."""

    ticket: int


class SegmentKind(Struct, frozen=True, array_like=True):
    """What a pool needs to know of a segment: is it run on the event loop, and how is it called in messages."""

    is_io: bool
    step_id: str  # its last step: the one with the effect, if there is one
    step_type: str
    steps_total: int
    level: int  # of the language: level 1 words its errors as the original does


class FromPlan(Struct, frozen=True, array_like=True, tag=8):
    """The answer to ToPlan: the segments, or why the definition cannot be run here."""

    plan_hash: bytes
    segments: list[SegmentKind]
    error: str | None = None


FromRunner = (
    FromReady | FromFailed | FromResults | FromHeartbeat | FromLog | FromReturned | FromStuck | FromPlan
)

FRAME_HEADER_BYTES: Final = 4  # length of the body, little endian

__all__ = [
    "FRAME_HEADER_BYTES",
    "Effect",
    "FromFailed",
    "FromHeartbeat",
    "FromLog",
    "FromPlan",
    "FromReady",
    "FromResults",
    "FromReturned",
    "FromRunner",
    "FromStuck",
    "LogLine",
    "Lost",
    "LostCode",
    "RunnerSettings",
    "SegmentKind",
    "SegmentResult",
    "StepError",
    "Stream",
    "Task",
    "TaskFrame",
    "TaskHeartbeat",
    "TaskKey",
    "TaskOutcome",
    "ToForget",
    "ToPlan",
    "ToReturn",
    "ToRunner",
    "ToStop",
    "ToTasks",
    "Usage",
]
