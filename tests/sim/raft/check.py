"""What must hold after every event, whatever happens to network and disks.

The checker sees everything at once, as no node can. It keeps the one history that may exist: which entry is committed
at each index, what state follows from it, who led each term, who voted for whom. Any contradiction raises `Violation`.

Why these few comparisons suffice: if an index and a term always name the same entry with the same predecessor, logs
that agree in one entry agree in all before it (LogMatching, by induction); so comparing one entry compares prefixes.
Reads and writes are linearizable because the state is a prefix of one log: real-time order must be index order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from raft.log import Log
from raft.quorum import majority
from raft.storage_api import Config, Entry

_HEAD = struct.Struct("<IQQB")


class Violation(AssertionError):
    """A promise of the log was broken; the text names it first."""


def next_digest(digest: int, entry: Entry) -> int:
    """State after `entry`, given the state before it."""
    return zlib.crc32(entry.payload, zlib.crc32(_HEAD.pack(digest, entry.index, entry.term, entry.kind)))


class Checker:
    """The history of one run, as far as it is fixed."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        self.entries: dict[tuple[int, int], tuple[int, int, bytes]] = {}
        """(index, term) -> (term of the entry before, kind, payload)."""
        self.committed: dict[int, int] = {}
        """index -> term."""
        self.committed_in: dict[int, int] = {}
        """term in which a commit was seen -> highest index."""
        self.digests: dict[int, int] = {0: 0}
        self.command_index: dict[bytes, int] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.completed_max = 0
        """Highest index that a finished write or read has shown to anybody."""
        self.shown_terms: dict[str, int] = {}
        self.acks = 0
        self.reads = 0

    # -- elections ---------------------------------------------------------------------------------------------

    def saw_leader(self, node: str, term: int, log: Log) -> None:
        other = self.leaders.setdefault(term, node)
        if other != node:
            raise Violation(f"ElectionSafety: {other} and {node} both lead term {term}")
        # Entries committed in earlier terms; a commit of a later term may be unknown to a late winner.
        floor = max((index for seen_in, index in self.committed_in.items() if seen_in < term), default=0)
        if floor and not (log.last_index >= floor and _holds(log, floor, self.committed[floor])):
            raise Violation(
                f"LeaderCompleteness: {node} leads term {term} without committed entry {floor} of term "
                f"{self.committed[floor]} (its log is {log.base_index}..{log.last_index})"
            )

    def saw_vote(self, voter: str, term: int, candidate: str) -> None:
        """`voter` has told somebody that it votes for `candidate`."""
        other = self.votes.setdefault((voter, term), candidate)
        if other != candidate:
            raise Violation(f"Vote: {voter} voted for {other} and for {candidate} in term {term}")

    def saw_term(self, node: str, term: int) -> None:
        """`node` has shown `term` to somebody."""
        if term < self.shown_terms.get(node, 0):
            raise Violation(f"Term: {node} showed term {self.shown_terms[node]} and then {term}")
        self.shown_terms[node] = term

    # -- logs --------------------------------------------------------------------------------------------------

    def saw_entries(self, node: str, log: Log, entries: Iterable[Entry]) -> None:
        """`entries` are in `log` now."""
        for entry in entries:
            previous = log.term_at(entry.index - 1)
            known = self.entries.setdefault((entry.index, entry.term), (previous, entry.kind, entry.payload))
            if known != (previous, entry.kind, entry.payload):
                raise Violation(
                    f"LogMatching: entry {entry.index} of term {entry.term} on {node} is not the one on others"
                )

    def saw_commit(self, node: str, term: int, before: int, commit: int, log: Log) -> None:
        """The commit index of `node`, in `term`, went up."""
        for index in range(max(before, log.base_index) + 1, commit + 1):
            entry_term = log.term_at(index)
            if self.committed.setdefault(index, entry_term) != entry_term:
                raise Violation(
                    f"StateMachineSafety: {node} commits entry {index} of term {entry_term}; committed before was one "
                    f"of term {self.committed[index]}"
                )
        self.committed_in[term] = max(self.committed_in.get(term, 0), commit)

    def saw_acknowledgement(self, node: str, match: int, on_disk: int | None, leader_log: Log | None) -> None:
        """`node` tells the leader that it has everything up to `match`; `on_disk` is the term it durably has there."""
        if match == 0:
            return
        if on_disk is None:
            raise Violation(f"Durability: {node} acknowledges entry {match}, which is not on its disk")
        if leader_log is not None and match > leader_log.last_index:
            raise Violation(f"Verified: {node} acknowledges entry {match}, which its leader does not have")
        if leader_log is not None and match >= leader_log.base_index and leader_log.term_at(match) != on_disk:
            raise Violation(
                f"Verified: {node} acknowledges entry {match} of term {on_disk}; its leader's is of term "
                f"{leader_log.term_at(match)}"
            )

    # -- states ------------------------------------------------------------------------------------------------

    def applied(self, node: str, entry: Entry, digest: int, commands: list[bytes]) -> None:
        """`node` applied `entry` and is in state `digest`."""
        if self.committed.get(entry.index) != entry.term:
            raise Violation(
                f"StateMachineSafety: {node} applies entry {entry.index} of term {entry.term}; committed is one of "
                f"term {self.committed.get(entry.index)}"
            )
        self.state(node, entry.index, digest)
        for command in commands:
            if self.command_index.setdefault(command, entry.index) != entry.index:
                raise Violation(
                    f"AppliedTwice: {command!r} at {self.command_index[command]} and at {entry.index} on {node}"
                )

    def state(self, node: str, index: int, digest: int) -> None:
        """`node` stands at `index` (by applying or by a snapshot)."""
        if self.digests.setdefault(index, digest) != digest:
            raise Violation(
                f"StateMachineSafety: the state of {node} at index {index} differs from another node's"
            )

    # -- clients -----------------------------------------------------------------------------------------------

    def write_done(self, command: bytes, index: int, floor: int, holders: int, configs: list[Config]) -> None:
        """A client was told that `command` is done, at `index`; `floor` is `completed_max` when it asked. `holders`
        voters have the entry on disk, of the groups in `configs` (one per membership in force lately)."""
        if index <= floor:
            raise Violation(f"Linearizability: a write asked for after {floor} was visible went to {index}")
        if not any(holders >= majority(len(config.voters)) for config in configs):
            raise Violation(f"Durability: entry {index} was acknowledged but is on {holders} disks")
        self.acknowledged[command] = index
        self.completed_max = max(self.completed_max, index)
        self.acks += 1

    def read_done(self, node: str, index: int, floor: int) -> None:
        """A client read the state of `node` at `index`."""
        if index < floor:
            raise Violation(f"Linearizability: a read on {node} shows {index} after {floor} had been visible")
        self.completed_max = max(self.completed_max, index)
        self.reads += 1

    def finally_complete(self, states: dict[str, tuple[int, int]]) -> None:
        """At the end, `states` are (applied index, digest) of all members."""
        for node, (index, digest) in sorted(states.items()):
            self.state(node, index, digest)
            for command, at in self.acknowledged.items():
                if self.command_index.get(command) != at or at > index:
                    raise Violation(f"Lost: {command!r}, acknowledged at {at}, is not in the state of {node}")


def _holds(log: Log, index: int, term: int) -> bool:
    """Whether the log has that entry, or has it compacted away (then it was committed)."""
    return index < log.base_index or log.term_at(index) == term
