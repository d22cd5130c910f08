"""Small plans and a machine to drive them by hand; shared by the unit, property and simulation tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from node.coordinator import commands as c
from node.coordinator.apply import apply
from node.coordinator.effects import Accepted, Effects
from node.coordinator.state import Attempt, Execution, Stage, State, check_invariants, scopes_of
from workflow.messages import (
    BodyPlan,
    ControlPlan,
    Edge,
    RetryPolicy,
    SegmentPlan,
    SegmentResult,
    Spawn,
    StepError,
    StepPolicy,
    Wait,
)


class Seg(msgspec.Struct):
    """One segment of a plan under construction."""

    steps: int = 1
    effect: str = "pure"
    after: Sequence[
        int | tuple[int, str]
    ] = ()  # sources; (source, "order") for an order edge, (source, "if") for conditional
    scope: int = 0
    body: int | None = None
    policy: StepPolicy | None = None
    needs: Sequence[int] = ()  # segments whose last step's output is needed


def make_plan(
    segments: Sequence[Seg], *, level: int = 2, timeout_s: float | None = None, name: str = "plan"
) -> ControlPlan:
    """A ControlPlan with steps s0, s1 … and an edge per `after`. A body's result is the output of its last segment."""
    step_ids: list[str] = []
    built: list[SegmentPlan] = []
    edges: list[Edge] = []
    last_step: list[int] = []
    for index, seg in enumerate(segments):
        steps = tuple(range(len(step_ids), len(step_ids) + seg.steps))
        step_ids.extend(f"s{step}" for step in steps)
        last_step.append(steps[-1])
        for after in seg.after:
            source, kind = after if isinstance(after, tuple) else (after, "flow")
            edges.append(
                Edge(len(edges), source, index, kind == "flow", "order" if kind == "order" else "flow")
            )
    for index, seg in enumerate(segments):
        steps = tuple(range(last_step[index] - seg.steps + 1, last_step[index] + 1))
        built.append(
            SegmentPlan(
                index=index,
                steps=steps,
                effect=seg.effect,
                edges_in=tuple(e.index for e in edges if e.target_segment == index),
                edges_out=tuple(e.index for e in edges if e.source_segment == index),
                needs=tuple(last_step[s] for s in seg.needs),
                shared_state=level == 1,
                body=seg.body,
                scope=seg.scope,
                policy=seg.policy,
            )
        )
    bodies = []
    for body in sorted({seg.scope for seg in segments if seg.scope} | {s.body for s in segments if s.body}):
        members = tuple(i for i, seg in enumerate(segments) if seg.scope == body)
        result = last_step[members[-1]] if members else None
        bodies.append(BodyPlan(index=body, segments=members, result_step=result))
    sources = {e.source_segment for e in edges}
    terminals = tuple(last_step[i] for i, s in enumerate(segments) if s.scope == 0 and i not in sources)
    plan = ControlPlan(
        hash=b"",
        level=level,
        step_ids=tuple(step_ids),
        step_types=tuple("step" for _ in step_ids),
        segments=tuple(built),
        edges=tuple(edges),
        bodies=tuple(bodies),
        terminals=terminals,
        max_execution_time_s=timeout_s,
    )
    digest = hashlib.sha256(name.encode() + msgspec.msgpack.encode(plan)).digest()
    return msgspec.structs.replace(plan, hash=digest)


def chain(
    count: int, *, effect: str = "read", level: int = 1, policy: StepPolicy | None = None
) -> ControlPlan:
    """Segments one after the other."""
    segments = [Seg(effect=effect, after=[i - 1] if i else [], policy=policy) for i in range(count)]
    return make_plan(segments, level=level)


def retrying(attempts: int, **more: object) -> StepPolicy:
    """A policy with this many attempts."""
    return StepPolicy(retry=RetryPolicy(max_attempts=attempts, **more))  # type: ignore[arg-type]


def put(plan: ControlPlan, payload: bytes = b"{}") -> c.PutDefinition:
    """The command that stores this plan."""
    return c.PutDefinition(plan.hash, payload, msgspec.msgpack.encode(plan))


def done(
    plan: ControlPlan, segment: int, value: bytes = b"\x01", *, live: Sequence[int] = ()
) -> SegmentResult:
    """Every step of the segment ran and gave `value`."""
    steps = plan.segments[segment].steps
    return SegmentResult(dict.fromkeys(steps, value), tuple(live), None, dict.fromkeys(steps, (0, 1000)))


