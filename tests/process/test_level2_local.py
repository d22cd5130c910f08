"""`run --local` of level 2: the coordinator's rules in the process of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.node_process import run_cli
from tests.process.test_level2_node import step, user, workflow


def local(tmp_path: Path, payload: dict[str, Any], *options: str) -> tuple[int, dict[str, Any], str]:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(payload))
    load = ("--load", "tests.process.level2_steps")
    done = run_cli("run", str(file), "--local", "--json", *load, *options, timeout_s=50)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def test_loops_guards_and_parallel_branches_run_without_a_node(tmp_path: Path) -> None:
    payload = workflow(
        step("each", "for_each", items="{{ inputs.items }}", max_concurrency=3),
        step("square", "expression", expression="item * item"),
        user("flaky", "fails_at_first", file=str(tmp_path / "count"), times=2, value="ok"),
        step("again", "retry", max_attempts=3, initial_delay="1ms"),
        step("grow", "while_loop", condition="item < 10", max_iterations=20),
        step("more", "expression", expression="item + 3"),
        user("slow", "naps", seconds=30),
        step("limit", "timeout", timeout="100ms"),
        step("guard", "try_catch", fallback_value="too slow"),
        user("left", "naps", seconds=0.3),
        user("right", "naps", seconds=0.3),
        step(
            "all",
            "set",
            values={
                "squares": "{{ node.each.results }}",
                "flaky": "{{ node.again.value }}",
                "caught": "{{ node.guard.value }}",
                "grown": "{{ node.grow.final_value }}",
                "overlap": "{{ node.left.began < node.right.ended && node.right.began < node.left.ended }}",
            },
        ),
        step("one", "number", value=1),
        edges="each.item > square, flaky > again, one > grow, grow.body > more, "
        "slow > limit, limit > guard, each > all, again > all, guard > all, grow > all, left > all, right > all",
        inputs={"items": {"type": "array", "default": [1, 2, 3, 4]}},
    )
    status, execution, err = local(tmp_path, payload)
    assert status == 0, err
    assert execution["final_output"] == {
        "squares": [1, 4, 9, 16],
        "flaky": "ok",
        "caught": "too slow",
        "grown": 10,
        "overlap": True,
    }


def test_a_failure_is_reported_as_a_node_would(tmp_path: Path) -> None:
    status, execution, _ = local(tmp_path, workflow(step("f", "fail", message="no stock", code="stock")))
    assert status == 1
    assert (execution["status"], execution["error"]["code"]) == ("failed", "stock")


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (step("w", "wait_signal", name="go"), "needs_node"),
        (step("w", "sub_workflow", workflow_id="other"), "workflow_not_found"),
    ],
)
def test_what_only_a_node_can_do_fails_at_once(tmp_path: Path, node: dict[str, Any], code: str) -> None:
    status, execution, _ = local(tmp_path, workflow(node))
    assert status == 1
    assert execution["error"]["code"] == code


def test_waits_with_an_end_work(tmp_path: Path) -> None:
    payload = workflow(
        step("w", "wait_signal", name="go", timeout="50ms"),
        step("t", "throttle", requests_per_second=20),
        step("d", "delay", duration="20ms"),
        edges="w > t, t > d",
    )
    status, execution, err = local(tmp_path, payload)
    assert status == 0, err
    assert execution["node_results"]["w"]["timed_out"] is True


def test_missing_inputs_are_refused_before_anything_runs(tmp_path: Path) -> None:
    payload = workflow(step("a", "number", value=1), inputs={"n": {"type": "number", "required": True}})
    status, execution, err = local(tmp_path, payload)
    assert (status, execution) == (1, {})
    assert "input 'n' is required" in err
