"""Real members on loopback: UDP sockets, TCP streams, the loop's clock. Also what only the shell does.

THAIYYAL_SOAK=1: 100 members, two idle minutes, ten killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvloop

from gossip import (
    Address,
    Change,
    Gossip,
    IdConflict,
    Keyring,
    Member,
    MemberEvent,
    MetaTooLarge,
    NodeMeta,
    Settings,
    SettingsInvalid,
    State,
    StreamFailed,
    decode_meta,
    encode_meta,
)

KEY = b"k" * 32
LOOPBACK = Address("127.0.0.1", 0)
SOAK = os.environ.get("THAIYYAL_SOAK") == "1"


def make(name: str, seeds: Sequence[str] = (), **options: object) -> Gossip:
    defaults: dict[str, object] = {
        "node_id": name,
        "keyring": Keyring([KEY]),
        "cluster_id": "test",
        "bind": LOOPBACK,
        "seeds": seeds,
    }
    return Gossip(**(defaults | options))  # type: ignore[arg-type]


async def until(holds: Callable[[], bool], timeout_s: float) -> float:
    """Seconds until it held; fails when it never does."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not holds():
        assert loop.time() - started < timeout_s, f"not reached in {timeout_s} s"
        await asyncio.sleep(0.01)
    return loop.time() - started


class Members:
    """Running members, each with its own exit stack, so that one can be killed (closed without leaving)."""

    def __init__(self) -> None:
        self.running: dict[str, Gossip] = {}
        self.events: list[tuple[str, MemberEvent]] = []
        self._stacks: dict[str, AsyncExitStack] = {}

    async def start(self, name: str, seeds: Sequence[str] = (), **options: object) -> Gossip:
        def on_event(event: MemberEvent) -> None:
            self.events.append((name, event))

        stack = AsyncExitStack()
        member = await stack.enter_async_context(make(name, seeds, on_event=on_event, **options))
        self.running[name], self._stacks[name] = member, stack
        return member

    async def kill(self, name: str) -> None:
        del self.running[name]
        await self._stacks.pop(name).aclose()

    def agree(self) -> bool:
        names = set(self.running)
        return all({m.node_id for m in g.live_members()} == names for g in self.running.values())

    def told(self, change: Change) -> list[str]:
        return [event.member.node_id for _, event in self.events if event.change is change]


@asynccontextmanager
async def members(count: int = 0, **options: object) -> AsyncIterator[Members]:
    made = Members()
    try:
        for i in range(count):
            seeds = [str(made.running["n0"].address)] if i else []
            await made.start(f"n{i}", seeds, **options)
        yield made
    finally:
        for name in list(made.running):
            await made.kill(name)


@pytest.mark.parametrize(
    ("count", "idle_s", "killed"),
    [
        (20, 5.0, 4),
        pytest.param(
            100, 120.0, 10, marks=pytest.mark.skipif(not SOAK, reason="long run: set THAIYYAL_SOAK=1")
        ),
    ],
)
async def test_members_converge_stay_and_see_the_killed(count: int, idle_s: float, killed: int) -> None:
    async with members() as all_of_them:
        seeds: list[str] = []
        for i in range(count):
            member = await all_of_them.start(f"n{i}", seeds)
            if i < 3:
                seeds.append(str(member.address))
            await asyncio.sleep(0.02)  # staggered
        await until(all_of_them.agree, 5.0)
        busy = os.times()
        await asyncio.sleep(idle_s)
        used = os.times()
        share = (used.user + used.system - busy.user - busy.system) / idle_s / count
        assert all_of_them.told(Change.FAILED) == []
        assert all_of_them.agree()
        victims = [f"n{i}" for i in range(5, 5 + killed)]
        for victim in victims:
            await all_of_them.kill(victim)
        seen_s = await until(all_of_them.agree, 10.0)
        assert set(all_of_them.told(Change.FAILED)) == set(victims)
        print(
            f"{count} members: {share:.2%} of a core each while idle; {killed} killed seen in {seen_s:.1f} s"
        )


async def test_a_killed_member_of_five_is_dead_for_all_within_3_to_5_seconds() -> None:
    async with members(5) as five:
        await until(five.agree, 5.0)
        await five.kill("n4")
        assert 2.9 <= await until(five.agree, 6.0) <= 5.2
        assert five.told(Change.FAILED) == ["n4"] * 4
        orders = [event.order for name, event in five.events if name == "n0"]
        assert orders == sorted(set(orders))


async def test_leaving_is_told_before_the_sockets_close() -> None:
    async with members(5) as five:
        await until(five.agree, 5.0)
        assert await five.running["n4"].leave()
        assert five.running["n4"].status().phase == "leaving"
        await five.kill("n4")
        await until(five.agree, 1.0)
        assert five.told(Change.LEFT).count("n4") == 5, "itself included"
        assert five.told(Change.SUSPECTED) == []


async def test_leaving_a_cluster_of_one_takes_no_time() -> None:
    async with make("n1") as alone:
        assert await alone.leave(timeout_s=0.1)


