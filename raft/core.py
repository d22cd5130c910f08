"""Raft for one voter, without I/O: events and time go in; writes, messages and effects come out.

Sources: "In Search of an Understandable Consensus Algorithm" (the paper), Ongaro's dissertation, and what
etcd's raft learned (pre-vote, check-quorum, probe and replicate, term-based back-off). Read `Core.output`
first: it states the order in which a shell must carry out what comes out. Nothing here reads a clock or
draws a random number of its own: time and a `random.Random` are arguments. Equal state and equal input give
equal output.

The rules that keep acknowledged entries, and where they are:
- a message that shows a term or grants a vote leaves only when both are on disk: `_send`, `synced`;
- a follower acknowledges min(verified against this term's leader, on its disk): `_acknowledge`;
- it removes entries only on a conflict of terms, and never at or below its commit index: `_on_append`;
- its commit index never passes what is verified: `_follow_commit`;
- the leader counts itself like any voter, by what is on its own disk, and commits only entries of its own
  term:
  `_advance_commit`;
- nothing is handed out for applying that is not on this node's disk: `Output.apply_to`.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from raft.effects import (
    ConfigChanged,
    Effect,
    InstallSnapshot,
    Output,
    ReadReady,
    ReadRefused,
    ReadSnapshot,
    ReceiveSnapshot,
    Role,
    RoleChanged,
    Write,
    WriteEntries,
    WriteTermVote,
)
from raft.errors import MembershipRefused, NotLeader, Overloaded
from raft.log import Log, encode_config
from raft.messages import (
    Append,
    AppendReject,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVoteReply,
    PreVoteRequest,
    ReadReply,
    ReadRequest,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raft.progress import Pace, Progress
from raft.quorum import has_quorum, quorum_index
from raft.settings import Settings
from raft.storage_api import KIND_COMMANDS, KIND_CONFIG, KIND_NOOP, Config, Entry, SnapshotMeta

_PROBE_BYTES_MAX = 65536
"""Payload sent while it is not known where the logs meet."""
_LINK_TRIES = 3
"""Pre-votes at the short timeout after the leader's link closed; the others may notice a moment later."""

_DEFERRED_MAX = 4096
"""Messages waiting for a sync of term and vote; the oldest are dropped, as a network may."""


