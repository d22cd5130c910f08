"""Warnings about workflows that load: what never runs, reads too early, is passed over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.cases import FAMILIES, load_family, missing_reason
from workflow.definition import LoadError
from workflow.findings import findings
from workflow.payload import load
from workflow.plan import compile_plan


def warnings(payload: Any) -> dict[str, str]:
    return {found.path: found.message for found in findings(compile_plan(load(payload)))}


def node(step_id: str, kind: str, **data: Any) -> dict[str, Any]:
    return {"id": step_id, "type": kind, "data": data}


def edge(source: str, target: str, handle: str | None = None) -> dict[str, Any]:
    return {"source": source, "target": target, **({"sourceHandle": handle} if handle is not None else {})}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_that_ran_in_the_original_is_said_never_to_run(family: str) -> None:
    if missing_reason(family):
        pytest.skip(str(missing_reason(family)))
    for case in load_family(family):
        try:
            plan = compile_plan(load(case.payload("http://127.0.0.1:1")))
        except LoadError:
            continue
        ran = (case.expect.get("node_results") or {}).keys()
        ids = {f"nodes[{step.step.index}]": step.id for step in plan.steps}
        for found in findings(plan):
            if "never runs" in found.message:
                assert ids[found.path] not in ran, case.id


def test_a_port_that_a_type_never_takes_and_what_hangs_on_it() -> None:
    found = warnings(
        {
            "nodes": [
                node("a", "number", value=1),
                node("b", "counter", counter_op="get"),
                node("c", "reverse"),
            ],
            "edges": [edge("a", "b", "true"), edge("b", "c")],
        }
    )
    assert found["edges[0].sourceHandle"] == "number step 'a' never takes the port 'true'"
    assert "never runs" in found["nodes[1]"]
    assert "never runs" in found["nodes[2]"]


def test_a_switch_takes_its_output_paths() -> None:
    cases = [{"when": "> 1", "output_path": "p"}, {"is_default": True, "output_path": "other"}]
    nodes = [node("a", "switch", cases=cases), node("b", "reverse")]
    assert warnings({"nodes": nodes, "edges": [edge("a", "b", "p"), edge("a", "b", "other")]}) == {}
    assert "edges[0].sourceHandle" in warnings({"nodes": nodes, "edges": [edge("a", "b", "q")]})


def test_a_reference_to_what_runs_later_at_level_1() -> None:
    nodes = [node("a", "expression", expression="node.b + 1"), node("b", "number", value=1)]
    assert "runs after this step" in warnings({"nodes": nodes, "edges": [edge("a", "b")]})["nodes[0].data"]
    assert warnings({"nodes": nodes, "edges": [edge("b", "a")]}) == {}


def test_a_field_that_is_nearly_the_name_of_another() -> None:
    nodes = [node("a", "sort", feild="x", position={"x": 1}, _editor=1, label="l")]
    assert "did you mean 'field'" in warnings({"nodes": nodes})["nodes[0].data.feild"]
    assert len(warnings({"nodes": nodes})) == 1


def test_a_timeout_port_without_a_timeout_at_level_2() -> None:
    payload: dict[str, Any] = {
        "language": 2,
        "nodes": [node("a", "approval"), node("b", "log", message="x")],
        "edges": [edge("a", "b", "timeout")],
    }
    found = warnings(payload)
    assert "it has no timeout" in found["edges[0].sourceHandle"]
    assert "never runs" in found["nodes[1]"]
    payload["nodes"][0]["data"]["timeout"] = "1h"
    assert warnings(payload) == {}


def test_two_steps_on_one_key_of_the_cache_without_a_path() -> None:
    nodes = [
        node("v", "number", value=1),
        node("s", "cache", cache_op="set", cache_key="k"),
        node("g", "cache", cache_op="get", cache_key="k"),
        node("other", "cache", cache_op="get", cache_key="{{ input }}"),
    ]
    flat = {"language": 2, "nodes": nodes, "edges": [edge("v", "s")]}
    (text,) = warnings(flat).values()
    assert "no path orders" in text
    assert warnings({**flat, "edges": [edge("v", "s"), edge("s", "g")]}) == {}


def test_warnings_are_bounded_and_come_quickly() -> None:
    nodes = [node(f"n{at}", "sort", feild="x") for at in range(3000)]
    assert len(findings(compile_plan(load(json.dumps({"nodes": nodes}))))) == 100
