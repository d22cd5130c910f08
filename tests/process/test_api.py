"""The API of a real node: bad input of every kind leaves it healthy, and its OpenAPI document is what it does."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.node_process import NodeProcess, node
from thaiyyal.client import Start

NUMBER = {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}]}

BAD_STEPS = """
from thaiyyal import step_type

@step_type("returns_a_set", effect="pure")
def returns_a_set(value):
    return {1, 2, 3}

@step_type("returns_itself", effect="pure")
def returns_itself(value):
    own = []
    own.append(own)
    return own

@step_type("exits", effect="write")
def exits(value):
    import os
    os._exit(7)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    directory = tmp_path_factory.mktemp("api")
    (directory / "bad_steps.py").write_text(BAD_STEPS)
    options = ("--slots", "1", "--load", "bad_steps")
    with node(directory / "data", *options, env={"PYTHONPATH": str(directory)}) as process:
        yield process
        assert process.stop() == 0
        assert "Traceback" not in process.log_text()


def one(kind: str) -> dict[str, Any]:
    return {
        "nodes": [
            {"id": "a", "type": "number", "data": {"value": 1}},
            {"id": "x", "type": kind, "data": {}},
        ],
        "edges": [{"source": "a", "target": "x"}],
    }


def edge(source: str, target: str) -> dict[str, str]:
    return {"source": source, "target": target}


BAD_WORKFLOWS: list[tuple[Any, int, str]] = [
    ([], 422, "failed to parse payload"),
    ("text", 422, "failed to parse payload"),
    ({"nodes": {}}, 422, "failed to parse payload"),
    ({"nodes": [{"id": 3}]}, 422, "failed to parse payload"),
    ({"nodes": [{"id": "a", "type": "number", "data": {"value": "x"}}]}, 422, "failed to unmarshal data"),
    ({"nodes": [{"id": "a", "type": "condition", "data": {}}]}, 422, "condition"),
    ({**NUMBER, "edges": [edge("a", "a")]}, 422, "workflow contains cycles"),
    ({"nodes": [*NUMBER["nodes"], *NUMBER["nodes"]]}, 422, "workflow contains cycles"),
    ({**NUMBER, "edges": [edge("a", "nowhere")]}, 422, "nowhere"),
    ({**NUMBER, "edges": [edge("nowhere", "a")]}, 422, "workflow contains cycles"),
    (
        {"nodes": [{"id": str(i), "type": "number", "data": {"value": 1}} for i in range(10_001)]},
        413,
        "10000",
    ),
    ({**NUMBER, "edges": [edge("a", "b")] * 100_001}, 413, "100000"),
]


@pytest.mark.parametrize(("workflow", "status", "words"), BAD_WORKFLOWS, ids=range(len(BAD_WORKFLOWS)))
async def test_a_bad_workflow_is_refused_with_its_reason_and_the_node_stays_healthy(
    served: NodeProcess, workflow: Any, status: int, words: str
) -> None:
    body = io.BytesIO(json.dumps({"workflow": workflow}).encode())
    async with aiohttp.ClientSession(base_url=served.address) as http:
        async with http.post(
            "/v1/executions", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, words in problem["detail"]) == (status, True), problem
            assert problem["what_to_do"]
        async with http.get("/readyz") as response:
            assert response.status == 200


async def test_a_payload_as_deep_as_the_limit_is_taken_and_deeper_ones_are_refused(
    served: NodeProcess,
) -> None:
    def deep(levels: int) -> bytes:
        value = b"[" * levels + b"]" * levels
        return b'{"workflow":{"nodes":[],"extra":' + value + b"}}"

    async with aiohttp.ClientSession(
        base_url=served.address, headers={"Content-Type": "application/json"}
    ) as http:
        for levels, status in ((90, 202), (150, 400), (100_000, 400), (1_000_000, 400)):
            async with http.post("/v1/executions", data=io.BytesIO(deep(levels))) as response:
                assert response.status in (status, 200 if status == 202 else status), await response.text()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zz", "no executor registered for type: zz"),
        ("returns_a_set", "set"),
        ("returns_itself", "nested"),
        ("exits", "7"),
    ],
)
def test_a_step_that_goes_wrong_is_a_failed_execution_with_the_reason(
    served: NodeProcess, kind: str, words: str
) -> None:
    with served.client() as client:
        execution = client.start(one(kind), wait_s=20)
        execution = client.wait(execution.id, timeout_s=20)
        assert execution.status == "failed"
        assert execution.error is not None
        assert words in execution.error.message
        assert client.run(NUMBER).final_output == 5