class Core:
    """One voter's (or learner's) consensus state. The only code that changes it.

    After each event or batch of events, `output()` must be taken and carried out.
    """

    def __init__(
        self,
        *,
        node_id: str,
        log: Log,
        term: int,
        voted_for: str,
        commit_index: int,
        snapshot: SnapshotMeta | None,
        settings: Settings,
        rng: random.Random,
        now: float,
    ) -> None:
        """`log`, `term`, `voted_for` as recovered; `commit_index` is what is certainly committed: the
        newest snapshot's index, or the state machine's applied index if that is higher."""
        assert log.base_index <= commit_index <= log.last_index
        self.node_id = node_id
        self.log = log
        self.term = term
        self.voted_for = voted_for
        self.commit_index = commit_index
        self.applied_index = commit_index
        self.snapshot = snapshot
        self.role = Role.FOLLOWER
        self.leader_id: str | None = None
        self._settings = settings
        self._rng = rng

        self._writes: list[Write] = []
        self._messages: list[tuple[str, Message]] = []
        self._effects: list[Effect] = []
        self._write_seq = 0
        self._synced_seq = 0
        self._term_vote_seq = 0
        """The sync that makes the present term and vote durable."""
        self._syncing: deque[list[int]] = deque()
        """[write_seq, last index written with it], of syncs not done."""
        self._deferred: deque[tuple[int, int, str, Message]] = deque(maxlen=_DEFERRED_MAX)
        """(write_seq waited for, term it was made in, to, message)."""
        self.synced_index = log.last_index

        self._verified = commit_index
        """Entries up to here are known to equal the log of this term's leader."""
        self._ack_due = False
        self._round_seen = 0
        self._leader_contact = -inf
        self._link_tries = 0
        self._votes: set[str] = set()
        self._refusals: set[str] = set()
        self._transfer_campaign = False
        self._installing: SnapshotMeta | None = None

        self.progress: dict[str, Progress] = {}
        self.term_start = 0
        """Index of the leader's own no-op."""
        self._match_dirty = False
        self._uncommitted: deque[tuple[int, int]] = deque()
        self.uncommitted_bytes = 0
        self._heartbeat_at = inf
        self._commit_notice_at = inf
        self._round = 0
        self._round_reads: list[tuple[str | None, int]] = []
        self._round_index = 0
        self._waiting_reads: list[tuple[str | None, int]] = []
        self._forwarded: dict[int, int] = {}
        self._request_id = rng.getrandbits(48)
        """Starts at random, so that an answer to this node's former life answers nothing now."""
        self.transfer_target: str | None = None
        self._transfer_deadline = inf
        self._transfer_sent = False

        self._handlers: Mapping[type, Callable[[float, str, Any], None]] = {
            VoteRequest: self._on_vote_request,
            VoteReply: self._on_vote_reply,
            Append: self._on_append,
            AppendReply: self._on_append_reply,
            AppendReject: self._on_append_reject,
            Heartbeat: self._on_heartbeat,
            HeartbeatReply: self._on_heartbeat_reply,
            ReadRequest: self._on_read_request,
            ReadReply: self._on_read_reply,
            TimeoutNow: self._on_timeout_now,
            SnapshotChunk: self._on_snapshot_chunk,
            SnapshotReply: self._on_snapshot_reply,
        }
        self._election_deadline = inf
        self._reset_election_timer(now)
        if set(log.config.voters) == {node_id}:
            self._election_deadline = now

    # -- what comes out ----------------------------------------------------------------------------

    def output(self, now: float) -> Output:
        """Everything to be done since the last call, in the order that `Output` states."""
        if self.role is Role.LEADER:
            self._lead(now)
        elif self._ack_due and self.synced_index >= self._verified:
            self._acknowledge()
        writes, messages, effects = self._writes, self._messages, self._effects
        if writes:
            self._writes = []
            self._write_seq += 1
            self._syncing.append([self._write_seq, self.log.last_index])
        if messages:
            self._messages = []
        if effects:
            self._effects = []
        apply_to = self.applied_index if self._installing else min(self.commit_index, self.synced_index)
        return Output(writes, self._write_seq, messages, effects, apply_to)

    def next_deadline(self) -> float:
        """When `tick` is next worth calling; inf for never."""
        if self.role is Role.LEADER:
            return min(self._heartbeat_at, self._commit_notice_at, self._transfer_deadline)
        return self._election_deadline if self._may_campaign() else inf

    # -- events ------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.role is Role.LEADER:
            self._tick_leader(now)
        elif now >= self._election_deadline and self._may_campaign():
            if now - self._election_deadline > self._settings.stall_s and self.log.config.voters.keys() != {
                self.node_id
            }:
                # This process stood still: the leader's heartbeats are probably waiting in the sockets.
                self._election_deadline = now + self._settings.heartbeat_interval_s
                return
            self._campaign_pre(now)

    def synced(self, now: float, write_seq: int) -> None:
        """A sync that covers all writes up to `write_seq` has finished."""
        self._synced_seq = max(self._synced_seq, write_seq)
        syncing = self._syncing
        while syncing and syncing[0][0] <= write_seq:
            index = syncing.popleft()[1]
            if index > self.synced_index:
                self.synced_index = index
                self._match_dirty = True
        while self._deferred and self._deferred[0][0] <= write_seq:
            _, term, to, message = self._deferred.popleft()
            if term == self.term:
                self._messages.append((to, message))
        if self.role is Role.CANDIDATE and self._term_vote_seq <= self._synced_seq:
            self._count_vote(now, self.node_id)
        if self._ack_due:
            self._acknowledge()

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""
        self.applied_index = index
        self.log.trim(min(index, self.synced_index))

    def link_closed(self, now: float, peer: str) -> None:
        """The link to `peer` closed. If it was the leader it has probably died: ask around soon. Safe,
        because the others refuse as long as they hear from it."""
        if peer == self.leader_id and self.role is Role.FOLLOWER:
            self._leader_contact = -inf
            self._link_tries = _LINK_TRIES
            self._election_deadline = min(
                self._election_deadline, now + self._rng.random() * self._settings.link_closed_timeout_s
            )

    def propose(self, payloads: Sequence[bytes]) -> tuple[int, int]:
        """Append one entry of commands per payload. Returns the first and the last index.

        Raises NotLeader, or Overloaded while leadership is moving; then nothing was appended.
        """
        if self.role is not Role.LEADER:
            raise self._not_leader("take the command")
        if self.transfer_target is not None:
            raise Overloaded(
                f"{self.node_id} is handing leadership to {self.transfer_target}; try again in a moment",
                limit="leadership_transfer",
                retry_after_s=self._settings.heartbeat_interval_s,
            )
        first = self.log.last_index + 1
        term = self.term
        self._append_own(
            [Entry(index, term, KIND_COMMANDS, payload) for index, payload in enumerate(payloads, first)]
        )
        return first, self.log.last_index

    def propose_config(self, config: Config) -> int:
        """Append a new membership, in force at once. Returns its index.

        Refused (MembershipRefused) unless: the last change is committed, an entry of this term is
        committed, at most one voter differs, a voter remains, and a new voter was a learner that has caught
        up.
        """
        if self.role is not Role.LEADER:
            raise self._not_leader("change the members")
        old = self.log.config
        if self.log.config_index > self.commit_index or self.commit_index < self.term_start:
            raise MembershipRefused(
                f"the change of members at index {self.log.config_index} or the start of term {self.term} is "
                f"not committed yet (commit index {self.commit_index}); one change at a time"
            )
        if self.transfer_target is not None:
            raise MembershipRefused(f"leadership is moving to {self.transfer_target}; ask the new leader")
        if not config.voters:
            raise MembershipRefused("a group needs at least one voter")
        if config.voters.keys() & config.learners.keys():
            raise MembershipRefused("a member is either voter or learner")
        added = config.voters.keys() - old.voters.keys()
        if len(added) + len(old.voters.keys() - config.voters.keys()) > 1:
            raise MembershipRefused("one voter may change at a time, so that old and new majorities overlap")
        for node_id in added:
            self._check_caught_up(node_id)
        self._append_own([Entry(self.log.last_index + 1, self.term, KIND_CONFIG, encode_config(config))])
        return self.log.last_index

    def read(self, context: int) -> None:
        """Ask for a linearizable read: ends in ReadReady or ReadRefused with `context`."""
        if self.role is Role.LEADER:
            self._waiting_reads.append((None, context))
        elif self.leader_id is None or self.leader_id == self.node_id:
            self._effects.append(ReadRefused((context,)))
        else:
            self._request_id += 1
            self._forwarded[self._request_id] = context
            self._send(self.leader_id, ReadRequest(self.term, self._request_id))

    def abandon_read(self, context: int) -> None:
        """Nobody waits for this read any more."""
        for request_id, forwarded in list(self._forwarded.items()):
            if forwarded == context:
                del self._forwarded[request_id]

    def transfer(self, now: float, target: str | None) -> str:
        """Hand leadership to `target`, or to the voter that is furthest. Returns whom. Proposals are
        refused until it is done or given up. Raises NotLeader or MembershipRefused."""
        if self.role is not Role.LEADER:
            raise self._not_leader("hand over leadership")
        if target is None:
            voters = [peer for peer in self.progress if peer in self.log.config.voters]
            if not voters:
                raise MembershipRefused("there is no other voter to hand leadership to")
            target = max(voters, key=lambda peer: (self.progress[peer].match, peer))
        if target not in self.log.config.voters or target == self.node_id:
            raise MembershipRefused(f"{target} is not another voter, so it cannot lead")
        self.transfer_target = target
        self._transfer_deadline = now + self._settings.transfer_timeout_s
        self._transfer_sent = False
        return target

    @property
    def has_waiting_reads(self) -> bool:
        """Reads wait for the leader's no-op to be applied, or for the round before theirs."""
        return bool(self._waiting_reads) and not self._round_reads

    # -- snapshots: what the shell reports ---------------------------------------------------------

    def snapshot_made(self, meta: SnapshotMeta) -> None:
        """A snapshot of the own state is durable."""
        if self.snapshot is None or meta.index > self.snapshot.index:
            self.snapshot = meta

    def compacted(self, index: int) -> None:
        """The journal's base moved up to `index`, which is at most the oldest kept snapshot's."""
        assert self.snapshot is not None
        assert index <= self.snapshot.index
        self.log.compacted(index)

    def snapshot_read(self, to: str, meta: SnapshotMeta, offset: int, data: bytes) -> None:
        """Answer to ReadSnapshot."""
        progress = self.progress.get(to)
        if self.role is Role.LEADER and progress is not None and progress.snapshot == meta:
            chunk = SnapshotChunk(self.term, meta, offset, data, zlib.crc32(data), self._round)
            self._send(to, chunk)

    def snapshot_read_failed(self, to: str, meta: SnapshotMeta) -> None:
        """The file is gone or damaged; begin again with the newest one."""
        progress = self.progress.get(to)
        if self.role is Role.LEADER and progress is not None and progress.snapshot == meta:
            progress.probe_from(progress.match + 1)

    def snapshot_received(self, meta: SnapshotMeta, offset: int) -> None:
        """Answer to ReceiveSnapshot: `offset` bytes of the file are held."""
        if self._installing is not None or self.leader_id is None or self.role is not Role.FOLLOWER:
            return
        self._send(self.leader_id, SnapshotReply(self.term, meta.digest, offset, self._round_seen))
        if offset == meta.size and meta.index > self.commit_index:
            self._installing = meta
            reset = not self.log.matches(meta.index, meta.term)
            self._effects.append(InstallSnapshot(meta, reset))

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        """The state machine stands at `meta.index`, the file and the reset journal are durable."""
        assert self._installing == meta
        self._installing = None
        self.snapshot = meta
        if not self.log.matches(meta.index, meta.term):
            self.log.reset(meta.index, meta.term, meta.config)
            self._syncing.clear()
            self.synced_index = meta.index
            self._effects.append(ConfigChanged(self.log.config, meta.index))
        self.commit_index = max(self.commit_index, meta.index)
        self.applied_index = meta.index
        # What was verified before cannot be beyond the end of the present log; the snapshot itself is
        # committed.
        self._verified = max(min(self._verified, self.log.last_index), meta.index)
        self._ack_due = self.leader_id is not None

    def snapshot_install_failed(self, meta: SnapshotMeta) -> None:
        """Its checksum was wrong and it was removed; the leader will ask again and begin at 0."""
        self._installing = None

    # -- messages ----------------------------------------------------------------------------------

    def handle(self, now: float, sender: str, message: Message) -> None:
        """A message arrived from `sender` (as the transport knows it)."""
        kind = type(message)
        if kind is PreVoteRequest:
            self._on_pre_vote_request(now, sender, message)  # type: ignore[arg-type]
            return
        if kind is PreVoteReply:
            self._on_pre_vote_reply(now, sender, message)  # type: ignore[arg-type]
            return
        if message.term > self.term:
            if kind is VoteRequest and not message.transfer and self._hears_leader(now):  # type: ignore[union-attr]
                return  # leader stickiness (dissertation, section 4.2.3): do not even take the term
            self._become_follower(now, message.term, None)
        elif message.term < self.term:
            self._refuse_old_term(sender, message)
            return
        self._handlers[kind](now, sender, message)

    def _refuse_old_term(self, sender: str, message: Message) -> None:
        """A message of an older term changes nothing; who leads or campaigns there learns the newer term."""
        if isinstance(message, VoteRequest):
            self._send(sender, VoteReply(self.term, False))
        elif isinstance(message, (Append, Heartbeat, SnapshotChunk)):
            self._send(sender, AppendReject(self.term, 0, 0, 0, 0))
        elif isinstance(message, ReadRequest):
            self._send(sender, ReadReply(self.term, message.request_id, 0))

    # -- elections ---------------------------------------------------------------------------------

    def _hears_leader(self, now: float) -> bool:
        if self.role is Role.LEADER:
            return True
        return (
            self.leader_id is not None and now - self._leader_contact < self._settings.election_timeout_min_s
        )

    def _reset_election_timer(self, now: float) -> None:
        settings = self._settings
        spread = settings.election_timeout_max_s - settings.election_timeout_min_s
        self._election_deadline = now + settings.election_timeout_min_s + self._rng.random() * spread

    def _may_campaign(self) -> bool:
        """A voter may; and one whose removal is in its log but not known to be committed: it may be the only one with
        that entry, so nobody else could be elected (dissertation, section 4.2.2). Its own vote does not count then."""
        log = self.log
        if self.node_id in log.config.voters:
            return True
        return (
            log.config_index > self.commit_index
            and self.node_id in log.config_at(log.config_index - 1).voters
        )

    def _set_term_vote(self, term: int, voted_for: str) -> None:
        self.term = term
        self.voted_for = voted_for
        self._writes.append(WriteTermVote(term, voted_for))
        self._term_vote_seq = self._write_seq + 1

    def _become_follower(self, now: float, term: int, leader_id: str | None) -> None:
        """Enter `term` (or stay in it) as a follower of `leader_id`."""
        was = (self.role, self.term, self.leader_id)
        if term > self.term:
            self._set_term_vote(term, "")
            self._verified = self.commit_index
            self._ack_due = False
            self._round_seen = 0
        if self.role is Role.LEADER:
            self._stop_leading()
            self._verified = self.commit_index
        if self.role is not Role.FOLLOWER or term > was[1]:
            self._reset_election_timer(now)
        self.role = Role.FOLLOWER
        self.leader_id = leader_id
        if leader_id != was[2] or term > was[1]:
            self._refuse_forwarded()
        if (self.role, self.term, self.leader_id) != was:
            self._effects.append(RoleChanged(self.role, self.term, self.leader_id))

    def _stop_leading(self) -> None:
        contexts = [context for peer, context in self._round_reads + self._waiting_reads if peer is None]
        if contexts:
            self._effects.append(ReadRefused(tuple(contexts)))
        self._round_reads = []
        self._waiting_reads = []
        self.progress = {}
        self._uncommitted.clear()
        self.uncommitted_bytes = 0
        self._heartbeat_at = self._commit_notice_at = self._transfer_deadline = inf
        self.transfer_target = None

    def _refuse_forwarded(self) -> None:
        if self._forwarded:
            self._effects.append(ReadRefused(tuple(self._forwarded.values())))
            self._forwarded = {}

    def _campaign_pre(self, now: float) -> None:
        """Ask whether an election could be won, before raising the term (dissertation, section 9.6)."""
        was = (self.role, self.leader_id)
        self.role = Role.PRECANDIDATE
        self.leader_id = None
        self._refuse_forwarded()
        self._votes = {self.node_id}
        self._refusals = set()
        self._reset_election_timer(now)
        if self._link_tries:
            self._link_tries -= 1
            self._election_deadline = now + (0.5 + self._rng.random()) * self._settings.link_closed_timeout_s
        if was != (self.role, self.leader_id):
            self._effects.append(RoleChanged(self.role, self.term, None))
        if self._has_votes():
            self._campaign(now, transfer=False)
            return
        request = PreVoteRequest(self.term + 1, self.log.last_index, self.log.last_term)
        for peer in sorted(self.log.config.voters):
            if peer != self.node_id:
                self._send(peer, request)

    def _campaign(self, now: float, *, transfer: bool) -> None:
        """Raise the term and ask for votes, once that and the own vote are on disk."""
        self.role = Role.CANDIDATE
        self.leader_id = None
        self._refuse_forwarded()
        self._set_term_vote(self.term + 1, self.node_id)
        self._verified = self.commit_index
        self._ack_due = False
        self._round_seen = 0
        self._votes = set()
        self._refusals = set()
        self._reset_election_timer(now)
        self._effects.append(RoleChanged(self.role, self.term, None))
        request = VoteRequest(self.term, self.log.last_index, self.log.last_term, transfer)
        for peer in sorted(self.log.config.voters):
            if peer != self.node_id:
                self._send(peer, request)

    def _has_votes(self) -> bool:
        return has_quorum(self._votes, self.log.config.voters)

    def _on_pre_vote_request(self, now: float, sender: str, message: PreVoteRequest) -> None:
        granted = (
            message.term > self.term
            and self.log.is_up_to_date(message.last_index, message.last_term)
            and not self._hears_leader(now)
        )
        self._send(sender, PreVoteReply(message.term if granted else self.term, granted))

    def _on_pre_vote_reply(self, now: float, sender: str, message: PreVoteReply) -> None:
        if not message.granted:
            if message.term > self.term:
                self._become_follower(now, message.term, None)
            return
        if self.role is Role.PRECANDIDATE and message.term == self.term + 1:
            self._votes.add(sender)
            if self._has_votes():
                self._campaign(now, transfer=False)

    def _on_vote_request(self, now: float, sender: str, message: VoteRequest) -> None:
        granted = (
            self.role in (Role.FOLLOWER, Role.PRECANDIDATE)
            and self.leader_id is None
            and self.voted_for in ("", sender)
            and self.log.is_up_to_date(message.last_index, message.last_term)
        )
        if granted:
            if not self.voted_for:
                self._set_term_vote(self.term, sender)
            self._become_follower(now, self.term, None)
            self._reset_election_timer(now)
        self._send(sender, VoteReply(self.term, granted))

    def _on_vote_reply(self, now: float, sender: str, message: VoteReply) -> None:
        if self.role is not Role.CANDIDATE:
            return
        if message.granted:
            self._count_vote(now, sender)
            return
        self._refusals.add(sender)
        if has_quorum(self._refusals, self.log.config.voters):
            self._become_follower(now, self.term, None)

    def _count_vote(self, now: float, voter: str) -> None:
        self._votes.add(voter)
        if self._has_votes():
            self._become_leader(now)

    def _on_timeout_now(self, now: float, sender: str, message: TimeoutNow) -> None:
        if self.role is not Role.LEADER and self._may_campaign():
            self._campaign(now, transfer=True)

    def _become_leader(self, now: float) -> None:
        self.role = Role.LEADER
        self.leader_id = self.node_id
        self._link_tries = 0
        self._round = 0
        self.progress = {}
        self._track_members(now)
        self._heartbeat_at = now
        self.term_start = self.log.last_index + 1
        self._effects.append(RoleChanged(self.role, self.term, self.node_id))
        self._append_own([Entry(self.term_start, self.term, KIND_NOOP, b"")])

    # -- leading -----------------------------------------------------------------------------------

    def _append_own(self, entries: list[Entry]) -> None:
        size = sum(len(entry.payload) for entry in entries)
        self._uncommitted.append((entries[-1].index, size))
        self.uncommitted_bytes += size
        self._writes.append(WriteEntries(entries))
        if self.log.append(entries):
            self._config_changed()

    def _track_members(self, now: float) -> None:
        """One Progress per other member of the newest configuration."""
        config = self.log.config
        members = config.voters.keys() | config.learners.keys()
        for peer in sorted(members):
            if peer != self.node_id and peer not in self.progress:
                self.progress[peer] = Progress(next_index=self.log.last_index + 1, now=now)
        for peer in [peer for peer in self.progress if peer not in members]:
            del self.progress[peer]

    def _config_changed(self) -> None:
        if self.role is Role.LEADER:
            # Silence before this moment does not count against a new member.
            self._track_members(self._heartbeat_at)
            self._match_dirty = True
        self._effects.append(ConfigChanged(self.log.config, self.log.config_index))

    def _check_caught_up(self, node_id: str) -> None:
        progress = self.progress.get(node_id)
        if progress is None:
            raise MembershipRefused(f"{node_id} is not a learner; a new voter begins as one")
        lag = self.log.last_index - progress.match
        if progress.match < self.term_start or lag > self._settings.learner_lag_entries_max:
            raise MembershipRefused(
                f"{node_id} lacks {lag} entries; a voter that is behind would hold up commits. Try again "
                "later"
            )

    def _lead(self, now: float) -> None:
        """Everything a leader does after a batch of events: commit, reads, replication, hand-over."""
        if self._match_dirty:
            self._advance_commit(now)
            if self.role is not Role.LEADER:
                return
        if self._waiting_reads or self._round_reads:
            self._serve_reads()
        for peer, progress in self.progress.items():
            if progress.next <= self.log.last_index or progress.probe_due:
                self._replicate(now, peer, progress)
        if self.transfer_target is not None and not self._transfer_sent:
            target = self.progress.get(self.transfer_target)
            if target is None:
                self.transfer_target = None
                self._transfer_deadline = inf
            elif target.match == self.log.last_index:
                self._transfer_sent = True
                self._send(self.transfer_target, TimeoutNow(self.term))

    def _advance_commit(self, now: float) -> None:
        """Commit what a majority of voters has on disk, if it is of this term (paper, 5.4.2; figure 8)."""
        self._match_dirty = False
        voters = self.log.config.voters
        progress = self.progress
        matched = [progress[peer].match for peer in voters if peer in progress]
        if self.node_id in voters:
            matched.append(self.synced_index)
        index = quorum_index(matched)
        if index <= self.commit_index or index < self.term_start:
            return
        self.commit_index = index
        while self._uncommitted and self._uncommitted[0][0] <= index:
            self.uncommitted_bytes -= self._uncommitted.popleft()[1]
        if self._commit_notice_at == inf and self.progress:
            self._commit_notice_at = now + self._settings.commit_notice_s
        if self.node_id not in voters and self.log.config_index <= index:
            self._leave(now)

    def _leave(self, now: float) -> None:
        """The removal of this leader is committed: tell the others, let the furthest one campaign, step
        down."""
        self._notice_commit()
        peers = [peer for peer in self.progress if peer in self.log.config.voters]
        successor = max(peers, key=lambda peer: (self.progress[peer].match, peer))
        self._send(successor, TimeoutNow(self.term))
        self._become_follower(now, self.term, None)

    def _notice_commit(self) -> None:
        self._commit_notice_at = inf
        for peer, progress in self.progress.items():
            commit = min(self.commit_index, progress.match)
            if progress.commit_sent < commit:
                self._heartbeat(peer, progress)

    def _heartbeat(self, peer: str, progress: Progress) -> None:
        # Capped to what this member has acknowledged in this term: more could be another log's entries.
        commit = min(self.commit_index, progress.match)
        commit_term = self.log.term_at(commit) if commit >= self.log.base_index else 0
        progress.commit_sent = max(progress.commit_sent, commit)
        self._send(peer, Heartbeat(self.term, commit, commit_term, self._round))

    def _tick_leader(self, now: float) -> None:
        settings = self._settings
        if now >= self._transfer_deadline:
            self.transfer_target = None
            self._transfer_deadline = inf
        if now >= self._commit_notice_at:
            self._notice_commit()
        if now < self._heartbeat_at:
            return
        if now - self._heartbeat_at > settings.stall_s:
            # This process stood still, so silence proves nothing; one heartbeat interval to catch up on the
            # sockets.
            for progress in self.progress.values():
                floor = now - settings.election_timeout_max_s + settings.heartbeat_interval_s
                progress.contact = max(progress.contact, floor)
        self._heartbeat_at = now + settings.heartbeat_interval_s
        heard = [
            p
            for p, progress in self.progress.items()
            if now - progress.contact < settings.election_timeout_max_s
        ]
        if not has_quorum([*heard, self.node_id], self.log.config.voters):
            self._become_follower(now, self.term, None)
            return
        for peer, progress in self.progress.items():
            self._heartbeat(peer, progress)
            if progress.pace is Pace.SNAPSHOT:
                if now >= progress.snapshot_retry_at:
                    self._ask_snapshot_offset(now, peer, progress)
            elif (
                progress.pace is Pace.PROBE
                or progress.match == progress.match_at_heartbeat < progress.next - 1
            ):
                # Unanswered for a whole interval: perhaps lost. An empty Append shows where the follower is.
                progress.probe_due = True
            progress.match_at_heartbeat = progress.match

    def _replicate(self, now: float, peer: str, progress: Progress) -> None:
        """Send what the member lacks, as far as its window allows."""
        settings = self._settings
        log = self.log
        if progress.pace is Pace.SNAPSHOT:
            return
        if progress.pace is Pace.PROBE:
            if progress.probe_due:
                self._send_append(now, peer, progress, _PROBE_BYTES_MAX)
            return
        if progress.probe_due and progress.next > log.last_index:
            self._send_append(now, peer, progress, 0)
        while (
            progress.next <= log.last_index
            and progress.inflight_bytes < settings.inflight_bytes_max
            and len(progress.inflight) < settings.inflight_messages_max
            and progress.pace is Pace.REPLICATE
        ):
            self._send_append(now, peer, progress, settings.append_bytes_max)
        if progress.probe_due:
            self._send_append(now, peer, progress, 0)

    def _send_append(self, now: float, peer: str, progress: Progress, bytes_max: int) -> None:
        """One Append from `progress.next` on; or the start of a snapshot, when the log does not reach
        back."""
        log = self.log
        progress.probe_due = False
        prev_index = progress.next - 1
        if prev_index < log.base_index:
            self._start_snapshot(now, peer, progress)
            return
        entries: list[Entry] = []
        if bytes_max and progress.next <= log.last_index:
            entries = log.slice(progress.next, log.last_index, bytes_max, self._settings.append_entries_max)
        commit = self.commit_index
        self._send(peer, Append(self.term, prev_index, log.term_at(prev_index), commit, self._round, entries))
        progress.commit_sent = max(progress.commit_sent, min(commit, prev_index + len(entries)))
        if progress.pace is Pace.REPLICATE and entries:
            progress.sent(entries[-1].index, sum([len(entry.payload) for entry in entries]))

    def _on_append_reply(self, now: float, sender: str, message: AppendReply) -> None:
        progress = self.progress.get(sender)
        if self.role is not Role.LEADER or progress is None:
            return
        progress.contact = now
        if message.round > progress.acked_round:
            progress.acked_round = message.round
        if message.match > self.log.last_index:
            return  # it claims entries that this leader never made: not a peer of this protocol
        if progress.acknowledge(message.match):
            self._match_dirty = True
        if progress.pace is not Pace.REPLICATE and progress.match >= self.log.base_index:
            progress.replicate()
        elif progress.pace is Pace.PROBE or (
            progress.snapshot is not None and progress.match >= progress.snapshot.index
        ):
            # It stands below what this log reaches back to, perhaps after a snapshot that was overtaken
            # meanwhile: probing there starts the newest one.
            progress.probe_from(progress.match + 1)

    def _on_append_reject(self, now: float, sender: str, message: AppendReject) -> None:
        progress = self.progress.get(sender)
        if self.role is not Role.LEADER or progress is None:
            return
        progress.contact = now
        if message.round > progress.acked_round:
            progress.acked_round = message.round
        if message.prev_index <= progress.match or progress.pace is Pace.SNAPSHOT:
            return  # late: it has acknowledged more since
        if progress.pace is Pace.REPLICATE:
            progress.probe_from(progress.match + 1)
        elif message.prev_index == progress.next - 1:
            meeting, _ = self.log.highest_not_above(
                min(message.hint_index, message.prev_index - 1), message.hint_term
            )
            if message.hint_index < self.log.base_index:
                meeting = message.hint_index
            progress.probe_from(min(meeting + 1, message.prev_index))

    def _on_heartbeat_reply(self, now: float, sender: str, message: HeartbeatReply) -> None:
        progress = self.progress.get(sender)
        if self.role is Role.LEADER and progress is not None:
            progress.contact = now
            if message.round > progress.acked_round:
                progress.acked_round = message.round

    # -- reads (dissertation, section 6.4) ---------------------------------------------------------

    def _serve_reads(self) -> None:
        """Finish the round under way if a majority has answered it; start the next one for all that wait.

        Only once the leader's own no-op is applied: before, it may not know everything that is committed.
        """
        if self._round_reads and self._round_confirmed():
            self._finish_reads(self._round_reads, self._round_index)
            self._round_reads = []
        if self._waiting_reads and not self._round_reads and self.applied_index >= self.term_start:
            self._round_reads, self._waiting_reads = self._waiting_reads, []
            self._round_index = self.commit_index
            self._round += 1
            if self._round_confirmed():
                self._finish_reads(self._round_reads, self._round_index)
                self._round_reads = []
                return
            for peer, progress in self.progress.items():
                if peer in self.log.config.voters:
                    self._heartbeat(peer, progress)

    def _round_confirmed(self) -> bool:
        agreeing = [peer for peer, progress in self.progress.items() if progress.acked_round >= self._round]
        return has_quorum([*agreeing, self.node_id], self.log.config.voters)

    def _finish_reads(self, reads: list[tuple[str | None, int]], index: int) -> None:
        local = tuple(context for peer, context in reads if peer is None)
        if local:
            self._effects.append(ReadReady(local, index))
        for peer, request_id in reads:
            if peer is not None:
                self._send(peer, ReadReply(self.term, request_id, index))
                progress = self.progress.get(peer)
                if progress is not None and progress.commit_sent < min(index, progress.match):
                    self._heartbeat(peer, progress)  # or the reader would wait for the next commit notice

    def _on_read_request(self, now: float, sender: str, message: ReadRequest) -> None:
        if self.role is not Role.LEADER or len(self._waiting_reads) >= self._settings.reads_max:
            self._send(sender, ReadReply(self.term, message.request_id, 0))
        else:
            self._waiting_reads.append((sender, message.request_id))

    def _on_read_reply(self, now: float, sender: str, message: ReadReply) -> None:
        context = self._forwarded.pop(message.request_id, None)
        if context is None:
            return
        if message.index:
            self._effects.append(ReadReady((context,), message.index))
        else:
            self._effects.append(ReadRefused((context,)))

    # -- following ---------------------------------------------------------------------------------

    def _hear_leader(self, now: float, sender: str) -> bool:
        """`sender` speaks as the leader of this term. False if that cannot be."""
        if self.role is Role.LEADER:
            return False
        if self.leader_id != sender or self.role is not Role.FOLLOWER:
            if self.leader_id is not None and self.leader_id != sender:
                return False
            self._become_follower(now, self.term, sender)
        self._leader_contact = now
        self._link_tries = 0
        self._reset_election_timer(now)
        return True

    def _on_append(self, now: float, sender: str, message: Append) -> None:
        if not self._hear_leader(now, sender):
            return
        if message.round > self._round_seen:
            self._round_seen = message.round
        if self._installing is not None:
            return  # the log is about to be replaced; the leader asks again
        log = self.log
        prev = message.prev_index
        entries = message.entries
        end = prev + len(entries)
        if entries and (entries[0].index != prev + 1 or entries[-1].index != end):
            return  # not contiguous: not a peer of this protocol
        if prev < self.commit_index:
            # Committed entries are in every leader's log (paper, 5.4.3): nothing to compare up to there.
            if end <= self.commit_index:
                self._ack_due = True
                return
            entries = entries[self.commit_index - prev :]
            prev = self.commit_index
        elif not log.matches(prev, message.prev_term):
            hint_index, hint_term = log.highest_not_above(min(prev - 1, log.last_index), message.prev_term)
            if prev > log.last_index:
                hint_index, hint_term = log.highest_not_above(log.last_index, message.prev_term)
            self._send(
                sender, AppendReject(self.term, message.prev_index, hint_index, hint_term, self._round_seen)
            )
            return
        if prev < log.last_index:
            entries = self._skip_known(entries)
        if entries:
            self._writes.append(WriteEntries(entries))
            if log.append(entries):
                self._config_changed()
        if end > self._verified:
            self._verified = end
        self._ack_due = True
        self._follow_commit(message.commit)

    def _skip_known(self, entries: list[Entry]) -> list[Entry]:
        """Those of `entries` that the log lacks, after removing what conflicts with them (paper, figure
        2)."""
        log = self.log
        for position, entry in enumerate(entries):
            if entry.index > log.last_index:
                return entries[position:]
            if log.term_at(entry.index) != entry.term:
                assert entry.index > self.commit_index, "a leader lacks a committed entry"
                self._truncate(entry.index)
                return entries[position:]
        return []

    def _truncate(self, index: int) -> None:
        if self.log.truncate(index):
            self._config_changed()
        self.synced_index = min(self.synced_index, index - 1)
        for record in self._syncing:
            record[1] = min(record[1], index - 1)
        assert self._verified < index, "an entry verified in this term conflicts with its leader's"

    def _follow_commit(self, commit: int) -> None:
        """Take the leader's commit index, as far as this log is known to be the leader's."""
        commit = min(commit, self._verified)
        if commit > self.commit_index:
            self.commit_index = commit

    def _acknowledge(self) -> None:
        """Tell the leader what is verified and on disk; again later, if some of it is not on disk yet."""
        match = min(self._verified, self.synced_index)
        self._ack_due = match < self._verified
        if self.leader_id is not None and self.role is Role.FOLLOWER:
            self._send(self.leader_id, AppendReply(self.term, match, self._round_seen))

    def _on_heartbeat(self, now: float, sender: str, message: Heartbeat) -> None:
        if not self._hear_leader(now, sender):
            return
        if message.round > self._round_seen:
            self._round_seen = message.round
        if self._installing is None and message.commit > self.commit_index:
            if self.log.matches(message.commit, message.commit_term):
                self._verified = max(self._verified, message.commit)
            self._follow_commit(message.commit)
        self._send(sender, HeartbeatReply(self.term, self._round_seen))

    # -- snapshots on the wire ---------------------------------------------------------------------

    def _start_snapshot(self, now: float, peer: str, progress: Progress) -> None:
        assert self.snapshot is not None
        assert self.snapshot.index >= self.log.base_index
        progress.start_snapshot(self.snapshot, now)
        self._ask_snapshot_offset(now, peer, progress)

    def _ask_snapshot_offset(self, now: float, peer: str, progress: Progress) -> None:
        assert progress.snapshot is not None
        progress.snapshot_synced = False
        progress.snapshot_retry_at = now + self._settings.snapshot_retry_s
        offset = progress.snapshot_held
        self._send(peer, SnapshotChunk(self.term, progress.snapshot, offset, b"", 0, self._round))

    def _on_snapshot_chunk(self, now: float, sender: str, message: SnapshotChunk) -> None:
        if not self._hear_leader(now, sender):
            return
        if message.round > self._round_seen:
            self._round_seen = message.round
        if self._installing is not None:
            return
        if message.meta.index <= self.commit_index:
            self._ack_due = True  # not needed (any more); the acknowledgement says how far this node is
            return
        if zlib.crc32(message.data) != message.crc:
            return  # damaged on the way; the leader asks again
        self._effects.append(ReceiveSnapshot(message.meta, message.offset, message.data))

    def _on_snapshot_reply(self, now: float, sender: str, message: SnapshotReply) -> None:
        progress = self.progress.get(sender)
        if self.role is not Role.LEADER or progress is None:
            return
        progress.contact = now
        if message.round > progress.acked_round:
            progress.acked_round = message.round
        meta = progress.snapshot
        if meta is None or meta.digest != message.digest:
            return
        settings = self._settings
        if not progress.snapshot_synced:
            progress.snapshot_synced = True
            progress.snapshot_next = message.offset
        elif message.offset <= progress.snapshot_held:
            return
        progress.snapshot_held = message.offset
        progress.snapshot_next = max(progress.snapshot_next, message.offset)
        progress.snapshot_retry_at = now + settings.snapshot_retry_s
        window = settings.snapshot_window_chunks * settings.snapshot_chunk_bytes
        while progress.snapshot_next < min(meta.size, progress.snapshot_held + window):
            size = min(settings.snapshot_chunk_bytes, meta.size - progress.snapshot_next)
            self._effects.append(ReadSnapshot(sender, meta, progress.snapshot_next, size))
            progress.snapshot_next += size

    # -- sending -----------------------------------------------------------------------------------

    def _send(self, to: str, message: Message) -> None:
        """Now, or as soon as the term and vote that the message shows are on disk; never if the term moved
        on."""
        if self._term_vote_seq > self._synced_seq:
            self._deferred.append((self._term_vote_seq, self.term, to, message))
        else:
            self._messages.append((to, message))

    def _not_leader(self, what: str) -> NotLeader:
        where = (
            f"send it to {self.leader_id}" if self.leader_id else "no leader is known yet, try again shortly"
        )
        return NotLeader(
            f"{self.node_id} did not {what}: it is not the leader in term {self.term}; {where}",
            self.leader_id,
        )

    def check_invariants(self) -> None:
        """For tests: what must hold between any two events."""
        self.log.check_invariants()
        assert self.log.base_index <= self.commit_index <= self.log.last_index
        assert self.applied_index <= self.commit_index
        assert self.synced_index <= self.log.last_index
        assert self._verified <= self.log.last_index
        if self.role is Role.LEADER:
            assert self.leader_id == self.node_id
            for progress in self.progress.values():
                assert progress.match < progress.next <= self.log.last_index + 1
                assert progress.inflight_bytes == sum(size for _, size in progress.inflight)
        else:
            assert not self.progress
