"""The faces of a member towards its user: the state machine it drives, the events it tells, its status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from raft.effects import ConfigChanged, Role, RoleChanged


class StateMachine(Protocol):
    """What the log drives. Called on the event loop, except where *(thread)* is said.

    Equal commands in equal order must give equal states and equal results on every member.
    """

    @property
    def applied_index(self) -> int:
        """Last index whose effects are in the state as restored from its own store; 0: empty. Read once, at
        start."""
        ...

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> Sequence[object]:
        """Apply one whole entry. Called for every index, in order, each once; no-ops and membership entries
        come with no commands. Returns one result per command, for those who proposed them. An exception
        stops the node."""
        ...

    def durable_index(self) -> int:
        """Everything up to here is in the state machine's own durable store. The log may be compacted up to
        the smaller of this and the oldest snapshot; one without a store of its own returns the newest index
        it has applied."""
        ...

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        """(applied index the snapshot stands for, its chunks). The iterator is consumed *(thread)* while
        apply goes on, so it must not look at what apply changes."""
        ...

    def restore(self, index: int, term: int, chunks: Iterable[bytes]) -> None:
        """*(thread)* Replace the state by a snapshot. Nothing else is called until it returns."""
        ...


@dataclass(frozen=True, slots=True)
class LeaderReady:
    """This node leads `term` and has applied everything committed before: a scheduler may start."""

    term: int


@dataclass(frozen=True, slots=True)
class NodeStopped:
    """The node stopped by itself because of `error`."""

    error: BaseException


Event = RoleChanged | ConfigChanged | LeaderReady | NodeStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A moment of one member. Latencies are seconds: the mean of recent ones, new ones counting a tenth."""

    node_id: str
    role: Role
    term: int
    leader_id: str | None
    commit_index: int
    applied_index: int
    synced_index: int
    last_index: int
    first_index: int
    snapshot_index: int
    voters: Mapping[str, str]
    learners: Mapping[str, str]
    match: Mapping[str, int]
    """On the leader: what each other member has acknowledged."""
    proposals_waiting: int
    proposals_waiting_bytes: int
    uncommitted_bytes: int
    storage_full: bool
    proposals_total: int
    entries_applied_total: int
    commands_applied_total: int
    syncs_total: int
    elections_won_total: int
    terms_seen_total: int
    frames_refused_total: int
    snapshots_made_total: int
    snapshot_bytes_sent_total: int
    snapshot_bytes_received_total: int
    sync_latency_s: float
    commit_latency_s: float
    """From the entry's append to its apply, on the leader."""
    failure: str | None


class Counters:
    """What `Status` reports besides the core's state."""

    __slots__ = (
        "commands_applied",
        "commit_latency_s",
        "elections_won",
        "entries_applied",
        "frames_refused",
        "proposals",
        "snapshot_bytes_received",
        "snapshot_bytes_sent",
        "snapshots_made",
        "sync_latency_s",
        "syncs",
        "terms_seen",
    )

    def __init__(self) -> None:
        self.proposals = 0
        self.entries_applied = 0
        self.commands_applied = 0
        self.syncs = 0
        self.elections_won = 0
        self.terms_seen = 0
        self.frames_refused = 0
        self.snapshots_made = 0
        self.snapshot_bytes_sent = 0
        self.snapshot_bytes_received = 0
        self.sync_latency_s = 0.0
        self.commit_latency_s = 0.0
