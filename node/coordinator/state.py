"""What the state machine keeps: live executions, definitions, workflows, dedupe keys, cluster time.

Structs of msgspec: compact, compared by value, and encoded as they are into rows and snapshots. Only `apply.py` and
`run.py` write to them. What can be computed from the rest (`State.granted`, `Execution.active`, reference counts) is
kept for speed and compared by `check_invariants`. Field order is the format on disk: new fields go to the end, with
defaults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct

from node.coordinator.journal import Entry
from node.coordinator.keyed import Keyed, KeyedLimits
from node.coordinator.program import Program
from workflow.messages import ControlPlan, StepError

ScopeKey = tuple[int, tuple[int, ...]]  # (body, loop path)
AttemptKey = tuple[str, int, tuple[int, ...], int]  # (execution, segment, loop path, attempt)


class Phase(IntEnum):
    """What has become of a segment in its scope. Bit 4 of the same byte: a live flow edge has arrived."""

    UNRESOLVED = 0
    OPEN = 1  # has an Attempt
    DONE = 2
    SKIPPED = 3
    FAILED = 4


LIVE = 0x10
PHASE_MASK = 0x0F


class Stage(IntEnum):
    """Where the current attempt of an open segment stands."""

    QUEUED = 0  # a write above the grant window: not to be dispatched before a Grant is committed
    ACTIVE = 1  # may be dispatched, may be running
    TIMER = 2
    SIGNAL = 3
    BACKOFF = 4
    LOOP = 5  # bodies run
    CHILD = 6  # another execution runs; `Attempt.name` is its id


class Loop(Struct, array_like=True):
    """Bodies that a loop step asked for; `results[i]` is b"" until item i is done."""

    items: list[bytes]
    results: list[bytes]
    started: int
    running: int
    done: int
    failed: int
    max_concurrency: int
    tolerated_failures: int
    last_error: StepError | None = None
    carry: bytes | None = None  # the loop step's own, given back with the results
    broken: StepError | None = None  # more failed than are tolerated: ends when those that run have ended


class Attempt(Struct, array_like=True):
    """The current try of an open segment. `number` is the fence: it grows with every dispatch that follows a commit."""

    segment: int
    number: int = 1
    stage: int = Stage.ACTIVE
    since: float = 0.0  # cluster time of the last change of stage
    failures: int = 0
    losses: int = 0  # times that a pure or read task took its runner with it
    due: float = 0.0  # of TIMER, SIGNAL with a time limit, BACKOFF; 0: none
    wall: bool = False  # `due` is wall time
    name: str | None = None  # of the signal, or the child's id
    resume: bytes | None = None
    loop: Loop | None = None
    heartbeat: bytes | None = None
    expires: float = 0.0  # cluster time at which a step that waits has used up its timeout_s; 0: no limit
    lost: int = 0  # times that a pure or read task was lost, by whosever fault


class Scope(Struct, array_like=True):
    """One run of a set of segments: the root, or a loop body for one item."""

    body: int
    path: tuple[int, ...]
    phases: bytearray  # Phase | LIVE by local segment number
    unresolved: int
    joins: dict[int, int]  # segment with several incoming edges -> how many are still unresolved
    outputs: dict[int, bytes]  # step -> encoded result
    attempts: dict[int, Attempt]  # by segment
    item: bytes | None
    failed: StepError | None = None  # a loop body that waits for its last active attempts to report


class Parent(Struct, array_like=True, frozen=True):
    """The attempt that started this execution and waits for its end."""

    id: str
    segment: int
    path: tuple[int, ...]
    attempt: int
    on_cancel: str  # cancel | abandon: what the parent's early end does to this execution


class Execution(Scope, array_like=True, kw_only=True):
    """A live execution; as a Scope it is its own root."""

    id: str
    number: int  # order of acceptance in the cluster, from 1
    plan: bytes  # hash of the definition
    workflow_id: str
    workflow_version: int | None
    created_at: float
    context: bytes | None
    priority: int
    tags: dict[str, str]
    tenant: str
    journal: list[Entry]
    active: int = 0  # attempts that are ACTIVE
    parked: int = 0  # attempts in every other stage but LOOP
    scopes: dict[ScopeKey, Scope] | None = None
    shared: bytes | None = None  # level 1: shared state of the steps
    started_at: float = 0.0
    finished_at: float = 0.0
    deadline: float = 0.0  # cluster time at which it fails; 0: none
    timeout_s: float = 0.0
    status: str = ""  # empty while live; then the terminal one
    ending: str = ""  # terminal status that follows when the last active attempt has reported
    error: StepError | None = None
    signals: dict[str, list[bytes]] | None = None  # received, not yet waited for
    signal_ids: dict[str, None] | None = None
    held: int = 0  # bytes of values kept
    generation: int = 0  # of idempotency keys: grows with a redrive
    parent: Parent | None = None
    depth: int = 0  # of nested executions; 0: nobody's child


class Definition(Struct):
    """A compiled definition. `references`: live executions and registered versions that need it."""

    payload: bytes
    plan: ControlPlan
    program: Program
    references: int = 0


class Version(Struct, array_like=True, frozen=True):
    """A version of a registered workflow."""

    version: int
    plan: bytes
    name: str
    description: str
    created_at: float


class Workflow(Struct, array_like=True):
    """A registered workflow. `versions` ascend; deleting a workflow removes it whole."""

    versions: list[Version]


class Dedupe(Struct, array_like=True, frozen=True, gc=False):
    """What a start under an idempotency key led to. `digest` tells a repetition from another request."""

    execution_id: str
    digest: bytes
    at: float
    number: int  # keys are forgotten in this order


class Limits(Struct, array_like=True, frozen=True, kw_only=True):
    """Bounds that decide inside `apply`, so they are replicated: changed by the command Configure only."""

    write_window: int = 64  # write attempts granted ahead of free slots: what a crash can leave in doubt
    runner_kills_max: int = 3  # a task that kills its runner this often fails
    dedupe_keep_s: float = 86_400.0
    dedupe_keys_max: int = 1_000_000  # per tenant; about 250 bytes each
    journal_max: int = 200_000  # entries of one execution: 10,000 loop items of 5 segments, four times
    signals_max: int = 10_000  # buffered per execution
    signal_bytes_max: int = 8 * 1024 * 1024  # buffered per execution
    workflows_max: int = 100_000
    loop_items_max: int = 1_000_000
    nesting_max: int = 16  # executions that start executions, counted from the outermost
    executions_max: int = 200_000  # live ones, above which no execution starts another
    keyed: KeyedLimits = KeyedLimits()
    losses_max: int = 100  # a task that was lost this often, by whosever fault, fails


class Changes:
    """What the store has to write next. Replaced as a whole when a flush begins."""

    __slots__ = ("dedupe", "definitions", "executions", "workflows")

    def __init__(self) -> None:
        self.executions: dict[int, Execution] = {}  # ended ones too
        self.definitions: dict[bytes, None] = {}
        self.workflows: dict[str, None] = {}
        self.dedupe: dict[tuple[str, str], None] = {}


encode_execution: Final = msgspec.msgpack.Encoder().encode
decode_execution: Final = msgspec.msgpack.Decoder(Execution).decode


class State:
    """Everything that is replicated. Made empty, or by a store; changed only by `apply.apply`."""

    __slots__ = (
        "accepted",
        "changes",
        "dedupe",
        "dedupe_counts",
        "dedupe_order",
        "definitions",
        "executions",
        "frozen",
        "granted",
        "held",
        "images",
        "keyed",
        "limits",
        "now",
        "queued",
        "workflows",
    )

    def __init__(self) -> None:
        self.now: float = 0.0  # cluster time of the last applied batch
        self.accepted: int = 0  # executions ever accepted
        self.executions: dict[str, Execution] = {}  # in order of acceptance
        self.definitions: dict[bytes, Definition] = {}
        self.workflows: dict[str, Workflow] = {}
        self.dedupe: dict[tuple[str, str], Dedupe] = {}
        self.dedupe_order: deque[tuple[str, str]] = deque()  # oldest first
        self.dedupe_counts: dict[str, int] = {}
        self.granted: dict[str, int] = {}  # queue -> write attempts that are ACTIVE
        self.queued: dict[str, int] = {}  # queue -> write attempts that are QUEUED
        self.held: int = 0  # of values held by live executions
        self.keyed = Keyed()
        self.limits = Limits()
        # for the store; not part of what is compared between replicas
        self.changes = Changes()
        self.frozen: dict[int, Execution] = {}  # rows of a flush under way that are not encoded yet
        self.images: list[tuple[int, bytes]] = []  # rows of that flush as they were at its index

    def changing(self, execution: Execution) -> None:
        """Call before an execution changes: a flush under way gets it as it was, the next one as it will be."""
        number = execution.number
        if self.frozen and number in self.frozen:
            self.images.append((number, encode_execution(self.frozen.pop(number))))
        self.changes.executions[number] = execution


def scopes_of(execution: Execution) -> Iterator[Scope]:
    """The root, then the loop bodies under way."""
    yield execution
    if execution.scopes:
        yield from execution.scopes.values()


def scope_at(execution: Execution, program: Program, segment: int, path: tuple[int, ...]) -> Scope | None:
    """The scope that `segment` runs in under this loop path, None if there is none (any more)."""
    if not 0 <= segment < len(program.segments):
        return None
    body = program.scope_of[segment]
    if body == 0:
        return execution if path == () else None
    return execution.scopes.get((body, path)) if execution.scopes else None


def parent_scope(execution: Execution, program: Program, scope: Scope) -> Scope | None:
    """The scope that a loop body's loop runs in; None if that is gone. Not for the root."""
    body = program.scope_of[program.loop_of[scope.body]]
    if body == 0:
        return execution
    return execution.scopes.get((body, scope.path[:-1])) if execution.scopes else None


