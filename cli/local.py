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
from node.api.render import plain, time_text
from node.worker.http_client import AiohttpClient
from node.worker.user_steps import StepTypesInvalid, current_attempt, load_step_types
from thaiyyal.client import Execution, ExecutionError
from workflow import payload
from workflow.definition import Definition, LoadError
from workflow.execute import Result, run_local_async
from workflow.messages import Task
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
    return asyncio.run(_run(definition, inputs, settings, user_types))


async def _run(
    definition: Definition,
    inputs: Mapping[str, Any] | None,
    settings: Settings,
    user_types: Mapping[str, StepType],
) -> Execution:
    execution_id = new_execution_id()
    client = AiohttpClient()
    services = Services(settings=settings, now=lambda: datetime.now(UTC), http=client, step_types=user_types)
    current_attempt.set(_LocalAttempt(execution_id))
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


class _LocalAttempt:
    """The one attempt of a local run: what a step logs goes to standard error."""

    cancelled = False

    def __init__(self, execution_id: str) -> None:
        self.task = Task(
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

    def report_heartbeat(self, details: bytes) -> None:
        """Nobody waits for it here."""

    def report_log(self, stream: str, text: str, fields: Mapping[str, Any]) -> None:
        """Show it."""
        click.echo(text + "".join(f"  {name}={value}" for name, value in fields.items()), err=True)
