"""A coordinator on a log in memory, with workers that do what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from node.coordinator.coordinator import Coordinator
from node.coordinator.definitions import Compiled
from node.coordinator.settings import Settings
from node.engine import StartRequest
from node.worker.messages import Lost, TaskFrame, TaskOutcome
from raft.driver import LeaderReady
from workflow.messages import ControlPlan, SegmentResult, Task

encode = msgspec.msgpack.Encoder().encode


class MemoryLog:
    """A log of one voter: what it took is in `entries` before it is applied. Survives its coordinator."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, list[bytes]]] = []  # (term, commands)
        self.term = 0
        self.coordinator: Coordinator | None = None
        self.error: Exception | None = None  # raised by the next proposals
        self._queue: list[tuple[bytes, asyncio.Future[Any]]] = []
        self.held = False  # nothing is committed while True

    def open(self, coordinator: Coordinator) -> None:
        """Replay, then lead."""
        self.term += 1
        self.coordinator = coordinator
        self._queue = []
        for index, (term, commands) in enumerate(self.entries, start=1):
            if index > coordinator.replica.applied_index:
                coordinator.replica.apply(index, term, commands)
        self.entries.append((self.term, []))
        coordinator.replica.apply(len(self.entries), self.term, [])
        coordinator.attach_log(self)
        coordinator.on_raft_event(LeaderReady(self.term))

    def propose_nowait(self, command: bytes) -> asyncio.Future[Any]:
        if self.error is not None:
            raise self.error
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        if len(self._queue) == 1 and not self.held:
            asyncio.get_running_loop().call_soon(self.commit)
        return future

    def commit(self) -> None:
        """Everything proposed becomes one entry and is applied."""
        queue, self._queue = self._queue, []
        if not queue or self.coordinator is None:
            return
        commands = [command for command, _ in queue]
        self.entries.append((self.term, commands))
        results = self.coordinator.replica.apply(len(self.entries), self.term, commands)
        for (_, future), result in zip(queue, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def read_barrier(self) -> int:
        assert self.coordinator is not None
        return self.coordinator.replica.applied_index


Behave = Callable[[Task], SegmentResult | Lost | None]


class FakeWorkers:
    """Runs each task by calling `behave` in the next turn of the loop; None leaves it running."""

    def __init__(self, coordinator: Coordinator, behave: Behave, *, id: str = "w1") -> None:
        self.id = id
        self.behave = behave
        self.running: dict[Any, TaskFrame] = {}
        self.seen: list[Task] = []
        self.cancelled: list[Any] = []
        self._coordinator = coordinator
        self._outcomes: list[TaskOutcome] = []

    def submit(self, tasks: Sequence[TaskFrame]) -> None:
        for frame in tasks:
            task = frame.task
            self.seen.append(task)
            self.running[(task.execution_id, task.segment, task.path, task.attempt)] = frame
            result = self.behave(task)
            if result is not None:
                self.finish(task, result)

    def cancel(self, execution_id: str, segment: int, path: tuple[int, ...], attempt: int) -> None:
        self.cancelled.append((execution_id, segment, path, attempt))

    def finish(self, task: Task, result: SegmentResult | Lost) -> None:
        """Report this task."""
        key = (task.execution_id, task.segment, task.path, task.attempt)
        del self.running[key]
        if isinstance(result, Lost):
            self._outcomes.append(TaskOutcome(*key, lost=result))
        else:
            self._outcomes.append(TaskOutcome(*key, result=encode(result)))
        if len(self._outcomes) == 1:
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        self._coordinator.leader.outcomes(self.id, outcomes)


class Plans:
    """A compiler that knows plans by name: the payload b"name" is the plan registered under it."""

    def __init__(self, *plans: tuple[str, ControlPlan]) -> None:
        self.plans = dict(plans)
        self.compiled = 0

    def __call__(self, raw: bytes) -> Compiled:
        self.compiled += 1
        plan = self.plans[raw.decode().strip()]
        return Compiled(plan.hash, raw, plan, encode(plan), "w")


class Rig:
    """The parts that a test talks to."""

    def __init__(self, coordinator: Coordinator, log: MemoryLog, workers: FakeWorkers) -> None:
        self.engine = coordinator
        self.log = log
        self.workers = workers
        self._ids = 0

    def request(self, plan: str = "plan", **fields: Any) -> StartRequest:
        """A start of an inline plan under the next id."""
        self._ids += 1
        return StartRequest(execution_id=f"{self._ids:026x}", **({"workflow": plan.encode()} | fields))

    async def run(self, plan: str = "plan", **fields: Any) -> Any:
        """Start one and wait for its end."""
        (view,) = await self.engine.start([self.request(plan, **fields)], wait_s=10)
        if isinstance(view, Exception):
            raise view
        return view


def echo(plan_of: dict[bytes, ControlPlan]) -> Behave:
    """Every step gives its own index."""

    def behave(task: Task) -> SegmentResult:
        plan = plan_of[task.plan_hash]
        steps = plan.segments[task.segment].steps
        live = tuple(edge.index for edge in plan.edges if edge.source_segment == task.segment)
        return SegmentResult({s: bytes([s % 128]) for s in steps}, live, None, dict.fromkeys(steps, (0, 10)))

    return behave


@contextlib.asynccontextmanager
async def running(
    directory: Path,
    plans: dict[str, ControlPlan],
    *,
    log: MemoryLog | None = None,
    behave: Behave | None = None,
    settings: Settings | None = None,
    capacity: int = 1000,
    seed: int = 1,
    serve: bool = False,
    **more: Any,
) -> AsyncIterator[Rig]:
    """A coordinator that leads, with one worker."""
    log = log or MemoryLog()
    coordinator = Coordinator(
        directory, compile_payload=Plans(*plans.items()), settings=settings, rng=random.Random(seed), **more
    )
    workers = FakeWorkers(coordinator, behave or echo({plan.hash: plan for plan in plans.values()}))
    log.open(coordinator)
    coordinator.leader.attach("w1", workers, capacity=capacity)
    await coordinator.wait_leading()
    background = asyncio.create_task(coordinator.serve()) if serve else None
    try:
        yield Rig(coordinator, log, workers)
    finally:
        if background is not None:
            background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await background
        log.coordinator = None
        await coordinator.close()
