"""Wrong cores. Each breaks one rule that the real one keeps; the simulation must convict every one of them.

They live here and not as flags in the product. Some are met by random seeds, some only by a named schedule; then a
clean run of seeds says little about that rule, and the schedule is what keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raft.core import Core
from raft.effects import Role
from raft.errors import MembershipRefused
from raft.log import encode_config
from raft.messages import Append, AppendReply, Heartbeat, Message, VoteReply, VoteRequest
from raft.quorum import majority
from raft.storage_api import KIND_CONFIG, Config, Entry, SnapshotMeta
from tests.sim.raft import schedules as s
from tests.sim.raft.world import Node


class AcknowledgesBeforeSync(Core):
    """A follower acknowledges what it has verified, synced or not."""

    def _acknowledge(self) -> None:
        if self.leader_id is not None and self.role is Role.FOLLOWER:
            self._ack_due = False
            self._send(self.leader_id, AppendReply(self.term, self._verified, self._round_seen))

    def output(self, now: float) -> Any:
        if self._ack_due and self.role is Role.FOLLOWER:
            self._acknowledge()
        return super().output(now)


class LeaderCountsItselfBeforeSync(Core):
    """The leader takes part in the majority with entries that are not on its disk."""

    def _advance_commit(self, now: float) -> None:
        real, self.synced_index = self.synced_index, self.log.last_index
        super()._advance_commit(now)
        self.synced_index = real


class VotesBeforeSync(Core):
    """Messages leave although the term and vote they show are not on disk."""

    def _send(self, to: str, message: Message) -> None:
        self._messages.append((to, message))


class VotesIgnoreTheLog(Core):
    """A vote is granted to whoever asks first, however old its log."""

    def _on_vote_request(self, now: float, sender: str, message: VoteRequest) -> None:
        self.log.is_up_to_date = lambda last_index, last_term: True  # type: ignore[method-assign]
        super()._on_vote_request(now, sender, message)

    def _on_pre_vote_request(self, now: float, sender: str, message: Any) -> None:
        self.log.is_up_to_date = lambda last_index, last_term: True  # type: ignore[method-assign]
        super()._on_pre_vote_request(now, sender, message)


class CountsVotesNotVoters(Core):
    """The same vote delivered twice counts twice."""

    _counted = 0

    def _campaign(self, now: float, *, transfer: bool) -> None:
        self._counted = 0
        super()._campaign(now, transfer=transfer)

    def _count_vote(self, now: float, voter: str) -> None:
        self._counted += 1
        if self._counted >= majority(len(self.log.config.voters)):
            self._become_leader(now)


class TruncatesBlindly(Core):
    """Everything behind the previous entry is replaced, conflict or not (PySyncObj; CONSENSUS section A, 3a)."""

    def _skip_known(self, entries: list[Entry]) -> list[Entry]:
        if entries and entries[0].index <= self.log.last_index:
            self.synced_index = min(self.synced_index, entries[0].index - 1)
            for record in self._syncing:
                record[1] = min(record[1], entries[0].index - 1)
            self.log.truncate(entries[0].index)
            self._verified = entries[0].index - 1
        return entries


class CommitsOlderTerms(Core):
    """A majority is enough, whatever the entry's term (paper, figure 8)."""

    def _advance_commit(self, now: float) -> None:
        real, self.term_start = self.term_start, 0
        super()._advance_commit(now)
        self.term_start = real


class TakesAcksOfAnyTerm(Core):
    """An acknowledgement given to the leader of an older term moves this leader's match."""

    def handle(self, now: float, sender: str, message: Message) -> None:
        if isinstance(message, AppendReply) and message.term < self.term:
            message = AppendReply(self.term, min(message.match, self.log.last_index), message.round)
        super().handle(now, sender, message)


class SnapshotClearsAgreeingLog(Core):
    """Installing a snapshot drops entries behind it that had been acknowledged."""

    def snapshot_received(self, meta: SnapshotMeta, offset: int) -> None:
        real = self.log.matches
        self.log.matches = lambda index, term: False  # type: ignore[method-assign]
        super().snapshot_received(meta, offset)
        self.log.matches = real  # type: ignore[method-assign]

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        self.log.reset(meta.index, meta.term, meta.config)
        self._syncing.clear()
        self.synced_index = meta.index
        super().snapshot_installed(meta)


class AcknowledgesMoreThanTheSnapshot(Core):
    """After an install the whole remaining log counts as verified."""

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        super().snapshot_installed(meta)
        self._verified = self.log.last_index


class CommitIsNotCapped(Core):
    """The leader's commit index is believed for entries that were never compared with its log."""

    def _follow_commit(self, commit: int) -> None:
        commit = min(commit, self.log.last_index)
        if commit > self.commit_index:
            self.commit_index = commit
            self._verified = max(self._verified, commit)

    def _on_heartbeat(self, now: float, sender: str, message: Any) -> None:
        if self.role is not Role.LEADER:
            self._follow_commit(message.commit)
        super()._on_heartbeat(now, sender, message)

    def _heartbeat(self, peer: str, progress: Any) -> None:
        match, progress.match = progress.match, self.commit_index
        super()._heartbeat(peer, progress)
        progress.match = match


