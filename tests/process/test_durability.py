"""What was acknowledged survives kill -9 of the node at a random moment: it ends once, with the right result.

CI runs 5 kills; `THAIYYAL_SOAK=1` 20. The seed is printed; THAIYYAL_SEED replays it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
EXECUTIONS = 1000
BATCH = 50
KILLS = 20 if os.environ.get("THAIYYAL_SOAK") else 5

WORKFLOW: dict[str, Any] = {
    "nodes": [
        {"id": "a", "type": "number", "data": {"value": 3}},
        {"id": "b", "type": "expression", "data": {"expression": "input * context.factor"}},
        {"id": "c", "type": "delay", "data": {"duration": "300ms"}},
        {"id": "d", "type": "expression", "data": {"expression": "input.value + 1"}},
        {"id": "e", "type": "delay", "data": {"duration": "200ms"}},
    ],
    "edges": [
        {"source": "a", "target": "b"},
        {"source": "b", "target": "c"},
        {"source": "c", "target": "d"},
        {"source": "d", "target": "e"},
    ],
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One real node process on a data directory; `kill` is SIGKILL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        log = (self.folder / "node.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "start", "--data-dir", str(self.folder / "data")),
            *("--api", f"127.0.0.1:{self.port}", "--slots", "2"),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + 30
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                assert self.process.returncode is None, (self.folder / "node.log").read_text()[-3000:]
                try:
                    async with session.get(self.url + "/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        raise AssertionError("the node is not ready: " + (self.folder / "node.log").read_text()[-3000:])

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 20)


async def start_batch(session: aiohttp.ClientSession, node: Node, factors: list[int]) -> dict[str, int]:
    """Ids of the executions that the node acknowledged, with their factor; nothing when it died before it answered."""
    body = {
        "executions": [
            {"workflow": WORKFLOW, "inputs": {"factor": factor}, "idempotency_key": f"run-{factor}"}
            for factor in factors
        ]
    }
    try:
        async with session.post(node.url + "/v1/executions:batch", json=body) as answer:
            assert answer.status in (200, 202), await answer.text()
            found = await answer.json()
    except aiohttp.ClientError:
        return {}
    return {view["id"]: factor for view, factor in zip(found["executions"], factors, strict=True)}


async def ended(session: aiohttp.ClientSession, node: Node, execution_id: str) -> dict[str, Any]:
    async with session.get(f"{node.url}/v1/executions/{execution_id}?wait_s=30") as answer:
        assert answer.status == 200, await answer.text()
        view: dict[str, Any] = await answer.json()
        return view


async def terminal_events(session: aiohttp.ClientSession, node: Node, execution_id: str) -> list[str]:
    async with session.get(f"{node.url}/v1/executions/{execution_id}/history") as answer:
        assert answer.status == 200, await answer.text()
        events = (await answer.json())["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    finals = {"execution_completed", "execution_failed", "execution_cancelled", "execution_terminated"}
    return [event["type"] for event in events if event["type"] in finals]


async def test_every_acknowledged_execution_ends_once_with_the_right_result(tmp_path: Path) -> None:
    seed = int(os.environ.get("THAIYYAL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"replay with THAIYYAL_SEED={seed}")
    chance = random.Random(seed)
    node = Node(tmp_path)
    acknowledged: dict[str, int] = {}
    unanswered: list[int] = list(range(1, EXECUTIONS + 1))
    await node.start()
    try:
        for _ in range(KILLS):
            killer = asyncio.create_task(_kill_after(node, chance.uniform(0.05, 1.0)))
            async with aiohttp.ClientSession() as session:
                share = max(1, EXECUTIONS // KILLS // BATCH)
                for _ in range(share):
                    factors = unanswered[:BATCH]
                    if not factors or killer.done():
                        break
                    accepted = await start_batch(session, node, factors)
                    acknowledged.update(accepted)
                    if accepted:
                        del unanswered[: len(factors)]
            await killer
            await node.start()
        async with aiohttp.ClientSession() as session:
            while unanswered:
                accepted = await start_batch(session, node, unanswered[:BATCH])
                assert accepted, "the node answers no longer"
                acknowledged.update(accepted)
                del unanswered[:BATCH]
            assert len(acknowledged) == EXECUTIONS  # a start repeated under its key is the same execution
            await _check_all(session, node, acknowledged)
        assert node.process is not None
    finally:
        await node.stop()


async def _kill_after(node: Node, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    await node.kill()


async def _check_all(session: aiohttp.ClientSession, node: Node, acknowledged: dict[str, int]) -> None:
    async def check(execution_id: str, factor: int) -> None:
        async with gate:
            view = await ended(session, node, execution_id)
            assert view["status"] == "completed", view
            assert view["final_output"] == {"value": 3 * factor + 1, "duration": "200ms", "delayed": True}
            assert set(view["node_results"]) == {"a", "b", "c", "d", "e"}
            assert await terminal_events(session, node, execution_id) == ["execution_completed"]

    gate = asyncio.Semaphore(32)
    async with asyncio.TaskGroup() as checks:
        for execution_id, factor in acknowledged.items():
            checks.create_task(check(execution_id, factor))
