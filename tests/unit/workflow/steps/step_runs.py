"""Runs one step function without a workflow around it."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime
from typing import Any

from workflow.steps.base import RunState, Services, Step
from workflow.steps.registry import LEVEL1
from workflow.values import Value

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def run_step(
    type_name: str,
    data: dict[str, Any],
    *inputs: Value,
    state: RunState | None = None,
    services: Services | None = None,
    step_id: str = "n",
) -> Value:
    """The result of a step with this (decoded) data; fields left out are None."""
    step_type = LEVEL1[type_name]
    decoded = {field.name: None for field in step_type.fields} | data
    if step_type.check is not None:
        step_type.check(decoded)
    result = step_type.run(
        Step(step_id, type_name, decoded),
        list(inputs),
        RunState("execution") if state is None else state,
        Services(now=lambda: NOW) if services is None else services,
    )
    return asyncio.run(result) if inspect.iscoroutine(result) else result
