"""What passes between a coordinator and a runner, and the part of a plan that a coordinator reads.

Frozen msgspec structs, arrays on the wire. Values (`bytes` fields named result, inputs, state …) are
encoded by workflow.codec and opaque to whoever only routes them. New fields go to the end and have defaults.
"""

from __future__ import annotations

from msgspec import Struct


class Task(Struct, frozen=True, array_like=True):
    """A segment handed out: everything a runner needs beside the plan."""

    execution_id: str
    segment: int
    path: tuple[int, ...]  # loop path, () at the root
    attempt: int  # from 1
    plan_hash: bytes  # sha256 of the canonical definition
    inputs: dict[int, bytes]  # step index -> encoded result of the steps in SegmentPlan.needs that ran
    state: bytes | None  # level 1: shared state (variables, counter …), opaque
    context: bytes | None  # encoded `inputs` object of the execution
    item: bytes | None  # loop item or while state, encoded
    resume: (
        bytes | None
    )  # set when a wait of this segment has ended: encoded value (payload; null for a timer)
    idempotency_key: str
    deadline_s: float | None  # start to close, relative seconds
    heartbeat: bytes | None = None  # details of the previous attempt's last heartbeat


class StepError(Struct, frozen=True, array_like=True):
    """Why a step failed. `node` is the step's id; `message` the full text that a user sees."""

    code: str
    message: str
    node: str | None
    retryable: bool = True
    type: str = ""


class Wait(Struct, frozen=True, array_like=True):
    """A step that cannot go on before something outside happens."""

    step: int
    kind: str  # timer | signal | until | child | cache_get | cache_set | cache_delete | rate
    duration_s: float | None = None
    until: float | None = None  # unix seconds
    name: str | None = None
    data: bytes | None = None


class Spawn(Struct, frozen=True, array_like=True):
    """A loop step asks for its body to run once per item."""

    step: int
    items: list[bytes]
    max_concurrency: int
    tolerated_failures: int
    carry: bytes | None = (
        None  # given back with the results: `resume` is [carry, results, failed count, last error]
    )


class SegmentResult(Struct, frozen=True, array_like=True):
    """What came of a task. With `error`, outputs has the steps that finished before it."""

    outputs: dict[int, bytes]  # step index -> encoded result of every step that ran
    live: tuple[int, ...]  # indices of live edges that leave the segment
    state: bytes | None
    timings: dict[int, tuple[int, int]]  # step -> (start offset us, duration us)
    error: StepError | None = None
    wait: Wait | None = None
    spawn: Spawn | None = None


class Edge(Struct, frozen=True, array_like=True):
    """An edge between two segments. `order` edges delay the target and never activate it."""

    index: int
    source_segment: int
    target_segment: int
    live_by_default: bool
    kind: str = "flow"  # flow | order


class RetryPolicy(Struct, frozen=True, array_like=True):
    """How a failed attempt is followed by another one."""

    max_attempts: int = 1
    initial_interval_s: float = 1.0
    max_interval_s: float = 60.0
    multiplier: float = 2.0
    jitter: float = 1.0  # share of the delay that is random, 0 to 1
    non_retryable: tuple[str, ...] = ()
    retry_on: tuple[
        str, ...
    ] = ()  # parts of codes or texts; when there are any, only such errors are retried
    backoff: str = "exponential"  # exponential | linear


class StepPolicy(Struct, frozen=True, array_like=True):
    """The `policy` object of a step: how it is dispatched and what follows a failure."""

    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    schedule_to_start_s: float | None = None
    heartbeat_s: float | None = None
    queue: str | None = None
    labels: dict[str, str] = {}
    priority: int | None = None
    effect: str | None = None
    on_exhausted: str = (
        "fail"  # fail | pause | dead_letter; the last two are accepted, and fail until they exist
    )


class SegmentPlan(Struct, frozen=True, array_like=True):
    """One unit of dispatch."""

    index: int
    steps: tuple[int, ...]
    effect: str  # pure | read | write | wait: class of the strongest step in it
    edges_in: tuple[int, ...]
    edges_out: tuple[int, ...]
    needs: tuple[int, ...]  # indices of steps outside this segment whose outputs are sent along
    shared_state: bool  # level 1: the blob of the previous segment is passed on
    body: int | None = None  # index of the body that this segment's Spawn runs
    scope: int = 0  # 0 = root, else the body it belongs to
    policy: StepPolicy | None = None
    error_edges: tuple[int, ...] = ()  # go live when the last step has finally failed, which is then handled


class BodyPlan(Struct, frozen=True, array_like=True):
    """The steps behind a loop's item port: a scope of its own that runs once per item."""

    index: int
    segments: tuple[int, ...]
    result_step: int | None = (
        None  # the step whose output is an item's result; None: the body's terminals decide
    )
    terminals: tuple[int, ...] = ()


class ControlPlan(Struct, frozen=True, array_like=True):
    """What a coordinator needs of a plan; holds no step data."""

    hash: bytes
    level: int
    step_ids: tuple[str, ...]
    step_types: tuple[str, ...]
    segments: tuple[SegmentPlan, ...]
    edges: tuple[Edge, ...]
    bodies: tuple[BodyPlan, ...]
    terminals: tuple[int, ...]  # final output = that of the first of these that has one
    max_execution_time_s: float | None
