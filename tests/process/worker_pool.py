"""A real pool with real runners for tests: workflows of one step, outcomes that can be awaited."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from node.worker.messages import (
    LogLine,
    SegmentResult,
    Task,
    TaskFrame,
    TaskHeartbeat,
    TaskKey,
    TaskOutcome,
)
from node.worker.pool import WorkerPool
from node.worker.settings import WorkerSettings
from workflow import codec

STEPS = "tests.process.worker_steps"
WAIT_S = 20.0  # for what takes milliseconds: only a failing test waits so long


class PoolUnderTest:
    """A pool, what it was given, and what it has delivered."""

    def __init__(self, *, slots: int = 1, **settings: Any) -> None:
        self.definitions: dict[bytes, bytes] = {}
        self.fetched: list[bytes] = []
        self.outcomes: dict[TaskKey, TaskOutcome] = {}
        self.order: list[TaskKey] = []
        self.batches: list[int] = []
        self.heartbeats: list[TaskHeartbeat] = []
        self.logs: list[LogLine] = []
        self._numbers = iter(range(1_000_000))
        self._changed = asyncio.Event()
        self.pool = WorkerPool(
            slots=slots,
            settings=WorkerSettings(**{"load": (STEPS,), **settings}),
            on_results=self._on_results,
            fetch_plan=self._fetch,
            on_heartbeats=self._on_heartbeats,
            on_logs=self._on_logs,
        )

    def _on_results(self, outcomes: list[TaskOutcome]) -> None:
        self.batches.append(len(outcomes))
        for outcome in outcomes:
            key = (outcome.execution_id, outcome.segment, outcome.path, outcome.attempt)
            assert key not in self.outcomes, "one outcome per attempt"
            self.outcomes[key] = outcome
            self.order.append(key)
        self._changed.set()

    def _on_heartbeats(self, heartbeats: list[TaskHeartbeat]) -> None:
        self.heartbeats += heartbeats
        self._changed.set()

    def _on_logs(self, lines: list[LogLine]) -> None:
        self.logs += lines
        self._changed.set()

    async def _fetch(self, plan_hash: bytes) -> bytes:
        self.fetched.append(plan_hash)
        return self.definitions[plan_hash]

    def frame(self, step_type: str, *, effect: str = "write", **options: Any) -> TaskFrame:
        """A task that runs one step of this type; `data` and fields of Task as options."""
        data = options.pop("data", {})
        definition = definition_of(step_type, data)
        plan_hash = hashlib.sha256(definition).digest()
        self.definitions[plan_hash] = definition
        number = next(self._numbers)
        fields: dict[str, Any] = {
            "execution_id": f"{number:026x}",
            "segment": 0,
            "path": (),
            "attempt": 1,
            "plan_hash": plan_hash,
            "inputs": {},
            "state": None,
            "context": None,
            "item": None,
            "resume": None,
            "idempotency_key": f"key-{number}",
            "deadline_s": None,
        }
        return TaskFrame(Task(**{**fields, **options}), effect)  # type: ignore[arg-type]

    def submit(self, step_type: str, **options: Any) -> TaskKey:
        frame = self.frame(step_type, **options)
        self.pool.submit([frame])
        return key_of(frame)

    async def outcome(self, key: TaskKey) -> TaskOutcome:
        await self.until(lambda: key in self.outcomes)
        return self.outcomes[key]

    async def result(self, key: TaskKey) -> SegmentResult:
        return result_of(await self.outcome(key))

    async def run(self, step_type: str, **options: Any) -> SegmentResult:
        return await self.result(self.submit(step_type, **options))

    async def value(self, step_type: str, **options: Any) -> Any:
        result = await self.run(step_type, **options)
        assert result.error is None, result.error
        return codec.decode(next(iter(result.outputs.values())))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what the pool has delivered fulfils the condition."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def definition_of(step_type: str, data: dict[str, Any]) -> bytes:
    payload = {"edges": [], "nodes": [{"data": data, "id": "it", "type": step_type}]}
    return json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()


def key_of(frame: TaskFrame) -> TaskKey:
    task = frame.task
    return task.execution_id, task.segment, task.path, task.attempt


def result_of(outcome: TaskOutcome) -> SegmentResult:
    assert outcome.result is not None, outcome.lost
    return msgspec.msgpack.decode(outcome.result, type=SegmentResult)


@asynccontextmanager
async def running_pool(**options: Any) -> AsyncIterator[PoolUnderTest]:
    under_test = PoolUnderTest(**options)
    await under_test.pool.start()
    try:
        yield under_test
    finally:
        await under_test.pool.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces: a file that a step makes, a process that ends."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Is there such a process, and is it no zombie?"""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False
