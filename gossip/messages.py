"""What members say to each other, and its encoding (msgpack, arrays with a number for the type).

Datagrams carry a list of messages: one of `Ping`, `Ack`, `Nack`, `PingReq` or none, then updates. Streams
carry one request and one answer. Unknown message types and additional trailing fields are ignored (types
are counted), new fields get defaults: rolling upgrades. Known types with impossible contents are refused
whole (`Malformed`). No function here keeps state.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, NamedTuple, NewType

import msgspec
from msgspec import Meta, Struct

from gossip.errors import Malformed

NodeId = NewType("NodeId", str)
ANONYMOUS = NodeId("")
"""Accuser of a suspicion that was heard of, not found: it never counts as a confirmation."""


class Address(NamedTuple):
    """Where a member is reached; `host` is a numeric IP address."""

    host: Annotated[str, Meta(max_length=64)]
    port: Annotated[int, Meta(ge=0, le=65535)]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class State(IntEnum):
    """What is believed of a member. The order is the precedence within one incarnation."""

    UNKNOWN = 0
    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


Id = Annotated[NodeId, Meta(min_length=1, max_length=64)]
Accuser = Annotated[NodeId, Meta(max_length=64)]
Incarnation = Annotated[int, Meta(ge=0, le=2**53)]
U64 = Annotated[int, Meta(ge=0)]
MetaBytes = Annotated[bytes, Meta(max_length=512)]


class Ping(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Are you `target`, and alive? (SWIM, section 3.1)"""

    seq: U64
    source: Id
    instance: U64  # of `source`'s process; two instances of one id at a time are a conflict
    target: Id


