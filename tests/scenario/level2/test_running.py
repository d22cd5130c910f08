"""Features of level 2 from payload to result, on the real coordinator and the real runner code, in one process."""

from __future__ import annotations

import itertools
from typing import Any

from tests.level2_rig import level2, output, results
from workflow import codec
from workflow.steps.base import HttpFailed, HttpRequest, HttpResponse


def node(step_id: str, kind: str, **data: Any) -> dict[str, Any]:
    return {"id": step_id, "type": kind, "data": data}


def edges(*pairs: str) -> list[dict[str, str]]:
    """`"a>b"`, or `"a.port>b"`."""
    found = []
    for pair in pairs:
        source, _, target = pair.partition(">")
        source, _, port = source.partition(".")
        found.append({"source": source, "target": target} | ({"sourceHandle": port} if port else {}))
    return found


class Server:
    """An HTTP client whose answers stand in a list; it keeps what it was asked."""

    def __init__(self, *answers: HttpResponse | HttpFailed) -> None:
        self.answers = list(answers)
        self.asked: list[HttpRequest] = []

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, HttpFailed):
            raise answer
        return answer


def reply(status: int, body: str = "{}") -> HttpResponse:
    return HttpResponse(status, {"content-type": "application/json"}, body.encode())


FAIL = node("f", "fail", message="no", code="mine")


async def test_an_error_port_takes_the_failure_and_the_execution_completes():
    payload = {
        "nodes": [
            FAIL,
            node("after", "set", values={"x": 1}),
            node("h", "expression", expression="input.error.code"),
        ],
        "edges": edges("f>after", "f.error>h"),
    }
    async with level2() as node_:
        view = await node_.run(payload)
    assert (view.status, output(view)) == ("completed", "mine")
    assert "after" not in results(view)


async def test_without_an_error_port_the_execution_fails_and_names_the_step():
    async with level2() as node_:
        view = await node_.run({"nodes": [FAIL], "edges": []})
    assert (view.status, view.error.code, view.error.node, view.error.message) == (
        "failed",
        "mine",
        "f",
        "no",
    )


async def test_a_chain_of_guards_watches_the_one_step_that_feeds_it():
    server = Server(reply(503), reply(503), HttpFailed("gone"))
    payload = {
        "nodes": [
            node("get", "http", url="https://example.com/"),
            node("again", "retry", max_attempts=3, initial_delay=0, backoff_strategy="constant"),
            node("late", "timeout", timeout="5s"),
            node("caught", "try_catch", fallback_value="cached"),
        ],
        "edges": edges("get>again", "again>late", "late>caught"),
    }
    async with level2(http=server) as node_:
        view = await node_.run(payload)
    assert view.status == "completed", view.error
    assert len(server.asked) == 3
    assert (output(view)["value"], output(view)["error_caught"]) == ("cached", True)
    assert output(view)["error"]["code"] == "http_failed"


async def test_retry_hands_on_the_value_of_the_attempt_that_succeeded():
    server = Server(reply(500), reply(200, '{"n": 2}'))
    payload = {
        "nodes": [
            node("get", "http", url="https://example.com/"),
            node("again", "retry", initial_delay="1ms", backoff_strategy="linear"),
            node("n", "expression", expression="input.value.n + 1"),
        ],
        "edges": edges("get>again", "again>n"),
    }
    async with level2(http=server) as node_:
        assert output(await node_.run(payload)) == 3


async def test_for_each_collects_in_order_and_nests():
    payload = {
        "nodes": [
            node("rows", "set", values={"items": [[1, 2], [], [3]]}),
            node("outer", "for_each", items="{{ input.items }}", max_concurrency=2),
            node("inner", "for_each", items="{{ item }}"),
            node("cell", "expression", expression="item * 10 + loop.outer.index"),
            node("row", "expression", expression="sum(input.results)"),
            node("total", "expression", expression="sum(input.results)"),
        ],
        "edges": edges(
            "rows>outer", "outer.item>inner", "inner.item>cell", "inner.done>row", "outer.done>total"
        ),
    }
    async with level2() as node_:
        view = await node_.run(payload)
    assert view.status == "completed", view.error
    assert results(view)["outer"]["results"] == [30, 0, 32]
    assert output(view) == 62


async def test_a_body_reads_steps_outside_its_loop_and_tolerates_failures():
    payload = {
        "nodes": [
            node("factor", "number", value=3),
            node("rows", "set", values={"items": [1, 0, 2]}),
            node("each", "for_each", tolerated_failures=1),
            node("share", "expression", expression="node.factor / item"),
        ],
        "edges": edges("rows>each", "each.item>share"),
    }
    async with level2() as node_:
        view = await node_.run(payload)
    assert view.status == "completed", view.error
    got = output(view)
    assert (got["results"], got["successful"], got["failed"]) == ([3, None, 1.5], 2, 1)


async def test_while_loop_goes_on_until_its_condition_fails():
    payload = {
        "nodes": [
            node("start", "set", values={"n": 1}),
            node("loop", "while_loop", condition="input.n < 100"),
            node("double", "set", values={"n": "{{ input.n * 2 }}"}),
            node("end", "expression", expression="[input.final_value.n, input.iterations]"),
        ],
        "edges": edges("start>loop", "loop.body>double", "loop.done>end"),
    }
    async with level2() as node_:
        assert output(await node_.run(payload)) == [128, 7]


async def test_variables_travel_from_step_to_step_and_into_loops():
    payload = {
        "nodes": [
            node("rate", "number", value=2),
            node("keep", "variable", var_name="rate", var_op="set"),
            node("rows", "set", values={"items": [1, 2]}),
            node("each", "for_each"),
            node("times", "expression", expression="item * variables.rate"),
            node("sum", "expression", expression="sum(input.results) + variables.rate"),
        ],
        "edges": edges("rate>keep", "keep>rows", "rows>each", "each.item>times", "each>sum"),
    }
    async with level2() as node_:
        view = await node_.run(payload)
    assert view.status == "completed", view.error
    assert output(view) == 8


async def test_an_approval_waits_for_its_signal_and_takes_its_port():
    payload = {
        "nodes": [
            node("ask", "approval"),
            node("yes", "expression", expression="input.by"),
            node("no", "fail", message="rejected"),
        ],
        "edges": edges("ask.approved>yes", "ask.rejected>no"),
    }
    async with level2() as node_:
        view = await node_.start(payload)
        await node_.engine.signal(view.id, "approval:ask", codec.encode({"approved": True, "by": "ann"}))
        view = await node_.end(view.id)
    assert view.status == "completed", view.error
    assert output(view) == "ann"


async def test_waits_end_by_time_too():
    payload = {
        "nodes": [
            node("wait", "wait_signal", name="paid", timeout="20ms"),
            node("late", "set", values={"late": True}),
            node("ok", "set", values={"late": False}),
            node("pause", "delay", duration="10ms"),
        ],
        "edges": edges("wait.timeout>late", "wait.received>ok", "late>pause", "ok>pause"),
    }
    async with level2() as node_:
        view = await node_.run(payload)
    assert view.status == "completed", view.error
    assert output(view)["value"] == {"late": True}


async def test_steps_that_nothing_orders_run_and_join():
    names = ["a", "b", "c"]
    payload = {
        "nodes": [*[node(name, "number", value=at) for at, name in enumerate(names)], node("all", "join")],
        "edges": [{"source": name, "target": "all"} for name in names],
    }
    async with level2() as node_:
        view = await node_.run(payload)
    assert output(view)["values"] == [0, 1, 2]
    assert set(itertools.chain(results(view))) == {*names, "all"}
