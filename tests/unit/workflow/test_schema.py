"""The JSON Schema of payloads agrees with the loaders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conformance.cases import FAMILIES, load_family, missing_reason
from workflow.definition import LoadError
from workflow.level2.types import SHAPES
from workflow.payload import load
from workflow.schema import workflow_schema
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1

VALIDATOR = jsonschema.Draft202012Validator(workflow_schema())
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.json"))
OWN = {"resize_image": StepType("resize_image", (), "write", lambda *_: None, needs_data=False)}


def loads(payload: Any) -> bool:
    try:
        load(json.dumps(payload), registry={**LEVEL1, **OWN})
    except LoadError:
        return False
    return True


def has_odd_keys(payload: Any) -> bool:
    """Level 1 reads keys in any case and takes the last of repeated ones; the schema knows the proper names."""
    if isinstance(payload, dict):
        return any(
            key != key.lower() and key not in ("sourceHandle", "targetHandle") for key in payload
        ) or any(map(has_odd_keys, payload.values()))
    return isinstance(payload, list) and any(map(has_odd_keys, payload))


def test_the_schema_is_a_schema_and_every_reference_in_it_leads_somewhere() -> None:
    schema = workflow_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    for part in text.split('"$ref": "#/$defs/')[1:]:
        assert part.split('"')[0] in schema["$defs"]


@pytest.mark.parametrize("family", FAMILIES)
def test_payloads_of_the_original_that_load_fit_the_schema(family: str) -> None:
    if missing_reason(family):
        pytest.skip(str(missing_reason(family)))
    fitted = 0
    for case in load_family(family):
        payload = case.workflow
        if not isinstance(payload, dict) or has_odd_keys(payload) or not loads(payload):
            continue
        errors = [
            f"{case.id}: {error.json_path}: {error.message[:200]}" for error in VALIDATOR.iter_errors(payload)
        ]
        assert not errors
        fitted += 1
    assert fitted


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_fits_the_schema(path: Path) -> None:
    VALIDATOR.validate(json.loads(path.read_text()))


def node(kind: str, **data: Any) -> dict[str, Any]:
    return {"language": 2, "nodes": [{"id": "a", "type": kind, "data": data}]}


@pytest.mark.parametrize(
    "payload",
    [
        node("numbre"),
        {"language": 3},
        {"language": 2, "nodes": {}},
        {"language": 2, "nodes": [{}]},
        {"language": 2, "nodes": [{"id": ""}]},
        node("number"),
        node("number", value="x"),
        node("number", value=1, valeu=2),
        node("sort", order="up"),
        node("map"),
        node("retry", max_attempts=0),
        node("retry", max_attempts="{{ inputs.n }}"),
        node("switch", cases=[]),
        node("switch", cases=[None]),
        node("delay", duration=-1),
        {
            "language": 2,
            "nodes": [{"id": "a", "type": "number", "data": {"value": 1}, "policy": {"retires": {}}}],
        },
        {"language": 2, "inputs": {"n": {"type": "numbr"}}},
        {"nodes": [{"id": "a", "type": "number", "data": {"value": "x"}}]},
        {"nodes": [{"id": 5}]},
        {"nodes": [{"id": "a", "policy": {"priority": 10}}]},
    ],
)
def test_what_the_schema_refuses_the_loader_refuses_too(payload: Any) -> None:
    if payload != node("numbre"):  # a type of the user's, for all that the schema knows
        assert not VALIDATOR.is_valid(payload)
    assert not loads(payload)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_step_with_its_required_fields_fits_both(name: str) -> None:
    from tests.property.workflow.test_level2_payloads import FITTING

    shape, data = SHAPES[name], {}
    for field in shape.fields:
        if field.required or field.name in shape.one_of[:1]:
            data[field.name] = field.choices[0] if field.choices else FITTING[field.kind][0]
    payload = node(name, **data)
    if name == "task":
        payload["nodes"][0]["data"]["step"] = "resize_image"
    assert loads(payload)
    VALIDATOR.validate(payload)
