"""Frames: what is encoded comes back; what is not a frame is refused, never executed."""

from __future__ import annotations

import pickle

import msgspec
import pytest

from raft import messages as m
from raft.quorum import has_quorum, majority, quorum_index
from raft.storage_api import Config, Entry, SnapshotMeta

META = SnapshotMeta(9, 2, Config({"a": "x"}, {"b": ""}), 100, b"0123456789abcdef")
EVERY_KIND = [
    m.PreVoteRequest(2, 9, 1),
    m.PreVoteReply(2, True),
    m.VoteRequest(2, 9, 1, False),
    m.VoteReply(2, False),
    m.Append(2, 8, 1, 7, 3, [Entry(9, 2, 0, b"\x91\xc4\x01x"), Entry(10, 2, 1, b"")]),
    m.AppendReply(2, 10, 3),
    m.AppendReject(2, 8, 5, 1, 3),
    m.Heartbeat(2, 7, 1, 3),
    m.HeartbeatReply(2, 3),
    m.ReadRequest(2, 77),
    m.ReadReply(2, 77, 9),
    m.TimeoutNow(2),
    m.SnapshotChunk(2, META, 50, b"bytes", 123, 3),
    m.SnapshotReply(2, META.digest, 55, 3),
]


def test_every_kind_of_message_survives_a_frame() -> None:
    assert m.decode_frame(m.encode_frame(EVERY_KIND)) == EVERY_KIND
    assert {type(message) for message in EVERY_KIND} == set(m.Message.__args__)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x90\x90",
        b"hello",
        m.encode_frame(EVERY_KIND)[:-1],
        msgspec.msgpack.encode([[99, 1]]),
        pickle.dumps([1]),
    ],
    ids=["empty", "reserved", "trailing", "text", "cut", "unknown kind", "pickle"],
)
def test_what_is_not_a_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError):
        m.decode_frame(frame)


def test_a_newer_peers_extra_fields_are_ignored() -> None:
    raw = msgspec.msgpack.encode([[9, 2, 3, "from the future"]])
    assert m.decode_frame(raw) == [m.HeartbeatReply(2, 3)]


def test_a_message_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError):
        m.decode_frame(msgspec.msgpack.encode([[9, "two", 3]]))


def test_commands_survive_their_entry() -> None:
    commands = [b"", b"x", bytes(1000)]
    assert m.decode_commands(m.encode_commands(commands)) == commands
    with pytest.raises(ValueError):
        m.decode_commands(b"\x01")


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_a_majority_is_more_than_half(voters: int, needed: int) -> None:
    assert majority(voters) == needed


def test_no_voters_have_no_majority() -> None:
    with pytest.raises(ValueError):
        majority(0)


@pytest.mark.parametrize(
    ("matched", "index"),
    [
        ([5], 5),
        ([5, 3], 3),
        ([5, 3, 0], 3),
        ([9, 7, 5, 3, 1], 5),
        ([0, 0, 9, 9], 0),
        ([1, 2, 3, 4, 5, 6, 7], 4),
    ],
)
def test_the_quorum_index_is_what_a_majority_has(matched: list[int], index: int) -> None:
    assert quorum_index(matched) == index


def test_only_voters_count_and_each_once() -> None:
    assert has_quorum(["a", "b"], "abc")
    assert not has_quorum(["a", "a", "a"], "abc")
    assert not has_quorum(["a", "x", "y"], "abc")
