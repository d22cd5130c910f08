"""`run --local`: a workflow in this process, without a node; and step types of the user's own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from msgspec import json as msgspec_json

from cli import exits
from node.api.ids import new_execution_id
from node.api.render import execution_json, plain, time_text
from node.coordinator.clock import SystemClock
from node.coordinator.compiler import language_compiler
from node.coordinator.definitions import Compiled
from node.coordinator.inprocess import InProcess
from node.coordinator.views import nobody_runs, view_of
from node.errors import RequestInvalid
from node.worker.http_client import AiohttpClient
from node.worker.user_steps import StepTypesInvalid, current_attempt, load_step_types
from thaiyyal.client import Execution, ExecutionError
from workflow import codec, payload
from workflow.definition import Definition, LoadError
from workflow.execute import Result, run_local_async, run_segment, run_segment_now
from workflow.messages import SegmentResult, Task
from workflow.plan import Plan, compile_plan
from workflow.steps.base import Services, Settings, StepType
from workflow.steps.registry import LEVEL1
from workflow.values import from_json


def load_user_types(modules: Sequence[str]) -> Mapping[str, StepType]:
    """The step types of these modules. Ends the command with one line for a module that cannot be used."""
    if not modules:
        return {}
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; the console script has its own directory there
    try:
        return load_step_types(modules)
    except StepTypesInvalid as error:
        raise exits.Stop(str(error), exits.USAGE) from None


def run_here(
    text: str,
    *,
    inputs: Mapping[str, Any] | None,
    modules: Sequence[str],
    allow_http: bool,
    allow_localhost: bool,
) -> Execution:
    """Run a workflow to its end. Ends the command for a workflow that does not load."""
    user_types = load_user_types(modules)
    try:
        definition = payload.load(text, registry={**LEVEL1, **user_types})
    except LoadError as error:
        raise _refused(error.text, [(found.path, found.message) for found in error.problems]) from None
    settings = Settings(allow_http=allow_http, allow_localhost=allow_localhost)
    if definition.level == 1:
        return asyncio.run(_run(definition, inputs, settings, user_types))
    try:
        compiled = language_compiler({**LEVEL1, **user_types}, settings)(text.encode())
        values = None if not inputs else codec.encode(from_json(dict(inputs)))
        bound = compiled.bind(values) if compiled.bind is not None else values
    except RequestInvalid as error:
        raise _refused(error.message, [(found.path, found.message) for found in error.problems]) from None
    return asyncio.run(_run_level2(compiled, compile_plan(definition, settings), bound, settings, user_types))


async def _run_level2(
    compiled: Compiled,
    plan: Plan,
    inputs: bytes | None,
    settings: Settings,
    user_types: Mapping[str, StepType],
) -> Execution:
    """Loops, guards and parallel branches: decided by the coordinator's own rules, in this process."""
    client = AiohttpClient()
    services = Services(settings=settings, now=lambda: datetime.now(UTC), http=client, step_types=user_types)

    async def run_task(task: Task) -> SegmentResult:
        current_attempt.set(_LocalAttempt(task))
        if plan.segments[task.segment].effect in ("pure", "wait") or task.segment in plan.async_segments:
            return await run_segment(plan, task, services)
        return await asyncio.to_thread(run_segment_now, plan, task, services)  # a plain function may block

    try:
        x = await InProcess(compiled, run_task, SystemClock()).run(new_execution_id(), inputs)
    finally:
        await client.close()
    raw = msgspec_json.decode(execution_json(view_of(x, compiled.control, nobody_runs)))
    fields = {name: raw[name] for name in raw if name in Execution.__dataclass_fields__}
    error = None if raw["error"] is None else ExecutionError(**raw["error"])
    return Execution(**{**fields, "error": error}, raw=raw)


async def _run(
    definition: Definition,
    inputs: Mapping[str, Any] | None,
    settings: Settings,
    user_types: Mapping[str, StepType],
) -> Execution:
    execution_id = new_execution_id()
    client = AiohttpClient()
    services = Services(settings=settings, now=lambda: datetime.now(UTC), http=client, step_types=user_types)
    current_attempt.set(_LocalAttempt(_whole_task(execution_id)))
    started = datetime.now(UTC).timestamp()
    try:
        values = None if inputs is None else {name: from_json(value) for name, value in inputs.items()}
        result = await run_local_async(definition, values, services, execution_id=execution_id)
    finally:
        await client.close()
    if result.stage == "load" and result.error is not None:
        raise _refused(result.error.message, [])
    return _execution(result, started, steps_total=len(definition.steps))


def _refused(text: str, problems: list[tuple[str, str]]) -> exits.Stop:
    more = "".join(f"\n  {path or 'workflow'}: {message}" for path, message in problems if message != text)
    return exits.Stop(text + more, exits.NOT_OK)


def _execution(result: Result, started: float, *, steps_total: int) -> Execution:
    """The result as the API would show it."""
    error = result.error
    raw: dict[str, Any] = {
        "id": result.execution_id,
        "workflow_id": result.workflow_id,
        "workflow_version": None,
        "status": "completed" if error is None else "failed",
        "node_results": {name: _json(value) for name, value in result.node_results.items()},
        "final_output": _json(result.final_output),
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "node": error.node},
        "created_at": time_text(started),
        "started_at": time_text(started),
        "finished_at": time_text(datetime.now(UTC).timestamp()),
        "priority": 5,
        "tags": {},
        "steps_total": steps_total,
        "steps_done": len(result.node_results),
    }
    return Execution(**{**raw, "error": None if error is None else ExecutionError(**raw["error"])}, raw=raw)


def _json(value: Any) -> Any:
    return msgspec_json.decode(msgspec_json.encode(plain(value)))


def _whole_task(execution_id: str) -> Task:
    """Level 1 runs in one go: this stands for all of it."""
    return Task(
        execution_id=execution_id,
        segment=0,
        path=(),
        attempt=1,
        plan_hash=b"",
        inputs={},
        state=None,
        context=None,
        item=None,
        resume=None,
        idempotency_key=execution_id,
        deadline_s=None,
    )


class _LocalAttempt:
    """An attempt of a local run: what a step logs goes to standard error."""

    cancelled = False

    def __init__(self, task: Task) -> None:
        self.task = task

    def report_heartbeat(self, details: bytes) -> None:
        """Nobody waits for it here."""

    def report_log(self, stream: str, text: str, fields: Mapping[str, Any]) -> None:
        """Show it."""
        click.echo(text + "".join(f"  {name}={value}" for name, value in fields.items()), err=True)
