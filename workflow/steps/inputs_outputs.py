"""Steps that bring values in (constants) and steps that pass them through for display."""

from __future__ import annotations

from collections.abc import Sequence

from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.values import Value


def _constant(name: str, field: str, kind: str, data_name: str) -> StepType:
    def run(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
        assert step.data is not None
        return step.data[field]

    return StepType(name, (Field(field, kind, required=True),), "pure", run, data_name)


def run_visualization(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input, unchanged."""
    if not inputs:
        raise StepFailed("visualization needs at least 1 input")
    return inputs[0]


def run_renderer(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input, unchanged; null without one."""
    return inputs[0] if inputs else None


_MODE: tuple[Field, ...] = (Field("mode", "string"),)

STEP_TYPES = (
    _constant("number", "value", "number", "NumberData"),
    _constant("text_input", "text", "string", "TextInputData"),
    _constant("boolean_input", "boolean_value", "bool", "BooleanInputData"),
    _constant("date_input", "date_value", "string", "DateInputData"),
    _constant("datetime_input", "datetime_value", "string", "DateTimeInputData"),
    StepType("visualization", _MODE, "pure", run_visualization, "VisualizationData"),
    StepType("renderer", _MODE, "pure", run_renderer, "RendererData"),
)