def test_a_missing_required_input_is_refused_by_name(served: NodeProcess) -> None:
    from thaiyyal.client import ApiError

    workflow = {**NUMBER, "inputs": {"amount": {"type": "number", "required": True}}}
    with served.client() as client:
        with pytest.raises(ApiError) as caught:
            client.start(workflow)
        assert (caught.value.status, caught.value.code) == (422, "inputs_invalid")
        assert "amount" in caught.value.detail
        assert client.run(workflow, inputs={"amount": 3}).final_output == 5


def test_a_workflow_waits_side_by_side_with_a_thousand_others(served: NodeProcess) -> None:
    delayed = {"nodes": [{"id": "wait", "type": "delay", "data": {"duration": "300ms"}}]}
    with served.client() as client:
        answers = client.batch([Start(workflow=delayed) for _ in range(1000)], wait_s=30)
        assert [answer.status for answer in answers] == ["completed"] * 1000


async def test_the_original_routes_run_on_the_real_engine(served: NodeProcess) -> None:
    async with aiohttp.ClientSession(base_url=served.address) as http:

        async def post(path: str, body: Any) -> tuple[int, Any]:
            async with http.post(f"/api/v1/workflow/{path}", data=json.dumps(body)) as response:
                return response.status, await response.json(content_type=None)

        status, answer = await post("execute", {"workflow_id": "w", **NUMBER})
        assert (status, answer["results"]["final_output"]) == (200, 5)
        status, answer = await post("execute", {**NUMBER, "edges": [edge("a", "a")]})
        assert (status, answer["error"]) == (500, "Workflow execution failed")
        assert answer["details"] == "workflow contains cycles (circular dependencies)"
        status, answer = await post("execute", {**NUMBER, "edges": [edge("a", "x")]})
        assert (status, answer["error"]) == (400, "Failed to create engine")
        status, answer = await post("execute", one("zz"))
        assert (status, answer["details"]) == (
            500,
            "error executing node x: no executor registered for type: zz",
        )
        assert await post("validate", {**NUMBER, "edges": [edge("a", "x")]}) == (200, {"valid": True})
        for data in (NUMBER, None, "text", {"nodes": 3}):
            status, saved = await post("save", {"name": "n", "data": data})
            assert status == 201
            async with http.get(f"/api/v1/workflow/load/{saved['id']}") as response:
                assert (await response.json())["workflow"]["data"] == data
        status, answer = await post(f"execute/{saved['id']}", None)
        assert (status, answer["error"]) == (400, "Failed to create engine")


async def test_an_event_stream_of_a_real_execution_has_no_gaps_and_resumes(served: NodeProcess) -> None:
    workflow = {"nodes": [{"id": "wait", "type": "delay", "data": {"duration": "200ms"}}]}
    async with aiohttp.ClientSession(base_url=served.address) as http:
        async with http.post("/v1/executions", json={"workflow": workflow}) as response:
            execution_id = (await response.json())["id"]
        path = f"/v1/executions/{execution_id}/events"
        async with http.get(path) as response:
            whole = sequence(await response.text())
        assert [number for number, _ in whole] == list(range(1, len(whole) + 1))
        assert whole[-1][1] == "execution_completed"
        async with http.get(path, headers={"Last-Event-ID": "2"}) as response:
            assert sequence(await response.text()) == whole[2:]
        async with http.get(path, headers={"Last-Event-ID": str(len(whole))}) as response:
            assert response.status == 204
        async with http.get(f"/v1/executions/{execution_id}/history") as response:
            events = (await response.json())["events"]
            assert [(event["seq"], event["type"]) for event in events] == whole


def sequence(text: str) -> list[tuple[int, str]]:
    datas = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [(event["seq"], event["type"]) for event in map(json.loads, datas)]


async def test_many_slow_clients_do_not_hold_up_a_quick_one(served: NodeProcess) -> None:
    host, _, port = served.address.removeprefix("http://").partition(":")
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
    for _, writer in slow:
        writer.write(b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession(base_url=served.address) as http,
        http.post("/v1/executions", json={"workflow": NUMBER, "wait_s": 5}) as response,
    ):
        assert response.status == 200
    for _, writer in slow:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in slow), return_exceptions=True)


def test_schemathesis_finds_no_answer_outside_the_document(served: NodeProcess, tmp_path: Path) -> None:
    """Left out: event streams (they do not end), and the two checks that take every rule for a schema's.

    A start may be refused for what no schema says (a payload's graph), and the validate routes answer 200 to
    what is wrong: that is what they are for.
    """
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{served.address}/v1/openapi.json",
        "--phases=coverage,fuzzing",
        "--max-examples=10",
        "--checks=all",
        "--exclude-checks=positive_data_acceptance,negative_data_rejection",
        "--exclude-path-regex=/events$",
        "--seed=1",
        "--no-color",
        "--warnings=off",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