def failed(
    node: str | None = "s0", message: str = "boom", *, retryable: bool = True, code: str = "step_failed"
) -> SegmentResult:
    """The step failed."""
    return SegmentResult({}, (), None, {}, StepError(code, message, node, retryable))


def waits(plan: ControlPlan, segment: int, kind: str = "timer", **fields: object) -> SegmentResult:
    """The segment's first step waits."""
    return SegmentResult({}, (), None, {}, wait=Wait(plan.segments[segment].steps[0], kind, **fields))  # type: ignore[arg-type]


def spawns(
    plan: ControlPlan, segment: int, items: Sequence[bytes], *, at_once: int = 2, tolerated: int = 0
) -> SegmentResult:
    """The segment's last step asks for its body to run once per item."""
    spawn = Spawn(plan.segments[segment].steps[-1], list(items), at_once, tolerated)
    return SegmentResult({}, (), None, {}, spawn=spawn)


class Machine:
    """A state and the log that made it. Every batch goes through its encoding, and invariants hold after each."""

    def __init__(self, *plans: ControlPlan, now: float = 1000.0) -> None:
        self.state = State()
        self.now = now
        self.log: list[bytes] = []
        self.fx: Effects
        self.finished: dict[str, Execution] = {}
        if plans:
            self.do(*[put(plan) for plan in plans])

    def do(self, *commands: c.Command, after: float = 0.0, chance: float = 0.5) -> Effects:
        """Apply one batch `after` seconds from the last one."""
        self.now += after
        data = c.encode(c.Batch(self.now, chance, 0, list(commands)))
        self.log.append(data)
        batch = c.decode(data)
        assert isinstance(batch, c.Batch)
        self.fx = apply(self.state, batch)
        check_invariants(self.state)
        for ended in self.fx.finished:
            execution = ended.execution
            assert execution.id not in self.finished, "finished twice"
            self.finished[execution.id] = execution
        return self.fx

    def start(self, plan: ControlPlan, id: str = "x", **fields: object) -> Execution:
        """Start an execution and return it."""
        fx = self.do(start(plan, id, **fields))
        answer = fx.answers[0]
        assert isinstance(answer, Accepted), answer
        assert answer.execution is not None
        return answer.execution

    def report(
        self,
        x: Execution,
        segment: int,
        result: SegmentResult,
        *,
        path: tuple[int, ...] = (),
        after: float = 0.0,
    ) -> Effects:
        """Report the current attempt of a segment."""
        attempt = self.attempt(x, segment, path)
        return self.do(c.Completed(x.id, segment, path, attempt.number, result), after=after)

    def attempt(self, x: Execution, segment: int, path: tuple[int, ...] = ()) -> Attempt:
        """The current attempt of a segment."""
        for scope in scopes_of(x):
            if scope.path == path and segment in scope.attempts:
                return scope.attempts[segment]
        raise AssertionError(f"segment {segment} is not open under {path}")


def start(plan: ControlPlan, id: str = "x", **fields: object) -> c.Start:
    """The command that starts an execution of a stored plan."""
    values: dict[str, object] = {
        "workflow_id": "w",
        "workflow_version": None,
        "context": None,
        "priority": 5,
        "tags": {},
        "tenant": "default",
        "timeout_s": 0.0,
    }
    return c.Start(id=id, plan=plan.hash, **(values | fields))  # type: ignore[arg-type]


def open_attempts(x: Execution) -> list[tuple[int, tuple[int, ...], Stage]]:
    """(segment, path, stage) of everything that is open."""
    return [
        (attempt.segment, scope.path, Stage(attempt.stage))
        for scope in scopes_of(x)
        for attempt in scope.attempts.values()
    ]


def image(state: State) -> list[bytes]:
    """The whole state as bytes, part by part, for comparison."""
    parts: list[object] = [
        [state.now, state.accepted, state.held, state.limits],
        *state.executions.values(),
        *sorted(
            [h, d.payload, msgspec.msgpack.encode(d.plan), d.references] for h, d in state.definitions.items()
        ),
        *sorted([name, msgspec.msgpack.encode(w)] for name, w in state.workflows.items()),
        *[[list(key), state.dedupe[key]] for key in state.dedupe_order],
        *sorted([list(key), entry] for key, entry in state.keyed.cache.items()),
        *sorted([list(key), rate] for key, rate in state.keyed.rates.items()),
        [sorted(state.dedupe_counts.items()), sorted(state.granted.items()), sorted(state.queued.items())],
    ]
    return [msgspec.msgpack.encode(part) for part in parts]
