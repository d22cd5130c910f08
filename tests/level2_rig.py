"""Level-2 workflows in this process: the real coordinator on a log in memory, the real runner code, no processes.

`run()` takes a payload to its end. Steps that await (http) run as tasks of the same loop, with the client that a test
gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from node.coordinator.compiler import language_compiler
from node.coordinator.coordinator import Coordinator
from node.engine import ExecutionView
from node.worker.outside_errors import error_result
from tests.unit.coordinator.rig import FakeWorkers, MemoryLog, Rig
from workflow import codec
from workflow.execute import run_segment
from workflow.messages import StepError, Task
from workflow.payload import load
from workflow.plan import Plan, compile_plan
from workflow.steps.base import HttpClient, Services, Settings, StepType
from workflow.steps.registry import LEVEL1
from workflow.values import from_json, to_json


class Level2:
    """One coordinator with its worker. `tasks` are all that were handed out."""

    def __init__(self, rig: Rig, workers: LanguageWorkers) -> None:
        self.rig = rig
        self.engine = rig.engine
        self.workers = workers

    async def start(
        self, payload: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
    ) -> ExecutionView:
        """Start and do not wait."""
        (view,) = await self.engine.start([self._request(payload, inputs)])
        if isinstance(view, Exception):
            raise view
        return view

    async def run(self, payload: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> ExecutionView:
        """Start and wait for the end."""
        (view,) = await self.engine.start([self._request(payload, inputs)], wait_s=20)
        if isinstance(view, Exception):
            raise view
        return view

    async def register(self, name: str, payload: Mapping[str, Any]) -> None:
        await self.engine.register_workflow(workflow_id=name, payload=json.dumps(payload).encode())

    async def end(self, execution_id: str) -> ExecutionView:
        return await self.engine.get(execution_id, wait_s=20)

    def _request(self, payload: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> Any:
        text = json.dumps({"language": 2, **payload})
        given = None if inputs is None else codec.encode(from_json(dict(inputs)))
        return self.rig.request(text, inputs=given)


class LanguageWorkers(FakeWorkers):
    """Runs each task as a runner does, on this loop."""

    def __init__(
        self, coordinator: Coordinator, registry: Mapping[str, StepType], services: Services
    ) -> None:
        super().__init__(coordinator, lambda task: None)
        self._registry = registry
        self._services = services
        self._plans: dict[bytes, Plan] = {}
        self._engine = coordinator
        self._running: set[asyncio.Task[None]] = set()
        self.behave = self._begin

    def _begin(self, task: Task) -> None:
        running = asyncio.create_task(self._run(task), name=f"segment {task.segment}")
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, task: Task) -> None:
        try:
            async with asyncio.timeout(task.deadline_s):
                result = await run_segment(self._plan(task.plan_hash), task, self._services)
        except TimeoutError:
            text = f"the step took longer than {task.deadline_s:g} s"
            result = error_result(StepError("timeout", text, None))
        if (task.execution_id, task.segment, task.path, task.attempt) in self.running:
            self.finish(task, result)

    def _plan(self, plan_hash: bytes) -> Plan:
        if plan_hash not in self._plans:
            payload = self._engine.replica.state.definitions[plan_hash].payload
            self._plans[plan_hash] = compile_plan(load(payload, registry=self._registry))
        return self._plans[plan_hash]

    async def close(self) -> None:
        for running in list(self._running):
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@contextlib.asynccontextmanager
async def level2(
    *, http: HttpClient | None = None, step_types: Mapping[str, StepType] | None = None
) -> AsyncIterator[Level2]:
    """A coordinator that leads, with a worker that runs the language."""
    registry = {**LEVEL1, **(step_types or {})}
    settings = Settings(allow_http=http is not None, allow_localhost=True)
    services = Services(settings, now=lambda: datetime.now(UTC), http=http, step_types=step_types or {})
    with tempfile.TemporaryDirectory() as directory:
        log = MemoryLog()
        coordinator = Coordinator(
            Path(directory), compile_payload=language_compiler(registry), rng=random.Random(1)
        )
        workers = LanguageWorkers(coordinator, registry, services)
        log.open(coordinator)
        coordinator.leader.attach("w1", workers, capacity=100)
        await coordinator.wait_leading()
        background = asyncio.create_task(coordinator.serve())
        try:
            yield Level2(Rig(coordinator, log, workers), workers)
        finally:
            await workers.close()
            background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await background
            log.coordinator = None
            await coordinator.close()


def output(view: ExecutionView) -> Any:
    """The final output as JSON."""
    return to_json(codec.decode(view.final_output)) if view.final_output else None


def results(view: ExecutionView) -> dict[str, Any]:
    """The results of the steps as JSON."""
    return {name: to_json(codec.decode(value)) for name, value in view.node_results.items()}
