"""`extract` (fields of an object) and `transform` (objects to arrays and back)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.values import NilSlice, Value, type_name


def run_extract(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """One field with its name, or an object of those named fields that exist. No paths."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("extract node requires input")
    source = inputs[0]
    if type(source) is not dict:
        raise StepFailed(f"extract node requires object input, got {type_name(source)}")
    field = step.data["field"]
    if field is None:
        return {name: source[name] for name in step.data["fields"] or () if name in source}
    if field not in source:
        raise StepFailed(f"field '{field}' not found in input object")
    return {"field": field, "value": source[field]}


def _check_extract(data: Mapping[str, Any]) -> None:
    if data["field"] is None and not data["fields"]:
        raise ValueError("missing required field: field or fields")


def run_transform(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Keys and values come sorted by key; the original gives them in random order."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("transform node requires input")
    source = inputs[0]
    match step.data["transform_type"]:
        case "to_array":
            return list(inputs)
        case "to_object":
            return _object_of_pairs(source)
        case "flatten":
            if not isinstance(source, list):
                raise StepFailed(f"flatten requires array input, got {type_name(source)}")
            flat: list[Value] = []
            _flatten_into(flat, source)
            return flat or NilSlice()
        case "keys":
            return sorted(_object("keys", source))
        case "values":
            items = _object("values", source)
            return [items[key] for key in sorted(items)]
        case kind:
            raise StepFailed(f"unsupported transform type: {kind}")


def _object_of_pairs(source: Value) -> dict[str, Value]:
    if not isinstance(source, list):
        raise StepFailed(f"to_object requires array input, got {type_name(source)}")
    made: dict[str, Value] = {}
    for position in range(0, len(source) - 1, 2):
        key = source[position]
        if type(key) is not str:
            raise StepFailed(f"to_object requires string keys at index {position}")
        made[key] = source[position + 1]
    return made


def _flatten_into(flat: list[Value], source: list[Value]) -> None:
    for item in source:
        if isinstance(item, list):
            _flatten_into(flat, item)
        else:
            flat.append(item)


def _object(transform: str, source: Value) -> dict[str, Value]:
    if type(source) is not dict:
        raise StepFailed(f"{transform} transform requires object input, got {type_name(source)}")
    return source


STEP_TYPES = (
    StepType(
        "extract",
        (Field("field", "string"), Field("fields", "string_list")),
        "pure",
        run_extract,
        "ExtractData",
        _check_extract,
    ),
    StepType(
        "transform",
        (Field("transform_type", "string", required=True),),
        "pure",
        run_transform,
        "TransformData",
    ),
)
