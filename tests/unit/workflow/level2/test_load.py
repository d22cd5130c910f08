"""The loader of level 2: every fault is a problem with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workflow.definition import Definition, LoadError
from workflow.level2.templates import Data
from workflow.payload import load
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1


def node(step_id: str, kind: str, **data: Any) -> dict[str, Any]:
    return {"id": step_id, "type": kind, "data": data}


def define(*nodes: Any, edges: Any = (), own: dict[str, StepType] | None = None, **more: Any) -> Definition:
    payload = {"language": 2, "nodes": list(nodes), "edges": list(edges), **more}
    return load(payload, registry={**LEVEL1, **(own or {})})


def problems(*nodes: Any, edges: Any = (), **more: Any) -> dict[str, str]:
    with pytest.raises(LoadError) as refused:
        define(*nodes, edges=edges, **more)
    return {problem.path: problem.message for problem in refused.value.problems}


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        (node("a", "switch", cases=[None]), "cases", "array of {when"),
        (node("a", "switch", cases=[]), "cases", "at least one"),
        (node("a", "switch", cases=[{"when": "true"}]), "cases", "case 0 needs an output_path"),
        (node("a", "switch", cases=[{"when": "1 +", "output_path": "p"}]), "cases", "case 0, when"),
        (node("a", "switch", cases=[{"when": None, "output_path": "p"}]), "cases", "case 0, when"),
        (
            node("a", "switch", cases=[{"is_default": True}, {"when": "true", "output_path": "p"}]),
            "cases",
            "must be the last",
        ),
        (node("a", "switch", cases=[{"is_default": 1}]), "cases", "true or false"),
        (node("a", "switch", cases=[{"is_default": True, "output_path": 5}]), "cases", "a text"),
        (node("a", "expression"), "expression", "missing required field"),
        (node("a", "expression", expression="input +"), "expression", "at character"),
        (node("a", "expression", expression="{{ input }}"), "expression", "without {{ }}"),
        (node("a", "expression", expression=5), "expression", "which is a text"),
        (node("a", "map"), "expression", "one of expression, field"),
        (node("a", "filter", conditon="true", condition="true"), "conditon", "did you mean 'condition'"),
        (node("a", "reverse", zzz=1), "zzz", "unknown field"),
        (node("a", "sort", order="up"), "order", "one of asc, desc"),
        (node("a", "delay", duration="soon"), "duration", "a duration"),
        (node("a", "delay", duration="-5s"), "duration", "a duration"),
        (node("a", "delay", duration=-1), "duration", "a duration"),
        (node("a", "delay", duration=True), "duration", "a duration"),
        (node("a", "set", values="x"), "values", "an object"),
        (node("a", "set", values={"x": "{{ input"}), "values", "does not end"),
        (node("a", "log", message="{{ 1 + }}"), "message", "at character"),
        (node("a", "for_each", max_concurrency=1.5), "max_concurrency", "a whole number"),
        (node("a", "for_each", max_concurrency=0), "max_concurrency", "at least 1"),
        (node("a", "rate_limiter", max_requests=0, per_duration="1s"), "max_requests", "at least 1"),
        (node("a", "rate_limiter", max_requests=1, per_duration=0), "per_duration", "at least"),
        (node("a", "throttle", requests_per_second=0), "requests_per_second", "at least"),
        (node("a", "retry", max_attempts="{{ inputs.n }}"), "max_attempts", "takes no template"),
        (node("a", "retry", max_attempts=0), "max_attempts", "at least 1"),
        (node("a", "retry", max_attempts=10**9), "max_attempts", "at most"),
        (node("a", "timeout", timeout="{{ inputs.t }}"), "timeout", "takes no template"),
        (node("a", "timeout", timeout=0), "timeout", "at least"),
        (node("a", "task", step="{{ input }}"), "step", "takes no template"),
        (node("a", "task", step="unheard"), "step", "no Python step 'unheard'"),
        (node("a", "context_constant", context_values=[{"value": 1}]), "context_values", "array of {name"),
        (node("a", "split", paths=[1]), "paths", "array of texts"),
        (node("a", "boolean_input", boolean_value="yes"), "boolean_value", "true or false"),
    ],
)
def test_a_fault_in_the_data_is_found_at_its_field(data: dict[str, Any], path: str, message: str) -> None:
    found = problems(data)
    assert message in found[f"nodes[0].data.{path}"]


@pytest.mark.parametrize(
    ("bad", "path", "message"),
    [
        (None, "nodes[0]", "an object"),
        ("x", "nodes[0]", "an object"),
        ({}, "nodes[0].id", "1 to 200"),
        ({"id": 5}, "nodes[0].id", "1 to 200"),
        ({"id": "x" * 201}, "nodes[0].id", "1 to 200"),
        ({"id": "\0item"}, "nodes[0].id", "printable"),
        ({"id": "a", "type": 5}, "nodes[0].type", "a text"),
        ({"id": "a"}, "nodes[0].type", "no type"),
        ({"id": "a", "type": "numbre"}, "nodes[0].type", "did you mean 'number'"),
        ({"id": "a", "type": "q" * 5000}, "nodes[0].type", "unknown step type"),
        ({"id": "a", "type": "number", "data": []}, "nodes[0].data", "an object"),
        ({"id": "a", "type": "number", "data": {"value": 1}, "policy": []}, "nodes[0].policy", "an object"),
        (
            {"id": "a", "type": "number", "data": {"value": 1}, "policy": {"retry": {"max_attempts": 0}}},
            "nodes[0].policy.retry.max_attempts",
            "from 1",
        ),
    ],
)
def test_a_fault_in_a_node_is_found_at_its_place(bad: Any, path: str, message: str) -> None:
    found = problems(bad)
    assert message in found[path]
    assert len(found[path]) < 500


@pytest.mark.parametrize(
    ("bad", "path", "message"),
    [
        (7, "edges[0]", "an object"),
        ({"source": "a", "target": "bb"}, "edges[0].target", "did you mean 'b'"),
        ({"source": None, "target": "b"}, "edges[0].source", "the id of a step"),
        ({"source": ["a"], "target": "b"}, "edges[0].source", "the id of a step"),
        ({"source": "a", "target": "b", "sourceHandle": 5}, "edges[0].sourceHandle", "text or null"),
    ],
)
def test_a_fault_in_an_edge_is_found_at_its_place(bad: Any, path: str, message: str) -> None:
    found = problems(node("a", "number", value=1), node("b", "log", message="x"), edges=[bad])
    assert message in found[path]


def test_all_problems_are_reported_at_once() -> None:
    found = problems(node("a", "number"), node("b", "expression", expression="("), {"id": "c", "type": "log"})
    assert set(found) == {"nodes[0].data.value", "nodes[1].data.expression", "nodes[2].data.message"}


def test_an_id_used_twice_is_a_problem() -> None:
    assert "used twice" in problems(node("a", "number", value=1), node("a", "number", value=1))["nodes[1].id"]


@pytest.mark.parametrize("key", ["nodes", "edges"])
def test_nodes_and_edges_are_arrays(key: str) -> None:
    with pytest.raises(LoadError, match=f"{key}: must be an array"):
        load({"language": 2, key: "x"})


def test_other_faults_at_the_top_have_places_too() -> None:
    with pytest.raises(LoadError) as refused:
        load({"language": 2, "workflow_id": 5, "inputs": {"n": {"type": "numbr"}}})
    assert [problem.path for problem in refused.value.problems] == ["workflow_id", "inputs.n.type"]


def test_a_payload_wrong_in_a_thousand_places_is_refused_quickly_with_the_first_hundred() -> None:
    nodes = [{"id": f"step{at}", "type": "numbr"} for at in range(5000)]
    with pytest.raises(LoadError) as refused:
        load({"language": 2, "nodes": nodes})
    assert len(refused.value.problems) == 100


def test_a_number_past_all_floats_is_a_problem_and_no_crash() -> None:
    text = '{"language":2,"nodes":[{"id":"a","type":"number","data":{"value":1%s}}]}' % ("0" * 400)
    with pytest.raises(LoadError, match="a number"):
        load(text)


def test_numbers_are_floats_and_templates_and_expressions_are_compiled() -> None:
    definition = define(
        node("a", "set", values={"n": 1, "t": "{{ node.b.x + inputs.y }}"}, label="{{ no template")
    )
    data = definition.steps[0].data
    assert isinstance(data, Data)
    assert type(data["values"]["n"]) is float
    assert [sorted(expression.nodes) for expression in data.expressions] == [["b"]]


def test_a_type_is_inferred_as_at_level_1() -> None:
    assert define({"id": "a", "data": {"value": 1}}).steps[0].type == "number"


@pytest.mark.parametrize(
    "data",
    [
        node("a", "find", expression="item > 1"),
        node("a", "partition", expression="item > 1"),
        node("a", "group_by", key_field="x"),
        node("a", "unique", by_field="x"),
        node("a", "delay", duration=0.5),
        node("a", "delay", duration="{{ inputs.pause }}"),
        node("a", "set", values={}, _note="editors keep things in fields that begin with _"),
        node("a", "http", url="{{ inputs.url }}", method="{{ inputs.method }}"),
    ],
)
def test_what_editors_and_templates_write_is_accepted(data: dict[str, Any]) -> None:
    assert define(data).steps[0].id == "a"


def test_steps_of_the_user_take_any_data_and_tasks_run_them() -> None:
    own = {"mine": StepType("mine", (), "write", lambda *_: None, needs_data=False)}
    steps = define(
        node("a", "mine", whatever={"x": "{{ input }}"}), node("b", "task", step="mine"), own=own
    ).steps
    assert [step.type for step in steps] == ["mine", "task"]


def test_the_handle_of_an_edge_may_be_written_as_condition_and_empty_means_none() -> None:
    nodes = [node("a", "condition", condition="true"), node("b", "log", message="x")]
    edges = [
        {"source": "a", "target": "b", "condition": "true"},
        {"source": "a", "target": "b", "sourceHandle": ""},
    ]
    assert [edge.handle for edge in define(*nodes, edges=edges).edges] == ["true", None]


def test_level_2_is_chosen_by_the_number_2_only() -> None:
    for language in ("2", 3, True, 2.5):
        with pytest.raises(LoadError, match="language"):
            load(json.dumps({"language": language}))
