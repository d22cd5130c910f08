"""What comes out of the core: writes for the journal, messages, effects for the shell, and the order they demand.

Values only. Each effect that starts work ends in exactly one event, failure included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from raft.messages import Message
from raft.storage_api import Config, Entry, SnapshotMeta


class Role(Enum):
    FOLLOWER = "follower"
    PRECANDIDATE = "precandidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


# -- writes: for the journal, in order -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WriteEntries:
    """Append; overwrites from entries[0].index on."""

    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class WriteTermVote:
    term: int
    voted_for: str


Write = WriteEntries | WriteTermVote


# -- effects: for the shell; each that starts work ends in exactly one event -----------------------


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """Role, term or known leader are new."""

    role: Role
    term: int
    leader_id: str | None


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """Another membership counts from now on (appended, or rolled back)."""

    config: Config
    index: int


@dataclass(frozen=True, slots=True)
class ReadReady:
    """Reads may be served once entries up to `index` are applied."""

    contexts: tuple[int, ...]
    index: int


@dataclass(frozen=True, slots=True)
class ReadRefused:
    """These reads were not confirmed; asking again is harmless."""

    contexts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadSnapshot:
    """Read a piece of a stored snapshot. Ends in `Core.snapshot_read` or `Core.snapshot_read_failed`."""

    to: str
    meta: SnapshotMeta
    offset: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class ReceiveSnapshot:
    """Write a piece of an incoming snapshot (empty: only ask how far it is). Ends in
    `Core.snapshot_received`."""

    meta: SnapshotMeta
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """Finish the incoming file, reset the journal if `reset`, restore the state machine, then
    `Core.snapshot_installed`.

    The file is durable before the journal is reset. `Core.snapshot_install_failed` if its checksum was
    wrong. Nothing is applied meanwhile."""

    meta: SnapshotMeta
    reset: bool


Effect = (
    RoleChanged | ConfigChanged | ReadReady | ReadRefused | ReadSnapshot | ReceiveSnapshot | InstallSnapshot
)


class Output:
    """What the shell does next, in this order: writes into the journal (buffered); messages may leave at
    once; effects.

    Whenever `writes` is not empty, a sync that starts after they were buffered must follow, and then
    `Core.synced(now, write_seq)`. Apply up to `apply_to`, tell `Core.applied`.
    """

    __slots__ = ("apply_to", "effects", "messages", "write_seq", "writes")

    def __init__(
        self,
        writes: list[Write],
        write_seq: int,
        messages: list[tuple[str, Message]],
        effects: list[Effect],
        apply_to: int,
    ) -> None:
        self.writes = writes
        self.write_seq = write_seq
        self.messages = messages
        self.effects = effects
        self.apply_to = apply_to
