"""Level 2 through a real node: every feature of control, once. One node for the whole file."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.node_process import NodeProcess, node, run_cli
from thaiyyal.client import ApiError, Execution, SyncClient

Node = dict[str, Any]
_TOLERANCE_S = 0.03  # from the moment that the coordinator let a step go to the clock read inside it


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, sink: str) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("level2")
    clients = {
        "shop": {"base_url": f"{sink}/200", "headers": {"X-Own": {"env": "SHOP_KEY", "prefix": "key "}}}
    }
    (folder / "clients.json").write_text(json.dumps(clients))
    options = ("--slots", "2", "--allow-http", "--allow-localhost", "--load", "tests.process.level2_steps")
    named = ("--http-clients", str(folder / "clients.json"))
    with node(folder / "data", *options, *named, env={"SHOP_KEY": "s3cret"}) as running:
        yield running
        with running.client() as client:
            assert client.status()["engine"]["executions_without_next_step"] == 0
        assert "Traceback" not in running.log_text()


@pytest.fixture(scope="module")
def client(process: NodeProcess) -> Iterator[SyncClient]:
    with process.client() as connected:
        yield connected


def step(id: str, type: str, **data: Any) -> Node:
    policy = data.pop("policy", None)
    return {"id": id, "type": type, "data": data} | ({"policy": policy} if policy else {})


def user(id: str, name: str, **args: Any) -> Node:
    policy = args.pop("policy", None)
    return step(id, "task", step=name, args=args, policy=policy)


def workflow(*nodes: Node, edges: str = "", **more: Any) -> dict[str, Any]:
    """`edges`: "a > b, b.port > c"."""
    parsed = []
    for edge in filter(None, (part.strip() for part in edges.split(","))):
        source, target = (end.strip() for end in edge.split(">"))
        name, _, port = source.partition(".")
        parsed.append({"source": name, "target": target} | ({"sourceHandle": port} if port else {}))
    return {"language": 2, "nodes": list(nodes), "edges": parsed, **more}


def finished(client: SyncClient, payload: dict[str, Any] | None = None, **options: Any) -> Execution:
    execution = client.start(payload, wait_s=30, **options)
    assert execution.is_terminal, execution.status
    return execution


def kinds(client: SyncClient, execution: Execution, type: str) -> list[Any]:
    return [event for event in client.history(execution.id) if event.type == type]


def wait_for(client: SyncClient, execution_id: str, waits_for: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        steps = client.get(execution_id, steps=True).steps or ()
        if any((step.waits_for or "").startswith(waits_for) for step in steps):
            return
        time.sleep(0.01)
    raise AssertionError(f"nothing waits for {waits_for}")


# --- guards, policies, errors -----------------------------------------------------------------------------


def test_retry_runs_the_step_before_it_again_and_each_attempt_is_in_the_history(
    client: SyncClient, tmp_path: Path
) -> None:
    payload = workflow(
        user("flaky", "fails_at_first", file=str(tmp_path / "count"), times=2, value="done"),
        step("again", "retry", max_attempts=3, initial_delay="10ms", backoff_strategy="constant"),
        edges="flaky > again",
    )
    execution = finished(client, payload)
    assert execution.error is None
    assert execution.final_output["value"] == "done"
    failed = kinds(client, execution, "attempt_failed")
    assert [(event.step, event.attempt) for event in failed] == [("flaky", 1), ("flaky", 2)]
    assert (tmp_path / "count").read_text() == "x\n" * 3


def test_retry_gives_up_after_its_attempts(client: SyncClient, tmp_path: Path) -> None:
    payload = workflow(
        user("flaky", "fails_at_first", file=str(tmp_path / "count"), times=9),
        step("again", "retry", max_attempts=2, initial_delay="1ms"),
        edges="flaky > again",
    )
    execution = finished(client, payload)
    assert execution.status == "failed"
    assert execution.error is not None
    assert (execution.error.node, execution.error.message) == ("flaky", "not yet")
    assert (tmp_path / "count").read_text() == "x\n" * 2


def test_a_policy_retries_at_level_1_too(client: SyncClient, tmp_path: Path) -> None:
    data = {"file": str(tmp_path / "count"), "times": 1, "value": 7}
    policy = {"retry": {"max_attempts": 2, "initial_interval_s": 0.01}}
    payload = {"nodes": [{"id": "a", "type": "fails_at_first", "data": data, "policy": policy}], "edges": []}
    assert finished(client, payload).final_output == 7


def test_timeout_bounds_the_step_before_it(client: SyncClient) -> None:
    for timed in (step("limit", "timeout", timeout="100ms"), None):
        policy = None if timed else {"timeout_s": 0.1}
        nodes = [user("slow", "naps", seconds=30, policy=policy), *([timed] if timed else [])]
        began = time.monotonic()
        execution = finished(client, workflow(*nodes, edges="slow > limit" if timed else ""))
        assert time.monotonic() - began < 5
        assert execution.error is not None
        assert (execution.error.code, execution.error.node) == ("timeout", "slow")


def test_timeout_with_another_action_goes_on(client: SyncClient) -> None:
    payload = workflow(
        user("slow", "naps", seconds=30),
        step("limit", "timeout", timeout="100ms", timeout_action="continue_with_partial"),
        edges="slow > limit",
    )
    execution = finished(client, payload)
    assert execution.final_output["timed_out"] is True


@pytest.mark.parametrize("waiting", ["wait_signal", "sub_workflow", "for_each"])
def test_timeout_bounds_a_step_that_waits(client: SyncClient, waiting: str) -> None:
    client.register_workflow(workflow(step("w", "wait_signal", name="never")), workflow_id="waits-for-ever")
    data = {
        "wait_signal": {"name": "never"},
        "sub_workflow": {"workflow_id": "waits-for-ever"},
        "for_each": {"items": [1, 2]},
    }[waiting]
    body = [step("inner", "wait_signal", name="never")] if waiting == "for_each" else []
    payload = workflow(
        step("w", waiting, **data),
        *body,
        step("limit", "timeout", timeout="100ms"),
        edges="w > limit" + (", w.item > inner" if body else ""),
    )
    execution = finished(client, payload)
    assert execution.error is not None
    assert (execution.error.code, execution.error.node) == ("timeout", "w")


def test_try_catch_turns_a_failure_into_its_fallback(client: SyncClient) -> None:
    payload = workflow(
        user("bad", "always_fails", message="no luck"),
        step("guard", "try_catch", fallback_value={"n": 1}),
        step("after", "expression", expression="input.value.n + 1"),
        edges="bad > guard, guard > after",
    )
    execution = finished(client, payload)
    assert execution.final_output == 2
    caught = execution.node_results["guard"]
    assert (caught["error_caught"], caught["error_message"]) == (True, "no luck")


def test_the_error_port_is_taken_by_a_failure_only(client: SyncClient, tmp_path: Path) -> None:
    for times, expected in ((9, "caught not yet after 1"), (0, "fine")):
        file = tmp_path / f"count-{times}"
        payload = workflow(
            user("a", "fails_at_first", file=str(file), times=times, value="fine"),
            step("ok", "expression", expression="input"),
            step(
                "bad",
                "set",
                values={"t": "caught {{ input.error.message }} after {{ input.error.attempts }}"},
            ),
            edges="a > ok, a.error > bad",
        )
        execution = finished(client, payload)
        assert execution.status == "completed"
        output = execution.final_output
        assert (output["t"] if isinstance(output, dict) else output) == expected


def test_a_heartbeat_that_stays_away_ends_the_attempt_and_its_details_reach_the_next_one(
    client: SyncClient, tmp_path: Path
) -> None:
    policy = {"heartbeat_s": 0.3, "retry": {"max_attempts": 2, "initial_interval_s": 0.01}}
    payload = workflow(user("beats", "heartbeats", file=str(tmp_path / "count"), policy=policy))
    execution = finished(client, payload)
    assert execution.final_output == {"done": 7}
    (failed,) = kinds(client, execution, "attempt_failed")
    assert failed.detail["code"] == "timeout"
    assert "heartbeat" in failed.detail["message"]


def test_every_policy_field_is_accepted(client: SyncClient) -> None:
    policy = {
        "timeout_s": 5,
        "schedule_to_start_s": 60,
        "heartbeat_s": 5,
        "queue": "default",
        "labels": {"gpu": "no"},
        "priority": 7,
        "effect": "pure",
        "on_exhausted": "dead_letter",
        "retry": {"max_attempts": 2, "jitter": 0.5, "non_retryable": ["x"]},
    }
    for level in (1, 2):
        payload = workflow(step("a", "number", value=1, policy=policy)) | {"language": level}
        if level == 1:
            del payload["language"]
        assert finished(client, payload).status == "completed"


# --- loops ------------------------------------------------------------------------------------------------


def test_for_each_runs_its_body_for_200_items_and_keeps_their_order(client: SyncClient) -> None:
    payload = workflow(
        step("numbers", "range", start=0, end=199),
        step("each", "for_each", max_concurrency=20),
        step("square", "expression", expression="item * item + index"),
        step("count", "expression", expression="length(input.results)"),
        edges="numbers > each, each.item > square, each.done > count",
    )
    execution = finished(client, payload)
    assert execution.error is None
    results = execution.node_results["each"]
    assert results["results"] == [n * n + n for n in range(200)]
    assert (results["successful"], results["failed"], execution.final_output) == (200, 0, 200)


def test_ten_thousand_items_share_one_definition(client: SyncClient, process: NodeProcess) -> None:
    """With 50 kB of definition, copies would be 500 MB in the log alone."""
    payload = workflow(
        step("ballast", "text_input", text="x" * 50_000),
        step("each", "for_each", items="{{ inputs.items }}", max_concurrency=100),
        step("square", "expression", expression="item * item"),
        edges="each.item > square",
    )
    before = _bytes_under(process.data_dir)
    execution = finished(client, payload, inputs={"items": list(range(10_000))})
    assert execution.error is None
    assert execution.node_results["each"]["results"] == [n * n for n in range(10_000)]
    assert _bytes_under(process.data_dir) - before < 50_000_000


def _bytes_under(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_for_each_tolerates_as_many_failures_as_it_says(client: SyncClient) -> None:
    for tolerated in (2, 1):
        payload = workflow(
            step("each", "for_each", items=[1, 2, 3, 4, 5], tolerated_failures=tolerated),
            user("work", "fails_on", given="{{ item }}", bad=[2, 4]),
            edges="each.item > work",
        )
        execution = finished(client, payload)
        if tolerated == 2:
            assert execution.final_output["results"] == [2, None, 6, None, 10]
            assert (execution.final_output["successful"], execution.final_output["failed"]) == (3, 2)
        else:
            assert execution.status == "failed"
            assert execution.error is not None
            assert "is bad" in execution.error.message


def test_for_each_runs_no_more_bodies_at_once_than_it_says(client: SyncClient) -> None:
    payload = workflow(
        step("each", "for_each", items=[0] * 6, max_concurrency=3),
        user("nap", "naps", seconds=0.15),
        edges="each.item > nap",
    )
    naps = finished(client, payload).final_output["results"]
    moments = sorted([(nap["began"], 1) for nap in naps] + [(nap["ended"], -1) for nap in naps])
    at_once, most = 0, 0
    for _, change in moments:
        at_once += change
        most = max(most, at_once)
    assert most == 3


def test_loops_nest(client: SyncClient) -> None:
    payload = workflow(
        step("outer", "for_each", items=[[1, 2], [3, 4, 5]]),
        step("inner", "for_each", items="{{ item }}"),
        step("cell", "expression", expression="item + loop.outer.index * 100"),
        step("row", "expression", expression="input.results"),
        edges="outer.item > inner, inner.item > cell, inner.done > row",
    )
    assert finished(client, payload).final_output["results"] == [[1, 2], [103, 104, 105]]


def test_while_loop_goes_on_with_the_result_of_its_body(client: SyncClient) -> None:
    payload = workflow(
        step("one", "number", value=1),
        step("grow", "while_loop", condition="item < 100"),
        step("double", "expression", expression="item * 2"),
        edges="one > grow, grow.body > double",
    )
    execution = finished(client, payload)
    assert execution.error is None
    assert execution.final_output["final_value"] == 128
    assert execution.final_output["iterations"] == 7


def test_while_loop_ends_at_its_limit(client: SyncClient) -> None:
    payload = workflow(
        step("grow", "while_loop", condition="true", max_iterations=5),
        step("body", "set", values={"a": 1}),
        edges="grow.body > body",
    )
    error = finished(client, payload).error
    assert error is not None
    assert "max iterations: 5" in error.message


# --- waits ------------------------------------------------------------------------------------------------

SIGNAL = workflow(
    step("wait", "wait_signal", name="go", timeout="{{ inputs.timeout }}"),
    step("yes", "expression", expression="input.payload.n * 2"),
    step("no", "set", values={"late": True}),
    edges="wait.received > yes, wait.timeout > no",
    inputs={"timeout": {"type": "string", "default": "30s"}},
)


def test_a_signal_goes_to_the_step_that_waits_for_it(client: SyncClient, process: NodeProcess) -> None:
    execution = client.start(SIGNAL)
    wait_for(client, execution.id, "signal go")
    refused = run_cli("signal", execution.id, "go", "--payload", "{n: 21}", node=process)
    assert (refused.returncode, "is not JSON" in refused.stderr) == (2, True)
    done = run_cli("signal", execution.id, "go", "--payload", '{"n": 21}', node=process)
    assert done.returncode == 0, done.stderr
    assert client.wait(execution.id, timeout_s=10).final_output == 42


def test_a_signal_that_comes_early_waits_and_counts_once(client: SyncClient) -> None:
    payload = workflow(
        step("later", "delay", duration="300ms"),
        step("first", "wait_signal", name="go"),
        step("second", "wait_signal", name="go", timeout="200ms"),
        edges="later > first, first > second",
    )
    execution = client.start(payload)
    for _ in range(2):
        client.signal(execution.id, "go", "hello", key="k")
    ended = client.wait(execution.id, timeout_s=10)
    assert ended.node_results["first"]["payload"] == "hello"
    assert ended.node_results["second"]["timed_out"] is True


def test_a_wait_for_a_signal_ends_with_its_time(client: SyncClient) -> None:
    execution = finished(client, SIGNAL, inputs={"timeout": "50ms"})
    assert execution.final_output == {"late": True}
    with pytest.raises(ApiError) as caught:
        client.signal(execution.id, "go", {})
    assert caught.value.status == 409
    with pytest.raises(ApiError) as caught:
        client.signal("0" * 26, "go", {})
    assert caught.value.status == 404


@pytest.mark.parametrize(("approved", "port"), [(True, "yes"), (False, "no"), (None, "late")])
def test_an_approval_goes_the_way_of_the_decision(
    client: SyncClient, approved: bool | None, port: str
) -> None:
    payload = workflow(
        step("boss", "approval", timeout="100ms" if approved is None else "30s"),
        *(step(name, "set", values={"went": name}) for name in ("yes", "no", "late")),
        edges="boss.approved > yes, boss.rejected > no, boss.timeout > late",
    )
    execution = client.start(payload)
    if approved is not None:
        wait_for(client, execution.id, "signal approval:boss")
        client.signal(execution.id, "approval:boss", {"approved": approved, "by": "Ada"})
    ended = client.wait(execution.id, timeout_s=10)
    assert ended.final_output == {"went": port}
    assert ended.node_results["boss"]["by"] == ("Ada" if approved is not None else None)


def test_delay_until_a_time_on_the_calendar(client: SyncClient) -> None:
    until = datetime.now(UTC) + timedelta(seconds=0.6)
    payload = workflow(
        step("wait", "delay", until=until.isoformat()), user("after", "now"), edges="wait > after"
    )
    assert 0 <= finished(client, payload).final_output - until.timestamp() < 2


# --- sub-workflows ----------------------------------------------------------------------------------------


def test_a_sub_workflow_gets_its_inputs_and_gives_its_output(client: SyncClient) -> None:
    declared = {"n": {"type": "number", "required": True}, "by": {"type": "number", "default": 10}}
    client.register_workflow(
        workflow(step("times", "expression", expression="inputs.n * inputs.by"), inputs=declared),
        workflow_id="times",
        name="times",
    )
    payload = workflow(
        step("each", "for_each", items=[1, 2, 3]),
        step("child", "sub_workflow", workflow_id="times", inputs={"n": "{{ item }}"}),
        step("value", "expression", expression="input.value"),
        edges="each.item > child, child > value",
    )
    execution = finished(client, payload)
    assert execution.error is None
    assert execution.final_output["results"] == [10, 20, 30]
    children = client.list(workflow="times").executions
    assert len(children) == 3
    child = client.get(children[0].id)
    assert (child.parent, child.workflow_version, child.status) == (execution.id, 1, "completed")
    assert client.history(child.id)[0].detail == {"parent": execution.id}

    missing = workflow(step("child", "sub_workflow", workflow_id="times", inputs={}))
    error = finished(client, missing).error
    assert error is not None
    assert (error.code, error.node) == ("inputs_invalid", "child")


def test_a_failed_sub_workflow_fails_its_step_and_may_be_caught_or_retried(
    client: SyncClient, tmp_path: Path
) -> None:
    file = str(tmp_path / "count")
    flaky = workflow(user("a", "fails_at_first", file=file, times=1, value=5))
    client.register_workflow(flaky, workflow_id="flaky")
    payload = workflow(
        step("child", "sub_workflow", workflow_id="flaky"),
        step("again", "retry", max_attempts=2, initial_delay="1ms"),
        edges="child > again",
    )
    assert finished(client, payload).final_output["value"]["value"] == 5

    payload = workflow(
        step("child", "sub_workflow", workflow_id="nobody"),
        step("guard", "try_catch"),
        edges="child > guard",
    )
    caught = finished(client, payload).final_output
    assert caught["error"]["code"] == "workflow_not_found"


def test_a_sub_workflow_may_be_of_level_1(client: SyncClient) -> None:
    nodes = [
        {"id": "n", "type": "number", "data": {"value": 4}},
        {"id": "e", "type": "expression", "data": {"expression": "input * 2 + context.add"}},
    ]
    level1 = {"nodes": nodes, "edges": [{"source": "n", "target": "e"}]}
    client.register_workflow(level1, workflow_id="level-1")
    payload = workflow(step("c", "sub_workflow", workflow_id="level-1", inputs={"add": 1}))
    assert finished(client, payload).final_output["value"] == 9


@pytest.mark.parametrize("on_cancel", ["cancel", "abandon"])
def test_cancelling_a_parent_does_to_its_child_what_it_says(client: SyncClient, on_cancel: str) -> None:
    name = f"waits-{on_cancel}"
    client.register_workflow(workflow(step("w", "wait_signal", name="go")), workflow_id=name)
    parent = client.start(workflow(step("c", "sub_workflow", workflow_id=name, on_cancel=on_cancel)))
    wait_for(client, parent.id, "child ")
    (child,) = client.list(workflow=name).executions
    client.cancel(parent.id)
    if on_cancel == "cancel":
        assert client.wait(child.id, timeout_s=10).status == "cancelled"
    else:
        client.signal(child.id, "go", 1)
        assert client.wait(child.id, timeout_s=10).status == "completed"
    assert client.wait(parent.id, timeout_s=10).status == "cancelled"


def test_a_workflow_that_starts_itself_ends_at_the_depth_limit(client: SyncClient) -> None:
    endless = workflow(step("c", "sub_workflow", workflow_id="endless"))
    client.register_workflow(endless, workflow_id="endless")
    execution = finished(client, workflow_id="endless")
    assert execution.error is not None
    assert "nesting_max" in execution.error.message
    assert len(client.list(workflow="endless").executions) == 17


# --- values -----------------------------------------------------------------------------------------------


def test_set_log_templates_and_references(client: SyncClient) -> None:
    payload = workflow(
        step("a", "number", value=20),
        step("note", "log", message="a is {{ node.a }}", fields={"who": "{{ inputs.who }}"}),
        step(
            "all", "set", values={"whole": "{{ node.a }}", "text": "n={{ node.a + 1 }}", "in": "{{ input }}"}
        ),
        edges="a > note, note > all",
    )
    execution = finished(client, payload, inputs={"who": "Ada"})
    assert execution.final_output == {"whole": 20, "text": "n=21", "in": 20}


def test_fail_fails_with_its_own_code(client: SyncClient) -> None:
    error = finished(client, workflow(step("f", "fail", message="out of stock", code="stock"))).error
    assert error is not None
    assert (error.code, error.message, error.node) == ("stock", "out of stock", "f")


def test_parallel_branches_overlap(client: SyncClient) -> None:
    payload = workflow(
        step("go", "number", value=1),
        *(user(name, "naps", seconds=0.5) for name in ("left", "right")),
        step("both", "expression", expression="[node.left, node.right]"),
        edges="go > left, go > right, left > both, right > both",
    )
    left, right = finished(client, payload).final_output
    assert left["began"] < right["ended"]
    assert right["began"] < left["ended"]


# --- state by key -----------------------------------------------------------------------------------------


def cache(op: str, key: str, **data: Any) -> Node:
    return step("cache", "cache", cache_op=op, cache_key=key, **data)


def test_the_cache_is_shared_by_executions(client: SyncClient) -> None:
    give = step("value", "set", values={"n": "{{ inputs.n }}"})
    put = workflow(give, cache("set", "shared", ttl="1h"), edges="value > cache")
    assert finished(client, put, inputs={"n": 5}).error is None
    got = finished(client, workflow(cache("get", "shared"))).final_output
    assert (got["found"], got["value"]) == (True, {"n": 5})
    assert finished(client, workflow(cache("delete", "shared"))).final_output["deleted"] is True
    got = finished(client, workflow(cache("get", "shared"))).final_output
    assert (got["found"], got["value"]) == (False, None)


def test_the_cache_forgets_after_its_ttl(client: SyncClient) -> None:
    payload = workflow(
        step("value", "number", value=1),
        cache("set", "short", ttl="100ms"),
        step("later", "delay", duration="250ms"),
        step("get", "cache", cache_op="get", cache_key="short"),
        edges="value > cache, cache > later, later > get",
    )
    assert finished(client, payload).final_output["found"] is False


@pytest.mark.parametrize(
    ("limiter", "spacing"),
    [
        (step("limit", "throttle", requests_per_second=10, key="t"), 0.1),
        (step("limit", "rate_limiter", max_requests=2, per_duration="200ms", key="r"), None),
    ],
)
def test_limits_hold_over_all_executions(client: SyncClient, limiter: Node, spacing: float | None) -> None:
    payload = workflow(limiter, user("after", "now"), edges="limit > after")
    started = [client.start(payload) for _ in range(7)]
    ended = [client.wait(execution.id, timeout_s=20) for execution in started]
    moments = sorted(execution.final_output for execution in ended)
    if spacing is not None:
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert min(gaps) > spacing - _TOLERANCE_S
    else:
        windows = [later - earlier for earlier, later in zip(moments, moments[2:], strict=False)]
        assert min(windows) > 0.2 - _TOLERANCE_S
    reserved = [
        event.detail["until"]
        for execution in ended
        for event in kinds(client, execution, "step_waiting")
        if "until" in event.detail
    ]
    assert len(reserved) >= 5
    assert sorted(reserved) == reserved, "first come, first served"
    if spacing is not None:
        assert all(b - a >= spacing - 1e-6 for a, b in itertools.pairwise(reserved))
    assert max(moments) - min(moments) < 3


# --- http -------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    """Answers with what it was asked, under the status that the path names."""

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        seen = {
            "method": self.command,
            "path": self.path,
            "key": self.headers.get("Idempotency-Key"),
            "own": self.headers.get("X-Own"),
            "body": self.rfile.read(size).decode(),
        }
        body = json.dumps(seen).encode()
        self.send_response(int(self.path.split("?")[0].split("/")[1]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def sink() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_sends_method_headers_query_body_and_its_idempotency_key(client: SyncClient, sink: str) -> None:
    payload = workflow(
        step("a", "set", values={"n": 1}),
        step(
            "post",
            "http",
            url=f"{sink}/201",
            method="POST",
            headers={"X-Own": "v{{ node.a.n }}"},
            query={"q": "{{ node.a.n }}"},
            body={"sent": "{{ node.a }}"},
            response="full",
        ),
        edges="a > post",
    )
    execution = finished(client, payload)
    assert execution.error is None
    answer = execution.final_output
    seen = answer["body"]
    assert answer["status"] == 201
    assert answer["headers"]["content-type"] == "application/json"
    assert (seen["method"], seen["path"], seen["own"]) == ("POST", "/201?q=1", "v1")
    assert json.loads(seen["body"]) == {"sent": {"n": 1}}
    assert seen["key"] == f"{execution.id}:post"


def test_a_named_client_adds_what_the_operator_set(client: SyncClient, process: NodeProcess) -> None:
    payload = workflow(step("get", "http", client="shop", url="orders/7"))
    seen = finished(client, payload).final_output
    assert (seen["path"], seen["own"]) == ("/200/orders/7", "key s3cret")
    refused = finished(client, workflow(step("get", "http", client="other", url="x")))
    assert refused.error is not None
    assert refused.error.code == "http_client_unknown"
    assert "s3cret" not in process.log_text()


def test_http_statuses_decide_between_success_and_the_error_port(client: SyncClient, sink: str) -> None:
    payload = workflow(
        step("get", "http", url=f"{sink}/404"),
        step("ok", "set", values={"went": "on"}),
        step("bad", "set", values={"code": "{{ input.error.code }}"}),
        edges="get > ok, get.error > bad",
    )
    assert finished(client, payload).final_output == {"code": "http_status"}
    expected = workflow(step("get", "http", url=f"{sink}/404", expected_statuses=[404, "2xx"]))
    assert finished(client, expected).final_output["method"] == "GET"
