"""A peer in this process: what ends it, and that it lets go of everything."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.peer import Peer, PeerFailed
from node.settings import NodeSettings
from tests.node_process import node
from thaiyyal.client import ClientError, SyncClient

HOLD: dict[str, Any] = {
    "workflow": {"nodes": [{"id": "a", "type": "delay", "data": {"duration": "1h"}}]},
    "wait_s": 60,
}


def settings(data_dir: Path) -> NodeSettings:
    return NodeSettings.from_options(data_dir=data_dir, api_port=0, slots=1)


async def test_a_fault_in_a_callback_of_the_loop_ends_the_node_with_its_reason(tmp_path: Path) -> None:
    peer = Peer(settings(tmp_path / "data"))
    await peer.start()
    try:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        with pytest.raises(PeerFailed, match=r"event loop has failed \(ZeroDivisionError"):
            await peer.wait_failed()
    finally:
        await peer.stop()


async def test_a_background_part_that_ends_ends_the_node_and_is_named(tmp_path: Path) -> None:
    peer = Peer(settings(tmp_path / "data"))
    await peer.start()
    try:
        failing = asyncio.create_task(peer.wait_failed())
        await asyncio.sleep(0)
        [serving] = [task for task in asyncio.all_tasks() if task.get_name() == "coordinator"]
        serving.cancel()
        with pytest.raises(PeerFailed, match="its coordinator has failed"):
            await failing
    finally:
        await peer.stop()


async def test_a_peer_that_stopped_lets_go_of_everything_and_can_be_followed_by_another(
    tmp_path: Path,
) -> None:
    before = asyncio.all_tasks()
    for _ in range(2):
        peer = Peer(settings(tmp_path / "data"))
        await peer.start()
        assert peer.not_ready_reason() == ""
        await peer.stop()
        assert "stopping" in peer.not_ready_reason()
    assert asyncio.all_tasks() == before


async def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    first = Peer(settings(tmp_path / "data"))
    await first.start()
    before = asyncio.all_tasks()
    second = Peer(settings(tmp_path / "data"))
    with pytest.raises(PeerFailed, match="in use by the process with pid"):
        await second.start()
    assert asyncio.all_tasks() == before
    await first.stop()


async def test_an_api_address_that_has_no_machine_is_named(tmp_path: Path) -> None:
    nowhere = NodeSettings.from_options(
        data_dir=tmp_path / "data", api_host="999.1.1.1", api_port=80, slots=1
    )
    with pytest.raises(PeerFailed, match=r"the API cannot listen on 999\.1\.1\.1:80: "):
        await Peer(nowhere).start()


async def test_a_stop_with_a_client_waiting_keeps_its_time(tmp_path: Path) -> None:
    peer = Peer(settings(tmp_path / "data"))
    await peer.start()
    host, port = peer.address
    async with aiohttp.ClientSession(base_url=f"http://{host}:{port}") as http:
        waiting = asyncio.create_task(http.post("/v1/executions", json=HOLD).__aenter__())
        while not await _executions(http):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await peer.stop()
        assert time.monotonic() - began < 10
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def _executions(http: aiohttp.ClientSession) -> list[object]:
    async with http.get("/v1/executions") as response:
        found: list[object] = (await response.json())["executions"]
        return found


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            execution = client.start(HOLD["workflow"])
        with process.client(attempts_max=1) as client:
            waiter = threading.Thread(target=_wait_quietly, args=(client, execution.id), daemon=True)
            waiter.start()
            while client.status()["engine"]["waiting_clients"] == 0:
                time.sleep(0.01)
            assert process.process is not None
            process.process.send_signal(signal.SIGTERM)
            process.wait_event("node.stopping")
            assert process.stop(signal.SIGTERM) == 130
            waiter.join()


def _wait_quietly(client: SyncClient, execution_id: str) -> None:
    with contextlib.suppress(ClientError):
        client.get(execution_id, wait_s=60)
