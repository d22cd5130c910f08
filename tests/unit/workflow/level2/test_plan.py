"""The planner of level 2: scopes, guards, references, shared state, segments."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from workflow.definition import LoadError
from workflow.level2.plan import ITEM, gather, gather_guarded
from workflow.messages import SegmentPlan
from workflow.payload import load
from workflow.plan import Plan, compile_plan
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1


def node(step_id: str, kind: str = "log", *, policy: Any = None, **data: Any) -> dict[str, Any]:
    defaults = {"log": {"message": "x"}, "number": {"value": 1}}
    found: dict[str, Any] = {"id": step_id, "type": kind, "data": {**defaults.get(kind, {}), **data}}
    return found if policy is None else {**found, "policy": policy}


def edges(*pairs: str) -> list[dict[str, str]]:
    """`"a>b"`, or `"a.port>b"`."""
    found = []
    for pair in pairs:
        source, _, target = pair.partition(">")
        source, _, port = source.partition(".")
        found.append({"source": source, "target": target} | ({"sourceHandle": port} if port else {}))
    return found


OWN = {
    name: StepType(name, (), effect, lambda *_: None, needs_data=False)
    for name, effect in (("reader", "read"), ("writer", "write"))
}


def plan_of(nodes: list[dict[str, Any]], *pairs: str) -> Plan:
    payload = {"language": 2, "nodes": nodes, "edges": edges(*pairs)}
    return compile_plan(load(payload, registry={**LEVEL1, **OWN}))


def segments(plan: Plan) -> list[list[str]]:
    return [[plan.steps[at].id for at in segment.steps] for segment in plan.segments]


def segment_of(plan: Plan, step_id: str) -> SegmentPlan:
    index = next(step.index for step in plan.steps if step.id == step_id)
    return next(segment for segment in plan.segments if index in segment.steps)


def problems(nodes: list[dict[str, Any]], *pairs: str) -> dict[str, str]:
    with pytest.raises(LoadError) as refused:
        plan_of(nodes, *pairs)
    assert refused.value.code == "workflow_graph_invalid"
    return {problem.path: problem.message for problem in refused.value.problems}


# --- segments


def test_a_chain_of_pure_steps_is_one_segment_and_an_effect_ends_it() -> None:
    plan = plan_of([node(name) for name in "ab"] + [node("w", "writer"), node("c")], "a>b", "b>w", "w>c")
    assert segments(plan) == [["a", "b", "w"], ["c"]]
    assert [segment.effect for segment in plan.segments] == ["write", "pure"]


def test_steps_that_nothing_orders_are_segments_of_their_own() -> None:
    plan = plan_of([node(name) for name in "abcd"], "a>b", "a>c", "b>d", "c>d")
    assert segments(plan) == [["a"], ["b"], ["c"], ["d"]]
    assert plan.segments[3].needs == (1, 2)


def test_a_wait_starts_a_segment_and_pure_steps_may_follow_it() -> None:
    plan = plan_of(
        [node("a"), node("w", "delay", duration=1), node("b"), node("r", "reader")], "a>w", "w>b", "b>r"
    )
    assert segments(plan) == [["a"], ["w", "b"], ["r"]]


@pytest.mark.parametrize("policy", [{"timeout_s": 5}, {"priority": 1}])
def test_a_step_with_a_policy_stands_alone(policy: dict[str, Any]) -> None:
    plan = plan_of([node("a"), node("b", policy=policy), node("c")], "a>b", "b>c")
    assert segments(plan) == [["a"], ["b"], ["c"]]
    assert [segment.policy is not None for segment in plan.segments] == [False, True, False]


def test_a_step_with_an_error_edge_is_the_last_of_its_segment() -> None:
    plan = plan_of([node("a"), node("b"), node("c"), node("h")], "a>b", "b>c", "b.error>h")
    assert segments(plan) == [["a", "b"], ["c"], ["h"]]
    (error,) = plan.segments[0].error_edges
    assert segments(plan)[plan.edges[error].target_segment] == ["h"]


@pytest.mark.parametrize(
    ("data", "policy", "effect"),
    [
        ({}, None, "read"),
        ({"method": "HEAD"}, None, "read"),
        ({"method": "POST"}, None, "write"),
        ({"method": "{{ inputs.m }}"}, None, "write"),
        ({"method": "POST"}, {"effect": "read"}, "read"),
    ],
)
def test_the_effect_of_http_follows_its_method(data: dict[str, Any], policy: Any, effect: str) -> None:
    plan = plan_of([node("h", "http", url="https://example.com", policy=policy, **data)])
    assert plan.segments[0].effect == effect


def test_the_effect_of_a_task_is_that_of_the_step_it_runs() -> None:
    plan = plan_of([node("r", "task", step="reader"), node("w", "task", step="writer")])
    assert [segment.effect for segment in plan.segments] == ["read", "write"]


def test_the_end_is_what_no_edge_leaves_and_nobody_reads_context_steps_last() -> None:
    nodes = [
        node("a", "number"),
        node("c", "context_constant", context_name="x", context_value=1),
        node("z", "expression", expression="node.a"),
    ]
    plan = plan_of(nodes)
    assert [plan.steps[at].id for at in plan.terminals] == ["z", "a", "c"]


# --- ports


def test_a_port_that_nobody_produces_is_a_problem() -> None:
    found = problems([node("a", "condition", condition="true"), node("b")], "a.maybe>b")
    assert "no port 'maybe'; it has true, false, error" in found["edges[0].sourceHandle"]


def test_the_ports_of_a_switch_are_its_output_paths() -> None:
    cases = [{"when": "true", "output_path": "p"}, {"is_default": True}]
    nodes = [node("a", "switch", cases=cases), node("b")]
    plan_of(nodes, "a.p>b")
    plan_of(nodes, "a.default>b")
    assert "it has p, default, error" in problems(nodes, "a.q>b")["edges[0].sourceHandle"]


def test_the_port_of_a_try_catch_is_its_error_output_path() -> None:
    nodes = [node("a"), node("t", "try_catch", error_output_path="oops"), node("b")]
    plan_of(nodes, "a>t", "t.oops>b")
    assert (
        "no port"
        in problems([*nodes[:1], node("t", "try_catch"), node("b")], "a>t", "t.oops>b")[
            "edges[1].sourceHandle"
        ]
    )


# --- loops


def each(step_id: str = "each") -> dict[str, Any]:
    return node(step_id, "for_each")


def test_the_body_of_a_loop_is_a_scope_and_done_is_the_unnamed_port() -> None:
    nodes = [node("a"), each(), node("b"), node("c"), node("d")]
    plan = plan_of(nodes, "a>each", "each.item>b", "b>c", "each.done>d")
    (body,) = plan.bodies
    assert segment_of(plan, "each").body == body.index == segment_of(plan, "b").scope
    assert [plan.steps[at].id for at in body.terminals] == ["c"]
    assert segment_of(plan, "d").scope == 0
    assert segment_of(plan, "d") is segment_of(plan, "each")
    assert segment_of(plan, "b").edges_in == ()
    assert plan.steps[segment_of(plan, "b").steps[0]].sources == ((ITEM, None),)


def test_loops_nest() -> None:
    nodes = [node("a"), each("o"), each("i"), node("x"), node("y"), node("z")]
    plan = plan_of(nodes, "a>o", "o.item>i", "i.item>x", "i>y", "o>z")
    outer, inner = segment_of(plan, "o").body, segment_of(plan, "i").body
    assert segment_of(plan, "i").scope == outer == segment_of(plan, "y").scope
    assert segment_of(plan, "x").scope == inner
    assert segment_of(plan, "z").scope == 0


@pytest.mark.parametrize(
    "pairs",
    [
        ("a>each", "each.item>b", "b>c", "each>c"),
        ("a>each", "each.item>b", "b>c", "a>c"),
        ("a>each", "each.item>b", "a>b"),
    ],
)
def test_an_edge_across_the_border_of_a_body_is_a_problem(pairs: tuple[str, ...]) -> None:
    found = problems([node("a"), each(), node("b"), node("c")], *pairs)
    (text,) = found.values()
    assert "the border of a loop's body" in text


def test_a_body_that_leads_back_to_its_loop_is_a_problem() -> None:
    assert "leads back to it" in problems([each(), node("b")], "each.item>b", "b>each")["nodes[0]"]


def test_a_loop_without_a_body_is_a_problem() -> None:
    assert "no step stands behind the 'item' port" in problems([each(), node("b")], "each>b")["nodes[0]"]


def test_loops_nest_sixteen_deep_and_no_deeper() -> None:
    def nest(count: int) -> tuple[list[dict[str, Any]], list[str]]:
        nodes = [each(f"e{at}") for at in range(count)] + [node("x")]
        ids = [entry["id"] for entry in nodes]
        return nodes, [f"{a}.item>{b}" for a, b in itertools.pairwise(ids)]

    nodes, pairs = nest(16)
    assert len(plan_of(nodes, *pairs).bodies) == 16
    nodes, pairs = nest(17)
    assert "over 16 deep" in problems(nodes, *pairs)["nodes[16]"]


# --- guards


def test_guards_become_the_policy_of_the_step_that_they_watch() -> None:
    nodes = [
        node("w", "writer"),
        node("r", "retry", max_attempts=5, initial_delay="2s", max_delay=60, backoff_strategy="linear"),
        node("t", "timeout", timeout="1m"),
        node("c", "try_catch"),
        node("end"),
    ]
    plan = plan_of(nodes, "w>r", "r>t", "t>c", "c>end")
    policy = segment_of(plan, "w").policy
    assert policy is not None
    assert policy.timeout_s == 60
    assert policy.retry is not None
    assert (policy.retry.max_attempts, policy.retry.initial_interval_s, policy.retry.backoff) == (
        5,
        2,
        "linear",
    )
    assert (policy.retry.max_interval_s, policy.retry.multiplier) == (60, 1)
    for step_id in "wrt":
        assert len(segment_of(plan, step_id).error_edges) == 1, "what is caught further on goes on"
    assert segment_of(plan, "c").error_edges == ()


def test_guards_on_two_branches_watch_the_same_step() -> None:
    nodes = [node("w", "writer"), node("r", "retry"), node("c", "try_catch"), node("t", "timeout", timeout=5)]
    policy = segment_of(plan_of(nodes, "w>r", "w>c", "c>t"), "w").policy
    assert policy is not None
    assert policy.retry is not None
    assert policy.timeout_s == 5


def test_without_a_guard_that_catches_the_failure_is_not_handled() -> None:
    plan = plan_of([node("w", "writer"), node("r", "retry"), node("t", "timeout", timeout=5)], "w>r", "r>t")
    assert segment_of(plan, "w").error_edges == ()
    caught = plan_of([node("w", "writer"), node("t", "timeout", timeout=5, timeout_action="go on")], "w>t")
    assert len(segment_of(caught, "w").error_edges) == 1


@pytest.mark.parametrize(
    ("nodes", "pairs", "message"),
    [
        ([node("g", "retry")], (), "0 edges lead here"),
        ([node("a"), node("b"), node("g", "retry")], ("a>g", "b>g"), "2 edges lead here"),
        ([node("a", "condition", condition="true"), node("g", "retry")], ("a.true>g",), "unnamed port"),
        ([node("a"), node("g", "try_catch")], ("a.error>g",), "unnamed port"),
        ([node("a"), node("q", "retry"), node("g", "retry")], ("a>q", "q>g"), "watched by two retry steps"),
        ([node("a"), node("q", "retry"), node("g", "retry")], ("a>q", "a>g"), "watched by two retry steps"),
        ([node("a", policy={"retry": {}}), node("g", "retry")], ("a>g",), "exclude each other"),
        (
            [node("a", policy={"timeout_s": 1}), node("g", "timeout", timeout=1)],
            ("a>g",),
            "exclude each other",
        ),
    ],
)
def test_a_guard_that_cannot_watch_is_a_problem(
    nodes: list[Any], pairs: tuple[str, ...], message: str
) -> None:
    found = problems(nodes, *pairs)
    assert any(message in text for text in found.values())


# --- references


def test_a_reference_orders_two_steps_and_brings_the_result() -> None:
    plan = plan_of([node("z", "number"), node("a", "expression", expression="node.z + 1")])
    (edge,) = plan.edges
    assert edge.kind == "order"
    assert [plan.steps[at].id for at in segment_of(plan, "a").needs] == ["z"]


def test_a_reader_runs_also_when_the_step_that_it_reads_is_skipped() -> None:
    nodes = [
        node("c", "condition", condition="false"),
        node("z", "number"),
        node("a", "expression", expression="node.z ?? 7"),
    ]
    plan = plan_of(nodes, "c.true>z")
    assert segment_of(plan, "z") is not segment_of(plan, "a")


def test_a_template_is_a_reference_too() -> None:
    plan = plan_of([node("z", "number"), node("a", message="it is {{ node.z }}")])
    assert [edge.kind for edge in plan.edges] == ["order"]


def test_a_body_reads_outside_steps_and_its_loop_waits_for_them() -> None:
    nodes = [node("rate", "number"), each(), node("b", "expression", expression="node.rate * item")]
    plan = plan_of(nodes, "each.item>b")
    (edge,) = plan.edges
    assert (edge.kind, edge.target_segment) == ("order", segment_of(plan, "each").index)
    assert [plan.steps[at].id for at in segment_of(plan, "b").needs] == ["rate"]


@pytest.mark.parametrize(
    ("expression", "pairs", "message"),
    [
        ("node.nobody", (), "there is no step"),
        ("node.x", (), "cannot see its own result"),
        ("node.late", ("x>late",), "runs after this step"),
        ("node.later", ("x>late", "late>later"), "runs after this step"),
        ("node.inside", ("each.item>inside",), "stands inside the loop 'each'"),
    ],
)
def test_a_reference_to_what_cannot_have_run_is_a_problem(
    expression: str, pairs: tuple[str, ...], message: str
) -> None:
    nodes = [
        node("x", "expression", expression=expression),
        node("late"),
        node("later"),
        each(),
        node("inside"),
    ]
    if "each.item>inside" not in pairs:
        nodes = nodes[:3]
    assert message in problems(nodes, *pairs)["nodes[0].data"]


def test_a_body_cannot_read_the_result_of_its_own_loop() -> None:
    found = problems([each(), node("b", "expression", expression="node.each")], "each.item>b")
    assert "the loop around this step has no result yet" in found["nodes[1].data"]


def test_two_steps_that_read_each_other_are_a_problem() -> None:
    nodes = [node("a", "expression", expression="node.b"), node("b", "expression", expression="node.a")]
    assert "wait for each other" in problems(nodes)["nodes"]


def test_a_cycle_is_a_problem_in_the_words_of_level_1() -> None:
    found = problems([node("a"), node("b")], "a>b", "b>a")
    assert found["edges"].startswith("workflow contains cycles (circular dependencies)")


# --- shared state


def keep(step_id: str, name: str = "v") -> dict[str, Any]:
    return node(step_id, "variable", var_name=name, var_op="set")


def read(step_id: str, name: str = "v") -> dict[str, Any]:
    return node(step_id, "variable", var_name=name, var_op="get")


@pytest.mark.parametrize(
    "second",
    [keep("b"), read("b"), node("b", "expression", expression="variables.v"), node("b", message="{{ variables.v }}"),
     node("b", "expression", expression="keys(variables)")],
)  # fmt: skip
def test_two_steps_on_one_variable_need_a_path(second: dict[str, Any]) -> None:
    nodes = [node("a", "number"), keep("k"), second]
    assert "no path orders the two" in problems(nodes, "a>k", "a>b")["nodes[2]"]
    assert len(plan_of(nodes, "a>k", "k>b").steps) == 3


def test_different_variables_need_no_path_but_the_state_goes_from_one_to_the_next() -> None:
    plan = plan_of([node("a", "number"), keep("k", "v"), keep("l", "w")], "a>k", "a>l")
    assert [edge.kind for edge in plan.edges].count("order") == 1
    assert segment_of(plan, "k").shared_state
    assert segment_of(plan, "l").shared_state


def test_a_step_that_may_read_every_variable_needs_a_path_to_what_is_written_after_it() -> None:
    nodes = [
        node("a", "expression", expression="keys(variables)"),
        node("n", "number"),
        keep("k"),
        keep("l", "w"),
    ]
    assert "touched by 'a'" in problems(nodes, "n>k", "k>l")["nodes[2]"]
    plan_of(nodes, "a>n", "n>k", "n>l")


def test_reading_another_name_needs_no_path() -> None:
    nodes = [node("a", "number"), keep("k"), node("b", "expression", expression="variables.other ?? 1")]
    plan_of(nodes, "a>k", "a>b")


def test_counters_and_accumulators_are_one_for_all_steps() -> None:
    counters = [node("a", "counter", counter_op="get"), node("b", "counter", counter_op="increment")]
    assert "the counter" in problems(counters)["nodes[1]"]


def test_context_steps_conflict_by_name() -> None:
    def context(step_id: str, name: str) -> dict[str, Any]:
        return node(step_id, "context_constant", context_values=[{"name": name, "value": 1}])

    plan_of([context("a", "x"), context("b", "y")])
    assert "context 'x'" in problems([context("a", "x"), context("b", "x")])["nodes[1]"]
    reader = node("r", "expression", expression="context.x")
    assert "context 'x'" in problems([context("a", "x"), reader])["nodes[1]"]
    plan_of([context("a", "x"), node("r", "expression", expression="inputs.x")])


def test_a_loop_may_read_what_is_set_before_or_after_it_and_may_not_set_it() -> None:
    nodes = [
        node("n", "number"),
        keep("k"),
        each(),
        node("b", "expression", expression="variables.v"),
        keep("l"),
    ]
    plan = plan_of(nodes, "n>k", "k>each", "each.item>b", "each>l")
    assert segment_of(plan, "b").shared_state
    assert "all rounds of a loop at once" in problems([each(), keep("k")], "each.item>k")["nodes[1]"]
    loose = [node("n", "number"), keep("k"), each(), node("b", "expression", expression="variables.v")]
    assert "no path orders" in problems(loose, "n>k", "each.item>b")["nodes[1]"]


def test_without_anything_that_writes_no_state_travels() -> None:
    plan = plan_of([node("a", "expression", expression="context.x ?? 1"), read("b")])
    assert not any(segment.shared_state for segment in plan.segments)


# --- what a step gets


ERROR = {"error": {"code": "x", "message": "y"}, "failed_step": "a"}


def test_gather_follows_the_run_rule() -> None:
    assert gather((), {}) == []
    assert gather((("a", None),), {}) is None
    assert gather((("a", None), ("b", None)), {"b": 2.0}) == [2.0]
    met = {"path": "true"}
    assert gather((("a", "true"),), {"a": met}) == [met]
    assert gather((("a", "false"),), {"a": met}) is None


def test_a_failed_source_counts_at_its_error_port_only() -> None:
    assert gather((("a", None),), {"a": ERROR}) is None
    assert gather((("a", "error"),), {"a": ERROR}) == [ERROR]
    assert gather((("a", "error"),), {"a": 1.0}) is None
    assert gather((("a", None), ("b", None)), {"a": ERROR, "b": 1.0}) == [1.0]
    assert gather((("b", None),), {"b": ERROR}) == [ERROR], "an error value that was passed on is a value"


def test_a_guard_gets_the_failure_of_the_step_that_it_watches() -> None:
    assert gather_guarded((("a", None),), {"a": ERROR}) == [ERROR]
    assert gather_guarded((("a", None),), {"a": 1.0}) == [1.0]


# --- size


def test_large_workflows_are_planned_in_good_time() -> None:
    count = 3000
    nodes = [keep(f"k{at}", f"v{at % 7}") for at in range(count)]
    pairs = [f"k{at}>k{at + 1}" for at in range(count - 1)]
    started = time.process_time()
    plan_of(nodes, *pairs)
    assert time.process_time() - started < 5
