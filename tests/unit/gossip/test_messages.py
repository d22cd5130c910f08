"""The wire: what is decoded, what is skipped, what is refused."""

from __future__ import annotations

import msgspec
import pytest

from gossip import codec
from gossip.effects import TableHeard
from gossip.errors import Malformed, MetaTooLarge
from gossip.messages import (
    ANONYMOUS,
    Ack,
    Address,
    Alive,
    Compare,
    Dead,
    InSync,
    Left,
    Nack,
    Ping,
    PingReq,
    State,
    StreamAck,
    StreamPing,
    Suspect,
    Taken,
    decode_datagram,
    encode_datagram,
)
from gossip.meta import META_BYTES_MAX, NodeMeta, decode_meta, encode_meta
from tests.unit.gossip.builders import alive, node, row, table_of

A = Address("10.0.0.1", 7946)
ALL = [
    Ping(1, node("a"), 2, node("b")),
    Ack(1, node("a"), 2),
    Nack(1, node("a")),
    PingReq(1, node("a"), node("b"), A),
    Alive(node("a"), 3, Address("::1", 1), b"m", 4),
    Suspect(ANONYMOUS, node("b"), 3),
    Dead(node("a"), node("b"), 3),
    Left(node("a"), 3),
]
encode = msgspec.msgpack.encode


def test_every_datagram_message_comes_back_equal() -> None:
    assert decode_datagram(encode_datagram(ALL)) == (ALL, 0)


@pytest.mark.parametrize(
    "message",
    [
        StreamPing(1, node("a"), 2, node("b")),
        StreamAck(1, node("a"), 2),
        Compare(node("a"), 2, 2**64 - 1),
        InSync(node("a"), 2),
        Taken(node("a"), 2),
        Taken(node("a"), 2, alive("n1")),
    ],
)
def test_every_stream_message_comes_back_equal(message: codec.Request) -> None:
    assert codec.decode(codec.encode(message)) == message


def test_a_table_comes_back_with_its_ages() -> None:
    heard = table_of(
        row("n1"),
        row("n2", State.SUSPECT, 5, version=3),
        row("n3", State.DEAD, 1),
        source="n1",
        push=True,
        ages={"n3": 12.7},
    )
    back = codec.decode(codec.encode(heard))
    assert isinstance(back, TableHeard)
    assert (back.source, back.instance, back.push) == (heard.source, heard.instance, True)
    assert list(back.snapshot) == list(heard.snapshot)
    assert back.snapshot.ages["n3"] == 12.0


def test_unknown_messages_are_skipped_and_counted_and_the_others_count() -> None:
    """Rolling upgrades: a newer member may say more than we know."""
    plain = encode([[99, "new"], [3, 1, "a"], [200]])
    assert decode_datagram(plain) == ([Nack(1, node("a"))], 2)


def test_additional_fields_are_ignored() -> None:
    assert decode_datagram(encode([[3, 1, "a", "of a newer version", 5]])) == ([Nack(1, node("a"))], 0)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\xc1",
        encode(5),
        encode({"a": 1}),
        encode([5]),
        encode([[]]),
        encode([["ping"]]),
        encode([[3, -1, "a"]]),
        encode([[3, 1, ""]]),
        encode([[3, 1, "x" * 65]]),
        encode([[3, 1]]),
        encode([[7, "a", "b", -1]]),
        encode([[7, "a", "b", 2**53 + 1]]),
        encode([[5, "a", 1, ["example.org", 1], b"", 1]]),
        encode([[5, "a", 1, ["10.0.0.1", 65536], b"", 1]]),
        encode([[5, "a", 1, ["10.0.0.1", 1], b"x" * 513, 1]]),
        encode([[4, 1, "a", "b", ["nowhere", 1]]]),
        encode([[99, "new"], [3, 1, ""]]),
        b"\x91\x93\x03\x01\xa1\xff",
    ],
)
def test_impossible_contents_are_refused_whole(plain: bytes) -> None:
    with pytest.raises(Malformed):
        decode_datagram(plain)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        encode([99]),
        encode([13, "a", 1, [["n1", 0, 1, ["10.0.0.1", 1], b"", 1, 1]]]),
        encode([13, "a", 1, [["n1", 9, 1, ["10.0.0.1", 1], b"", 1, 1]]]),
        encode([13, "a", 1, [["n1", 1, 1, ["host", 1], b"", 1, 1]]]),
        encode([13, "a", 1, [["n1", 1, 1, ["", 0], b"", 1, 1]]]),
        encode([14, "a", 1, [5, "a", 1, ["host", 1], b"", 1]]),
        encode([11, "a", 1, -1]),
    ],
)
def test_impossible_stream_contents_are_refused(plain: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode(plain)


def test_a_table_cannot_claim_a_description_newer_than_its_incarnation() -> None:
    plain = encode([13, "a", 1, [["n1", 1, 1, ["10.0.0.1", 1], b"", 1, 7]]])
    heard = codec.decode(plain)
    assert isinstance(heard, TableHeard)
    assert [(r.incarnation, r.version) for r in heard.snapshot] == [(1, 1)]


def test_metadata_comes_back_equal_and_none_is_the_defaults() -> None:
    meta = NodeMeta(
        version="1.2.3",
        roles=("voter", "worker"),
        slots=8,
        queues=("gpu", "default"),
        labels={"zone": "eu-1"},
        api_address="10.0.0.1:7233",
        cluster_address="10.0.0.1:7235",
    )
    assert decode_meta(encode_meta(meta)) == meta
    assert decode_meta(b"") == NodeMeta()


def test_metadata_below_at_and_above_the_bound() -> None:
    room = META_BYTES_MAX - len(encode_meta(NodeMeta(api_address="x" * 256)))
    assert len(encode_meta(NodeMeta(api_address="x" * (256 + room - 1)))) == META_BYTES_MAX - 1
    assert len(encode_meta(NodeMeta(api_address="x" * (256 + room)))) == META_BYTES_MAX
    with pytest.raises(MetaTooLarge):
        encode_meta(NodeMeta(api_address="x" * (256 + room + 1)))


def test_metadata_of_a_newer_version_is_read_and_nonsense_is_refused() -> None:
    newer = msgspec.msgpack.decode(encode_meta(NodeMeta(version="9")))
    assert decode_meta(encode([*newer, "new field"])) == NodeMeta(version="9")
    for nonsense in (b"\xc1", b"\xa1\xff", encode({"slots": 1}), encode(["v", [], -1])):
        with pytest.raises(Malformed):
            decode_meta(nonsense)
