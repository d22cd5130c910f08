"""Server-sent events: order, resuming, heartbeats, and streams that end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from node.api.server import ApiSettings
from tests.api_server import Served, serve

HOLD = {"workflow": {"nodes": [{"id": "a", "type": "hold", "data": {}}]}}
NUMBER = {"workflow": {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}]}}


async def started(served: Served, body: Any) -> str:
    async with served.http.post("/v1/executions", json=body) as response:
        execution_id: str = (await response.json())["id"]
        return execution_id


def parse(text: str) -> list[tuple[int, str]]:
    """(id, event) of each message; checks that data is JSON and agrees."""
    messages = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            data = json.loads(fields["data"])
            assert (str(data["seq"]), data["type"]) == (fields["id"], fields["event"])
            messages.append((data["seq"], data["type"]))
    return messages


async def test_a_stream_has_what_was_and_what_comes_and_ends_with_the_execution(served: Served) -> None:
    execution_id = await started(served, HOLD)
    async with served.http.get(f"/v1/executions/{execution_id}/events") as response:
        assert response.content_type == "text/event-stream"
        await response.content.readuntil(b"execution_accepted")
        await served.engine.finish(execution_id)
        rest = (await response.read()).decode()
    assert "event: execution_completed" in rest


async def test_a_stream_goes_on_after_the_last_event_id(served: Served) -> None:
    execution_id = await started(served, HOLD)
    await served.engine.finish(execution_id)
    path = f"/v1/executions/{execution_id}/events"
    async with served.http.get(path) as response:
        assert parse(await response.text()) == [(1, "execution_accepted"), (2, "execution_completed")]
    for options in ({"headers": {"Last-Event-ID": "1"}}, {"params": {"after": "1"}}):
        async with served.http.get(path, **options) as response:
            assert parse(await response.text()) == [(2, "execution_completed")]


async def test_nothing_more_to_come_is_a_204_so_that_browsers_stop_asking(served: Served) -> None:
    execution_id = await started(served, NUMBER)
    async with served.http.get(
        f"/v1/executions/{execution_id}/events", headers={"Last-Event-ID": "2"}
    ) as response:
        assert response.status == 204


async def test_a_silent_stream_sends_comments(tmp_path: Path) -> None:
    async with serve(tmp_path, ApiSettings(port=0, heartbeat_s=0.01)) as served:
        execution_id = await started(served, HOLD)
        async with served.http.get(f"/v1/executions/{execution_id}/events") as response:
            await response.content.readuntil(b": still here\n\n")
            await response.content.readuntil(b": still here\n\n")
            await served.engine.finish(execution_id)
            assert "execution_completed" in await response.text()


async def test_streams_have_a_bound_and_give_their_place_back(tmp_path: Path) -> None:
    async with serve(tmp_path, ApiSettings(port=0, streams_max=1, heartbeat_s=60.0)) as served:
        path = f"/v1/executions/{await started(served, HOLD)}/events"
        async with aiohttp.ClientSession(base_url=served.address) as other:
            first = await other.get(path)
            await first.content.readuntil(b"execution_accepted")
            async with served.http.get(path) as second:
                assert second.status == 429
                assert (await second.json(content_type=None))["limit"] == "streams_max"
            first.close()
        async with asyncio.timeout(5):  # long before the heartbeat would find that the first client has gone
            while served.api.counters.streams:
                await asyncio.sleep(0.005)


async def test_a_wrong_last_event_id_is_a_400(served: Served) -> None:
    execution_id = await started(served, NUMBER)
    async with served.http.get(
        f"/v1/executions/{execution_id}/events", headers={"Last-Event-ID": "abc"}
    ) as response:
        assert response.status == 400
