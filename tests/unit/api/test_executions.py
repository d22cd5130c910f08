"""/v1/executions over the memory engine: what is accepted, what is refused, and the form of both."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from node.errors import (
    Conflict,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    StorageFull,
    ThaiyyalError,
    TooLarge,
    Unavailable,
)
from tests.api_server import Served
from workflow.codec import decode, encode

NUMBER = {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}], "edges": []}
HOLD = {"nodes": [{"id": "a", "type": "hold", "data": {}}], "edges": []}


async def post(served: Served, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
    if isinstance(body, bytes):
        options.setdefault("headers", {})["Content-Type"] = "application/json"
        request = served.http.post(path, data=body, **options)
    else:
        request = served.http.post(path, json=body, **options)
    async with request as response:
        return response.status, json.loads(await response.read())


async def get(served: Served, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    async with served.http.get(path, **options) as response:
        return response.status, json.loads(await response.read())


async def test_an_execution_that_ended_within_the_wait_answers_200_with_its_result(served: Served) -> None:
    status, execution = await post(served, "/v1/executions", {"workflow": NUMBER, "wait_s": 5})
    assert status == 200
    assert execution["status"] == "completed"
    assert execution["node_results"] == {"a": 5}
    assert execution["final_output"] == 5
    assert execution["error"] is None
    assert len(execution["id"]) == 26


async def test_an_execution_that_goes_on_answers_202_and_its_place(served: Served) -> None:
    async with served.http.post("/v1/executions", json={"workflow": HOLD, "wait_s": 0.01}) as response:
        execution = await response.json()
        assert response.status == 202
        assert response.headers["Location"] == f"/v1/executions/{execution['id']}"
        assert execution["status"] == "running"
        assert execution["finished_at"] is None


async def test_the_wait_ends_when_the_execution_ends(served: Served) -> None:
    waiting = asyncio.create_task(post(served, "/v1/executions", {"workflow": HOLD, "wait_s": 60}))
    while not served.engine.executions:
        await asyncio.sleep(0)
    await served.engine.finish(next(iter(served.engine.executions)))
    status, execution = await waiting
    assert (status, execution["status"]) == (200, "completed")


async def test_everything_of_a_start_reaches_the_engine(served: Served) -> None:
    body = {
        "workflow": NUMBER,
        "inputs": {"amount": 3, "nan": {"$float": "NaN"}, "deep": {"list": [1, "two", None, True]}},
        "priority": 9,
        "tags": {"team": "blue"},
        "idempotency_key": "order-1",
    }
    await post(served, "/v1/executions", body)
    [request] = served.engine.requests
    assert json.loads(request.workflow or b"") == NUMBER
    inputs = decode(request.inputs or b"")
    assert math.isnan(inputs.pop("nan"))
    assert inputs == {"amount": 3.0, "deep": {"list": [1.0, "two", None, True]}}
    assert type(inputs["amount"]) is float
    assert (request.priority, request.tags, request.idempotency_key) == (9, {"team": "blue"}, "order-1")


async def test_the_idempotency_key_may_come_as_a_header(served: Served) -> None:
    first = await post(served, "/v1/executions", {"workflow": NUMBER}, headers={"Idempotency-Key": "k"})
    again = await post(served, "/v1/executions", {"workflow": NUMBER}, headers={"Idempotency-Key": "k"})
    assert first[1]["id"] == again[1]["id"]
    assert again[1]["deduplicated"] is True


async def test_two_different_idempotency_keys_in_one_request_are_refused(served: Served) -> None:
    status, problem = await post(
        served,
        "/v1/executions",
        {"workflow": NUMBER, "idempotency_key": "a"},
        headers={"Idempotency-Key": "b"},
    )
    assert (status, problem["problems"][0]["path"]) == (400, "idempotency_key")


@pytest.mark.parametrize("key", ["", "with space", "x" * 201, "é", "\x80"])
async def test_a_key_in_the_header_is_visible_ascii(served: Served, key: str) -> None:
    port = int(served.address.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/executions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: {key}\r\n"
    body = json.dumps({"workflow": NUMBER}).encode()
    writer.write(head.encode("latin-1") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert not served.engine.requests


async def test_a_header_that_is_no_utf_8_is_quoted_in_the_problem(served: Served) -> None:
    port = int(served.address.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: \xff\xfe\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 415 "), answer


async def test_non_finite_numbers_are_written_as_objects(served: Served) -> None:
    workflow = {"nodes": [{"id": "a", "type": "number", "data": {"value": {"$float": "-Infinity"}}}]}
    _, execution = await post(served, "/v1/executions", {"workflow": workflow, "wait_s": 1})
    assert execution["final_output"] == {"$float": "-Infinity"}


async def test_integral_floats_are_written_without_a_fraction(served: Served) -> None:
    workflow = {"nodes": [{"id": "a", "type": "number", "data": {"value": 5.0}}]}
    async with served.http.post("/v1/executions", json={"workflow": workflow, "wait_s": 1}) as response:
        assert b'"final_output":5,' in await response.read()


async def test_a_failed_execution_is_an_answer_and_no_http_error(served: Served) -> None:
    workflow = {"nodes": [{"id": "x", "type": "explode", "data": {}}]}
    status, execution = await post(served, "/v1/executions", {"workflow": workflow, "wait_s": 1})
    assert (status, execution["status"]) == (200, "failed")
    assert execution["error"] == {
        "code": "step_failed",
        "message": "error executing node x: boom",
        "node": "x",
    }


async def test_starts_of_one_turn_share_one_call_of_the_engine(served: Served) -> None:
    served.engine.calls = 0
    await asyncio.gather(*(post(served, "/v1/executions", {"workflow": NUMBER}) for _ in range(30)))
    assert len(served.engine.executions) == 30
    assert served.engine.calls < 30


async def test_the_fault_of_one_start_does_not_touch_its_neighbours(served: Served) -> None:
    good, bad = await asyncio.gather(
        post(served, "/v1/executions", {"workflow": NUMBER}),
        post(served, "/v1/executions", {"workflow": {"nodes": 3}}),
    )
    assert good[0] == 200
    assert (bad[0], bad[1]["code"]) == (422, "workflow_invalid")


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "path", "words"),
    [
        (b"", "not_json", None, "empty"),
        (b"nope", "not_json", None, "line 1, column 5"),
        (b'{"workflow": {"a": nope}}', "not_json", None, "line 1, column 21"),
        (b'{\n  "workflow": }', "not_json", None, "line 2"),
        (b"\xff\xfe", "not_json", None, "not"),
        (b"[]", "wrong_type", "", "expected an object, got an array"),
        (b'"text"', "wrong_type", "", "got a string"),
        (b"{}", "missing_field", "workflow", "either `workflow`"),
        (b'{"workflow": {}, "workflow_id": "w"}', "invalid_value", "workflow", "both"),
        (b'{"nodes": []}', "unknown_field", "nodes", "a payload goes into the field `workflow`"),
        (b'{"workflow": {}, "inptus": {}}', "unknown_field", "inptus", "did you mean `inputs`?"),
        (
            b'{"workflow": {}, "priority": "high"}',
            "wrong_type",
            "priority",
            "expected an integer, got a string",
        ),
        (b'{"workflow": {}, "priority": 10}', "invalid_value", "priority", "<= 9"),
        (b'{"workflow": {}, "wait_s": -1}', "invalid_value", "wait_s", ">= 0"),
        (b'{"workflow": {}, "wait_s": 301}', "invalid_value", "wait_s", "<= 300"),
        (b'{"workflow": {}, "tags": {"a": 1}}', "wrong_type", "tags[...]", "expected a string"),
        (b'{"workflow": {}, "inputs": [1]}', "wrong_type", "inputs", "expected an object, got an array"),
        (b'{"workflow": {}, "version": 1}', "invalid_value", "version", "workflow_id"),
        (b'{"workflow_id": "a b"}', "invalid_value", "workflow_id", "regex"),
        (b'{"workflow": {}, "idempotency_key": ""}', "invalid_value", "idempotency_key", "length >= 1"),
        (b'{"workflow":' + b"[" * 200 + b"]" * 200 + b"}", "too_deep", None, "json_depth_max=104"),
        (b'{"workflow":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "too_deep", None, "json_depth_max"),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_place(
    served: Served, body: bytes, code: str, path: str | None, words: str
) -> None:
    status, problem = await post(served, "/v1/executions", body)
    assert (status, problem["code"]) == (400, code), problem
    assert words in problem["detail"]
    assert problem["what_to_do"]
    if path is not None:
        assert problem["problems"][0]["path"] == path
    assert not served.engine.executions


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (rb"\ud800", "\ufffd"),
        (rb"a\uDC00b", "a\ufffdb"),
        (rb"\ud83d\ude00", "😀"),
        (rb"\ud83d\ude00\ud83d", "😀\ufffd"),
        (rb"\\ud800 \ud800", "\\ud800 \ufffd"),
    ],
)
async def test_half_a_surrogate_pair_becomes_the_replacement_character(
    served: Served, escaped: bytes, text: str
) -> None:
    body = b'{"workflow":{"nodes":[{"id":"a","type":"text_input","data":{"text":"%b"}}]}}' % escaped
    status, execution = await post(served, "/v1/executions", body)
    assert (status, execution["final_output"]) == (200, text)


async def test_brackets_inside_strings_are_not_nesting(served: Served) -> None:
    text = '\\"[{' * 300
    body = b'{"workflow":{"nodes":[{"id":"a","type":"text_input","data":{"text":"%b"}}]}}' % text.encode()
    status, execution = await post(served, "/v1/executions", body)
    assert (status, execution["final_output"]) == (200, '"[{' * 300)


async def test_a_body_as_deep_as_the_limit_is_taken_and_one_level_more_is_not(served: Served) -> None:
    def nested(depth: int) -> bytes:
        inner = b"[" * (depth - 1) + b"]" * (depth - 1)
        return b'{"workflow_id":"missing","inputs":' + b'{"x":' + inner[1:-1] + b"}}"

    assert (await post(served, "/v1/executions", nested(104)))[1]["code"] == "not_found"
    assert (await post(served, "/v1/executions", nested(105)))[1]["code"] == "too_deep"


async def test_the_workflow_is_checked_by_the_engine_and_its_text_is_passed_on(served: Served) -> None:
    status, problem = await post(served, "/v1/executions", {"workflow": []})
    assert (status, problem["code"]) == (422, "workflow_invalid")
    assert problem["detail"].startswith("failed to parse payload:")
    assert problem["problems"]


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (Conflict("the key was used for another workflow"), 409, "conflict", None),
        (TooLarge("20,000 steps (limit: steps_max)"), 413, "too_large", None),
        (Overloaded("full", limit="live_executions_max", retry_after_s=7), 429, "overloaded", "7"),
        (StorageFull("the disk is full"), 507, "storage_full", None),
        (NotLeader("not the leader", leader_id="n2"), 503, "not_leader", "1"),
        (Unavailable("starting"), 503, "unavailable", "1"),
        (OutcomeUnknown("lost the majority"), 503, "outcome_unknown", "1"),
        (RuntimeError("a bug"), 500, "internal", None),
    ],
)
async def test_every_error_of_the_engine_has_its_status_and_stable_code(
    served: Served, error: Exception, status: int, code: str, retry_after: str | None
) -> None:
    served.engine.fail_with = error
    async with served.http.post("/v1/executions", json={"workflow": NUMBER}) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["code"]) == (status, code)
        assert problem["status"] == status
        assert response.headers.get("Retry-After") == retry_after
        assert problem["request_id"] == response.headers["X-Request-Id"]
        if isinstance(error, ThaiyyalError):
            assert problem["detail"] == error.message
        else:
            assert "a bug" not in json.dumps(problem)
    if isinstance(error, Overloaded):
        assert (problem["limit"], problem["retry_after_s"]) == ("live_executions_max", 7)


# --- batch ------------------------------------------------------------------------------------------------


async def test_a_batch_answers_in_order_and_each_start_for_itself(served: Served) -> None:
    body = {"executions": [{"workflow": NUMBER}, {"workflow": []}, {}, {"workflow": HOLD}]}
    status, answer = await post(served, "/v1/executions:batch", body)
    assert status == 200
    first, second, third, fourth = answer["executions"]
    assert first["status"] == "completed"
    assert second["problem"]["code"] == "workflow_invalid"
    assert third["problem"]["problems"][0]["path"] == "executions[2]"
    assert fourth["status"] == "running"


async def test_a_batch_is_one_call_of_the_engine(served: Served) -> None:
    await post(served, "/v1/executions:batch", {"executions": [{"workflow": NUMBER}] * 100})
    assert served.engine.calls == 1


async def test_the_place_of_a_mistake_in_a_batch_has_its_index(served: Served) -> None:
    body = {"executions": [{"workflow": NUMBER}, {"wokflow": {}}]}
    status, problem = await post(served, "/v1/executions:batch", body)
    assert (status, problem["problems"][0]["path"]) == (400, "executions[1].wokflow")


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_has_from_1_to_1000_starts(served: Served, count: int) -> None:
    body = {"executions": [{"workflow": {}}] * count}
    assert (await post(served, "/v1/executions:batch", body))[1]["code"] == "invalid_value"


async def test_the_key_of_a_batch_makes_one_key_per_start(served: Served) -> None:
    body = {"executions": [{"workflow": NUMBER}, {"workflow": NUMBER}]}
    for _ in range(2):
        await post(served, "/v1/executions:batch", body, headers={"Idempotency-Key": "b"})
    assert len(served.engine.executions) == 2


# --- reading ----------------------------------------------------------------------------------------------


async def test_steps_are_shown_when_asked_for(served: Served) -> None:
    _, started = await post(served, "/v1/executions", {"workflow": NUMBER})
    _, plain = await get(served, f"/v1/executions/{started['id']}")
    _, full = await get(served, f"/v1/executions/{started['id']}?steps=1")
    assert "steps" not in plain
    assert full["steps"][0]["id"] == "a"


@pytest.mark.parametrize("path", ["nope", "%2e%2e", "x" * 300, "%00", "%ff"])
@pytest.mark.parametrize("rest", ["", "/history", "/events"])
async def test_an_unknown_execution_is_a_404(served: Served, path: str, rest: str) -> None:
    status, problem = await get(served, f"/v1/executions/{path}{rest}")
    assert (status, problem["code"]) in ((404, "not_found"), (404, "no_such_route"))


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "limit=1&limit=2", "statsu=failed", "status=done", "tag=x", "limit="],
)
async def test_a_wrong_query_is_a_400_that_names_the_parameter(served: Served, query: str) -> None:
    status, problem = await get(served, f"/v1/executions?{query}")
    assert (status, problem["code"]) == (400, "invalid_query")
    assert problem["problems"][0]["path"] == "?" + query.partition("=")[0]


async def test_a_list_is_filtered_and_paged(served: Served) -> None:
    for number in range(5):
        await post(served, "/v1/executions", {"workflow": NUMBER, "tags": {"n": str(number % 2)}})
        await asyncio.sleep(0.002)
    _, first = await get(served, "/v1/executions?limit=2&status=completed")
    _, second = await get(served, f"/v1/executions?limit=3&cursor={first['cursor']}")
    ids = [item["id"] for item in first["executions"] + second["executions"]]
    assert ids == sorted(served.engine.executions, reverse=True)
    assert second["cursor"] is None
    _, tagged = await get(served, "/v1/executions?tag=n:1")
    assert len(tagged["executions"]) == 2


async def test_history_pages(served: Served) -> None:
    _, started = await post(served, "/v1/executions", {"workflow": NUMBER})
    path = f"/v1/executions/{started['id']}/history"
    _, first = await get(served, f"{path}?limit=1")
    assert ([event["seq"] for event in first["events"]], first["next_after"]) == ([1], 1)
    _, second = await get(served, f"{path}?after=1")
    assert ([event["type"] for event in second["events"]], second["next_after"]) == (
        ["execution_completed"],
        None,
    )


# --- cancelling -------------------------------------------------------------------------------------------


async def test_cancel_takes_an_empty_body_or_a_reason(served: Served) -> None:
    for options in ({}, {"json": {"reason": "enough"}}, {"data": b""}):
        _, started = await post(served, "/v1/executions", {"workflow": HOLD})
        async with served.http.post(f"/v1/executions/{started['id']}/cancel", **options) as response:
            assert response.status == 200
            assert (await response.json())["status"] == "cancelled"


async def test_cancelling_what_has_ended_is_a_409(served: Served) -> None:
    _, started = await post(served, "/v1/executions", {"workflow": NUMBER})
    status, problem = await post(served, f"/v1/executions/{started['id']}/cancel", {})
    assert (status, problem["code"]) == (409, "conflict")


def test_values_keep_their_types_on_the_way_to_json() -> None:
    from node.api.render import value_json

    assert value_json(encode({"b": 1.0, "a": [1.5, True, None, "x", 2**53 * 2.0]})) == (
        b'{"a":[1.5,true,null,"x",1.8014398509481984e16],"b":1}'
    )
