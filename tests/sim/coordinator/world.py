"""A whole node in virtual time: coordinator, log, stores, workers, clients, and crashes between two outside effects.

What survives a crash is what would: committed log entries, written stores, what happened at the sinks of write steps.
Whatever an incarnation does after its crash reaches nobody. A seed decides everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from node.coordinator.coordinator import Coordinator
from node.coordinator.settings import Settings
from node.coordinator.state import Limits, check_invariants
from node.engine import TERMINAL, StartRequest
from node.errors import ThaiyyalError
from node.worker.messages import Lost, TaskFrame, TaskOutcome
from raft.driver import LeaderReady
from raft.errors import Overloaded, Stopped
from tests.unit.coordinator.plans import Seg, make_plan, retrying, spawns, waits
from tests.unit.coordinator.rig import Plans
from workflow import codec
from workflow.messages import ControlPlan, SegmentResult, StepError, Task

encode = msgspec.msgpack.Encoder().encode
EPOCH = 1_700_000_000.0


class SimCrash(Exception):
    """Ends what the crashed incarnation was just doing at a store."""


class SimClock:
    """Virtual time; the wall clock may be set back at a restart."""

    def __init__(self) -> None:
        self.wall_offset = EPOCH

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return asyncio.get_running_loop().time() + self.wall_offset


def random_plans(rng: random.Random) -> dict[str, ControlPlan]:
    """A few workflows of all kinds."""
    plans = {}
    for number in range(3):
        segments: list[Seg] = []
        for index in range(rng.randint(1, 5)):
            after = [(s, rng.choice(["flow", "flow", "order"])) for s in range(index) if rng.random() < 0.5]
            policy = rng.choice([None, retrying(4, initial_interval_s=0.2, multiplier=2.0)])
            segments.append(
                Seg(
                    steps=rng.randint(1, 3),
                    effect=rng.choice(["pure", "read", "write", "wait"]),
                    after=after,
                    policy=policy,
                    needs=[s for s, _ in after],
                )
            )
        if rng.random() < 0.5:
            outer = rng.randrange(len(segments))
            segments[outer] = Seg(after=segments[outer].after, body=1, needs=segments[outer].needs)
            first = len(segments)
            segments.append(
                Seg(effect=rng.choice(["pure", "write"]), scope=1, policy=retrying(4, initial_interval_s=0.1))
            )
            segments.append(Seg(after=[first], needs=[first], scope=1))
        plans[f"p{number}"] = make_plan(segments, level=rng.choice([1, 2]), name=f"p{number}")
    return plans


class World:
    """Everything outside of the coordinator, and the history of what happened."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.directory = directory
        self.plans = random_plans(self.rng)
        self.by_hash = {plan.hash: plan for plan in self.plans.values()}
        self.clock = SimClock()
        self.entries: list[tuple[int, list[bytes]]] = []
        self.compacted = 0  # the log was compacted up to here: what the stores said to be durable
        self.epoch = 0
        self.points = 0
        self.crash_at = 0
        self.crashes = 0
        self.rescued = 0
        self.crash_wanted = asyncio.Event()
        self.ledger: Counter[tuple[str, int]] = Counter()  # runs of a write, by (key, attempts allowed)
        self.attempts: Counter[tuple[Any, ...]] = Counter()  # runs of one attempt of it
        self.acked: dict[str, str] = {}  # idempotency key -> execution id
        self.cancels: set[str] = set()
        self.plan_of: dict[str, str] = {}
        self.engine: Coordinator | None = None
        self.settings = Settings(
            limits=Limits(write_window=3),
            flush_interval_s=0.05,
            encode_slice=2,
            retry_s=0.05,
            requeue_delay_s=0.01,
            entry_bytes_max=self.rng.choice([900, 900 * 1024]),
        )

    # ---- crashes

    def point(self, epoch: int) -> bool:
        """An effect on the outside is about to happen. False: this incarnation is dead, it must not."""
        if epoch != self.epoch:
            return False
        self.points += 1
        if self.points == self.crash_at:
            self.crash()
            return False
        return True

    def crash(self) -> None:
        self.epoch += 1
        self.crashes += 1
        self.crash_wanted.set()

    # ---- a node

    async def live(self, *, crashes_max: int) -> None:
        """Run incarnation after incarnation until the clients are served."""
        clients = asyncio.create_task(self.clients())
        while not clients.done():
            self.crash_wanted.clear()
            in_time = (
                self.rng.choice([5, 40, 200]) * self.rng.random() + 1
                if self.crashes < crashes_max
                else 1 << 60
            )
            self.crash_at = self.points + int(in_time)
            await self.incarnation(clients)
            if self.rng.random() < 0.2:
                self.clock.wall_offset -= 7200.0
        await clients

    async def incarnation(self, clients: asyncio.Task[None]) -> None:
        epoch = self.epoch
        engine = Coordinator(
            self.directory,
            compile_payload=Plans(*self.plans.items()),
            settings=self.settings,
            clock=self.clock,
            rng=random.Random(self.rng.random()),
            run_blocking=self.run_blocking,
        )
        for store, name in ((engine._stores._history, "write"), (engine._stores._live, "write")):
            setattr(store, name, self.guarded(epoch, getattr(store, name)))
        log = SimLog(self, epoch, engine)
        log.open()
        check_invariants(engine.replica.state)
        await engine.wait_leading()
        workers = [SimWorker(self, epoch, engine, f"w{number}") for number in range(2)]
        for worker in workers:
            engine.leader.attach(worker.id, worker, capacity=3)
        self.engine = engine
        serving = asyncio.create_task(engine.serve())
        crashed = asyncio.create_task(self.crash_wanted.wait())
        try:
            await asyncio.wait({clients, crashed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.engine = None
            self.rescued += engine.stats()["attempts_rescued_total"]
            if self.epoch == epoch:
                self.epoch += 1  # the end: nothing of it acts any more
            for task in (serving, crashed):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, SimCrash, BaseExceptionGroup):
                    await task
            log.die()
            await engine.close()
            await asyncio.sleep(self.rng.random())  # down time

    async def run_blocking(self, work: Any) -> Any:
        await asyncio.sleep(self.rng.random() * 0.01)
        return work()

    def guarded(self, epoch: int, write: Any) -> Any:
        def guard(job: Any) -> None:
            if not self.point(epoch):
                raise SimCrash
            if self.rng.random() < 0.1:
                raise sqlite3.OperationalError("database or disk is full")
            write(job)

        return guard

    # ---- clients

    async def clients(self) -> None:
        names = sorted(self.plans)
        async with asyncio.TaskGroup() as group:
            for number in range(self.rng.randint(5, 25)):
                group.create_task(self.client(f"k{number}", self.rng.choice(names), self.rng.random() * 2))

    async def client(self, key: str, plan: str, delay: float) -> None:
        """Start under one key until it is acknowledged, then see it to its end."""
        await asyncio.sleep(delay)
        inputs = (
            codec.encode("x" * 4000) if self.rng.random() < 0.3 else None
        )  # above a small entry: goes in parts
        tries = 0
        while key not in self.acked:
            tries += 1
            request = StartRequest(
                execution_id=f"{key}-{tries}",
                workflow=plan.encode(),
                idempotency_key=key,
                tags={"key": key},
                inputs=inputs,
            )
            view = await self.ask(lambda engine, request=request: engine.start([request]))
            if view is None or isinstance(view[0], ThaiyyalError):
                await asyncio.sleep(0.05)  # refused, or no answer: the same key again
            else:
                self.acked[key] = view[0].id
                self.plan_of[view[0].id] = plan
        id = self.acked[key]
        if self.rng.random() < 0.15:
            await asyncio.sleep(self.rng.random())
            self.cancels.add(id)
            await self.ask(lambda engine: engine.cancel(id))
        while True:
            view = await self.ask(lambda engine: engine.get(id, wait_s=5.0))
            if view is not None and view.status in TERMINAL:
                return
            if view is not None and view.status == "waiting":
                signal_key = f"s{view.steps_done}"
                await self.ask(
                    lambda engine, key=signal_key: engine.signal(id, "go", codec.encode(7), key=key)
                )

    async def ask(self, call: Any) -> Any:
        """One request to whoever is there; None when no answer came."""
        while self.engine is None:
            await asyncio.sleep(0.05)
        engine, epoch = self.engine, self.epoch
        request = asyncio.create_task(call(engine))
        while not request.done():
            await asyncio.wait({request}, timeout=0.5)
            if self.epoch != epoch:
                request.cancel()
        try:
            answer = await request
        except (asyncio.CancelledError, ThaiyyalError, sqlite3.ProgrammingError):
            await asyncio.sleep(0.02)
            return None
        return answer if self.epoch == epoch else None

    # ---- what steps do: a pure function of the task, so that a naive run can predict it

    def behave(self, task: Task) -> SegmentResult:
        plan = self.by_hash[task.plan_hash]
        segment = plan.segments[task.segment]
        if segment.effect == "wait" and task.resume is None:
            if task.segment % 2:
                return waits(plan, task.segment, "signal", name="go", duration_s=20.0)
            return waits(plan, task.segment, duration_s=0.5 * (1 + task.segment))
        if segment.body is not None and task.resume is None:
            return spawns(plan, task.segment, [codec.encode(n) for n in range(4)], at_once=2)
        base = sum(self.number(value) for value in task.inputs.values())
        if task.item is not None:
            base += codec.decode(task.item)
        if segment.body is not None:
            base += self.number(task.resume)
        outputs = {step: codec.encode(base + step) for step in segment.steps}
        live = tuple(edge.index for edge in plan.edges if edge.source_segment == task.segment)
        return SegmentResult(outputs, live, None, dict.fromkeys(segment.steps, (0, 1000)))

    def number(self, value: bytes | None) -> int:
        found = codec.decode(value) if value is not None else 0
        return (
            sum(found[1]) if isinstance(found, list) else found
        )  # a loop's [carry, results, failed, last error]

    def expected(self, plan_name: str) -> dict[str, bytes]:
        """What an execution without trouble gives, by walking the plan."""
        plan = self.plans[plan_name]
        outputs: dict[int, bytes] = {}

        def run(index: int, scope_outputs: dict[int, bytes], item: bytes | None) -> None:
            segment = plan.segments[index]
            known = outputs | scope_outputs
            inputs = {need: known[need] for need in segment.needs if need in known}
            resume = None
            if segment.body is not None:
                body = next(b for b in plan.bodies if b.index == segment.body)
                results = []
                for n in range(4):
                    inner: dict[int, bytes] = {}
                    for member in body.segments:
                        run(member, inner, codec.encode(n))
                    results.append(codec.decode(inner[body.result_step]))
                resume = codec.encode([None, results, 0.0, None])
            if segment.effect == "wait":
                resume = codec.encode(None)
            task = Task("", index, (), 1, plan.hash, inputs, None, None, item, resume, "", None)
            scope_outputs.update(self.behave(task).outputs)

        ran: set[int] = set()
        for segment in plan.segments:
            if segment.scope:
                continue
            flows = [plan.edges[e] for e in segment.edges_in if plan.edges[e].kind == "flow"]
            if not flows or any(edge.source_segment in ran for edge in flows):
                ran.add(segment.index)
                run(segment.index, outputs, None)
        return {plan.step_ids[step]: value for step, value in sorted(outputs.items())}


class SimLog:
    """A log of one voter whose commits take time; what is in `world.entries` is on disk."""

    def __init__(self, world: World, epoch: int, engine: Coordinator) -> None:
        self.world = world
        self.epoch = epoch
        self.engine = engine
        self._queue: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._dead = False

    def open(self) -> None:
        term = self.epoch + 1
        replica = self.engine.replica
        assert replica.applied_index >= self.world.compacted, (
            "the log was compacted past what the stores hold"
        )
        for index, (entry_term, commands) in enumerate(self.world.entries, start=1):
            if index > replica.applied_index:
                replica.apply(index, entry_term, commands)
        self.world.entries.append((term, []))
        replica.apply(len(self.world.entries), term, [])
        self.engine.attach_log(self)
        self.engine.on_raft_event(LeaderReady(term))

    def propose_nowait(self, command: bytes) -> asyncio.Future[Any]:
        if self._dead:
            raise Stopped("closed")
        if self.world.rng.random() < 0.03:
            raise Overloaded("full", limit="proposals_max", retry_after_s=0.1)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        if len(self._queue) == 1:
            asyncio.get_running_loop().call_later(self.world.rng.random() * 0.004, self._commit)
        return future

    def _commit(self) -> None:
        queue, self._queue = self._queue, []
        if self._dead or not self.world.point(self.epoch):
            return  # never reached the disk
        commands = [command for command, _ in queue]
        self.world.entries.append((self.epoch + 1, commands))
        if not self.world.point(self.epoch):
            return  # on disk, but nobody was told
        self.world.compacted = max(self.world.compacted, self.engine.replica.durable_index())
        results = self.engine.replica.apply(len(self.world.entries), self.epoch + 1, commands)
        check_invariants(self.engine.replica.state)
        for (_, future), result in zip(queue, results, strict=True):
            if not future.done():
                future.set_result(result)

    def die(self) -> None:
        self._dead = True
        for _, future in self._queue:
            if not future.done():
                future.set_exception(Stopped("closed"))
                future.exception()

    async def read_barrier(self) -> int:
        await asyncio.sleep(0)
        return self.engine.replica.applied_index


class SimWorker:
    """Runs tasks in random time; sometimes a runner dies, sometimes the whole worker goes and another one comes."""

    def __init__(self, world: World, epoch: int, engine: Coordinator, id: str) -> None:
        self.world = world
        self.epoch = epoch
        self.engine = engine
        self.id = id
        self.gone = False
        self.cancelled: set[Any] = set()

    def submit(self, tasks: list[TaskFrame]) -> None:
        if not self.world.point(self.epoch):
            return
        for frame in tasks:
            asyncio.get_running_loop().call_later(self.world.rng.random() * 0.1, self._run, frame)

    def cancel(self, execution_id: str, segment: int, path: tuple[int, ...], attempt: int) -> None:
        self.cancelled.add((execution_id, segment, path, attempt))

    def _run(self, frame: TaskFrame) -> None:
        """The task takes effect, and its report (if there is one) is on its way."""
        world = self.world
        task = frame.task
        key = (task.execution_id, task.segment, task.path, task.attempt)
        if self.gone or world.epoch != self.epoch:
            return
        chance = world.rng.random()
        if key in self.cancelled:
            error = StepError("cancelled", "cancelled", None, retryable=False)
            outcome = TaskOutcome(*key, result=encode(SegmentResult({}, (), None, {}, error)))
        elif chance < 0.02:
            outcome = TaskOutcome(*key, lost=Lost("runner_replaced", "moved", started=False, at_fault=False))
        else:
            result = world.behave(task)
            if frame.effect == "write":
                policy = world.by_hash[task.plan_hash].segments[task.segment].policy
                allowed = policy.retry.max_attempts if policy is not None and policy.retry is not None else 1
                world.ledger[(task.idempotency_key, allowed)] += 1
                world.attempts[key] += 1
            outcome = TaskOutcome(*key, result=encode(result))
            if chance < 0.06:
                outcome = TaskOutcome(
                    *key, lost=Lost("runner_died", "signal 9", started=True, at_fault=False)
                )
        if not world.point(self.epoch):
            return
        if chance > 0.985:
            self._leave()
            return
        asyncio.get_running_loop().call_later(world.rng.random() * 0.01, self._report, outcome)

    def _report(self, outcome: TaskOutcome) -> None:
        if self.gone or not self.world.point(self.epoch):
            return
        self.engine.leader.outcomes(self.id, [outcome] * self.world.rng.choice([1, 1, 1, 2]))

    def _leave(self) -> None:
        self.gone = True

        def lease_ends() -> None:
            if self.world.epoch == self.epoch:
                self.engine.leader.detach(self.id, "lease ended")
                fresh = SimWorker(self.world, self.epoch, self.engine, self.id + "'")
                self.engine.leader.attach(fresh.id, fresh, capacity=3)

        asyncio.get_running_loop().call_later(2.0, lease_ends)


async def check(world: World) -> None:
    """After everything: each acknowledged execution ended exactly once, with the right results."""
    engine = Coordinator(
        world.directory,
        compile_payload=Plans(*world.plans.items()),
        settings=world.settings,
        clock=world.clock,
        rng=random.Random(0),
        run_blocking=world.run_blocking,
    )
    log = SimLog(world, world.epoch, engine)
    log.open()
    await engine.wait_leading()
    try:
        assert engine.count_without_next_step() == 0
        assert world.rescued == 0, "an attempt was adrift"
        ends: Counter[str] = Counter()
        cursor = None
        while True:
            page = await engine.list(limit=100, cursor=cursor)
            for item in page.items:
                ends[item.tags["key"]] += 1
                assert item.status in TERMINAL, f"{item.id} is {item.status}"
            cursor = page.cursor
            if cursor is None:
                break
        assert ends == Counter(world.acked.keys()), "each key has exactly one execution"
        for id in world.acked.values():
            view = await engine.get(id)
            history = await engine.history(id)
            assert [event.seq for event in history] == list(range(1, len(history) + 1))
            terminal = [
                event for event in history if event.type in {f"execution_{status}" for status in TERMINAL}
            ]
            assert len(terminal) == 1
            assert history[-1] is terminal[0] or history[-1] == terminal[0]
            if view.status == "completed":
                expected = world.expected(world.plan_of[id])
                assert view.node_results == expected, f"{id}: {view.node_results} != {expected}"
            elif view.status == "cancelled":
                assert id in world.cancels
            else:
                assert view.error is not None
                assert view.error.code in ("outcome_unknown", "runner_replaced"), view.error
        assert max(world.attempts.values(), default=0) <= 1, "an attempt of a write was run twice"
        for (key, allowed), runs in world.ledger.items():
            assert runs <= allowed, f"write {key} ran {runs} times, its policy allows {allowed}"
    finally:
        world.epoch += 1
        log.die()
        await engine.close()


async def simulate(seed: int, directory: Path, *, crashes_max: int) -> World:
    """One run, checked. The seed replays it."""
    logging.getLogger("node.coordinator").setLevel(logging.CRITICAL)
    world = World(seed, directory)
    broken: list[dict[str, Any]] = []
    main = asyncio.current_task()

    def fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        broken.append(context)
        assert main is not None
        main.cancel()

    asyncio.get_running_loop().set_exception_handler(fail)
    try:
        async with asyncio.timeout(300):  # virtual
            await world.live(crashes_max=crashes_max)
    except asyncio.CancelledError:
        if not broken:
            raise
    for context in broken:
        raise AssertionError(f"seed {seed}: {context['message']}") from context.get("exception")
    await check(world)
    return world