async def test_metadata_reaches_all() -> None:
    meta = NodeMeta(version="1", roles=("worker",), slots=4, queues=("gpu",), labels={"zone": "a"})
    async with members(4) as four:
        await until(four.agree, 5.0)
        four.running["n2"].set_meta(encode_meta(meta))

        def known() -> bool:
            rows = [g.get("n2") for g in four.running.values()]
            return all(row is not None and row.meta and decode_meta(row.meta) == meta for row in rows)

        await until(known, 2.0)
        with pytest.raises(MetaTooLarge):
            four.running["n2"].set_meta(b"x" * 513)


# Joining.


async def test_a_member_that_finds_no_seed_says_so_and_joins_when_one_appears(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with members() as two:
        late = await two.start("n1", [f"127.0.0.1:{port}"])
        status = late.status()
        assert (status.phase, status.live, status.join_rounds) == ("searching", 1, 1)
        assert f"127.0.0.1:{port}" in status.join_error
        await until(lambda: late.status().join_rounds >= 3, 5.0)
        await two.start("n2", bind=Address("127.0.0.1", port))
        await asyncio.wait_for(late.wait_joined(), 6.0)
        await until(two.agree, 2.0)
        assert late.status().phase == "member"
        assert late.status().join_error == ""
    assert any(getattr(record, "event", "") == "gossip.searching" for record in caplog.records)


async def test_one_living_address_of_a_name_with_several_is_enough() -> None:
    asked = []

    async with members(1) as two:
        port = two.running["n0"].address.port

        async def resolve(host: str, default: int) -> list[Address]:
            asked.append((host, default))
            return [Address("127.0.0.9", port), Address("127.0.0.1", port), Address("127.0.0.8", port)]

        await two.start("n1", ["seeds.example:7946"], resolve=resolve)
        await until(two.agree, 2.0)
        assert asked[0] == ("seeds.example", 7946)


async def test_a_name_is_looked_up_by_dns() -> None:
    async with members(1) as two:
        await two.start("n1", [f"localhost:{two.running['n0'].address.port}"])
        await until(two.agree, 2.0)


async def test_a_name_that_does_not_resolve_is_an_error_in_the_status_only() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        raise OSError("no such name")

    async with make("n1", ["nowhere.example:1"], resolve=resolve) as member:
        assert "nowhere.example does not resolve: no such name" in member.status().join_error
        # Nothing was found, so nothing was found to be ourselves either.
        assert member.status().phase == "searching"


async def test_a_member_that_is_its_own_only_seed_is_the_first_member() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with make("n1", [f"localhost:{port}"], bind=Address("127.0.0.1", port)) as member:
        assert member.status().phase == "member"


async def test_members_that_all_name_each_other_start_together() -> None:
    ports = []
    sockets = [socket.socket() for _ in range(3)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
        ports.append(s.getsockname()[1])
    for s in sockets:
        s.close()
    seeds = [f"127.0.0.1:{port}" for port in ports]
    async with members() as three:
        for i, port in enumerate(ports):
            await three.start(f"n{i}", seeds, bind=Address("127.0.0.1", port))
        await until(three.agree, 8.0)


# Ids and addresses.


async def test_a_member_that_moved_keeps_its_id() -> None:
    async with members(3) as three:
        await until(three.agree, 5.0)
        seed = str(three.running["n0"].address)
        old = three.running["n2"].address
        await three.kill("n2")
        moved = await three.start("n2", [seed])
        assert moved.address != old
        await until(lambda: three.running["n1"].get("n2").address == moved.address, 3.0)  # type: ignore[union-attr]
        await until(three.agree, 2.0)
        assert three.told(Change.FAILED) == []


async def test_a_newcomer_with_a_taken_id_refuses_and_both_log_both_addresses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with members(3) as three:
        await until(three.agree, 5.0)
        first = three.running["n2"].address
        with pytest.raises(IdConflict) as caught:
            await three.start("n2", [str(three.running["n0"].address)])
        assert str(first) in str(caught.value)
        conflicts = [r for r in caplog.records if getattr(r, "event", "") == "gossip.id_conflict"]
        assert len(conflicts) == 2
        assert {str(first)} < {conflicts[0].ours, conflicts[0].theirs}  # type: ignore[attr-defined]
        assert {conflicts[0].ours, conflicts[0].theirs} == {conflicts[1].ours, conflicts[1].theirs}  # type: ignore[attr-defined]
        assert three.running["n2"].status().conflict
        await asyncio.sleep(0.5)
        assert three.agree()
        assert {g.get("n2").address for g in three.running.values()} == {first}  # type: ignore[union-attr]


async def test_a_newcomer_that_first_hears_of_its_rival_later_is_ended() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with members() as two:

        async def search_while_the_id_is_taken() -> None:
            async with make("n1", [f"127.0.0.1:{port}"]):
                await two.start("n0", bind=Address("127.0.0.1", port))
                await two.start("n1", [str(two.running["n0"].address)])
                await asyncio.sleep(10.0)

        with pytest.raises(IdConflict):
            await search_while_the_id_is_taken()
        assert two.agree()


# Keys, streams, faults.


async def test_keys_rotate_without_losing_a_member() -> None:
    rings = [Keyring([KEY]) for _ in range(3)]
    new = b"n" * 32
    async with members() as three:
        for i, ring in enumerate(rings):
            await three.start(f"n{i}", [str(three.running["n0"].address)] if i else [], keyring=ring)
        await until(three.agree, 5.0)
        for act in (lambda r: r.install(new), lambda r: r.use(new), lambda r: r.remove(KEY)):
            for ring in rings:
                act(ring)
                await asyncio.sleep(0.3)
        await asyncio.sleep(1.0)
        assert three.agree()
        assert three.told(Change.SUSPECTED) == []
        assert all(not g.stats().dropped.get("key") for g in three.running.values())


async def test_another_cluster_on_the_same_wire_is_kept_out() -> None:
    async with members(2) as two:
        await until(two.agree, 5.0)
        async with make("x1", [str(two.running["n0"].address)], cluster_id="other") as stranger:
            assert stranger.status().phase == "searching"
            assert two.running["n0"].stats().dropped["cluster"] >= 1
            assert two.agree()


class Deaf(Gossip):
    """A member whose datagrams a firewall eats."""

    def on_datagram(self, packet: bytes, source: Address) -> None:
        self._dropped["firewall"] += 1


async def test_a_member_whose_udp_is_blocked_lives_by_stream_and_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with members(3) as three:
        await until(three.agree, 5.0)
        seeds = [str(three.running["n0"].address)]
        async with Deaf(
            node_id="deaf", keyring=Keyring([KEY]), cluster_id="test", bind=LOOPBACK, seeds=seeds
        ) as deaf:
            await until(lambda: len(deaf.live_members()) == 4, 5.0)
            await until(lambda: three.running["n0"].stats().core.totals.stream_only > 1, 10.0)
            rows: list[Member | None] = [g.get("deaf") for g in three.running.values()]
            assert all(row is not None and row.state is State.ALIVE for row in rows)
            assert three.told(Change.FAILED) == []
            await deaf.leave()
    assert any(getattr(record, "event", "") == "gossip.stream_only" for record in caplog.records)


class NoStreams:
    """A stream transport that is down."""

    async def serve(self, host: str, port: int, respond: object) -> int:
        with socket.socket() as probe:
            probe.bind((host, port))
            return int(probe.getsockname()[1])

    async def ask(self, address: Address, request: bytes) -> bytes:
        raise StreamFailed(f"no stream to {address}")

    async def close(self) -> None:
        return None


async def test_a_passed_in_transport_that_is_down_is_an_error_in_the_status() -> None:
    async with members(1) as one:
        seeds = [str(one.running["n0"].address)]
        async with make("n1", seeds, streams=NoStreams()) as member:
            assert "no stream to" in member.status().join_error
            assert member.status().phase == "searching"


async def test_a_fault_in_the_events_callback_ends_the_member_with_it() -> None:
    def on_event(event: MemberEvent) -> None:
        raise ZeroDivisionError("a bug of the node")

    async def live_and_meet() -> None:
        async with make("n0", on_event=on_event) as member, make("n1", [str(member.address)]):
            await asyncio.sleep(5.0)

    with pytest.raises(ZeroDivisionError):
        await live_and_meet()


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    async def fail() -> None:
        async with make("n0"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()


async def test_what_is_configured_wrongly_is_refused_at_once() -> None:
    for options in (
        {"bind": Address("0.0.0.0", 0)},
        {"bind": Address("localhost", 0)},
        {"node_id": ""},
        {"node_id": "x" * 65},
        {"seeds": [":1"]},
    ):
        with pytest.raises(SettingsInvalid):
            make("n1", **({"seeds": ()} | options))
    make("n1", bind=Address("0.0.0.0", 0), advertise_host="127.0.0.1")
    with pytest.raises(RuntimeError, match="async with"):
        make("n1").members()


async def test_a_port_in_use_is_an_error() -> None:
    async with make("n1") as member:
        with pytest.raises(OSError, match="in use"):
            await make("n2", bind=member.address).__aenter__()


async def test_all_tasks_and_sockets_are_gone_after_the_block() -> None:
    before = asyncio.all_tasks()
    async with members(3) as three:
        await until(three.agree, 5.0)
        address = three.running["n0"].address
    assert asyncio.all_tasks() == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(tuple(address))


def test_members_live_on_uvloop_too() -> None:
    """The node runs on it; its timers and sockets differ from asyncio's."""

    async def meet_and_part() -> None:
        async with members(3) as three:
            await until(three.agree, 5.0)
            await three.kill("n2")
            await until(three.agree, 6.0)
            assert await three.running["n1"].leave()

    uvloop.run(meet_and_part())


def test_settings_reach_the_core() -> None:
    assert make("n1", settings=Settings(probe_period_s=1.0))._settings.probe_period_s == 1.0
