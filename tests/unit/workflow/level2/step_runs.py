"""Runs one level-2 step without a workflow around it: loaded, templates filled in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from workflow.payload import load
from workflow.plan import StepPlan, compile_plan
from workflow.steps.base import RunState, Services, Suspend
from workflow.values import Value, from_json, to_json

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def plan_step(kind: str, data: Mapping[str, Any]) -> StepPlan:
    payload = {"language": 2, "nodes": [{"id": "n", "type": kind, "data": dict(data)}]}
    return compile_plan(load(payload)).steps[0]


def run_step(
    kind: str,
    data: Mapping[str, Any],
    *inputs: Any,
    state: RunState | None = None,
    services: Services | None = None,
) -> Any:
    """The result as JSON."""
    step, given = plan_step(kind, data), [from_json(value) for value in inputs]
    assert step.step_type is not None
    result = step.step_type.run(
        step.step, given, state or RunState("execution", "key"), services or Services(now=lambda: NOW)
    )
    value: Value = asyncio.run(result) if inspect.iscoroutine(result) else result  # type: ignore[arg-type]
    return value if isinstance(value, Suspend) else to_json(value)


def wait_of(
    kind: str, data: Mapping[str, Any], *inputs: Any, state: RunState | None = None
) -> Suspend | None:
    """What the step waits for."""
    step, given = plan_step(kind, data), [from_json(value) for value in inputs]
    assert step.step_type is not None
    assert step.step_type.wait is not None
    return step.step_type.wait(step.step, given, state or RunState("execution"), Services(now=lambda: NOW))


def resumed(value: Any, **names: Any) -> RunState:
    """A state in which a wait has ended with this value."""
    state = RunState("execution")
    state.resumed = from_json(value)
    for name, given in names.items():
        setattr(state, name, from_json(given))
    return state
