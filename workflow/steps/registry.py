"""The table of step types.

`LEVEL1` has every type that a level-1 payload can run, `paginator` too: it loads and has no executor. Which
fields a type has, stands next to its function; this file only gathers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from workflow.steps import (
    array_shapes,
    arrays,
    control,
    data,
    extract_transform,
    http,
    inputs_outputs,
    operations,
    resilience,
    schema,
    state,
)
from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.values import Value


def _run_paginator(step: Step, inputs: Sequence[Value], run_state: RunState, services: Services) -> Value:
    raise StepFailed("no executor registered for type: paginator", code="unknown_step_type", retryable=False)


_PAGINATOR = StepType(
    "paginator",
    (
        Field("pagination_strategy", "string", required=True),
        Field("offset_param", "string"),
        Field("limit_param", "string"),
        Field("page_size", "integer"),
        Field("max_pages", "integer"),
        Field("page_param", "string"),
        Field("per_page_param", "string"),
        Field("cursor_param", "string"),
        Field("next_cursor_path", "string"),
        Field("link_header", "string"),
        Field("total_count_path", "string"),
        Field("results_path", "string"),
    ),
    "pure",
    _run_paginator,
    "PaginatorData",
    needs_data=False,
)


def _gather(*families: Sequence[StepType]) -> Mapping[str, StepType]:
    table: dict[str, StepType] = {}
    for family in families:
        for step_type in family:
            if step_type.name in table:
                raise ValueError(f"step type {step_type.name} is registered twice")
            table[step_type.name] = step_type
    return MappingProxyType(table)


LEVEL1: Final[Mapping[str, StepType]] = _gather(
    inputs_outputs.STEP_TYPES,
    operations.STEP_TYPES,
    data.STEP_TYPES,
    extract_transform.STEP_TYPES,
    control.STEP_TYPES,
    arrays.STEP_TYPES,
    array_shapes.STEP_TYPES,
    state.STEP_TYPES,
    resilience.STEP_TYPES,
    http.STEP_TYPES,
    schema.STEP_TYPES,
    (_PAGINATOR,),
)
