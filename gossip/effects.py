"""What the core asks its shell to do, and what it tells the node. Nothing here goes on the wire as it is.

Effects are performed in the order in which they come. An `Ask` ends in exactly one event to the core: the
answer (`StreamAck`, `InSync`, `TableHeard`, `Taken`) or `AskFailed`.
"""

from __future__ import annotations

from msgspec import Struct

from gossip.messages import (
    Address,
    Compare,
    DatagramMessage,
    InSync,
    Member,
    NodeId,
    StreamAck,
    StreamPing,
    Taken,
    Update,
)
from gossip.table import Change, Snapshot


class TableHeard(Struct, frozen=True, gc=False):
    """`messages.Table` inside the process: the codec turns one into the other. With `push`, it holds the
    rows that the receiver seems to lack and is answered by `Taken`."""

    source: NodeId
    instance: int
    snapshot: Snapshot
    push: bool = False


Request = StreamPing | Compare | TableHeard
Response = StreamAck | InSync | TableHeard | Taken


class AskFailed(Struct, frozen=True, gc=False):
    """Event: the stream failed or timed out; whether the request was acted on is not known."""

    request: Request


Event = DatagramMessage | Request | Response | AskFailed


class Send(Struct, frozen=True, gc=False):
    """One datagram to `address`; may be lost."""

    address: Address
    messages: tuple[DatagramMessage | Update, ...]


class Ask(Struct, frozen=True, gc=False):
    """Open a stream to `address`, send the request, feed the answer to `handle`."""

    address: Address
    request: Request


class Answer(Struct, frozen=True, gc=False):
    """Answer the stream request that is being handled. At most one per request."""

    response: Response


class MemberEvent(Struct, frozen=True, gc=False):
    """What happened to a member, for the node. `order` rises by event, hence strictly per member;
    `member` is the row right after the change."""

    order: int
    change: Change
    member: Member


class Established(Struct, frozen=True, gc=False):
    """We have announced ourselves: the join is done."""


class CallSeeds(Struct, frozen=True, gc=False):
    """Send `Membership.open_exchange()` to those seeds that are no live members (rejoin after a partition)."""


class StreamOnly(Struct, frozen=True, gc=False):
    """`member` answered by stream and not by datagram: something drops UDP."""

    member: Member


class Conflict(Struct, frozen=True, gc=False):
    """Another live process has our id. `fatal` when we are the newcomer, who must not start."""

    node_id: NodeId
    ours: Address
    theirs: Address
    fatal: bool


Effect = Send | Ask | Answer | MemberEvent | Established | CallSeeds | StreamOnly | Conflict
