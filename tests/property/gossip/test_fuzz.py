"""Random and mutated packets against a real member: nothing is raised, nothing changes, everything is counted.

The first half has no key: no input of it may change anything. The second half is sealed properly and nonsense
inside: a faulty member, which must not bring others down.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from gossip import Address, Gossip, Keyring
from gossip.messages import (
    ANONYMOUS,
    Ack,
    Alive,
    Dead,
    Left,
    Nack,
    NodeId,
    Ping,
    PingReq,
    Suspect,
    encode_datagram,
)
from gossip.seal import Seal

KEY = b"k" * 32
SOURCE = Address("127.0.0.1", 9)
PACKETS = 3_000


@pytest_asyncio.fixture
async def member() -> AsyncIterator[Gossip]:
    async with Gossip(
        node_id="n1", keyring=Keyring([KEY]), cluster_id="c", bind=Address("127.0.0.1", 0)
    ) as gossip:
        yield gossip


def stranger(key: bytes = KEY, cluster: str = "c", session: bytes = b"stranger") -> Seal:
    return Seal(Keyring([key]), cluster, session=session)


def valid(rng: random.Random) -> list[object]:
    a, b = NodeId(f"n{rng.randrange(4)}"), NodeId(f"n{rng.randrange(4)}")
    number = rng.choice([0, 1, 5, 2**53])
    return [
        rng.choice(
            [
                Ping(number, a, 1, b),
                Ack(number, a, 1),
                Nack(number, a),
                PingReq(number, a, b, SOURCE),
                Alive(a, number, SOURCE, rng.randbytes(rng.randrange(513)), 1),
                Suspect(rng.choice([a, ANONYMOUS]), b, number),
                Dead(a, b, number),
                Left(a, number),
            ]
        )
        for _ in range(rng.randrange(4))
    ]


def beliefs(gossip: Gossip) -> object:
    return list(gossip.members())


def dropped(gossip: Gossip) -> int:
    return sum(count for reason, count in gossip.stats().dropped.items() if reason != "unknown_message")


async def test_random_bytes_change_nothing_and_are_counted(member: Gossip) -> None:
    rng = random.Random(1)
    before, sent = beliefs(member), member.stats().sent
    for _ in range(PACKETS):
        member.on_datagram(rng.randbytes(rng.choice([0, 1, 2, 22, 39, 40, 300, 1_400, 1_401])), SOURCE)
    assert beliefs(member) == before
    assert member.stats().sent == sent, "not even an answer"
    assert member.stats().received == dropped(member) == PACKETS


async def test_mutated_packets_change_nothing_and_are_counted(member: Gossip) -> None:
    rng = random.Random(2)
    before, sent = beliefs(member), member.stats().sent
    sealer = stranger()
    for _ in range(PACKETS):
        packet = bytearray(sealer.seal(encode_datagram(valid(rng))))  # type: ignore[arg-type]
        match rng.randrange(4):
            case 0:
                packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
            case 1:
                del packet[rng.randrange(len(packet)) :]
            case 2:
                packet += rng.randbytes(rng.randrange(1, 50))
            case 3:
                start = rng.randrange(len(packet))
                packet[start : start + 20] = rng.randbytes(21)
        member.on_datagram(bytes(packet), SOURCE)
    assert beliefs(member) == before
    assert member.stats().sent == sent
    assert dropped(member) == PACKETS


@pytest.mark.parametrize(("key", "cluster", "reason"), [(b"x" * 32, "c", "key"), (KEY, "other", "cluster")])
async def test_foreign_clusters_change_nothing_and_are_counted_apart(
    member: Gossip, key: bytes, cluster: str, reason: str
) -> None:
    rng = random.Random(3)
    before = beliefs(member)
    sealer = stranger(key, cluster)
    for _ in range(100):
        member.on_datagram(sealer.seal(encode_datagram(valid(rng))), SOURCE)  # type: ignore[arg-type]
    assert beliefs(member) == before
    assert member.stats().dropped[reason] == 100


async def test_replays_change_nothing_and_are_counted(member: Gossip) -> None:
    packet = stranger().seal(encode_datagram([Alive(NodeId("n2"), 3, SOURCE, b"", 1)]))
    member.on_datagram(packet, SOURCE)
    before = beliefs(member)
    for _ in range(100):
        member.on_datagram(packet, SOURCE)
    assert beliefs(member) == before
    assert member.stats().dropped["replayed"] == 100


async def test_strangers_on_the_stream_get_no_answer(member: Gossip) -> None:
    rng = random.Random(4)
    before = beliefs(member)
    for sealed in (False, True):
        body = rng.randbytes(200)
        if sealed:
            body = stranger(b"x" * 32).seal(body)
        reader, writer = await asyncio.open_connection(*member.address)
        writer.write(len(body).to_bytes(4, "big") + body)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert beliefs(member) == before
    assert dropped(member) == 2


async def test_a_stream_that_announces_too_much_is_closed(member: Gossip) -> None:
    reader, writer = await asyncio.open_connection(*member.address)
    writer.write(b"\xff\xff\xff\xff")
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_sealed_nonsense_is_malformed_and_changes_nothing(member: Gossip) -> None:
    rng = random.Random(5)
    before = beliefs(member)
    sealer = stranger()
    for _ in range(PACKETS):
        plain = msgspec.msgpack.encode(_nonsense(rng, 3)) if rng.random() < 0.5 else rng.randbytes(30)
        member.on_datagram(sealer.seal(plain), SOURCE)
    assert beliefs(member) == before


async def test_sealed_claims_of_a_faulty_member_never_raise(member: Gossip) -> None:
    rng = random.Random(6)
    sealer = stranger()
    for _ in range(PACKETS):
        member.on_datagram(sealer.seal(encode_datagram(valid(rng))), SOURCE)  # type: ignore[arg-type]
    assert member.status().phase == "member"
    member._running().check_invariants()
    me = member.get("n1")
    assert me is not None
    assert me.state.name == "ALIVE", "it refuted whatever was said of it"


def _nonsense(rng: random.Random, depth: int) -> object:
    match rng.randrange(7 if depth else 5):
        case 0:
            return rng.randrange(-5, 200)
        case 1:
            return rng.random()
        case 2:
            return "n1"
        case 3:
            return None
        case 4:
            return rng.randbytes(5)
        case 5:
            return [_nonsense(rng, depth - 1) for _ in range(rng.randrange(6))]
        case _:
            return {"a": _nonsense(rng, depth - 1)}