def has_next_step(execution: Execution) -> bool:
    """DESIGN §4: a queued task, a running task, a timer or a declared wait."""
    return execution.active > 0 or (execution.parked > 0 and not execution.ending)


def executions_without_next_step(state: State) -> int:
    """Must be 0 at all times."""
    return sum(not has_next_step(execution) for execution in state.executions.values())


def check_invariants(state: State) -> None:
    """Raise AssertionError where a derived number disagrees with what it is derived from, or a rule is broken."""
    granted: dict[str, int] = {}
    queued: dict[str, int] = {}
    held = 0
    references: dict[bytes, int] = dict.fromkeys(state.definitions, 0)
    for workflow in state.workflows.values():
        assert [v.version for v in workflow.versions] == sorted({v.version for v in workflow.versions})
        for version in workflow.versions:
            references[version.plan] += 1
    last_number = 0
    for key, execution in state.executions.items():
        assert execution.id == key
        assert last_number < execution.number <= state.accepted
        last_number = execution.number
        references[execution.plan] += 1
        held += execution.held
        _check_execution(execution, state.definitions[execution.plan].program, granted, queued)
        _check_children(state, execution)
    assert granted == state.granted, f"granted writes: counted {granted}, kept {state.granted}"
    assert queued == state.queued, f"queued writes: counted {queued}, kept {state.queued}"
    assert held == state.held, f"bytes held: counted {held}, kept {state.held}"
    state.keyed.check_invariants()
    for plan, definition in state.definitions.items():
        assert references[plan] == definition.references, (
            f"references: {references[plan]} {definition.references}"
        )
    assert len(state.dedupe_order) == len(state.dedupe)
    assert set(state.dedupe_order) == set(state.dedupe)
    assert sum(state.dedupe_counts.values()) == len(state.dedupe)
    assert executions_without_next_step(state) == 0