class Ack(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """`source` is alive; `seq` is the ping's. A relay passes it on with the asker's `seq`."""

    seq: U64
    source: Id
    instance: U64


class Nack(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The relay `source` lives, but got no ack in time (Lifeguard, section IV-A)."""

    seq: U64
    source: Id


class PingReq(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Please ping `target` for me (SWIM, section 3.1)."""

    seq: U64
    source: Id
    target: Id
    address: Address  # of `target`


class Alive(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """`member` lives, at `address`, with this metadata. Only the member itself originates it."""

    member: Id
    incarnation: Incarnation
    address: Address
    meta: MetaBytes
    instance: U64


class Suspect(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """`accuser` got no ack from `member` (SWIM, section 4.2)."""

    accuser: Accuser
    member: Id
    incarnation: Incarnation  # of `member`, as `accuser` knew it


class Dead(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """`accuser`'s suspicion of `member` ran out (SWIM's Confirm)."""

    accuser: Accuser
    member: Id
    incarnation: Incarnation


class Left(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """`member` says that it goes. Unlike `Dead` no belief: only the member originates it."""

    member: Id
    incarnation: Incarnation


class StreamPing(Struct, frozen=True, array_like=True, tag=9, gc=False):
    """A ping by stream, when datagrams seem not to get through. Answered by `StreamAck`."""

    seq: U64
    source: Id
    instance: U64
    target: Id


class StreamAck(Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Answer to `StreamPing`."""

    seq: U64
    source: Id
    instance: U64


class Compare(Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Is your table like mine? Answered by `InSync` or by the whole table. Carries no claim, so a newcomer
    may send it before it has announced itself."""

    source: Id
    instance: U64
    digest: U64


class InSync(Struct, frozen=True, array_like=True, tag=12, gc=False):
    """The digests are equal."""

    source: Id
    instance: U64


class Member(Struct, frozen=True, array_like=True, gc=False):
    """One row of the table: what is believed of a member, and how it described itself.

    `(incarnation, state)` and `(version, instance)` grow independently: an accusation names an incarnation
    but no description, so a row may hold `suspect` of incarnation 5 with the description of incarnation 3.
    """

    node_id: Id
    state: State
    incarnation: Incarnation
    address: Address
    meta: MetaBytes
    instance: U64
    version: Incarnation  # incarnation with which address, meta and instance were announced


class Record(Struct, frozen=True, array_like=True, gc=False):
    """A `Member` on the wire, with the age of a tombstone: durations may travel, instants may not."""

    node_id: Id
    state: State
    incarnation: Incarnation
    address: Address
    meta: MetaBytes
    instance: U64
    version: Incarnation
    age_s: Annotated[int, Meta(ge=0)] = 0


class Table(Struct, frozen=True, array_like=True, tag=13):
    """Whole table of the answering member, or with `push` the rows that the asked one lacks."""

    source: Id
    instance: U64
    records: tuple[Record, ...]
    push: bool = False


class Taken(Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Answer to a pushed table, with the answering member's own claim when it has announced itself: if the
    asker held it dead, the push has just told it so, and it has refuted."""

    source: Id
    instance: U64
    alive: Alive | None = None


Update = Alive | Suspect | Dead | Left
DatagramMessage = Ping | Ack | Nack | PingReq | Update
StreamMessage = StreamPing | StreamAck | Compare | InSync | Table | Taken

_encoder = msgspec.msgpack.Encoder()
_datagram = msgspec.msgpack.Decoder(list[DatagramMessage])
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
_part = msgspec.msgpack.Decoder(DatagramMessage)
_stream = msgspec.msgpack.Decoder(StreamMessage)


class _Tagged(Struct, array_like=True):
    tag: int


_tagged = msgspec.msgpack.Decoder(_Tagged)
_DATAGRAM_TAGS = frozenset(range(1, 9))
INCARNATION_MAX = 2**53
LIST_HEADER_BYTES = 3  # msgpack's header of a list of up to 65,535 messages


def size_of(message: Struct) -> int:
    """Encoded bytes of one message."""
    return len(_encoder.encode(message))


def encode_datagram(messages: Sequence[DatagramMessage]) -> bytes:
    """The plaintext of a datagram; at most the sum of the sizes plus LIST_HEADER_BYTES."""
    return _encoder.encode(messages)


def decode_datagram(plain: bytes) -> tuple[list[DatagramMessage], int]:
    """The messages, and how many of unknown types were skipped. Raises Malformed, and then none counts."""
    try:
        messages, unknown = _datagram.decode(plain), 0
    except (msgspec.DecodeError, UnicodeDecodeError):
        messages, unknown = _decode_parts(plain)
    for message in messages:
        if isinstance(message, Alive | PingReq):
            require_numeric(message.address)
    return messages, unknown


def _decode_parts(plain: bytes) -> tuple[list[DatagramMessage], int]:
    known: list[DatagramMessage] = []
    unknown = 0
    try:
        for raw in _parts.decode(plain):
            if _tagged.decode(raw).tag in _DATAGRAM_TAGS:
                known.append(_part.decode(raw))
            else:
                unknown += 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"datagram is not a list of messages: {error}") from error
    return known, unknown


def encode_stream(message: StreamMessage) -> bytes:
    """The plaintext of a request or an answer."""
    return _encoder.encode(message)


def decode_stream(plain: bytes) -> StreamMessage:
    """Inverse of `encode_stream`. Raises Malformed."""
    try:
        message: StreamMessage = _stream.decode(plain)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"not a stream message: {error}") from error
    if isinstance(message, Taken) and message.alive is not None:
        require_numeric(message.alive.address)
    if isinstance(message, Table):
        for record in message.records:
            if record.state is State.UNKNOWN:
                raise Malformed(f"{record.node_id} has state unknown")
            if record.address.host or record.state in (State.ALIVE, State.SUSPECT):
                require_numeric(record.address)
    return message


def require_numeric(address: Address) -> None:
    """Raises Malformed for a host name: sending to one would ask DNS and block."""
    try:
        ipaddress.ip_address(address.host)
    except ValueError as error:
        raise Malformed(f"address {address} is not numeric") from error
