"""Random level-2 payloads, right and wrong: a plan that holds together, or a LoadError, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.coordinator.program import Program
from workflow.definition import LoadError
from workflow.level2.shapes import DataField
from workflow.level2.types import SHAPES
from workflow.payload import load
from workflow.plan import Plan, compile_plan

# fmt: off
JUNK = st.sampled_from([
    None, 0, 1, -1, 1.5, 1e308, 10**30, 10**400, True, "", "x", "{{ input }}", "{{", "{{ node.a }}", "node.b",
    "input.x", [], [None], [1], {}, {"a": None}, [{"when": None}], [{"when": "true", "output_path": "p"}],
    [{"is_default": True}], "5s", "-1s", [{"name": "a"}], {"x": "{{ variables.v }}"}, "set", "get", "sum", "\0item",
])
# fmt: on
FITTING: dict[str, list[Any]] = {
    "text": ["t", "{{ input }}", "{{ context.c }}"],
    "number": [2],
    "integer": [3],
    "boolean": [True],
    "any": [1, [1], "{{ node.a }}"],
    "array": [[1]],
    "object": [{"a": "{{ variables.v }}"}],
    "texts": [["p"]],
    "expression": ["true", "node.b == 1", "variables.v > 1"],
    "duration": ["1s", 2],
    "cases": [[{"when": "true", "output_path": "p"}, {"is_default": True}]],
    "context_values": [[{"name": "c", "value": 1}]],
    "time": ["2026-01-01T00:00:00Z"],
}
NAMES = "abcdefgh"
PORTS = ["", "error", "true", "false", "item", "done", "body", "p", "received", "timeout", "x"]


def field_value(field: DataField) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(field.choices) or FITTING[field.kind])


@st.composite
def nodes(draw: st.DrawFn, step_id: str, wrong: int) -> Any:
    name = draw(st.sampled_from(sorted(SHAPES)))
    shape, data = SHAPES[name], {}
    for field in shape.fields:
        if field.required or field.name in shape.one_of[:1] or draw(st.integers(0, 3)) == 0:
            data[field.name] = draw(field_value(field))
    node: dict[str, Any] = {"id": step_id, "type": name, "data": data}
    if draw(st.integers(0, 9)) == 0:
        node["policy"] = draw(st.sampled_from([{}, {"retry": {"max_attempts": 2}}, {"effect": "pure"}, None]))
    if wrong and draw(st.integers(0, 5)) == 0:
        place = draw(st.sampled_from([node, data]))
        place[draw(st.sampled_from([*place, "zz"]))] = draw(JUNK)
    return draw(JUNK) if wrong and draw(st.integers(0, 30)) == 0 else node


@st.composite
def payloads(draw: st.DrawFn, wrong: int) -> dict[str, Any]:
    count = draw(st.integers(0, len(NAMES)))
    steps = [draw(nodes(name, wrong)) for name in NAMES[:count]]
    edges: list[Any] = []
    for _ in range(draw(st.integers(0, 10)) if count else 0):
        source, target = sorted((draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))))
        if source == target and not wrong:
            continue
        edge: Any = {"source": NAMES[source], "target": NAMES[target]}
        ports = PORTS
        if not wrong:
            shape = SHAPES[steps[source]["type"]]
            ports = ["", *(shape.ports or ()), "error"]
        edge["sourceHandle"] = draw(st.sampled_from(ports)) or None
        edges.append(draw(JUNK) if wrong and draw(st.integers(0, 20)) == 0 else edge)
    payload: dict[str, Any] = {"language": 2, "nodes": steps, "edges": edges}
    if wrong and draw(st.integers(0, 5)) == 0:
        payload[draw(st.sampled_from(["nodes", "edges", "inputs", "workflow_id", "language"]))] = draw(JUNK)
    return payload


def check_plan(plan: Plan) -> None:
    """What a coordinator relies on."""
    Program(plan.control())  # its own checks of a plan
    place = {step: segment.index for segment in plan.segments for step in segment.steps}
    assert sorted(place) == [step.index for step in plan.steps]
    before = {segment.index: ancestors(plan, segment.index) for segment in plan.segments}
    bodies = {body.index: segment for segment in plan.segments if (body := body_of(plan, segment.body))}
    for segment in plan.segments:
        around = set()
        scope = segment.scope
        while scope:
            loop = bodies[scope]
            around |= {loop.index} | before[loop.index]
            scope = loop.scope
        for need in segment.needs:
            assert place[need] in before[segment.index] | around, "needs what does not come before"
        for edge in (plan.edges[at] for at in segment.edges_out):
            assert edge.source_segment == segment.index
            assert plan.segments[edge.target_segment].scope == segment.scope, "an edge leaves its scope"
        assert set(segment.error_edges) <= set(segment.edges_out)
        assert list(segment.steps) == sorted(segment.steps)
        if segment.policy is not None or segment.error_edges:
            assert all(plan.steps[at].step.policy is None for at in segment.steps[:-1])
        waits = [at for at in segment.steps if plan.steps[at].effect == "wait"]
        assert waits in ([], [segment.steps[0]]), "a wait starts its segment"
        effects = [at for at in segment.steps if plan.steps[at].effect in ("read", "write")]
        assert effects in ([], [segment.steps[-1]]), "an effect ends its segment"
    for body in plan.bodies:
        assert body.segments, "a loop without a body"
        assert body.terminals
    assert bool(plan.terminals) == bool(plan.steps)


def body_of(plan: Plan, index: int | None) -> Any:
    return None if index is None else next(body for body in plan.bodies if body.index == index)


def ancestors(plan: Plan, index: int) -> set[int]:
    found: set[int] = set()
    stack = [index]
    while stack:
        for at in plan.segments[stack.pop()].edges_in:
            source = plan.edges[at].source_segment
            if source not in found:
                found.add(source)
                stack.append(source)
    assert index not in found, "a cycle of segments"
    return found


def try_payload(payload: Any) -> None:
    with contextlib.suppress(LoadError):
        plan = compile_plan(load(payload))
        if plan.level == 2:
            check_plan(plan)


@settings(max_examples=400, deadline=None)
@given(payloads(0))
def test_a_payload_of_right_parts_gives_a_plan_that_holds_together_or_a_problem(
    payload: dict[str, Any],
) -> None:
    try_payload(payload)


@settings(max_examples=400, deadline=None)
@given(payloads(1))
def test_a_payload_with_wrong_parts_raises_nothing_but_a_load_error(payload: dict[str, Any]) -> None:
    try_payload(json.dumps(payload))


@settings(max_examples=200, deadline=None)
@given(payloads(1), st.data())
def test_a_payload_with_damaged_bytes_raises_nothing_but_a_load_error(
    payload: dict[str, Any], data: st.DataObject
) -> None:
    text = bytearray(json.dumps(payload).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try_payload(bytes(text))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_a_load_error(data: bytes) -> None:
    try_payload(b'{"language":2,"nodes":' + data)