class ChangesMembersAnyTime(Core):
    """A second change begins before the first is committed, and several voters at once."""

    def propose_config(self, config: Config) -> int:
        if self.role is not Role.LEADER or not config.voters:
            raise MembershipRefused("no")
        self._append_own([Entry(self.log.last_index + 1, self.term, KIND_CONFIG, encode_config(config))])
        return self.log.last_index


class ChangesMembersBeforeItsNoOp(Core):
    """A new leader changes members before an entry of its own term is committed (the bug of 2015 in one-at-a-time)."""

    def propose_config(self, config: Config) -> int:
        real, self.term_start = self.term_start, 0
        index, self.log._configs[-1] = self.log._configs[-1], (0, self.log._configs[-1][1])
        try:
            return super().propose_config(config)
        finally:
            self.term_start = real
            for position, pair in enumerate(self.log._configs):
                if pair == (0, index[1]):
                    self.log._configs[position] = index


class ReadsWithoutARound(Core):
    """A leader answers reads at once, believing that it still leads."""

    def _round_confirmed(self) -> bool:
        return True


class ReadsBeforeItsNoOp(Core):
    """A leader answers reads with the commit index it had as a follower."""

    def _serve_reads(self) -> None:
        real, self.term_start = self.term_start, 0
        super()._serve_reads()
        self.term_start = real


class ForgetsItsVote(Core):
    """A second candidate of a term may have the vote as well."""

    def _on_vote_request(self, now: float, sender: str, message: VoteRequest) -> None:
        self.voted_for = ""
        super()._on_vote_request(now, sender, message)


class DeferredMessagesOutliveTheirTerm(Core):
    """What waited for a sync is sent even after the term moved on, as an answer of the new term."""

    def synced(self, now: float, write_seq: int) -> None:
        for position, (seq, _, to, message) in enumerate(self._deferred):
            if isinstance(message, VoteReply):
                self._deferred[position] = (seq, self.term, to, VoteReply(self.term, message.granted))
        super().synced(now, write_seq)


class SkipsThePreviousEntry(Core):
    """Entries are appended wherever they fit by index, without comparing the one before."""

    def _on_append(self, now: float, sender: str, message: Append) -> None:
        prev = message.prev_index
        if self.log.base_index <= prev <= self.log.last_index and self.commit_index <= prev:
            message = Append(
                message.term, prev, self.log.term_at(prev), message.commit, message.round, message.entries
            )
        super()._on_append(now, sender, message)


class AppliesTwiceAfterRestart(Node):
    """A shell that, after a restart, hands out entries again that its state machine's store already has."""

    def start(self) -> None:
        super().start()
        if self.world.plan.store and self.up and self.applied > self.core.log.base_index + 1:
            self.applied -= 1


def node_of(core_type: type[Core]) -> type[Node]:
    """The simulated shell around another core."""
    return type(f"NodeOf{core_type.__name__}", (Node,), {"core_type": core_type})


class NeverVerifiesByHeartbeat(Core):
    """A follower that was restarted within a term waits for an Append before it believes any commit index."""

    def _on_heartbeat(self, now: float, sender: str, message: Heartbeat) -> None:
        super()._on_heartbeat(now, sender, Heartbeat(message.term, message.commit, -1, message.round))


class StaysWithAnOldSnapshot(Core):
    """A snapshot that was overtaken by the next compaction is offered for ever."""

    def _on_append_reply(self, now: float, sender: str, message: AppendReply) -> None:
        progress = self.progress.get(sender)
        if progress is not None and progress.snapshot is not None and message.match < self.log.base_index:
            progress.contact = now
            return
        super()._on_append_reply(now, sender, message)


class RemovedVoterNeverCampaigns(Core):
    """A node whose removal is in its log, uncommitted, waits for somebody who can be elected without it."""

    def _may_campaign(self) -> bool:
        return self.node_id in self.log.config.voters


