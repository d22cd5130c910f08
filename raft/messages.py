"""What voters tell each other: frozen structs in msgpack, several to a frame.

Every message carries its sender's term. The sender's id is not in the message: the transport knows who is at
the other end of a link. A frame is an msgpack array `[message, ...]`, each message an array that begins
with its kind. Unknown trailing fields are ignored, so newer peers may add some; a message that cannot be
decoded (`decode_frame` raises ValueError) is dropped with its frame and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raft.storage_api import Entry, SnapshotMeta

PROTOCOL_VERSION = 1
"""In the hello of every link; peers that speak another one are refused there."""


class PreVoteRequest(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Would you vote for me in `term`? Nothing changes by asking (dissertation, section 9.6)."""

    term: int
    """The term the sender would campaign in: its own plus one."""
    last_index: int
    last_term: int


class PreVoteReply(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    term: int
    """The replier's own term when it refuses, the asked term when it grants."""
    granted: bool


class VoteRequest(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Raft paper, figure 2, RequestVote."""

    term: int
    last_index: int
    last_term: int
    transfer: bool
    """The leader itself asked for this election, so hearing a leader is no reason to refuse."""


class VoteReply(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    term: int
    granted: bool


class Append(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Raft paper, figure 2, AppendEntries. Without entries it probes, or tells the commit index."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    """The leader's newest read round; echoed in the reply."""
    entries: list[Entry]


class AppendReply(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Entries up to `match` are verified against the log of `term`'s leader, and durable."""

    term: int
    match: int
    round: int


class AppendReject(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """The entry at `prev_index` is missing or of another term; or the sender's term is newer."""

    term: int
    prev_index: int
    hint_index: int
    """The highest index at which the logs may agree, as the follower sees it."""
    hint_term: int
    """The follower's term there."""
    round: int


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """The leader of `term` is here. `commit` is at most what the receiver has acknowledged in this term."""

    term: int
    commit: int
    commit_term: int
    """Term of the entry at `commit`: having that entry proves that everything up to it is the leader's."""
    round: int


class HeartbeatReply(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    term: int
    round: int


class ReadRequest(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """A follower asks for a read index on behalf of its readers."""

    term: int
    request_id: int


class ReadReply(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    term: int
    request_id: int
    index: int
    """Apply up to here, then read; 0: refused, the receiver of the request is not the leader."""


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Campaign at once: the leader hands over (dissertation, section 3.10)."""

    term: int


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """A piece of the snapshot file `meta`. Empty `data` asks how far the receiver is."""

    term: int
    meta: SnapshotMeta
    offset: int
    data: bytes
    crc: int
    """zlib.crc32 of `data`."""
    round: int


class SnapshotReply(msgspec.Struct, frozen=True, array_like=True, tag=14, gc=False):
    """The receiver holds `offset` bytes of the file named by `digest`."""

    term: int
    digest: bytes
    offset: int
    round: int


Message = (
    PreVoteRequest
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | Append
    | AppendReply
    | AppendReject
    | Heartbeat
    | HeartbeatReply
    | ReadRequest
    | ReadReply
    | TimeoutNow
    | SnapshotChunk
    | SnapshotReply
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(list[Message])
_commands_decoder: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(list[bytes])


def encode_frame(messages: Sequence[Message]) -> bytes:
    """One frame for a peer; what `decode_frame` reads."""
    return _encoder.encode(messages)


def decode_frame(frame: bytes) -> list[Message]:
    """The messages of a frame. Raises ValueError for what is not a frame of this protocol."""
    try:
        return _decoder.decode(frame)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a raft frame: {error}") from error


def encode_commands(commands: Sequence[bytes]) -> bytes:
    """Payload of a KIND_COMMANDS entry."""
    return _encoder.encode(commands)


def decode_commands(payload: bytes) -> list[bytes]:
    """The commands of a KIND_COMMANDS entry. Raises ValueError if it is none."""
    try:
        return _commands_decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an entry payload: {error}") from error
