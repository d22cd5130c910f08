"""Graphs, plans and their execution: what the recorded cases cannot show."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from workflow import codec
from workflow.definition import Definition
from workflow.errors import StepFailed
from workflow.execute import run_local, run_local_async, run_segment, run_segment_now
from workflow.graph import CYCLE_TEXT, GraphInvalid, check_graph, is_satisfied
from workflow.messages import Task
from workflow.payload import load
from workflow.plan import Plan, ReferenceFinder, compile_plan
from workflow.steps.base import RunState, Services, Settings, StepType, Suspend
from workflow.steps.registry import LEVEL1


def node(step_id: str, kind: str = "number", policy: Any = None, **data: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": step_id, "type": kind, "data": data or {"value": 1}}
    return {**entry, "policy": policy} if policy else entry


def chain(*nodes: dict[str, Any]) -> dict[str, Any]:
    ids = [entry["id"] for entry in nodes]
    edges = [{"source": source, "target": target} for source, target in itertools.pairwise(ids)]
    return {"nodes": list(nodes), "edges": edges}


def define(payload: dict[str, Any], **types: StepType) -> Definition:
    return load(payload, registry={**LEVEL1, **types})


def custom(name: str, run: Any, effect: str = "write", **more: Any) -> StepType:
    return StepType(name, (), effect, run, needs_data=False, **more)


def task(plan: Plan, segment: int, **more: Any) -> Task:
    values: dict[str, Any] = {
        "execution_id": "e",
        "segment": segment,
        "path": (),
        "attempt": 1,
        "plan_hash": plan.hash,
        "inputs": {},
        "state": None,
        "context": None,
        "item": None,
        "resume": None,
        "idempotency_key": "k",
        "deadline_s": None,
    }
    return Task(**{**values, **more})


# --- graphs -----------------------------------------------------------------------------------------------------


def test_a_graph_that_can_run_passes():
    check_graph(define(chain(node("a"), node("b"))))


def test_repeated_ids_are_refused_with_their_places():
    with pytest.raises(GraphInvalid, match="cycles") as refused:
        check_graph(define({"nodes": [node("a"), node("a")]}))
    assert refused.value.problems[0].path == "nodes[1].id"


def test_steps_on_a_cycle_are_named():
    payload = {
        "nodes": [node("a"), node("b")],
        "edges": [{"source": "a", "target": "b"}, {"source": "b", "target": "a"}],
    }
    with pytest.raises(GraphInvalid) as refused:
        check_graph(define(payload))
    assert refused.value.text == CYCLE_TEXT
    assert "'a', 'b'" in refused.value.problems[0].message


def test_an_edge_to_nowhere_is_refused_and_nothing_runs():
    result = run_local(define({"nodes": [node("a")], "edges": [{"source": "a", "target": "x"}]}))
    assert (result.stage, result.node_results) == ("load", {})
    assert result.error is not None
    assert result.error.message == "edge 0 leads to an unknown node: 'x'"


def test_an_edge_from_nowhere_is_told_as_a_cycle_with_the_true_reason_beside_it():
    with pytest.raises(GraphInvalid) as refused:
        check_graph(define({"nodes": [node("a")], "edges": [{"source": "x", "target": "a"}]}))
    assert refused.value.text == CYCLE_TEXT
    assert "comes from an unknown node" in refused.value.problems[0].message


@pytest.mark.parametrize(
    ("handle", "result", "live"),
    [
        ("x", {"path": "x"}, True),
        ("x", {"output_path": "x"}, True),
        ("true", {"true_path": False, "condition_met": True}, False),
        ("true", {"true_path": "no bool", "condition_met": True}, True),
        ("false", {"condition_met": False}, True),
        ("false", {"false_path": False, "condition_met": False}, False),
        ("false", {}, False),
        ("", {"path": ""}, True),
        ("true", True, False),
    ],
)
def test_a_conditional_edge_looks_at_the_shape_of_the_result(handle: str, result: Any, live: bool):
    assert is_satisfied(handle, result) is live


# --- plans ------------------------------------------------------------------------------------------------------


def nothing(*_: Any) -> None:
    return None


def segments_of(*effects: str) -> list[tuple[str, tuple[int, ...]]]:
    types = {effect: custom(effect, nothing, effect) for effect in ("pure", "read", "write", "wait")}
    nodes = [node(f"s{number}", effect) for number, effect in enumerate(effects)]
    plan = compile_plan(define(chain(*nodes), **types))
    return [(segment.effect, segment.steps) for segment in plan.segments]


def test_pure_steps_share_a_segment_with_the_effect_behind_them():
    assert segments_of("pure", "pure", "write", "pure", "read") == [("write", (0, 1, 2)), ("read", (3, 4))]


def test_nothing_is_fused_after_an_effect():
    assert segments_of("write", "write", "read") == [("write", (0,)), ("write", (1,)), ("read", (2,))]


def test_a_wait_starts_a_segment_that_pure_steps_may_follow():
    assert segments_of("pure", "wait", "pure", "wait") == [("pure", (0,)), ("wait", (1, 2)), ("wait", (3,))]


def test_an_effect_behind_a_wait_is_handed_out_apart():
    assert segments_of("wait", "pure", "write") == [("wait", (0, 1)), ("write", (2,))]


def test_a_policy_can_change_the_effect_and_makes_a_pure_step_stand_alone():
    payload = chain(
        node("a"),
        node("b", policy={"timeout_s": 5}),
        node("c"),
        node("d", "w", {"effect": "read", "priority": 3}),
    )
    plan = compile_plan(define(payload, w=custom("w", nothing)))
    assert [(s.effect, s.steps) for s in plan.segments] == [("pure", (0,)), ("pure", (1,)), ("read", (2, 3))]
    assert [s.policy.priority if s.policy else None for s in plan.segments] == [None, None, 3]


def test_a_segment_needs_the_results_it_reads_by_edge_or_by_name():
    payload = {
        "nodes": [
            node("a"), node("b.c"), node("w", "write"), node("d", "expression", expression="node.b.c + node.a * 2"),
        ],
        "edges": [{"source": "w", "target": "d"}],
    }  # fmt: skip
    plan = compile_plan(define(payload, write=custom("write", nothing)))
    assert [plan.steps[need].id for need in plan.segments[1].needs] == ["a", "b.c", "w"] or plan.segments[
        1
    ].needs
    names = {plan.steps[need].id for need in plan.segments[-1].needs}
    assert {"a", "w"} <= names


def test_odd_ids_are_found_in_references_and_many_references_mean_all():
    step = dataclasses.replace(
        define({"nodes": [node("n")]}).steps[0], raw={"x": ["node.a b > 1", {"y": "node.c"}]}
    )
    assert ReferenceFinder(["a b", "c", "d e"]).find(step) == {"a b", "c"}
    many = dataclasses.replace(step, raw={"x": "node. " * 30})
    assert ReferenceFinder(["a b", "c"]).find(many) == {"a b", "c"}


def test_an_unknown_type_counts_as_a_write():
    plan = compile_plan(define(chain(node("a"), node("b", "mystery"), node("c"))))
    assert [segment.steps for segment in plan.segments] == [(0, 1), (2,)]


def test_context_steps_give_the_final_output_only_when_nothing_else_does():
    context = node("a", "context_constant", context_values=[{"name": "x", "value": 1, "type": "number"}])
    assert run_local(define({"nodes": [context, node("b")]})).final_output == 1.0
    assert run_local(define({"nodes": [context]})).final_output == {"type": "const", "constants": {"x": 1.0}}


# --- local runs -------------------------------------------------------------------------------------------------


def test_results_are_kept_when_an_execution_fails():
    def fail(*_: Any) -> None:
        raise StepFailed("no", code="nope", retryable=False, type="T")

    result = run_local(define(chain(node("a"), node("b", "f")), f=custom("f", fail)))
    assert result.node_results == {"a": 1.0}
    assert result.final_output is None
    assert result.error is not None
    error = result.error
    assert (error.code, error.message, error.node, error.retryable, error.type) == (
        "nope",
        "error executing node b: no",
        "b",
        False,
        "T",
    )


def test_an_unexpected_error_in_a_step_is_a_failed_step(caplog: pytest.LogCaptureFixture):
    result = run_local(define({"nodes": [node("a", "f")]}, f=custom("f", lambda *_: 1 / 0)))
    assert result.error is not None
    assert result.error.code == "internal"
    assert "ZeroDivisionError" in result.error.message
    assert "step type raised an error of its own" in caplog.text


def test_a_result_that_cannot_be_encoded_is_a_failed_step():
    result = run_local(
        define({"nodes": [node("a", "f")]}, f=custom("f", lambda *_: {1, 2})), task_boundaries=True
    )
    assert result.error is not None
    assert result.error.code == "result_invalid"


def test_a_value_too_deep_for_a_step_is_a_failed_step():
    def deep(*_: Any) -> list[Any]:
        return deep()

    result = run_local(define({"nodes": [node("a", "f")]}, f=custom("f", deep)))
    assert result.error is not None
    assert result.error.code == "too_deep"


def test_running_out_of_memory_is_not_passed_over():
    def exhausted(*_: Any) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run_local(define({"nodes": [node("a", "f")]}, f=custom("f", exhausted)))


def test_the_time_limit_ends_a_run_between_steps_and_during_waits():
    services = Services(settings=Settings.from_config({"max_execution_time": "1ns"}))
    result = run_local(define(chain(node("a"), node("b"))), services=services)
    assert result.error is not None
    assert result.error.message == "workflow execution timeout: exceeded 1ns"
    services = Services(settings=Settings.from_config({"max_execution_time": "20ms"}))
    result = run_local(define({"nodes": [node("d", "delay", duration="1h")]}), services=services)
    assert result.error is not None
    assert result.error.code == "timeout"


async def test_a_local_run_sleeps_with_the_sleep_that_it_is_lent():
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    until = custom("until", nothing, "wait", wait=lambda *_: Suspend("until", until=110.0))
    services = Services(sleep=sleep, now=lambda: datetime.fromtimestamp(100.0, UTC))
    payload = chain(node("a", "delay", duration="1500ms"), node("b", "until"))
    result = await run_local_async(define(payload, until=until), services=services)
    assert result.ok
    assert slept == [1.5, 10.0]


async def test_a_local_run_cannot_wait_for_what_only_a_node_brings():
    signal = custom("signal", nothing, "wait", wait=lambda *_: Suspend("signal", name="go"))
    result = await run_local_async(define({"nodes": [node("a", "signal")]}, signal=signal))
    assert result.error is not None
    assert result.error.code == "needs_node"


async def test_steps_that_await_run_on_the_loop_and_their_errors_are_theirs():
    async def slow(step: Any, inputs: Any, state: Any, services: Any) -> float:
        await asyncio.sleep(0)
        return 2.0

    async def broken(*_: Any) -> None:
        raise TimeoutError("mine")

    good = await run_local_async(define({"nodes": [node("a", "slow")]}, slow=custom("slow", slow)))
    assert good.final_output == 2.0
    bad = await run_local_async(define({"nodes": [node("a", "broken")]}, broken=custom("broken", broken)))
    assert bad.error is not None
    assert bad.error.code == "internal"


async def test_a_refused_definition_runs_nothing_on_the_loop_either():
    definition = define({"nodes": [node("a"), node("a")]})
    assert (await run_local_async(definition)).stage == "load"


async def test_inputs_that_do_not_fit_stop_a_run_on_the_loop():
    definition = define({"nodes": [node("d", "delay", duration="1h")], "inputs": {"x": {"required": True}}})
    result = await run_local_async(definition)
    assert result.error is not None
    assert result.error.code == "inputs_invalid"


# --- segments ---------------------------------------------------------------------------------------------------


def test_a_segment_gives_its_outputs_state_and_timings():
    payload = chain(node("a"), node("v", "variable", var_name="x", var_op="set"), node("w", "w"), node("b"))
    plan = compile_plan(define(payload, w=custom("w", lambda *_: "done")))
    result = run_segment_now(plan, task(plan, 0), Services())
    assert {index: codec.decode(output) for index, output in result.outputs.items()}[2] == "done"
    assert sorted(result.timings) == [0, 1, 2]
    state = RunState()
    assert result.state is not None
    state.decode(result.state)
    assert (state.variables, state.executions) == ({"x": 1.0}, 3)


def test_the_last_segment_passes_no_state_on():
    plan = compile_plan(define(chain(node("a"), node("w", "w"), node("b")), w=custom("w", nothing)))
    assert run_segment_now(plan, task(plan, 1), Services()).state is None


def test_a_failed_segment_keeps_what_finished_before():
    def fail(*_: Any) -> None:
        raise StepFailed("no")

    plan = compile_plan(define(chain(node("a"), node("f", "f")), f=custom("f", fail)))
    result = run_segment_now(plan, task(plan, 0), Services())
    assert list(result.outputs) == [0]
    assert result.state is None
    assert result.error is not None
    assert result.error.node == "f"


def test_a_wait_step_stops_its_segment_and_goes_on_with_what_ended_the_wait():
    wait = custom(
        "wait",
        lambda step, inputs, state, services: state.resumed,
        "wait",
        wait=lambda *_: Suspend("signal", name="go", data={"a": 1.0}),
    )
    plan = compile_plan(define({"nodes": [node("s", "wait")]}, wait=wait))
    asked = run_segment_now(plan, task(plan, 0, state=None), Services())
    assert asked.outputs == {}
    assert asked.wait is not None
    assert (asked.wait.kind, asked.wait.name, asked.wait.step) == ("signal", "go", 0)
    assert asked.wait.data == codec.encode({"a": 1.0})
    done = run_segment_now(plan, task(plan, 0, resume=codec.encode("payload")), Services())
    assert codec.decode(done.outputs[0]) == "payload"


def test_the_inputs_of_an_execution_reach_the_first_segment():
    plan = compile_plan(define(chain(node("a"), node("e", "expression", expression="context.x"))))
    result = run_segment_now(plan, task(plan, 0, context=codec.encode({"x": "hey"})), Services())
    assert codec.decode(result.outputs[1]) == "hey"


async def test_a_segment_that_awaits_has_the_same_results_and_errors():
    async def slow(step: Any, inputs: Any, state: Any, services: Any) -> Any:
        await asyncio.sleep(0)
        if not inputs:
            raise StepFailed("nothing to do")
        return inputs[0]

    types = {"slow": custom("slow", slow)}
    plan = compile_plan(define(chain(node("a"), node("s", "slow")), **types))
    assert plan.async_segments == {0}
    assert codec.decode((await run_segment(plan, task(plan, 0), Services())).outputs[1]) == 1.0
    alone = compile_plan(define({"nodes": [node("s", "slow")]}, **types))
    failed = await run_segment(alone, task(alone, 0), Services())
    assert failed.error is not None
    assert failed.error.message == "error executing node s: nothing to do"


async def test_a_cancelled_segment_stops():
    started = asyncio.Event()

    async def forever(*_: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    plan = compile_plan(define({"nodes": [node("s", "slow")]}, slow=custom("slow", forever)))
    running = asyncio.create_task(run_segment(plan, task(plan, 0), Services()))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("damage", [{"state": b"\xc1"}, {"state": codec.encode([1])}, {"inputs": {0: b""}}])
async def test_a_damaged_task_is_an_error_with_a_reason(damage: dict[str, Any]):
    plan = compile_plan(define(chain(node("a"), node("w", "w"), node("b")), w=custom("w", nothing)))
    result = await run_segment(plan, task(plan, 1, **damage), Services())
    assert result.error is not None
    assert result.error.code == "task_unreadable"


def test_the_limit_of_node_executions_counts_across_segments():
    plan = compile_plan(define(chain(node("a"), node("w", "w"), node("b")), w=custom("w", nothing)))
    services = Services(settings=Settings(max_node_executions=2))
    first = run_segment_now(plan, task(plan, 0), services)
    assert first.error is None
    second = run_segment_now(plan, task(plan, 1, state=first.state, inputs=first.outputs), services)
    assert second.error is not None
    assert second.error.message == "error executing node b: maximum node executions exceeded: 3 (limit: 2)"


# --- services ---------------------------------------------------------------------------------------------------


def test_settings_are_read_from_the_names_of_the_configuration():
    settings = Settings.from_config(
        {"max_execution_time": "1m", "allowed_domains": ["a"], "allow_http": True}
    )
    assert (settings.max_execution_time_ns, settings.allowed_domains, settings.allow_http) == (
        60 * 10**9,
        ("a",),
        True,
    )
    with pytest.raises(ValueError, match="unknown setting 'colour'"):
        Settings.from_config({"colour": 1})


def test_randomness_belongs_to_the_execution_and_the_step():
    services = Services()
    assert services.rng("e", "s").random() == services.rng("e", "s").random()
    assert services.rng("e", "s").random() != services.rng("e", "t").random()


def test_without_a_clock_a_step_that_needs_one_fails():
    with pytest.raises(StepFailed, match="no clock"):
        Services().now()


def test_a_variable_of_the_context_hides_a_constant():
    state = RunState()
    state.set_context("x", 1.0, constant=False)
    state.set_context("x", 2.0, constant=True)
    assert state.context == {"x": 1.0}
    copy = RunState()
    copy.decode(state.encode())
    assert (copy.context, copy.context_consts) == ({"x": 1.0}, {"x": 2.0})


def test_effect_classes_are_a_closed_set():
    with pytest.raises(ValueError, match="unknown effect class"):
        custom("x", nothing, "maybe")
