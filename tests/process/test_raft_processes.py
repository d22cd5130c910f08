"""Voters in processes of their own on loopback, killed and paused for real.

After each story: no acknowledged write is missing, and the hash of the state after every index is equal on all voters
(an "acked is a subset of final" check alone does not see divergence).
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.process.raft_cluster import Cluster, Refused, Writers, check

SMALL = {"snapshot_log_entries": 300}
"""Snapshots come often, so that restarts and catching up go through them."""


async def test_a_killed_leader_is_replaced_soon(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3, settings=SMALL) as cluster:
        async with Writers(cluster) as writers:
            await writers.more()
            for _ in range(3):
                leader = await cluster.leader()
                killed_at = time.monotonic()
                await leader.kill()
                await writers.more(1)
                assert time.monotonic() - killed_at < 4.0, "no write for too long after the leader was killed"
                await writers.more(30)
                await leader.start()
                await writers.more(30)
        await check(cluster, writers.acknowledged)


async def test_all_killed_at_once_come_back_with_everything(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3, settings=SMALL) as cluster:
        terms = [0]
        for _ in range(3):
            async with Writers(cluster) as writers:
                await writers.more()
                for voter in cluster.voters.values():
                    voter.signal(signal.SIGKILL)
                for voter in cluster.voters.values():
                    await voter.kill()
                await asyncio.gather(*[voter.start() for voter in cluster.voters.values()])
                await writers.more(20)
            await check(cluster, writers.acknowledged)
            terms.append((await (await cluster.leader()).ask("status"))["term"])
        assert terms == sorted(set(terms)), "a term did not rise over a full restart"


async def test_a_leader_that_was_paused_for_five_seconds_does_no_harm(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3, settings=SMALL) as cluster:
        async with Writers(cluster) as writers:
            await writers.more()
            leader = await cluster.leader()
            term = (await leader.ask("status"))["term"]
            leader.signal(signal.SIGSTOP)
            try:
                paused_at = time.monotonic()
                await writers.more(50)
                await asyncio.sleep(max(0.0, 5.0 - (time.monotonic() - paused_at)))
            finally:
                leader.signal(signal.SIGCONT)
            with pytest.raises(Refused):
                # What it was asked right after waking up it answers as a follower, or not at all.
                await leader.ask("load", {"seconds": 5, "size": 10, "window": 1})
            await writers.more(50)
            status = await leader.ask("status")
            assert status["role"] == "follower"
            assert status["term"] > term
        await check(cluster, writers.acknowledged)


async def test_a_rolling_restart_under_load_loses_nothing(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3, settings=SMALL) as cluster:
        async with Writers(cluster) as writers:
            for name in cluster.voters:
                await writers.more(60)
                await cluster[name].stop()
                await writers.more(30)
                await cluster[name].start()
        await check(cluster, writers.acknowledged)


async def test_five_voters_go_on_with_two_down_and_refuse_with_three(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 5, settings=SMALL) as cluster:
        async with Writers(cluster) as writers:
            await writers.more()
            leader = await cluster.leader()
            first, second, third, *_ = [voter for voter in cluster.voters.values() if voter is not leader]
            await first.kill()
            await second.kill()
            await writers.more()
        await third.kill()
        with pytest.raises(Refused) as refused:
            await leader.ask("propose", b"\x92\xa1x\xc4\x00", timeout_s=5.0)
        assert refused.value.code in ("outcome_unknown", "not_leader")
        with pytest.raises(Refused):
            await leader.ask("barrier", timeout_s=5.0)
        await asyncio.gather(*[voter.start() for voter in (first, second, third)])
        await check(cluster, writers.acknowledged)


async def test_a_voter_that_was_away_past_compaction_catches_up_by_snapshot_without_a_new_write(
    tmp_path: Path,
) -> None:
    async with Cluster(
        tmp_path, 3, settings={"snapshot_log_entries": 50, "commands_per_entry_max": 1}
    ) as cluster:
        leader = await cluster.leader()
        away = next(voter for voter in cluster.voters.values() if voter is not leader)
        await cluster.propose("before")
        await away.kill()
        async with Writers(cluster) as writers:
            await writers.more(500)
        leader = await cluster.leader()
        for _ in range(4):
            await cluster.propose(f"filler {_}")
            await leader.ask("snapshot")
        end = (await leader.ask("status"))["applied_index"]
        assert (await leader.ask("status"))["first_index"] > 5
        await away.start()
        async with asyncio.timeout(10):
            while (await away.ask("status"))["applied_index"] < end:
                await asyncio.sleep(0.02)
        assert (await away.ask("status"))["snapshot_index"] > 0
        await check(cluster, writers.acknowledged)


async def test_three_voters_become_five_and_three_again_under_load(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3, spares=2, settings=SMALL) as cluster:
        async with Writers(cluster) as writers:
            await writers.more(50)
            for spare in ("s1", "s2"):
                await _as_leader(cluster, "add_learner", spare, cluster.addresses[spare])
                await writers.more(20)
                await _as_leader(cluster, "promote", spare)
            status = await (await cluster.leader()).ask("status")
            assert sorted(status["voters"]) == ["n1", "n2", "n3", "s1", "s2"]
            await writers.more(50)
            for name in ("n1", "n2"):
                await _as_leader(cluster, "remove", name)
                await writers.more(20)
            status = await (await cluster.leader()).ask("status")
            assert sorted(status["voters"]) == ["n3", "s1", "s2"]
            term = status["term"]
            # The removed ones are still there, and disturb nobody.
            await asyncio.sleep(1.5)
            assert (await (await cluster.leader()).ask("status"))["term"] == term
        for name in ("n1", "n2"):
            await cluster[name].kill()
        await check(cluster, writers.acknowledged)


async def _as_leader(cluster: Cluster, operation: str, *arguments: str) -> None:
    """Ask whoever leads until it is done; a change may have to wait for the one before, or for a learner."""
    async with asyncio.timeout(20):
        while True:
            leader = await cluster.leader()
            try:
                await leader.ask(operation, *arguments)
                return
            except Refused as error:
                if error.code == "membership_refused" and operation == "remove":
                    status = await (await cluster.leader()).ask("status")
                    if arguments[0] not in status["voters"]:
                        return
                await asyncio.sleep(0.05)


async def test_leadership_moves_on_request_and_writes_under_way_end_well(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3) as cluster:
        async with Writers(cluster) as writers:
            for _ in range(4):
                await writers.more(40)
                leader = await cluster.leader()
                target = next(name for name in cluster.voters if name != leader.name)
                assert await leader.ask("transfer", target) == target
        await check(cluster, writers.acknowledged)


async def test_reads_on_followers_see_every_acknowledged_write(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3) as cluster:
        for number in range(60):
            await cluster.propose(f"k{number}")
            for voter in cluster.voters.values():
                assert await voter.ask("read", f"k{number}") == number + 1
