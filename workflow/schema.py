"""The JSON Schema (2020-12) of payloads of both levels, made from the tables that the loaders go by.

It is for editors and generators: field names, kinds, defaults, choices. The loaders decide: they also read keys of
level 1 in any case, infer types, compile expressions and look at the graph, which no schema can.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from workflow import inputs, policy
from workflow.level2.load import ID_LENGTH_MAX
from workflow.level2.shapes import DataField, Shape
from workflow.level2.types import SHAPES
from workflow.messages import RetryPolicy
from workflow.payload import edges_max, steps_max
from workflow.steps.base import Field, StepType
from workflow.steps.registry import LEVEL1

SCHEMA_ID: Final = "https://thaiyyal.dev/schema/workflow.json"

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_NUMBER: Final[Json] = {"type": "number"}
_CASE: Final[Json] = {
    "type": "object",
    "properties": {
        "when": {"type": ["string", "null"]},
        "output_path": {"type": ["string", "null"]},
        "is_default": {"type": ["boolean", "null"]},
    },
}
_CONTEXT_VALUE: Final[Json] = {
    "type": "object",
    "properties": {"name": _TEXT, "value": {}, "type": {"type": ["string", "null"]}},
}

_KINDS: Final[Mapping[str, Json]] = {
    "text": _TEXT,
    "number": _NUMBER,
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "any": {},
    "array": {"type": "array"},
    "object": {"type": "object"},
    "texts": {"type": "array", "items": _TEXT},
    "expression": {"type": "string", "maxLength": 10_000, "contentMediaType": "text/x-thaiyyal-expression"},
    "duration": {"type": ["string", "number"], "minimum": 0, "examples": ["1h30m", 0.5]},
    "cases": {"type": "array", "items": _CASE, "minItems": 1},
    "context_values": {"type": "array", "items": {**_CONTEXT_VALUE, "required": ["name"]}},
    "time": {"type": ["string", "number"], "examples": ["2026-01-31T12:00:00Z", 1769860800]},
}
"""Kinds of level 2 (workflow/level2/shapes.py)."""

_LEVEL1_KINDS: Final[Mapping[str, Json]] = {
    "string": _TEXT,
    "number": _NUMBER,
    "integer": {"type": "integer"},
    "int64": {"type": "integer"},
    "bool": {"type": "boolean"},
    "any": {},
    "any_number": {},
    "duration": _TEXT,
    "string_list": {"type": "array", "items": {"type": ["string", "null"]}},
    "cases": {"type": "array", "items": {"anyOf": [_CASE, {"type": "null"}]}},
    "context_values": {"type": "array", "items": {"anyOf": [_CONTEXT_VALUE, {"type": "null"}]}},
}


@cache
def workflow_schema() -> Json:
    """The schema of a payload. One object, made once: do not change it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Thaiyyal workflow",
        "type": ["object", "null"],
        "if": {"type": "object", "properties": {"language": {"const": 2}}, "required": ["language"]},
        "then": _level2(),
        "else": _level1(),
        "$defs": {
            "policy": _policy(),
            "inputs": _inputs(),
            "template": {
                "type": "string",
                "pattern": r"\{\{",
                "description": "{{ expression }}: its value, or its text among other text",
            },
            **{f"level1.{name}": _level1_data(kind) for name, kind in LEVEL1.items()},
            **{f"level2.{name}": _level2_data(shape) for name, shape in SHAPES.items()},
        },
    }


def _nullable(schema: Json) -> Json:
    kind = schema.get("type")
    if kind is None:
        return schema
    return {**schema, "type": [*([kind] if isinstance(kind, str) else kind), "null"]}


# --- level 1 --------------------------------------------------------------------------------------------------


def _level1() -> Json:
    """As lenient as the original: anything may be missing or null, and keys of other names are passed over."""
    node: Json = {
        "type": ["object", "null"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "type": {"type": ["string", "null"], "examples": sorted(LEVEL1)},
            "data": {"type": ["object", "null"], "properties": {"label": {"type": ["string", "null"]}}},
            "policy": {"anyOf": [{"$ref": "#/$defs/policy"}, {"type": "null"}]},
        },
        "allOf": [_by_type("level1", name, optional=True) for name in LEVEL1],
    }
    edge: Json = {
        "type": ["object", "null"],
        "properties": {
            key: {"type": ["string", "null"]}
            for key in ("id", "source", "target", "sourceHandle", "condition", "targetHandle")
        },
    }
    return {
        "properties": {
            "language": {"enum": [1, None]},
            "workflow_id": {"type": ["string", "null"]},
            "nodes": {"type": ["array", "null"], "items": node, "maxItems": steps_max},
            "edges": {"type": ["array", "null"], "items": edge, "maxItems": edges_max},
        }
    }


def _by_type(level: str, name: str, *, optional: bool) -> Json:
    data: Json = {"$ref": f"#/$defs/{level}.{name}"}
    then: Json = {"properties": {"data": {"anyOf": [data, {"type": "null"}]} if optional else data}}
    return {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then}


