"""Waits, guards, loops, fail and log: what they wait for, and what they make of how it ended."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.unit.workflow.level2.step_runs import resumed, run_step, wait_of
from workflow.level2.control import caught_error, error_value, run_retry, run_timeout, run_try_catch
from workflow.steps.base import RunState, Services, Step, StepFailed, Suspend

FAILURE = error_value("a", code="http_status", message="503", type="", attempts=3)
LATE = error_value("a", code="timeout", message="too slow", type="", attempts=1)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("delay", {"duration": "1.5s"}, Suspend("timer", duration_s=1.5)),
        ("delay", {"duration": 0}, None),
        ("delay", {"until": "2026-01-01T00:00:00Z"}, Suspend("until", until=1767225600.0)),
        ("delay", {"until": 5}, Suspend("until", until=5.0)),
        ("wait_signal", {"name": "paid-{{ input }}"}, Suspend("signal", name="paid-7")),
        ("wait_signal", {"name": "x", "timeout": "1m"}, Suspend("signal", duration_s=60.0, name="x")),
        ("approval", {}, Suspend("signal", name="approval:n")),
        ("approval", {"name": "ok", "timeout": 5}, Suspend("signal", duration_s=5.0, name="ok")),
        ("cache", {"cache_op": "get", "cache_key": "k"}, Suspend("cache_get", 300.0, name="k", data=7.0)),
        ("cache", {"cache_op": "set", "cache_key": "k", "ttl": 9}, Suspend("cache_set", 9.0, name="k", data=7.0)),
        ("rate_limiter", {"max_requests": 3, "per_duration": "2s"},
         Suspend("rate", name="rate_limiter:n", data={"count": 3.0, "window_s": 2.0})),
        ("throttle", {"requests_per_second": 4, "key": "k"},
         Suspend("rate", name="k", data={"count": 1.0, "window_s": 0.25})),
        ("sub_workflow", {"workflow_id": "w", "inputs": {"x": "{{ input }}"}},
         Suspend("child", name="w",
                 data={"workflow_id": "w", "version": None, "inputs": {"x": 7.0}, "on_cancel": "cancel"})),
    ],
)  # fmt: skip
def test_what_a_step_waits_for(kind: str, data: dict[str, Any], expected: Suspend | None) -> None:
    assert wait_of(kind, data, 7) == expected


@pytest.mark.parametrize(
    ("kind", "data", "inputs", "message"),
    [
        ("delay", {"until": "someday"}, (), "delay.until"),
        ("cache", {"cache_op": "set", "cache_key": "k"}, (), "requires an input"),
        ("for_each", {"items": "{{ 5 }}"}, (1,), "for_each needs an array"),
        ("for_each", {"max_iterations": 1}, ([1, 2],), "over its max_iterations of 1"),
        ("while_loop", {"condition": "input + 1"}, (1,), "true or false"),
    ],
)
def test_a_wait_that_cannot_be_said_fails(kind: str, data: Any, inputs: Any, message: str) -> None:
    # A loop needs a body to be planned: its functions are asked without one.
    with pytest.raises(StepFailed) as failed:
        (loop_wait if kind in ("for_each", "while_loop") else wait_of)(kind, data, *inputs)
    assert message in failed.value.text


def loop_step(kind: str, data: dict[str, Any]) -> tuple[Any, Step]:
    from workflow.level2.types import LEVEL2
    from workflow.payload import load

    definition = load({"language": 2, "nodes": [{"id": "n", "type": kind, "data": data}]})
    return LEVEL2[kind], definition.steps[0]


def loop_wait(kind: str, data: dict[str, Any], *inputs: Any) -> Suspend | None:
    step_type, step = loop_step(kind, data)
    found: Suspend | None = step_type.wait(step, list(inputs), RunState("e"), Services())
    return found


def loop_run(kind: str, data: dict[str, Any], state: RunState, *inputs: Any) -> Any:
    step_type, step = loop_step(kind, data)
    return step_type.run(step, list(inputs), state, Services())


def test_for_each_asks_for_its_bodies_and_collects() -> None:
    asked = loop_wait("for_each", {"max_concurrency": 3, "tolerated_failures": 1}, {"filtered": [1.0, 2.0]})
    assert asked == Suspend(
        "spawn", data={"items": [1.0, 2.0], "max_concurrency": 3, "tolerated_failures": 1, "carry": None}
    )
    assert loop_wait("for_each", {}, []) is None
    assert loop_run("for_each", {}, RunState("e"), [])["results"] == []
    got = loop_run("for_each", {}, resumed([None, [5, None], 1, "why"]), [1.0, 2.0])
    assert (got["results"], got["successful"], got["failed"], got["last_error"]) == ([5.0, None], 1, 1, "why")


def test_while_loop_asks_round_by_round_up_to_its_bound() -> None:
    data = {"condition": "input < 3", "max_iterations": 2}
    first = loop_wait("while_loop", data, 0.0)
    assert first is not None
    assert (first.data["items"], first.data["carry"]) == ([0.0], 1.0)
    assert loop_wait("while_loop", data, 3.0) is None
    assert loop_run("while_loop", data, RunState("e"), 3.0)["iterations"] == 0
    again = loop_run("while_loop", data, resumed([1, [2], 0, None]), 0.0)
    assert again.data["carry"] == 2.0
    assert loop_run("while_loop", data, resumed([2, [9], 0, None]), 0.0)["final_value"] == 9
    with pytest.raises(StepFailed, match="exceeded max iterations: 2"):
        loop_run("while_loop", data, resumed([2, [1], 0, None]), 0.0)


@pytest.mark.parametrize(
    ("kind", "data", "outcome", "expected"),
    [
        ("delay", {"duration": "1s"}, None, {"value": 7, "duration": "1s", "delayed": True}),
        ("delay", {"until": 5}, None, {"value": 7, "until": 5}),
        ("wait_signal", {"name": "x"}, {"payload": {"a": 1}}, {"payload": {"a": 1}, "path": "received"}),
        ("wait_signal", {"name": "x"}, None, {"payload": None, "timed_out": True, "path": "timeout"}),
        ("approval", {}, {"payload": {"approved": True, "by": "ann"}}, {"path": "approved", "by": "ann"}),
        ("approval", {}, {"payload": {"approved": "yes"}}, {"path": "rejected", "approved": False}),
        ("approval", {}, {"payload": 5}, {"path": "rejected", "by": None}),
        ("approval", {}, None, {"path": "timeout", "timed_out": True}),
        ("sub_workflow", {"workflow_id": "w"}, {"status": "completed", "final_output": 5, "execution_id": "x"},
         {"execution_id": "x", "status": "completed", "value": 5}),
        ("cache", {"cache_op": "get", "cache_key": "k"}, {"found": True, "value": 5}, {"found": True, "value": 5}),
        ("cache", {"cache_op": "get", "cache_key": "k"}, None, {"found": False, "value": None}),
        ("cache", {"cache_op": "set", "cache_key": "k"}, None, {"operation": "set", "value": 7}),
        ("cache", {"cache_op": "delete", "cache_key": "k"}, {"found": True}, {"deleted": True}),
        ("rate_limiter", {"max_requests": 3, "per_duration": "2s"}, None, {"value": 7, "max_requests": 3}),
        ("throttle", {"requests_per_second": 4}, None, {"value": 7, "throttled": True}),
    ],
)  # fmt: skip
def test_what_a_step_makes_of_the_end_of_its_wait(kind: str, data: Any, outcome: Any, expected: Any) -> None:
    got = run_step(kind, data, 7, state=resumed(outcome))
    assert {key: got[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(None, "sub_workflow_failed"), ({"status": "failed", "error": {"code": "mine", "message": "m"}}, "mine"),
     ({"status": "cancelled", "error": None}, "sub_workflow_failed")],
)  # fmt: skip
def test_a_sub_workflow_that_did_not_complete_fails_its_step(outcome: Any, code: str) -> None:
    with pytest.raises(StepFailed) as failed:
        run_step("sub_workflow", {"workflow_id": "w"}, state=resumed(outcome))
    assert failed.value.code == code


def guard(run: Any, value: Any, **data: Any) -> Any:
    return run(Step("g", "guard", data), [value], RunState("e"), Services())


def test_an_error_value_is_known_by_its_form() -> None:
    assert caught_error(FAILURE) == FAILURE["error"]
    for other in (5.0, {"error": {}}, {"error": "x", "failed_step": "a"}, {**FAILURE, "more": 1.0}):
        assert caught_error(other) is None


def test_guards_hand_on_a_value_and_fail_again_with_a_failure_that_is_not_theirs() -> None:
    assert guard(run_retry, 5.0) == {"value": 5.0, "success": True}
    assert guard(run_timeout, 5.0, timeout="1s")["timed_out"] is False
    assert guard(run_try_catch, 5.0) == {"value": 5.0, "error_caught": False}
    for again in (
        lambda: guard(run_retry, FAILURE),
        lambda: guard(run_timeout, FAILURE, timeout="1s", timeout_action="go on"),
        lambda: guard(run_timeout, LATE, timeout="1s"),
        lambda: guard(run_try_catch, FAILURE, continue_on_error=False),
    ):
        with pytest.raises(StepFailed) as failed:
            again()
        assert failed.value.code in ("http_status", "timeout")


def test_guards_that_catch() -> None:
    assert guard(run_timeout, LATE, timeout="1s", timeout_action="go on")["timed_out"] is True
    got = guard(run_try_catch, FAILURE, fallback_value=0.0, error_output_path="oops")
    assert (got["value"], got["error_caught"], got["error_message"], got["path"]) == (
        0.0,
        True,
        "503",
        "oops",
    )
    assert got["error"]["attempts"] == 3


def test_fail_fails_with_its_own_code_and_is_never_retried() -> None:
    with pytest.raises(StepFailed) as failed:
        run_step("fail", {"message": "no {{ input }}", "code": "mine"}, 7)
    assert (failed.value.text, failed.value.code, failed.value.retryable) == ("no 7", "mine", False)
    with pytest.raises(StepFailed, match="failed here"):
        run_step("fail", {})


def test_log_writes_a_line_and_hands_its_input_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "workflow.step"):
        assert run_step("log", {"message": "n is {{ input }}", "level": "warning"}, 7) == 7
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "n is 7")]