class ReusesRequestIds(Core):
    """Request ids begin at 0 in every life of a node, so an answer to a former life is taken for one to this."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._request_id = 0


@dataclass(frozen=True)
class Mutant:
    """`wrong` breaks the rule that `name` says. `schedule` convicts it, or one of `seeds` under the plan `where`."""

    name: str
    wrong: type[Core] | type[Node]
    where: dict[str, Any] = field(default_factory=dict)
    seeds: int = 0
    schedule: Callable[[type[Core]], None] | None = None

    @property
    def node_type(self) -> type[Node]:
        return self.wrong if issubclass(self.wrong, Node) else node_of(self.wrong)


MUTANTS = [
    Mutant("acknowledge before sync", AcknowledgesBeforeSync, {"crash": "power"}, 5),
    Mutant(
        "acknowledge before sync (schedule)",
        AcknowledgesBeforeSync,
        schedule=s.an_entry_is_acknowledged_when_it_is_on_disk,
    ),
    Mutant(
        "the leader counts itself before sync",
        LeaderCountsItselfBeforeSync,
        {"crash": "power", "voters": 3},
        150,
    ),
    Mutant(
        "the leader counts itself before sync (schedule)",
        LeaderCountsItselfBeforeSync,
        schedule=s.the_leader_counts_itself_when_its_own_disk_has_the_entry,
    ),
    Mutant("vote before sync", VotesBeforeSync, {"crash": "power"}, 5),
    Mutant("vote before sync (schedule)", VotesBeforeSync, schedule=s.a_voice_of_the_past_is_not_heard),
    Mutant("votes ignore the log", VotesIgnoreTheLog, {"storm": True, "crash": "kill", "voters": 3}, 40),
    Mutant("votes counted twice", CountsVotesNotVoters, schedule=s.a_vote_delivered_twice_counts_once),
    Mutant("a vote forgotten", ForgetsItsVote, {"storm": True, "voters": 3}, 40),
    Mutant("a vote forgotten (schedule)", ForgetsItsVote, schedule=s.a_node_votes_once_per_term),
    Mutant("blind truncation", TruncatesBlindly, {"net": "wild", "voters": 3}, 60),
    Mutant("blind truncation (schedule)", TruncatesBlindly, schedule=s.a_late_append_removes_nothing),
    Mutant(
        "commit of older terms",
        CommitsOlderTerms,
        schedule=s.entries_of_an_older_term_are_not_committed_by_counting,
    ),
    Mutant("acks without term", TakesAcksOfAnyTerm, schedule=s.an_ack_of_an_older_term_counts_nothing),
    Mutant(
        "a snapshot clears an agreeing log",
        SnapshotClearsAgreeingLog,
        schedule=s.a_snapshot_keeps_the_agreeing_rest_of_the_log,
    ),
    Mutant(
        "acknowledging more than the snapshot",
        AcknowledgesMoreThanTheSnapshot,
        schedule=s.after_a_snapshot_only_the_snapshot_is_acknowledged,
    ),
    Mutant("uncapped commit index", CommitIsNotCapped, {"storm": True, "net": "wild", "voters": 3}, 100),
    Mutant(
        "uncapped commit index (schedule)",
        CommitIsNotCapped,
        schedule=s.the_commit_index_stops_where_the_logs_were_compared,
    ),
    Mutant(
        "change of members before the last is committed",
        ChangesMembersAnyTime,
        {"members": True, "voters": 3},
        150,
    ),
    Mutant(
        "change of members before the last is committed (schedule)",
        ChangesMembersAnyTime,
        schedule=s.one_change_of_members_at_a_time,
    ),
    Mutant(
        "change of members before the own no-op",
        ChangesMembersBeforeItsNoOp,
        schedule=s.no_change_of_members_before_the_own_no_op,
    ),
    Mutant("reads without a round", ReadsWithoutARound, {"voters": 3}, 150),
    Mutant("reads without a round (schedule)", ReadsWithoutARound, schedule=s.a_read_waits_for_a_majority),
    Mutant("reads before the own no-op", ReadsBeforeItsNoOp, {"storm": True, "voters": 3}, 30),
    Mutant(
        "reads before the own no-op (schedule)",
        ReadsBeforeItsNoOp,
        schedule=s.a_new_leader_answers_no_read_before_its_no_op,
    ),
    Mutant(
        "held messages outlive their term",
        DeferredMessagesOutliveTheirTerm,
        {"storm": True, "voters": 5},
        250,
    ),
    Mutant("append without comparing", SkipsThePreviousEntry, {"storm": True, "voters": 3}, 60),
    Mutant(
        "append without comparing (schedule)",
        SkipsThePreviousEntry,
        schedule=s.entries_are_compared_before_they_are_appended,
    ),
    Mutant(
        "an entry applied twice", AppliesTwiceAfterRestart, {"store": True, "crash": "kill", "voters": 3}, 10
    ),
    # Faults that this project's own core had, found by the simulation:
    Mutant(
        "a follower restarted within a term stays behind",
        NeverVerifiesByHeartbeat,
        schedule=s.a_follower_restarted_within_a_term_learns_what_is_committed,
    ),
    Mutant("an overtaken snapshot is offered for ever", StaysWithAnOldSnapshot, {"voters": 3}, 60),
    Mutant(
        "a removed voter that alone could be elected waits",
        RemovedVoterNeverCampaigns,
        {"members": True, "voters": 3, "storm": False},
        60,
    ),
    Mutant(
        "request ids reused after a restart",
        ReusesRequestIds,
        schedule=s.an_answer_to_a_former_life_answers_no_read,
    ),
]
