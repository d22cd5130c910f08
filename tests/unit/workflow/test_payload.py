"""Loading: what the recorded cases leave out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workflow import payload as loader
from workflow.definition import LoadError
from workflow.payload import load
from workflow.steps.base import Field, StepType


def refusal(payload: Any, **options: Any) -> LoadError:
    with pytest.raises(LoadError) as refused:
        load(payload, **options)
    return refused.value


def node(**data: Any) -> dict[str, Any]:
    return {"id": "n", "type": "number", "data": data}


def test_the_last_of_repeated_keys_wins_and_the_first_wrong_type_is_told():
    raw = '{"nodes":[{"id":"n","type":"number","data":{"value":1,"VALUE":2,"value":3}}]}'
    assert load(raw).steps[0].data == {"value": 3.0}
    raw = '{"nodes":[{"id":"n","type":"number","data":{"value":"x","value":3}}]}'
    assert "cannot unmarshal string into Go struct field NumberData.value" in refusal(raw).text


def test_repeated_keys_survive_the_canonical_text():
    raw = '{"nodes":[{"id":"n","type":"number","data":{"value":1,"VALUE":2,"value":3,"VALUE":4}}]}'
    definition = load(raw)
    assert definition.steps[0].data == load(definition.canonical).steps[0].data == {"value": 4.0}


def test_white_space_does_not_change_the_hash():
    text = json.dumps({"nodes": [node(value=1)]})
    assert load(text).hash == load(json.dumps(json.loads(text), indent=3)).hash
    assert load(text).hash != load(text.replace("1", "2")).hash


def test_keys_match_in_odd_letters_too():
    assert load('{"node\u017f":[{"id":"n","type":"number","data":{"value":1}}]}').steps[0].id == "n"


def test_minus_zero_keeps_its_sign():
    data = load('{"nodes":[{"id":"n","type":"number","data":{"value":-0}}]}').steps[0].data
    assert data is not None
    assert str(data["value"]) == "-0.0"


def test_a_giant_integer_is_told_as_go_tells_it():
    digits = "9" * 5000
    text = refusal('{"nodes":[{"id":"n","type":"number","data":{"value":' + digits + "}}]}").text
    assert text.endswith(
        f"cannot unmarshal number {digits} into Go struct field NumberData.value of type float64"
    )


@pytest.mark.parametrize("number", ["1.5", "1e3", "2.0", "9223372036854775808"])
def test_only_whole_numbers_fit_an_integer_field(number: str):
    raw = '{"nodes":[{"id":"n","type":"for_each","data":{"max_iterations":' + number + "}}]}"
    assert (
        f"cannot unmarshal number {number} into Go struct field ForEachData.max_iterations of type int"
        in refusal(raw).text
    )


def test_a_number_out_of_range_is_refused_in_fields_of_any_type_too():
    raw = '{"nodes":[{"id":"n","type":"%s","data":{"initial_value":[1e999],"expression":"x"}}]}'
    told = "json: cannot unmarshal number 1e999 into Go "
    assert told + "struct field ReduceData.initial_value of type float64" in refusal(raw % "reduce").text
    assert told + "value of type float64" in refusal(raw % "custom").text


def test_bytes_that_are_no_text_become_replacement_characters():
    raw = b'{"nodes":[{"id":"n","type":"text_input","data":{"text":"\xe2\x82 \\ud800 \\ud83d\\ude00"}}]}'
    data = load(raw).steps[0].data
    assert data is not None
    assert data["text"] == "\ufffd\ufffd \ufffd \U0001f600"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ('{"a":Infinity}', "invalid character 'I' looking for beginning of value"),
        ("{} \x80", "invalid character 'Â' after top-level value"),
        ("{}'", "invalid character '\\'' after top-level value"),
        ("{}\x01", "invalid character '\\x01' after top-level value"),
        ("tru", "unexpected end of JSON input"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
    ],
)
def test_syntax_errors_are_told_in_the_words_of_go(raw: str, reason: str):
    assert refusal(raw).text == "failed to parse payload: " + reason


def test_every_problem_is_collected_with_its_place():
    payload = {"nodes": [node(value="x"), node(), "y"], "edges": [{"source": 1}], "workflow_id": 5}
    assert [problem.path for problem in refusal(payload).problems] == [
        "nodes[0].data.value",
        "nodes[1].data.value",
        "nodes[2]",
        "edges[0].source",
        "nodes[1].id",
        "edges.source",
    ]


def test_what_is_wrong_between_nodes_is_told_beside_what_is_wrong_in_them():
    payload = {
        "nodes": [node(value="x"), node(value=1) | {"id": "m"}, node(value=1) | {"id": "m"}],
        "edges": [{"source": "n", "target": "gone"}, {"source": "n", "target": "m"}],
    }
    refused = refusal(payload)
    assert [problem.path for problem in refused.problems] == [
        "nodes[0].data.value",
        "nodes[2].id",
        "edges[0].target",
    ]
    assert refused.text.startswith("failed to parse payload: failed to unmarshal data for node n"), (
        "the original's"
    )


def test_the_step_limit_is_at_its_number():
    load({"nodes": [{"id": str(n)} for n in range(loader.steps_max)]})
    error = refusal({"nodes": [{"id": str(n)} for n in range(loader.steps_max + 1)]})
    assert (error.code, error.text) == (
        "workflow_too_large",
        "workflow too large: 10001 steps (limit: 10000)",
    )


def test_the_edge_limit_is_at_its_number():
    edge = {"source": "a", "target": "b"}
    load({"edges": [edge] * loader.edges_max})
    assert refusal({"edges": [edge] * (loader.edges_max + 1)}).code == "workflow_too_large"


def test_the_size_limit_counts_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader, "body_bytes_max", 40)
    load(b"{}" + b" " * 38)
    for payload in (b"{}" + b" " * 39, "{}" + " " * 39, {"x": "y" * 40}):
        assert refusal(payload).code == "workflow_too_large"


def nested(depth: int) -> dict[str, Any]:
    """A payload of that many arrays and objects in each other."""
    value: Any = []
    for _ in range(depth - 2):
        value = [value]
    return {"x": value}


def test_the_depth_limit_is_at_its_number():
    load(nested(loader.depth_max))
    assert refusal(nested(loader.depth_max + 1)).code == "workflow_too_large"
    assert refusal("[" * 100_000).code == "workflow_too_large"
    assert refusal(nested(5000)).text


def test_python_data_that_is_no_json_is_refused():
    assert refusal({"x": {1, 2}}).text.startswith("failed to parse payload: ")
    assert refusal({"x": float("nan")}).text.startswith("failed to parse payload: ")


def test_a_registered_type_gets_its_checks_and_its_data_as_written():
    def check(data: Any) -> None:
        if "size" not in data:
            raise ValueError("resize needs size")

    resize = StepType(
        "resize", (), "write", lambda step, inputs, state, services: None, check=check, needs_data=False
    )
    payload = {"nodes": [{"id": "n", "type": "resize", "data": {"size": 3, "deep": [1.5]}}]}
    step = load(payload, registry={"resize": resize}).steps[0]
    assert step.raw == {"size": 3, "deep": [1.5]}
    payload["nodes"][0]["data"] = {}
    assert "resize needs size" in refusal(payload, registry={"resize": resize}).text


def test_field_kinds_are_a_closed_set():
    with pytest.raises(ValueError, match="unknown field kind"):
        Field("x", "colour")
