"""The edge itself: methods, media types, sizes, slow and malformed clients, other origins."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.api.server import ApiSettings
from tests.api_server import Served, serve

NUMBER = {"workflow": {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}]}}


async def raw(served: Served, request: bytes, *, timeout_s: float = 10.0) -> bytes:
    """Everything that the server sends on one connection until it closes."""
    port = int(served.address.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(timeout_s):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/executions", "GET, HEAD, POST"),
        ("DELETE", "/v1/executions/x", "GET, HEAD"),
        ("OPTIONS", "/v1/status", "GET, HEAD"),
        ("GET", "/v1/executions:batch", "POST"),
        ("GET", "/api/v1/workflow/execute", "POST"),
    ],
)
async def test_a_wrong_method_is_a_405_that_says_which_are_right(
    served: Served, method: str, path: str, allowed: str
) -> None:
    async with served.http.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == allowed
        assert (await response.json(content_type=None))["code"] == "method_not_allowed"


async def test_an_unknown_path_is_a_404_with_a_suggestion(served: Served) -> None:
    async with served.http.get("/v1/execution") as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["code"]) == (404, "no_such_route")
    assert "did you mean /v1/executions?" in problem["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "application/jsonp", "x"])
async def test_another_media_type_is_a_415(served: Served, content_type: str) -> None:
    async with served.http.post(
        "/v1/executions", data=json.dumps(NUMBER), headers={"Content-Type": content_type}
    ) as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["code"]) == (415, "unsupported_media_type")
    assert content_type in problem["detail"]


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "application/vnd.x+json", "application/x-www-form-urlencoded"],
)
async def test_json_media_types_are_taken(served: Served, content_type: str) -> None:
    async with served.http.post(
        "/v1/executions", data=json.dumps(NUMBER), headers={"Content-Type": content_type}
    ) as response:
        assert response.status == 200


async def test_a_compressed_body_is_a_415(served: Served) -> None:
    async with served.http.post(
        "/v1/executions",
        data=b"\x1f\x8b" + b"x" * 100,
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ) as response:
        assert response.status == 415


@pytest.mark.parametrize(("size", "status"), [(999, 400), (1000, 400), (1001, 413), (300_000, 413)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_a_413(tmp_path: Path, size: int, status: int, chunked: bool) -> None:
    async def chunks() -> Any:
        for start in range(0, size, 400):
            yield b"x" * min(400, size - start)

    async with serve(tmp_path, ApiSettings(port=0, body_bytes_max=1000)) as served:
        async with served.http.post(
            "/v1/executions",
            data=chunks() if chunked else b"x" * size,
            headers={"Content-Type": "application/json"},
        ) as response:
            assert response.status == status
            problem = await response.json(content_type=None)
        if status == 413:
            assert (problem["code"], "body_bytes_max" in problem["detail"]) == ("too_large", True)


async def test_a_declared_length_over_the_limit_is_refused_before_the_body_comes(served: Served) -> None:
    head = (
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = await raw(served, head)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_asks_first_is_told_to_go_on(served: Served) -> None:
    port = int(served.address.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(NUMBER).encode()
    writer.write(
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_comes_too_slowly_is_a_408(tmp_path: Path) -> None:
    async with serve(tmp_path, ApiSettings(port=0, body_timeout_s=0.05)) as served:
        answer = await raw(served, b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(served.address.rsplit(":", 1)[1])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    while not served.api.server.connections:
        await asyncio.sleep(0.001)
    writer.transport.abort()
    async with asyncio.timeout(5):
        while not served.api.counters.by_route.get(("/v1/executions", 499)):
            await asyncio.sleep(0.001)
    assert not caplog.records


async def test_a_head_that_comes_too_slowly_ends_the_connection(tmp_path: Path) -> None:
    async with serve(tmp_path, ApiSettings(port=0, idle_timeout_s=0.05)) as served:
        assert await raw(served, b"GET /healthz HT") == b""


async def test_bodies_under_way_have_a_bound_together(tmp_path: Path) -> None:
    async with serve(tmp_path, ApiSettings(port=0, bodies_bytes_total_max=1500)) as served:
        head = b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        port = int(served.address.rsplit(":", 1)[1])
        _, holding = await asyncio.open_connection("127.0.0.1", port)
        holding.write(head)
        answer = b""
        while not answer.startswith(b"HTTP/1.1 429 "):
            answer = await raw(served, head + b"x" * 10)
        assert b"bodies_bytes_total_max" in answer
        holding.close()
        await holding.wait_closed()


async def test_one_connection_too_many_is_told_so_and_closed(tmp_path: Path) -> None:
    async with serve(tmp_path, ApiSettings(port=0, connections_max=1)) as served:
        async with served.http.get("/healthz") as response:
            assert response.status == 200
        answer = await raw(served, b"")
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"connections_max" in answer


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n bad\r\n\r\n",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400_and_the_node_stays(served: Served, garbage: bytes) -> None:
    answer = await raw(served, garbage)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'"malformed_http"' in answer
    async with served.http.get("/healthz") as response:
        assert response.status == 200


async def test_a_page_of_another_origin_may_not_change_anything(served: Served) -> None:
    for path in ("/v1/executions", "/api/v1/workflow/execute"):
        async with served.http.post(path, json=NUMBER, headers={"Origin": "http://evil.example"}) as response:
            assert response.status == 403
            assert (await response.json(content_type=None))["code"] == "cross_origin"
        async with served.http.post(
            path, json=NUMBER["workflow"], headers={"Origin": served.address}
        ) as response:
            assert response.status != 403
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_request_id_is_kept_or_made(served: Served) -> None:
    async with served.http.get("/healthz", headers={"X-Request-Id": "mine-1"}) as response:
        assert response.headers["X-Request-Id"] == "mine-1"
    async with served.http.get("/healthz", headers={"X-Request-Id": "no spaces"}) as response:
        assert response.headers["X-Request-Id"] not in ("no spaces", "")


async def test_head_answers_like_get_without_a_body(served: Served) -> None:
    async with served.http.head("/v1/executions") as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 0
        assert await response.read() == b""


async def test_an_old_client_is_answered_and_closed_unless_it_asks_to_stay(served: Served) -> None:
    assert (await raw(served, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


async def test_several_requests_in_one_packet_are_answered_in_order(served: Served) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await raw(served, request * 3 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.rindex(b"HTTP/1.1 404") > answer.rindex(b"HTTP/1.1 200")


async def test_requests_are_counted_by_route_and_never_by_path(served: Served) -> None:
    for path in ("/v1/executions/a", "/v1/executions/b", "/v1/whatever"):
        async with served.http.get(path):
            pass
    async with served.http.get("/metrics") as response:
        text = await response.text()
    assert 'thaiyyal_api_requests_total{route="/v1/executions/{id}",status="404"} 2.0' in text
    assert "whatever" not in text


async def test_readiness_follows_the_node_and_liveness_does_not(served: Served) -> None:
    async with served.http.get("/readyz") as response:
        assert response.status == 200
    served.not_ready.append("applying the log: 10 of 20")
    for path, status in (("/readyz", 503), ("/healthz", 200), ("/health", 503), ("/health/live", 200)):
        async with served.http.get(path) as response:
            assert response.status == status
    async with served.http.get("/readyz") as response:
        assert (await response.json())["reason"] == "applying the log: 10 of 20"


async def test_requests_under_way_are_finished_when_the_server_stops(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        body = {"workflow": {"nodes": [{"id": "a", "type": "hold"}]}, "wait_s": 60}
        async with aiohttp.ClientSession(base_url=served.address) as http:
            waiting = asyncio.create_task(_post(http, body))
            while not served.engine.executions:
                await asyncio.sleep(0)
            closing = asyncio.create_task(served.api.close())
            await asyncio.sleep(0)
            await served.engine.finish(next(iter(served.engine.executions)))
            assert (await waiting)["status"] == "completed"
            await closing


async def _post(http: aiohttp.ClientSession, body: Any) -> Any:
    async with http.post("/v1/executions", json=body) as response:
        return await response.json()