def _level1_data(step_type: StepType) -> Json:
    schema: Json = {
        "type": "object",
        "properties": {field.name: _level1_field(field) for field in step_type.fields},
    }
    required = [field.name for field in step_type.fields if field.required]
    return {**schema, "required": required} if required else schema


def _level1_field(field: Field) -> Json:
    schema = _LEVEL1_KINDS[field.kind]
    return schema if field.required else _nullable(schema)


# --- level 2 --------------------------------------------------------------------------------------------------


def _level2() -> Json:
    """Strict: unknown fields of a step's data are refused."""
    node: Json = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": ID_LENGTH_MAX},
            "type": {
                "type": ["string", "null"],
                "description": "A built-in type or one of the node's own (GET /v1/step-types); without it, inferred.",
                "examples": sorted(SHAPES),
            },
            "data": {"type": ["object", "null"]},
            "policy": {"anyOf": [{"$ref": "#/$defs/policy"}, {"type": "null"}]},
        },
        "required": ["id"],
        "allOf": [
            _by_type("level2", name, optional=not _has_required(shape)) for name, shape in SHAPES.items()
        ],
    }
    edge: Json = {
        "type": "object",
        "properties": {
            "source": _TEXT,
            "target": _TEXT,
            "sourceHandle": {
                "type": ["string", "null"],
                "description": "The port; `error` on every step.",
            },
            "condition": {"type": ["string", "null"], "deprecated": True},
        },
        "required": ["source", "target"],
    }
    return {
        "properties": {
            "language": {"const": 2},
            "workflow_id": {"type": ["string", "null"]},
            "inputs": {"anyOf": [{"$ref": "#/$defs/inputs"}, {"type": "null"}]},
            "nodes": {"type": ["array", "null"], "items": node, "maxItems": steps_max},
            "edges": {"type": ["array", "null"], "items": edge, "maxItems": edges_max},
        }
    }


def _has_required(shape: Shape) -> bool:
    return bool(shape.one_of) or any(field.required for field in shape.fields)


def _level2_data(shape: Shape) -> Json:
    schema: Json = {
        "type": "object",
        "description": shape.about,
        "properties": {
            **{field.name: _level2_field(field) for field in shape.fields},
            "label": {"description": "For people; never used."},
        },
        "patternProperties": {"^_": {"description": "An editor's own."}},
        "additionalProperties": False,
    }
    required = [field.name for field in shape.fields if field.required]
    if required:
        schema["required"] = required
    if shape.one_of:
        schema["anyOf"] = [{"required": [name]} for name in shape.one_of]
    return schema


def _level2_field(field: DataField) -> Json:
    schema = dict(_KINDS[field.kind])
    if field.choices:
        schema["enum"] = [*field.choices] if field.required else [*field.choices, None]
    if field.least is not None:
        schema["minimum"] = field.least
    if field.most is not None:
        schema["maximum"] = field.most
    if not field.required:
        schema = _nullable(schema)
    if not field.fixed and field.kind not in ("expression", "cases", "any"):
        if field.kind in ("array", "object", "texts", "context_values"):
            schema.pop("items", None)  # templates may stand inside
        schema = {"anyOf": [schema, {"$ref": "#/$defs/template"}]}
    return {**schema, "description": field.about} if field.about else schema


# --- both -----------------------------------------------------------------------------------------------------


def _policy() -> Json:
    seconds: Json = {"type": ["number", "null"], "minimum": 0, "maximum": policy.seconds_max}
    defaults = RetryPolicy()
    retry: Json = {
        "type": ["object", "null"],
        "properties": {
            "max_attempts": {
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": policy.attempts_max,
                "default": 3,
            },
            "initial_interval_s": {**seconds, "default": defaults.initial_interval_s},
            "max_interval_s": {**seconds, "default": defaults.max_interval_s},
            "multiplier": {
                "type": ["number", "null"],
                "minimum": 1,
                "maximum": 1000,
                "default": defaults.multiplier,
            },
            "jitter": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "default": defaults.jitter},
            "non_retryable": {"type": "array", "items": _TEXT, "description": "Error codes."},
        },
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "retry": retry,
            "timeout_s": {**seconds, "description": "Of one attempt, from its start."},
            "schedule_to_start_s": {**seconds, "description": "How long an attempt may wait for a worker."},
            "heartbeat_s": {
                **seconds,
                "description": "A running attempt that is silent for so long is lost.",
            },
            "queue": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
            "labels": {
                "type": ["object", "null"],
                "additionalProperties": _TEXT,
                "maxProperties": policy.labels_max,
            },
            "priority": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
            "effect": {"enum": ["pure", "read", "write", None]},
            "on_exhausted": {"enum": ["fail", "pause", "dead_letter"], "default": "fail"},
        },
        "additionalProperties": False,
    }


def _inputs() -> Json:
    return {
        "type": "object",
        "maxProperties": inputs.inputs_max,
        "additionalProperties": {
            "type": "object",
            "properties": {
                "type": {"enum": [*inputs.TYPES, None]},
                "required": {"type": "boolean"},
                "default": {},
                "description": {},
                "label": {},
            },
            "additionalProperties": False,
        },
    }
