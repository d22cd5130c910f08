"""Waits, children and what executions share outlive a node that is killed."""

from __future__ import annotations

from pathlib import Path

from tests.node_process import node
from tests.process.test_level2_node import cache, finished, step, wait_for, workflow


def test_children_waits_and_shared_state_survive_kill_9(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            client.register_workflow(
                workflow(
                    step("w", "wait_signal", name="go"),
                    step("v", "expression", expression="input.payload"),
                    edges="w > v",
                ),
                workflow_id="child",
            )
            put = workflow(step("v", "number", value=7), cache("set", "k", ttl="1h"), edges="v > cache")
            assert finished(client, put).error is None
            slow = workflow(step("t", "throttle", requests_per_second=0.5, key="slow"))
            assert finished(client, slow).error is None
            second = client.start(slow)
            loop = workflow(
                step("each", "for_each", items=["a", "b"]),
                step("call", "sub_workflow", workflow_id="child"),
                step("value", "expression", expression="input.value + item"),
                edges="each.item > call, call > value",
            )
            parent = client.start(loop)
            wait_for(client, parent.id, "child ")
            wait_for(client, second.id, "timer")
        process.kill()
        process.start()
        with process.client() as client:
            assert finished(client, workflow(cache("get", "k"))).final_output["value"] == 7
            children = client.list(workflow="child").executions
            assert len(children) == 2
            for child in children:
                wait_for(client, child.id, "signal go")
                client.signal(child.id, "go", "value of ")
            ended = client.wait(parent.id, timeout_s=15)
            assert ended.error is None
            assert sorted(ended.final_output["results"]) == ["value of a", "value of b"]
            assert client.wait(second.id, timeout_s=15).status == "completed"
            assert client.status()["engine"]["executions_without_next_step"] == 0
