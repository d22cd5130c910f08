"""Level 1: whatever arrives is loaded or refused with a reason; a definition survives its canonical text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from workflow.definition import Definition, LoadError
from workflow.execute import run_local
from workflow.payload import load
from workflow.plan import compile_plan
from workflow.steps.base import Services
from workflow.steps.registry import LEVEL1
from workflow.values import to_json

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
SLOW = {"http", "retry", "delay", "rate_limiter", "throttle", "parallel"}
type_names = st.sampled_from(sorted(set(LEVEL1) - SLOW)) | st.text(max_size=5)
ids = st.sampled_from(["a", "b", "c", "d", "", "a.b", "é"])


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(type_names)
    names = [field.name for field in LEVEL1[kind].fields] if kind in LEVEL1 else ["x"]
    data = draw(st.dictionaries(st.sampled_from([*names, "label"]), json_values, max_size=5))
    return {"id": draw(ids), "type": kind, "data": data}


edges = st.fixed_dictionaries(
    {"source": ids, "target": ids}, optional={"sourceHandle": st.sampled_from([None, "true", "false", ""])}
)
payloads = st.fixed_dictionaries(
    {"nodes": st.lists(nodes(), max_size=5), "edges": st.lists(edges, max_size=5)},
    optional={"language": st.sampled_from([1, 3, "1"]), "inputs": json_values, "workflow_id": json_values},
)


def loaded(payload: str | bytes) -> Definition | None:
    """The definition; None when the payload is refused with a reason."""
    try:
        return load(payload)
    except LoadError as error:
        refusal = error
    assert refusal.text
    assert refusal.problems
    return None


@settings(max_examples=400, deadline=None)
@given(data=st.one_of(st.binary(max_size=80), json_values.map(lambda value: json.dumps(value).encode())))
def test_random_bytes_are_loaded_or_refused(data: bytes):
    loaded(data)


@settings(max_examples=400, deadline=None)
@given(payload=payloads)
def test_payloads_of_every_shape_run_or_are_refused(payload: dict[str, Any]):
    definition = loaded(json.dumps(payload))
    if definition is None:
        return
    again = load(definition.canonical)
    assert again.hash == definition.hash
    assert repr(again.steps) == repr(definition.steps)
    result = run_local(definition, services=Services(), task_boundaries=True)
    json.dumps(to_json(dict(result.node_results)), allow_nan=False)
    if result.error is not None:
        assert result.error.message
        assert result.error.code != "internal", result.error


@settings(max_examples=200, deadline=None)
@given(payload=payloads)
def test_plans_hand_out_every_step_once_and_only_after_what_it_needs(payload: dict[str, Any]):
    try:
        plan = compile_plan(load(json.dumps(payload)))
    except LoadError:
        return
    handed_out = [index for segment in plan.segments for index in segment.steps]
    assert sorted(handed_out) == list(range(len(plan.steps)))
    segment_of = {index: segment.index for segment in plan.segments for index in segment.steps}
    for edge in plan.edges:
        assert edge.source_segment < edge.target_segment
        assert edge.index in plan.segments[edge.source_segment].edges_out
        assert edge.index in plan.segments[edge.target_segment].edges_in
    for segment in plan.segments:
        assert all(segment_of[need] < segment.index for need in segment.needs)
        effects = [plan.steps[index].effect for index in segment.steps]
        assert all(effect == "pure" for effect in effects[1:-1])
        assert all(effect in ("pure", "wait") for effect in effects[:-1])
        assert "wait" not in effects[1:]
