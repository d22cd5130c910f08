"""Members as processes of their own: kill -9, and SIGSTOP, which a process does not notice.

Each process prints a line of JSON per event; run by hand: python tests/process/test_gossip_processes.py ID [SEED]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from gossip import Address, Gossip, Keyring, MemberEvent

ROOT = Path(__file__).parents[2]


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def live(name: str, seeds: list[str]) -> None:
    """The child: a member until killed."""

    def on_event(event: MemberEvent) -> None:
        say(change=event.change.value, member=event.member.node_id, incarnation=event.member.incarnation)

    async with Gossip(
        node_id=name,
        keyring=Keyring([b"k" * 32]),
        cluster_id="test",
        bind=Address("127.0.0.1", 0),
        seeds=seeds,
        on_event=on_event,
    ) as member:
        say(change="address", member=str(member.address))
        await asyncio.Event().wait()


class Child:
    """A member process and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, object]] = []
        self._heard = asyncio.Condition()

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._heard:
                self.said.append(json.loads(line))
                self._heard.notify_all()

    async def wait_said(
        self, change: str, member: str = "", *, after: int = 0, timeout_s: float = 15.0
    ) -> float:
        """Seconds until it said so (from `after` lines on)."""
        loop = asyncio.get_running_loop()
        started = loop.time()

        def has_said() -> bool:
            return any(
                line["change"] == change and member in ("", line["member"]) for line in self.said[after:]
            )

        async with asyncio.timeout(timeout_s), self._heard:
            await self._heard.wait_for(has_said)
        return loop.time() - started

    def has_said(self, change: str) -> bool:
        return any(line["change"] == change for line in self.said)


@contextlib.asynccontextmanager
async def children(count: int) -> AsyncIterator[list[Child]]:
    started: list[Child] = []
    async with asyncio.TaskGroup() as listeners:
        try:
            seeds: list[str] = []
            for i in range(count):
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    __file__,
                    f"n{i}",
                    *seeds,
                    stdout=asyncio.subprocess.PIPE,
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                )
                child = Child(process)
                started.append(child)
                listeners.create_task(child.listen(), name=f"listen to n{i}")
                await child.wait_said("address")
                if not seeds:
                    seeds = [str(child.said[-1]["member"])]
            for child in started:
                for i in range(count):
                    if child is not started[i]:
                        await child.wait_said("joined", f"n{i}")
            yield started
        finally:
            for child in started:
                if child.process.returncode is None:
                    child.process.send_signal(signal.SIGCONT)
                    child.process.kill()
            for child in started:
                await child.process.wait()


async def test_a_member_killed_with_signal_9_is_dead_for_all_within_3_to_5_seconds() -> None:
    async with children(4) as members:
        members[3].process.kill()
        seconds = await asyncio.gather(*(child.wait_said("failed", "n3") for child in members[:3]))
        assert min(seconds) >= 2.8
        assert max(seconds) <= 5.3


async def test_a_stopped_member_is_suspected_not_dead_when_it_goes_on_in_time() -> None:
    async with children(4) as members:
        members[3].process.send_signal(signal.SIGSTOP)
        await members[0].wait_said("suspected", "n3")
        members[3].process.send_signal(signal.SIGCONT)
        await members[0].wait_said("updated", "n3")
        assert not any(child.has_said("failed") for child in members)


async def test_a_member_stopped_for_long_is_dead_then_back_and_has_buried_nobody() -> None:
    async with children(4) as members:
        members[3].process.send_signal(signal.SIGSTOP)
        await asyncio.gather(*(child.wait_said("failed", "n3") for child in members[:3]))
        before = [len(child.said) for child in members]
        members[3].process.send_signal(signal.SIGCONT)
        for child, after in zip(members[:3], before, strict=False):
            await child.wait_said("joined", "n3", after=after)
        assert not members[3].has_said("failed")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(live(sys.argv[1], sys.argv[2:]))
