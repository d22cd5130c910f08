"""Branching, loops and flow helpers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.workflow.steps.step_runs import run_step
from workflow.steps.base import EngineCrash, RunState, Services, Step, StepFailed
from workflow.steps.registry import LEVEL1


def case(when: str | None = None, path: str | None = None, default: bool = False) -> dict[str, Any]:
    return {"when": when, "output_path": path, "is_default": default}


def test_a_switch_takes_the_first_case_that_holds() -> None:
    cases = [case("isNull(x)", "a"), case(">5", "b"), case(">1", "c"), case(default=True)]
    assert run_step("switch", {"cases": cases}, 7.0)["output_path"] == "b"
    assert run_step("switch", {"cases": cases}, 2.0)["case_index"] == 2
    result = run_step("switch", {"cases": cases}, 0.0)
    assert (result["matched"], result["case"], result["output_path"]) == (False, "default", "default")


@pytest.mark.parametrize(
    ("cases", "problem"),
    [
        ([case("1", "a")], "switch node must have exactly one default case (found 0)"),
        (
            [case(default=True), case("1", "a")],
            "default case must be the last case in the array (found at index 0, but last index is 1)",
        ),
        (
            [case("1"), case("2", "b")],
            "case at index 0 must have output_path (non-default cases require output_path)",
        ),
    ],
)
def test_switch_cases_are_checked_at_load(cases: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        run_step("switch", {"cases": cases}, 1.0)
    assert str(caught.value) == problem


def test_a_condition_never_fails_on_its_expression_unless_it_would_have_killed_the_original() -> None:
    assert run_step("condition", {"condition": "isNull(missing)"}, 5.0)["path"] == "false"
    assert run_step("condition", {"condition": "> 4 apples"}, 5.0)["path"] == "true"
    with pytest.raises(EngineCrash):
        run_step("condition", {"condition": 'input == "'}, 5.0)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_parallel_limit_below_one_is_an_error(limit: int) -> None:
    with pytest.raises(EngineCrash, match="max_concurrency must be greater than 0"):
        run_step("parallel", {"max_concurrency": limit}, 1.0)


def test_loops_count_and_stop_at_their_limit() -> None:
    assert run_step("for_each", {"max_iterations": -5}, [1.0] * 1000)["iterations"] == 1000
    with pytest.raises(StepFailed, match="for_each exceeds max iterations: 1001 > 1000"):
        run_step("for_each", {}, [1.0] * 1001)
    with pytest.raises(StepFailed, match="while_loop exceeded max iterations: 7"):
        run_step("while_loop", {"condition": ">1", "max_iterations": 7}, 5.0)
    assert run_step("while_loop", {"condition": "input > 1"}, 5.0)["iterations"] == 0


@pytest.mark.parametrize(("text", "seconds"), [("1.5s", 1.5), ("1500", 1.5), ("0", None), ("-2s", None)])
def test_a_delay_asks_for_a_timer(text: str, seconds: float | None) -> None:
    wait = LEVEL1["delay"].wait
    assert wait is not None
    suspend = wait(Step("n", "delay", {"duration": text}), [], RunState(), Services())
    assert (suspend.duration_s if suspend else None) == seconds
    assert run_step("delay", {"duration": text}) == {"value": None, "duration": text, "delayed": True}


def test_repeat_refuses_what_could_not_be_passed_on() -> None:
    with pytest.raises(StepFailed, match="result too long"):
        run_step("text_operation", {"text_op": "repeat", "repeat_n": 10**12}, "ab")
