"""Random plans under random histories: the laws of the state machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from node.coordinator import commands as c
from node.coordinator.apply import apply
from node.coordinator.effects import Finished
from node.coordinator.state import Limits, Stage, State, check_invariants, scopes_of
from node.coordinator.store.flush import FlushJob
from node.coordinator.store.live import LiveStore
from tests.unit.coordinator.plans import (
    Machine,
    Seg,
    done,
    failed,
    image,
    make_plan,
    retrying,
    spawns,
    start,
    waits,
)
from workflow import codec
from workflow.messages import RetryPolicy, StepPolicy

FAST = settings(max_examples=150, deadline=None)


POLICIES = [
    None,
    retrying(1),
    retrying(3, initial_interval_s=5.0),
    StepPolicy(timeout_s=4.0),
    StepPolicy(timeout_s=2.0, retry=RetryPolicy(max_attempts=2)),
]


@st.composite
def plans(draw, *, loops=True, max_segments=7):
    """A random DAG: some edges conditional or order only, some segments loops, some loops nested."""
    count = draw(st.integers(0, max_segments))
    segments: list[Seg] = []
    body = 0
    for index in range(count):
        after = []
        for source in range(index):
            kind = draw(st.sampled_from(["", "", "", "flow", "if", "order"]))
            if kind and segments[source].scope == 0:
                after.append((source, kind))
        effect = draw(st.sampled_from(["pure", "read", "write", "wait"]))
        policy = draw(st.sampled_from(POLICIES))
        segments.append(Seg(steps=draw(st.integers(1, 2)), effect=effect, after=after, policy=policy))
    if loops:
        for outer in [i for i in range(count) if draw(st.integers(0, 3)) == 0]:
            body += 1
            segments[outer].body = body
            first = len(segments)
            segments.append(Seg(effect=draw(st.sampled_from(["pure", "write"])), scope=body))
            if draw(st.booleans()):
                segments.append(Seg(after=[(first, draw(st.sampled_from(["flow", "if"])))], scope=body))
            if draw(st.booleans()):
                scope = body
                body += 1
                segments.append(Seg(after=[(first, "flow")], scope=scope, body=body))
                segments.append(Seg(effect=draw(st.sampled_from(["read", "write"])), scope=body))
    return make_plan(segments, level=draw(st.sampled_from([1, 2])))


class Driver:
    """Plays a script of bytes against a machine, then plays fair until everything has ended."""

    def __init__(self, plan, script: bytes) -> None:
        self.plan = plan
        self.machine = Machine(plan)
        self.machine.do(
            c.Configure(Limits(write_window=2, dedupe_keys_max=3, journal_max=2000, nesting_max=2))
        )
        self.script = list(script)
        self.started = 0
        if self.byte(4):
            self.machine.do(c.RegisterWorkflow("self", plan.hash, "", ""))

    def byte(self, below: int) -> int:
        return self.script.pop(0) % below if self.script else 0

    def attempts(self):
        return [
            (x, scope, attempt)
            for x in self.machine.state.executions.values()
            for scope in scopes_of(x)
            for attempt in scope.attempts.values()
        ]

    def play(self) -> None:
        self.start()
        while self.script:
            self.act()
        for _ in range(4000):
            found = self.attempts()
            if not found:
                break
            self.fair(*next(one for one in found if one[2].stage not in (Stage.LOOP, Stage.CHILD)))
        assert self.machine.state.executions == {}, "everything ends"
        assert len(self.machine.finished) == self.machine.state.accepted >= self.started

    def start(self) -> None:
        key = [None, "a", "b"][self.byte(3)]
        fx = self.machine.do(
            start(self.plan, f"x{self.started}", key=key, timeout_s=[0.0, 500.0][self.byte(2)])
        )
        answer = fx.answers[0]
        self.started += bool(getattr(answer, "execution", None) is not None and not answer.deduplicated)

    def act(self) -> None:
        found = self.attempts()
        kind = self.byte(16)
        if kind == 0 or not found:
            self.start()
            return
        x, scope, attempt = found[self.byte(len(found))]
        key = (x.id, attempt.segment, scope.path, attempt.number)
        do = self.machine.do
        if kind == 1:
            do(c.Cancel(x.id, "why"))
        elif kind == 2:
            do(c.Lost(*key, "runner_died", "signal 9", bool(self.byte(2))))
        elif kind == 3:
            stale = attempt.number + [-1, 1][self.byte(2)]
            fx = do(c.Completed(x.id, attempt.segment, scope.path, stale, done(self.plan, attempt.segment)))
            assert fx.dropped == 1, "a report of another attempt was taken"
        elif kind == 4:
            stage, due, wall = attempt.stage, attempt.due, attempt.wall
            do(c.TimerFired(*key), after=float(self.byte(8)))
            if due > self.machine.now and not wall:
                assert attempt.stage == stage, "a timer fired early"
        elif kind == 5:
            do(c.Signal(x.id, "go", bytes([self.byte(128)])))
        elif kind == 6:
            do(c.TimerFired(x.id, -1, (), 0), after=[1.0, 600.0][self.byte(8) == 0])
        elif kind == 7:
            do(c.Grant([key]), c.DropDefinitions([self.plan.hash]))
        elif kind == 8 and (x.ending or scope.failed):
            do(c.Withdrawn(*key))
        else:
            self.report(x, scope, attempt, kind)

    def report(self, x, scope, attempt, kind: int) -> None:
        segment = attempt.segment
        if kind == 9:
            result = failed(None, retryable=bool(self.byte(2)))
        elif kind == 10 and attempt.resume is None:
            result = waits(self.plan, segment, duration_s=float(self.byte(20)))
        elif kind == 11 and attempt.resume is None:
            result = waits(self.plan, segment, "signal", name="go", duration_s=[None, 3.0][self.byte(2)])
        elif kind == 12 and attempt.resume is None:
            result = self.keyed(segment)
        elif kind == 13 and attempt.resume is None:
            on_cancel = ["cancel", "abandon"][self.byte(2)]
            request = codec.encode({"workflow_id": "self", "inputs": {"n": 1.0}, "on_cancel": on_cancel})
            result = waits(self.plan, segment, "child", name="self", data=request)
        else:
            result = self.fair_result(attempt)
        self.machine.do(c.Completed(x.id, segment, scope.path, attempt.number, result), after=0.5)

    def keyed(self, segment: int):
        name = ["a", "b"][self.byte(2)]
        kind = ["cache_set", "cache_get", "cache_delete", "rate"][self.byte(4)]
        data = (
            {"count": 1.0 + self.byte(2), "window_s": 0.5 + self.byte(3)} if kind == "rate" else self.byte(9)
        )
        more = {} if kind == "rate" else {"duration_s": float(self.byte(4))}
        return waits(self.plan, segment, kind, name=name, data=codec.encode(data), **more)

    def fair_result(self, attempt):
        segment = self.plan.segments[attempt.segment]
        if segment.body is not None and attempt.resume is None:
            items = [bytes([n]) for n in range(self.byte(4))]
            return spawns(self.plan, segment.index, items, at_once=1 + self.byte(3), tolerated=self.byte(2))
        live = [edge for edge in segment.edges_out if self.byte(2) == 0]
        return done(self.plan, segment.index, bytes([self.byte(128)]), live=live)

    def fair(self, x, scope, attempt) -> None:
        key = (x.id, attempt.segment, scope.path, attempt.number)
        if attempt.stage == Stage.ACTIVE:
            result = self.fair_result(attempt)
            self.machine.do(c.Completed(*key, result), after=0.1)
        elif attempt.stage == Stage.QUEUED:
            self.machine.do(c.Grant([key]))
        elif attempt.stage == Stage.SIGNAL:
            self.machine.do(c.Signal(x.id, attempt.name or "", b"\x01"))
        else:
            wait = max(attempt.due - self.machine.now, 0.0)
            self.machine.do(c.TimerFired(*key), after=wait + 0.001)


def replay(log: list[bytes], state: State | None = None) -> State:
    state = state or State()
    for data in log:
        batch = c.decode(data)
        assert isinstance(batch, c.Batch)
        apply(state, batch)
    return state


@given(plans(), st.binary(min_size=20, max_size=300))
@FAST
def test_every_execution_ends_once_and_invariants_hold_after_every_apply(plan, script):
    Driver(plan, script).play()


@given(plans(), st.binary(min_size=20, max_size=300))
@FAST
def test_replaying_the_log_gives_an_equal_state(plan, script):
    driver = Driver(plan, script)
    driver.start()
    while driver.script:
        driver.act()
    assert image(replay(driver.machine.log)) == image(driver.machine.state)


@given(
    plans(), st.binary(min_size=20, max_size=300), st.lists(st.integers(0, 60), max_size=4), st.integers(0, 5)
)
@settings(max_examples=60, deadline=None)
def test_what_the_store_holds_and_the_tail_of_the_log_give_an_equal_state(plan, script, flushes, slice_size):
    """Flushes begin at some entries and are encoded in slices while further entries are applied."""
    driver = Driver(plan, script)
    driver.start()
    while driver.script:
        driver.act()
    log = driver.machine.log
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as directory:
        store = LiveStore(Path(directory) / "live.db")
        try:
            state = State()
            ended: list[Finished] = []
            job: FlushJob | None = None
            accepted = 0
            for index, data in enumerate(log, start=1):
                batch = c.decode(data)
                assert isinstance(batch, c.Batch)
                ended += apply(state, batch).finished
                if job is not None and job.encode_some(state, count_max=slice_size):
                    store.write(job)
                    job = None
                if job is None and index in flushes:
                    job = FlushJob(state, index=index, term=1, ended=ended, accepted_before=accepted)
                    accepted = state.accepted
                    ended = []
            loaded, index, _ = store.load()
            check_invariants(loaded)
            assert image(replay(log[index:], loaded)) == image(driver.machine.state)
            snapshot_index, chunks = store.begin_snapshot()
            copy = LiveStore(Path(directory) / "copy.db")
            try:
                restored, restored_index = copy.install([b"".join(chunks)])
                assert restored_index == snapshot_index == index
                assert image(replay(log[index:], restored)) == image(driver.machine.state)
            finally:
                copy.close()
        finally:
            store.close()


@given(plans(loops=False, max_segments=9), st.randoms(use_true_random=False))
@FAST
def test_what_runs_does_not_depend_on_the_order_of_completion(plan, rng):
    """Against the naive reading of the rule: walk the segments in order, decide each from its sources."""
    live = {edge.index for edge in plan.edges if rng.random() < 0.5}
    ran: set[int] = set()
    for segment in plan.segments:
        flows = [plan.edges[e] for e in segment.edges_in if plan.edges[e].kind == "flow"]
        active = [e for e in flows if e.source_segment in ran and (e.live_by_default or e.index in live)]
        if not flows or active:
            ran.add(segment.index)
    expected = {step for index in ran for step in plan.segments[index].steps}

    machine = Machine(plan)
    machine.do(c.Configure(Limits(write_window=100)))
    x = machine.start(plan)
    while not x.status:
        attempt = rng.choice(list(x.attempts.values()))
        machine.report(x, attempt.segment, done(plan, attempt.segment, live=sorted(live)))
    assert x.status == "completed"
    assert set(x.outputs) == expected


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 3)), max_size=40))
def test_timers_fire_once_never_early_and_in_bounded_time(script):
    from node.coordinator.effects import TimerKey
    from node.coordinator.timers import TimerWheel

    wheel = TimerWheel()
    alive: dict[TimerKey, float] = {}
    now = 0.0
    for number, (at, kind) in enumerate(script):
        key = TimerKey(str(number), 0, (), 1)
        if kind < 2:
            wheel.set(key, at)
            alive[key] = at
        elif kind == 2 and alive:
            gone, due = next(iter(alive.items()))
            wheel.clear(gone, due)
            del alive[gone]
        else:
            now = max(now, at)
            while fired := wheel.pop_due(now, count_max=3):
                for key in fired:
                    assert alive.pop(key) <= now
        assert len(wheel) == len(alive)
        next_due = wheel.next_due()
        assert (next_due is None) == (not alive)
        if next_due is not None:
            assert 0 <= next_due - min(alive.values()) <= 0.011
    for key in wheel.pop_due(2e6, count_max=1000):
        alive.pop(key)
    assert alive == {}


@given(st.binary(max_size=300))
def test_a_replica_refuses_bytes_that_are_no_command(data):
    try:
        entry = c.decode(data)
    except msgspec.DecodeError:
        return
    assert c.decode(c.encode(entry)) == entry
