"""Cases in this process: step by step through the codec, or segment by segment as a cluster runs them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from node.worker.http_client import AiohttpClient
from tests.conformance.cases import Case
from tests.conformance.compare import Outcome
from tests.conformance.exceptions import check
from tests.conformance.server import RouteServer
from workflow import codec
from workflow.definition import Definition, LoadError
from workflow.durations import format_duration
from workflow.execute import run_local_async, run_segment
from workflow.messages import ControlPlan, SegmentResult, StepError, Task
from workflow.payload import load
from workflow.plan import Plan, compile_plan
from workflow.steps.base import Services, Settings
from workflow.values import Value, to_json

WAYS = ("steps", "segments")


class LocalRunner:
    """Runs cases on one event loop; owns the HTTP client."""

    def __init__(self, way: str) -> None:
        self._run = run_in_steps if way == "steps" else run_in_segments
        self._client = AiohttpClient()

    async def close(self) -> None:
        await self._client.close()

    async def run(self, case: Case) -> list[str]:
        """What is wrong with the case; empty when it holds."""
        async with RouteServer(case.http_server or {}) as server:
            services = Services(
                settings=Settings.from_config(case.config), now=lambda: datetime.now(UTC), http=self._client
            )
            outcome = await self._outcome(case.payload(server.url), services, case.id)
            if case.http_server is not None:
                outcome = replace(outcome, http_requests=server.requests)
            return check(case, case.expected(server.url), outcome)

    async def _outcome(self, payload: bytes, services: Services, execution_id: str) -> Outcome:
        try:
            definition = load(payload)
        except LoadError as error:
            return Outcome(False, "load", error.text)
        return await self._run(definition, services, execution_id)


async def run_in_steps(definition: Definition, services: Services, execution_id: str) -> Outcome:
    """The whole workflow, every result and the state through the codec after each step."""
    result = await run_local_async(
        definition, None, services, execution_id=execution_id, task_boundaries=True
    )
    terminals: tuple[str, ...] = ()
    if result.error is None:
        plan = compile_plan(definition)
        terminals = tuple(plan.steps[index].id for index in plan.terminals)
    return Outcome(
        result.ok,
        result.stage,
        result.error.message if result.error else "",
        to_json(dict(result.node_results)),
        to_json(result.final_output),
        result.workflow_id,
        terminals=terminals,
    )


async def run_in_segments(definition: Definition, services: Services, execution_id: str) -> Outcome:
    """As a cluster: a coordinator that sees encoded values only, and a runner that loads the plan from its bytes."""
    try:
        sent = compile_plan(definition, services.settings)
    except LoadError as error:
        return Outcome(False, "load", error.text)
    control = msgspec.msgpack.decode(msgspec.msgpack.encode(sent.control()), type=ControlPlan)
    plan = compile_plan(load(definition.canonical), services.settings)
    assert plan.hash == control.hash
    assert plan.control() == control
    coordinator = Coordinator(control, plan, services, execution_id)
    try:
        async with asyncio.timeout(control.max_execution_time_s):
            error = await coordinator.run()
    except TimeoutError:
        limit = format_duration(services.settings.max_execution_time_ns)
        return Outcome(False, error=f"workflow execution timeout: exceeded {limit}")
    outputs = {index: codec.decode(output) for index, output in coordinator.outputs.items()}
    results: dict[str, Value] = {control.step_ids[index]: value for index, value in outputs.items()}
    if error is not None:
        return Outcome(False, "run", error.message, to_json(results))
    final = next((outputs[index] for index in control.terminals if index in outputs), None)
    terminals = tuple(control.step_ids[index] for index in control.terminals)
    return Outcome(
        True, "run", "", to_json(results), to_json(final), definition.workflow_id, terminals=terminals
    )


class Coordinator:
    """The run rule, sequentially and without durability: a twin of the real one for these tests."""

    def __init__(self, control: ControlPlan, plan: Plan, services: Services, execution_id: str) -> None:
        self._control = control
        self._plan = plan
        self._services = services
        self._execution_id = execution_id
        self._state: bytes | None = None
        self.outputs: dict[int, bytes] = {}

    async def run(self) -> StepError | None:
        """The first error, or None when every segment is resolved."""
        control = self._control
        resolved: set[int] = set()
        live: set[int] = set()
        while len(resolved) < len(control.segments):
            segment = next(
                segment
                for segment in control.segments
                if segment.index not in resolved
                and all(control.edges[edge].source_segment in resolved for edge in segment.edges_in)
            )
            resolved.add(segment.index)
            flows = [edge for edge in segment.edges_in if control.edges[edge].kind == "flow"]
            if flows and not live.intersection(flows):
                continue
            result = await self._dispatch(segment.index)
            self.outputs.update(result.outputs)
            if result.error is not None:
                return result.error
            self._state = result.state
            live.update(result.live)
            live.update(edge for edge in segment.edges_out if control.edges[edge].live_by_default)
        return None

    async def _dispatch(self, index: int, resume: bytes | None = None) -> SegmentResult:
        segment = self._control.segments[index]
        task = Task(
            execution_id=self._execution_id,
            segment=index,
            path=(),
            attempt=1,
            plan_hash=self._control.hash,
            inputs={need: self.outputs[need] for need in segment.needs if need in self.outputs},
            state=self._state if segment.shared_state else None,
            context=None,
            item=None,
            resume=resume,
            idempotency_key="",
            deadline_s=None,
        )
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Task)
        answer = await run_segment(self._plan, sent, self._services)
        result = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=SegmentResult)
        if result.wait is None:
            return result
        assert result.wait.kind == "timer"
        assert result.wait.duration_s is not None
        await asyncio.sleep(result.wait.duration_s)
        return await self._dispatch(index, resume=codec.encode(None))