def _check_children(state: State, execution: Execution) -> None:
    """Whoever waits for a child has one that knows it, and will be resumed by its end."""
    for scope in scopes_of(execution):
        for attempt in scope.attempts.values():
            if attempt.stage == Stage.CHILD:
                child = state.executions.get(attempt.name or "")
                assert child is not None, f"{execution.id} waits for {attempt.name}, which is not live"
                assert child.parent is not None
                waiting = (child.parent.id, child.parent.segment, child.parent.path, child.parent.attempt)
                assert waiting == (execution.id, attempt.segment, scope.path, attempt.number)


def held_bytes(execution: Execution) -> int:
    """Bytes of values that an execution holds, counted anew."""
    held = len(execution.context or b"") + len(execution.shared or b"")
    held += sum(len(payload) for queue in (execution.signals or {}).values() for payload in queue)
    for scope in scopes_of(execution):
        held += sum(map(len, scope.outputs.values()))
        for attempt in scope.attempts.values():
            held += len(attempt.resume or b"")
            if attempt.loop is not None:
                held += sum(map(len, attempt.loop.items)) + sum(map(len, attempt.loop.results))
                held += len(attempt.loop.carry or b"")
    return held


def _check_execution(
    execution: Execution, program: Program, granted: dict[str, int], queued: dict[str, int]
) -> None:
    assert execution.status == "", "a terminal execution is not live"
    assert held_bytes(execution) == execution.held, f"holds {held_bytes(execution)}, kept {execution.held}"
    active = parked = loops = 0
    for key in execution.scopes or ():
        scope = (execution.scopes or {})[key]
        assert key == (scope.body, scope.path)
        assert scope.path, "only the root has no path"
    for scope in scopes_of(execution):
        open_segments = set()
        unresolved = 0
        for segment, body in enumerate(program.scope_of):
            if body != scope.body:
                continue
            phase = scope.phases[program.local[segment]] & PHASE_MASK
            if phase == Phase.OPEN:
                open_segments.add(segment)
            if phase in (Phase.OPEN, Phase.UNRESOLVED):
                unresolved += 1
        assert unresolved == scope.unresolved
        assert open_segments == set(scope.attempts)
        for segment, attempt in scope.attempts.items():
            assert attempt.segment == segment
            assert attempt.number >= 1
            assert (attempt.loop is not None) == (attempt.stage == Stage.LOOP)
            if attempt.stage == Stage.ACTIVE:
                active += 1
                if program.writes[segment]:
                    granted[program.queues[segment]] = granted.get(program.queues[segment], 0) + 1
            elif attempt.stage == Stage.LOOP:
                loops += 1
            else:
                parked += 1
                if attempt.stage == Stage.QUEUED:
                    assert program.writes[segment]
                    queued[program.queues[segment]] = queued.get(program.queues[segment], 0) + 1
            if attempt.stage in (Stage.TIMER, Stage.BACKOFF):
                assert attempt.due > 0
            if attempt.stage == Stage.SIGNAL:
                assert attempt.name is not None
            if attempt.loop is not None:
                loop = attempt.loop
                children = sum(
                    1
                    for body, path in execution.scopes or ()
                    if body == program.segments[segment].body and path[:-1] == scope.path
                )
                assert children == loop.running
                assert loop.done + loop.running == loop.started <= len(loop.items)
    assert (active, parked) == (execution.active, execution.parked)
    if execution.ending:
        assert parked == 0
        assert active > 0
        assert loops == 0
