"""Whole voters in one process: the real core, a simulated shell, disk, network, clients and faults. One seed, one run.

`run(Plan(seed=...))` raises `Violation` (safety) or `Stuck` (liveness after the faults ended), or returns
`Outcome`. Nothing here depends on wall time or on the order of sets.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import msgspec

from raft.core import Core
from raft.effects import (
    ConfigChanged,
    InstallSnapshot,
    ReadReady,
    ReadRefused,
    ReadSnapshot,
    ReceiveSnapshot,
    Role,
    RoleChanged,
    WriteEntries,
)
from raft.errors import MembershipRefused, NotLeader, Overloaded
from raft.log import Log, encode_config
from raft.messages import (
    AppendReply,
    Message,
    PreVoteReply,
    PreVoteRequest,
    VoteReply,
    VoteRequest,
    decode_commands,
    encode_commands,
)
from raft.settings import Settings
from raft.storage_api import KIND_COMMANDS, KIND_CONFIG, Config, Entry, SnapshotMeta
from tests.sim.raft.check import Checker, Violation, next_digest
from tests.sim.raft.disk import Disk, snapshot_meta
from tests.sim.raft.network import Network


class Stuck(AssertionError):
    """Faults ended, and yet the group did not come together in time."""


@dataclass(frozen=True)
class Plan:
    """What a run is made of. Equal plans run equally."""

    seed: int = 0
    voters: int = 3
    net: str = "wild"
    crash: str = "power"
    """none, kill (the page cache survives), power (unsynced bytes are lost at any byte)"""
    snapshots: bool = True
    members: bool = False
    """Learners are added, promoted, removed meanwhile."""
    store: bool = False
    """The state machine has a durable store of its own, which lags."""
    storm: bool = False
    """Crash-heavy: slow disks, coarse clocks, crashes just after commits."""
    faults_s: float = 8.0
    calm_s: float = 15.0

    def command(self) -> str:
        """The command line that repeats this run."""
        parts = [f"--seed {self.seed} --voters {self.voters} --net {self.net} --crash {self.crash}"]
        parts += [f"--{name}" for name in ("members", "store", "storm") if getattr(self, name)]
        if not self.snapshots:
            parts.append("--no-snapshots")
        if self.faults_s != Plan.faults_s:
            parts.append(f"--faults-s {self.faults_s}")
        return "python -m tests.sim.raft " + " ".join(parts)


@dataclass
class Outcome:
    plan: Plan
    acks: int = 0
    reads: int = 0
    unknown: int = 0
    terms: int = 0
    crashes: int = 0
    snapshots_installed: int = 0
    config_changes: int = 0
    events: int = 0
    trace: int = 0
    """A checksum over everything that happened: equal for equal plans."""


@dataclass
class _Write:
    command: bytes
    floor: int


@dataclass
class _Read:
    floor: int


class Node:
    """The shell around one core: what the driver does, with simulated time and disk."""

    core_type: type[Core] = Core

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.disk = Disk()
        self.up = False
        self.life = 0
        self.paused_until = 0.0
        self.sync_fails = False
        self.rng = random.Random(f"{world.plan.seed}/{name}")

    # -- life --------------------------------------------------------------------------------------------------

    def found(self, config: Config) -> None:
        self.disk.write(("vote", 1, ""))
        self.disk.write(Entry(1, 1, KIND_CONFIG, encode_config(config)))
        self.disk.sync(self.disk.written)

    def start(self) -> None:
        world, disk = self.world, self.disk
        disk.recover()
        view, latest = disk.view, disk.latest()
        self.up = True
        self.life += 1
        self.paused_until = 0.0
        self.sync_fails = False
        self.applied, self.digest = disk.machine if world.plan.store else (0, 0)
        if latest is not None and self.applied < latest.index:
            self._restore(latest)
        configs = [(latest.index, latest.config)] if latest is not None else []
        floor = latest.index if latest is not None else 0
        configs += [(index, config) for index, config in view.configs() if index > floor]
        log = Log(
            base_index=view.base_index,
            base_term=view.base_term,
            last_index=view.last_index,
            term_runs=view.runs(),
            configs=configs,
            read=disk.entries,
            tail_bytes_max=self.rng.choice((200, 1 << 20)),
        )
        self.core = self.core_type(
            node_id=self.name,
            log=log,
            term=view.term,
            voted_for=view.voted_for,
            commit_index=max(self.applied, floor),
            snapshot=latest,
            settings=world.settings,
            rng=self.rng,
            now=world.now,
        )
        self.syncing = False
        self.unsynced_seq = 0
        self.dirty = False
        self.installing = False
        self.timer_at = inf
        self.waiting: deque[tuple[int, int, _Write]] = deque()
        self.reads: dict[int, _Read] = {}
        self.ready: list[tuple[int, int, _Read]] = []
        self.context = 0
        self.commit_seen = self.core.commit_index
        self.writes_seen: list[Any] = []
        self.writes_count = 0
        self.apply_to = 0
        self.pump()

    def crash(self, kind: str) -> None:
        if not self.up:
            return
        self.up = False
        self.world.outcome.crashes += 1
        self._lose_all()
        if kind == "power" or self.world.rng.random() < 0.5:
            self.disk.crash(self.world.rng)
        else:
            # The process is gone, the page cache stays; what was still in its own buffers is lost.
            self.disk.sync(self.disk.synced + self.world.rng.randint(0, len(self.disk.pending)))
            self.disk.written = self.disk.synced
            self.disk.pending.clear()
            self.disk.view = self.disk.durable.copy()
        self.world.closed_links(self.name)

    def _lose_all(self) -> None:
        self.world.outcome.unknown += len(self.waiting)
        self.waiting.clear()
        self.reads.clear()
        self.ready.clear()

    # -- events in ---------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        self.core.handle(self.world.now, sender, message)
        self.observe()
        self.pump_soon()

    def tick(self, life: int, at: float) -> None:
        if not self.up or life != self.life or at != self.timer_at:
            return
        if self.paused_until > self.world.now:
            self.world.at(self.paused_until, self.tick, life, at)
            return
        self.timer_at = inf
        if self.world.now >= self.core.next_deadline():
            self.core.tick(self.world.now)
            self.observe()
        self.pump()

    def pump_soon(self) -> None:
        """A batch of events shares one pump, as on an event loop."""
        if self.dirty:
            return
        if self.rng.random() < 0.6:
            self.pump()
        else:
            self.dirty = True
            self.world.at(self.world.now + self.rng.uniform(0, 0.002), self._pump_late, self.life)

    def _pump_late(self, life: int) -> None:
        if self.up and life == self.life and self.dirty:
            self.dirty = False
            self.pump()

    def propose(self, commands: list[bytes]) -> bool:
        core = self.core
        if core.role is not Role.LEADER:
            return False
        try:
            first, _ = core.propose([encode_commands([command]) for command in commands])
        except (NotLeader, Overloaded):
            return False
        for index, command in enumerate(commands, first):
            self.waiting.append((index, core.term, _Write(command, self.world.checker.completed_max)))
        self.observe()
        self.pump_soon()
        return True

    def read(self) -> None:
        self.context += 1
        self.reads[self.context] = _Read(self.world.checker.completed_max)
        self.core.read(self.context)
        self.pump_soon()

    # -- the pump ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        world, core = self.world, self.core
        output = core.output(world.now)
        for write in output.writes:
            if isinstance(write, WriteEntries):
                for entry in write.entries:
                    self.disk.write(entry)
            else:
                self.disk.write(("vote", write.term, write.voted_for))
            self.unsynced_seq = output.write_seq
        if self.unsynced_seq and not self.syncing:
            self._start_sync()
        for to, message in output.messages:
            self._send(to, message)
        for effect in output.effects:
            self._perform(effect)
        self.observe()
        self.apply_to = output.apply_to
        if not self.installing:
            self._apply()
        deadline = core.next_deadline()
        if world.plan.storm and deadline != inf:
            deadline = max(world.now, -(-deadline // 0.1) * 0.1)  # a coarse clock
        if deadline < self.timer_at:
            self.timer_at = deadline
            world.at(max(deadline, world.now), self.tick, self.life, deadline)

    def _start_sync(self) -> None:
        seq, self.unsynced_seq = self.unsynced_seq, 0
        self.syncing = True
        self.world.at(
            self.world.now + self.world.sync_time(self), self._synced, self.life, seq, self.disk.written
        )

    def _synced(self, life: int, seq: int, upto: int) -> None:
        if not self.up or life != self.life:
            return
        if self.sync_fails:
            # The node stops with an error; the pages it could not write may be gone.
            self.crash("power")
            return
        self.disk.sync(upto)
        self.syncing = False
        self.core.synced(self.world.now, seq)
        self.observe()
        self.pump()

    def _send(self, to: str, message: Message) -> None:
        checker = self.world.checker
        if not isinstance(
            message, (PreVoteRequest, PreVoteReply)
        ):  # those name a term that is only asked for
            checker.saw_term(self.name, message.term)
        if isinstance(message, VoteReply) and message.granted:
            checker.saw_vote(self.name, message.term, to)
            self._vote_is_durable(message.term, to)
        elif isinstance(message, VoteRequest):
            checker.saw_vote(self.name, message.term, self.name)
            self._vote_is_durable(message.term, self.name)
        elif isinstance(message, AppendReply):
            leader = self.world.nodes.get(to)
            leads = (
                leader is not None
                and leader.up
                and leader.core.role is Role.LEADER
                and leader.core.term == message.term
            )
            latest = self.disk.latest()
            covered = latest.index if latest is not None else self.disk.durable.base_index
            on_disk = self.disk.durable.term_at(message.match)
            if message.match <= covered:  # part of a snapshot: then committed, whatever an obsolete log says
                on_disk = checker.committed.get(message.match)
            checker.saw_acknowledgement(self.name, message.match, on_disk, leader.core.log if leads else None)
        self.world.network.send(self.world.now, self.name, to, message)

    def _vote_is_durable(self, term: int, candidate: str) -> None:
        durable = self.disk.durable
        if durable.term < term or (durable.term == term and durable.voted_for != candidate):
            raise Violation(
                f"Durability: {self.name} shows a vote for {candidate} in {term} that is not on its disk"
            )

    # -- applying ----------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        core, checker = self.core, self.world.checker
        target = self.apply_to
        if self.rng.random() < 0.1:
            target = min(target, self.applied + 1)  # the loop's slice of time was used up
        progressed = self.applied < target
        while self.applied < target:
            for entry in core.log.slice(self.applied + 1, target, 1000, 7):
                commands = decode_commands(entry.payload) if entry.kind == KIND_COMMANDS else []
                self.digest = next_digest(self.digest, entry)
                self.applied = entry.index
                checker.applied(self.name, entry, self.digest, commands)
                self._answer(entry)
        if progressed:
            core.applied(self.applied)
            self._finish_reads()
            self.pump_soon()
        if self.applied < self.apply_to:
            self.world.at(self.world.now + 0.001, self._apply_more, self.life)

    def _apply_more(self, life: int) -> None:
        if self.up and life == self.life and not self.installing and self.applied < self.apply_to:
            self._apply()

    def _answer(self, entry: Entry) -> None:
        while self.waiting and self.waiting[0][0] <= entry.index:
            index, term, write = self.waiting.popleft()
            if index != entry.index or term != entry.term:
                self.world.outcome.unknown += 1
                continue
            holders = 0
            configs = self.world.recent_configs(self.core.log)
            for name in sorted(set().union(*[config.voters for config in configs])):
                if self.world.nodes[name].disk.has(entry.index, entry.term):
                    holders += 1
            self.world.checker.write_done(write.command, entry.index, write.floor, holders, configs)

    def _finish_reads(self) -> None:
        rest = []
        for index, context, read in self.ready:
            if index <= self.applied:
                self.world.checker.read_done(self.name, self.applied, read.floor)
            else:
                rest.append((index, context, read))
        self.ready = rest

    # -- effects -----------------------------------------------------------------------------------------------

    def _perform(self, effect: Any) -> None:
        world = self.world
        if isinstance(effect, RoleChanged):
            if effect.role is not Role.LEADER:
                world.outcome.unknown += len(self.waiting)
                self.waiting.clear()
        elif isinstance(effect, ReadReady):
            for context in effect.contexts:
                read = self.reads.pop(context, None)
                if read is not None:
                    self.ready.append((effect.index, context, read))
            self._finish_reads()
        elif isinstance(effect, ReadRefused):
            for context in effect.contexts:
                self.reads.pop(context, None)
        elif isinstance(effect, ReadSnapshot):
            world.at(world.now + self.rng.uniform(0.0001, 0.01), self._read_snapshot, self.life, effect)
        elif isinstance(effect, ReceiveSnapshot):
            world.at(world.now + 0.0005, self._receive_snapshot, self.life, effect)
        elif isinstance(effect, InstallSnapshot):
            self.installing = True
            world.at(world.now + self.rng.uniform(0.001, 0.05), self._finish_snapshot, self.life, effect)
        else:
            assert isinstance(effect, ConfigChanged)

    def _read_snapshot(self, life: int, effect: ReadSnapshot) -> None:
        if not self.up or life != self.life:
            return
        data = self.disk.read_snapshot(effect.meta, effect.offset, effect.bytes_max)
        if data is None:
            self.core.snapshot_read_failed(effect.to, effect.meta)
        else:
            self.core.snapshot_read(effect.to, effect.meta, effect.offset, data)
        self.pump_soon()

    def _receive_snapshot(self, life: int, effect: ReceiveSnapshot) -> None:
        if not self.up or life != self.life:
            return
        disk = self.disk
        if any(meta.digest == effect.meta.digest for meta, _ in disk.snapshots):
            self.core.snapshot_received(effect.meta, effect.meta.size)
        else:
            if disk.partial is None or disk.partial[0] != effect.meta:
                disk.partial = (effect.meta, b"")
            meta, held = disk.partial
            if effect.data and effect.offset == len(held):
                held += effect.data
                disk.partial = (meta, held)
            self.core.snapshot_received(meta, len(held))
        self.observe()
        self.pump_soon()

    def _finish_snapshot(self, life: int, effect: InstallSnapshot) -> None:
        """File durable; (a crash may come here); then restored, log reset."""
        if not self.up or life != self.life:
            return
        disk = self.disk
        if disk.partial is not None and disk.partial[0] == effect.meta:
            disk.store_snapshot(effect.meta, disk.partial[1])
            disk.partial = None
        self.world.at(self.world.now + self.rng.uniform(0.0, 0.02), self._installed, self.life, effect)

    def _installed(self, life: int, effect: InstallSnapshot) -> None:
        if not self.up or life != self.life:
            return
        self.installing = False
        self._restore(effect.meta)
        if effect.reset:
            self.disk.write(("reset", effect.meta.index, effect.meta.term))
        self.core.snapshot_installed(effect.meta)
        self.world.outcome.snapshots_installed += 1
        self._finish_reads()
        self.observe()
        self.pump_soon()

    def _restore(self, meta: SnapshotMeta) -> None:
        data = self.disk.read_snapshot(meta, 0, meta.size)
        assert data is not None
        self.applied, self.digest = msgspec.msgpack.decode(data)[:2]
        assert self.applied == meta.index
        self.world.checker.state(self.name, self.applied, self.digest)

    def snapshot(self) -> None:
        """Make one of the applied state and compact, as the driver does."""
        core, disk = self.core, self.disk
        latest = disk.latest()
        if self.installing or (latest is not None and self.applied <= latest.index) or self.applied == 0:
            return
        index, config = self.applied, core.log.config_at(self.applied)
        filler = bytes(self.world.rng.randint(0, 400))
        data = msgspec.msgpack.encode([self.applied, self.digest, filler])
        meta = snapshot_meta(index, core.log.term_at(index), config, data)
        self.world.at(
            self.world.now + self.rng.uniform(0.0, 0.1), self._snapshot_stored, self.life, meta, data
        )

    def _snapshot_stored(self, life: int, meta: SnapshotMeta, data: bytes) -> None:
        if not self.up or life != self.life or self.installing:
            return
        core, disk = self.core, self.disk
        latest = disk.latest()
        if latest is not None and meta.index <= latest.index:
            return
        disk.store_snapshot(meta, data)
        core.snapshot_made(meta)
        oldest = disk.snapshots[0][0].index if self.rng.random() < 0.5 else meta.index
        index = min(oldest, self.applied, core.synced_index)
        if self.world.plan.store:
            index = min(index, disk.machine[0])
        if index > core.log.base_index:
            core.compacted(index)
            disk.compact(index)

    def flush_store(self) -> None:
        """The state machine's own store catches up."""
        if not self.installing:
            self.disk.machine = (self.applied, self.digest)

    # -- what the checker sees -----------------------------------------------------------------------------------

    def observe(self) -> None:
        world, core = self.world, self.core
        checker = world.checker
        if core.role is Role.LEADER:
            checker.saw_leader(self.name, core.term, core.log)
        writes = core._writes
        if writes is not self.writes_seen:
            self.writes_seen, self.writes_count = writes, 0
        for write in writes[self.writes_count :]:
            if isinstance(write, WriteEntries):
                checker.saw_entries(self.name, core.log, write.entries)
        self.writes_count = len(writes)
        if core.commit_index > self.commit_seen:
            checker.saw_commit(self.name, core.term, self.commit_seen, core.commit_index, core.log)
            self.commit_seen = core.commit_index
        elif core.commit_index < self.commit_seen:
            raise Violation(f"Commit: {self.name} went back from {self.commit_seen} to {core.commit_index}")
        if world.outcome.events % 16 == 0:
            core.check_invariants()


class World:
    """Everything there is in one run."""

    def __init__(self, plan: Plan, node_type: type[Node] = Node, settings: Settings | None = None) -> None:
        self.plan = plan
        self.now = 0.0
        self.rng = random.Random(f"{plan.seed}/world")
        self.checker = Checker()
        self.outcome = Outcome(plan)
        self.settings = settings or Settings(
            append_entries_max=self.rng.choice((2, 16, 4096)),
            append_bytes_max=self.rng.choice((60, 400, 1 << 20)),
            inflight_messages_max=self.rng.choice((2, 8, 256)),
            inflight_bytes_max=self.rng.choice((300, 8 << 20)),
            tail_bytes_max=1 << 20,
            snapshot_chunk_bytes=self.rng.choice((64, 1000)),
            snapshot_window_chunks=self.rng.choice((1, 4)),
            snapshot_retry_s=0.5,
            # With little spread votes split, and several candidates share a term.
            election_timeout_max_s=0.6 if plan.storm else self.rng.choice((0.36, 0.6, 0.6)),
            learner_lag_entries_max=5,
        )
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self.network = Network(
            kind=plan.net,
            rng=random.Random(f"{plan.seed}/network"),
            schedule=self.at,
            deliver=self._deliver,
        )
        self.nodes: dict[str, Node] = {}
        names = [f"n{number}" for number in range(1, plan.voters + 1)]
        self.founders = Config(dict.fromkeys(names, ""), {})
        spares = ["s1", "s2"] if plan.members else []
        for name in names + spares:
            self.nodes[name] = node_type(self, name)
        for name in names:
            self.nodes[name].found(self.founders)
        self.disk_slowness = 1.0
        self.calm = False
        self._command = 0

    # -- time --------------------------------------------------------------------------------------------------

    def at(self, when: float | None, function: Callable[..., None], *arguments: Any) -> None:
        if when is None:
            when = self.now + self.rng.uniform(0.05, 3.0)
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.now), self._sequence, function, arguments))

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, function, arguments = heapq.heappop(heap)
            self.outcome.events += 1
            function(*arguments)
            if done is not None and self.outcome.events % 64 == 0 and done():
                return True
        self.now = end
        return done() if done is not None else True

    # -- the world's services --------------------------------------------------------------------------------------

    def sync_time(self, node: Node) -> float:
        rng = node.rng
        if self.calm:
            return rng.uniform(0.0001, 0.001)
        if self.plan.storm:
            return rng.uniform(0.001, 0.15)
        base = rng.uniform(0.0001, 0.004)
        if rng.random() < 0.03:
            base += rng.uniform(0.01, 0.4)
        return min(base * self.disk_slowness, 2.0)

    def _deliver(self, sender: str, to: str, epoch: int, message: Message) -> None:
        node = self.nodes.get(to)
        if node is None or not node.up:
            return
        if node.paused_until > self.now:
            self.at(node.paused_until, self._deliver, sender, to, epoch, message)
            return
        node.receive(sender, message)

    def closed_links(self, name: str) -> None:
        for other in self.nodes:
            if other != name:
                self.network.reset(name, other)
                if self.rng.random() < 0.8:
                    self.at(self.now + self.rng.uniform(0.0005, 0.02), self._notice_closed, other, name)

    def _notice_closed(self, node: str, peer: str) -> None:
        if self.nodes[node].up:
            self.nodes[node].core.link_closed(self.now, peer)
            self.nodes[node].pump_soon()

    def recent_configs(self, log: Log) -> list[Config]:
        """The memberships that may have counted for the entries just committed."""
        return [config for _, config in log._configs[-2:]]

    def leader(self) -> Node | None:
        leaders = [n for n in self.nodes.values() if n.up and n.core.role is Role.LEADER]
        return max(leaders, key=lambda n: n.core.term) if leaders else None

    # -- load --------------------------------------------------------------------------------------------------

    def clients(self) -> None:
        """Somebody asks for something; and again a little later."""
        rng = self.rng
        up = [n for n in self.nodes.values() if n.up and n.paused_until <= self.now]
        if up:
            leaders = [n for n in up if n.core.role is Role.LEADER]
            if leaders and rng.random() < 0.7:
                self._write(rng.choice(leaders))
            else:
                rng.choice(leaders if leaders and rng.random() < 0.5 else up).read()
        self.at(
            self.now + (rng.uniform(0.0, 0.04) if rng.random() < 0.9 else rng.uniform(0, 0.5)), self.clients
        )

    def _write(self, node: Node) -> None:
        commands = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
            self._command += 1
            commands.append(b"%d:" % self._command + bytes(self.rng.randint(0, 60)))
        node.propose(commands)

    def housekeeping(self) -> None:
        rng = self.rng
        up = [n for n in self.nodes.values() if n.up]
        if up:
            node = rng.choice(up)
            if self.plan.snapshots:
                node.snapshot()
            if self.plan.store and rng.random() < 0.7:
                node.flush_store()
        self.at(self.now + rng.uniform(0.02, 0.4), self.housekeeping)

    def membership(self) -> None:
        """Whoever leads changes something about the members."""
        rng = self.rng
        for leader in self.nodes.values():  # stale ones too
            if not leader.up or leader.core.role is not Role.LEADER or leader.paused_until > self.now:
                continue
            for _ in range(rng.choice((1, 1, 2))):
                try:
                    leader.core.propose_config(self._next_config(leader.core.log.config))
                except MembershipRefused:
                    break
                self.outcome.config_changes += 1
                leader.observe()
                leader.pump_soon()
        self.at(self.now + rng.uniform(0.05, 0.8), self.membership)

    def _next_config(self, config: Config) -> Config:
        rng = self.rng
        voters, learners = dict(config.voters), dict(config.learners)
        outside = [name for name in self.nodes if name not in voters and name not in learners]
        choices = []
        if outside:
            choices += ["learn", "learn"]
        if learners:
            choices += ["promote", "promote", "promote", "forget"]
        if len(voters) > 1:
            choices += ["remove"]
        choice = rng.choice(choices or ["none"])
        if choice == "learn":
            learners[rng.choice(outside)] = ""
        elif choice == "promote":
            name = rng.choice(sorted(learners))
            del learners[name]
            voters[name] = ""
        elif choice == "forget":
            del learners[rng.choice(sorted(learners))]
        elif choice == "remove":
            del voters[rng.choice(sorted(voters))]
        return Config(voters, learners)

    # -- faults ------------------------------------------------------------------------------------------------

    def fault(self) -> None:
        rng, plan = self.rng, self.plan
        if self.calm:
            return
        names = list(self.nodes)
        up = [n for n in self.nodes.values() if n.up]
        leader = self.leader()
        kind = rng.choice(
            (
                "cut",
                "isolate",
                "strand",
                "strand",
                "partition",
                "heal",
                "heal",
                "reset",
                "reset",
                "pause",
                "slow disk",
                "slow net",
                "transfer",
            )
            + (("crash", "crash", "crash leader", "crash all", "bad disk") if plan.crash != "none" else ())
            + (
                ("crash", "crash leader", "crash all", "crash two") * 3
                if plan.storm and plan.crash != "none"
                else ()
            )
        )
        target = leader if leader is not None and rng.random() < 0.5 else (rng.choice(up) if up else None)
        if kind in ("cut", "reset") and len(names) < 2:
            pass
        elif kind == "cut":
            a, b = rng.sample(names, 2)
            self.network.cuts.add((a, b))
            if rng.random() < 0.5:
                self.network.cuts.add((b, a))
        elif kind == "isolate" and target is not None:
            both = rng.random() < 0.6
            for other in names:
                if other != target.name:
                    self.network.cuts.add((target.name, other))
                    if both:
                        self.network.cuts.add((other, target.name))
        elif kind == "strand" and leader is not None:
            self._strand(leader)
        elif kind == "partition":
            half = set(rng.sample(names, len(names) // 2))
            for a in names:
                for b in names:
                    if (a in half) != (b in half):
                        self.network.cuts.add((a, b))
        elif kind == "heal":
            self.network.cuts.clear()
            self.network.slowness = 1.0
            self.disk_slowness = 1.0
        elif kind == "reset":
            a, b = rng.sample(names, 2)
            self.network.reset(a, b)
            for node, peer in ((a, b), (b, a)):
                self.at(self.now + rng.uniform(0, 0.01), self._notice_closed, node, peer)
        elif kind == "pause" and target is not None:
            target.paused_until = self.now + rng.choice((0.05, 0.4, 1.5))
        elif kind == "slow disk":
            self.disk_slowness = rng.choice((1.0, 10.0, 40.0))
        elif kind == "slow net":
            self.network.slowness = rng.choice((1.0, 10.0, 60.0))
        elif kind == "transfer" and leader is not None:
            try:
                leader.core.transfer(self.now, None)
                leader.pump_soon()
            except MembershipRefused:
                pass
        elif kind == "bad disk" and target is not None:
            target.sync_fails = True
        elif kind == "crash" and target is not None:
            self._crash(target)
        elif kind == "crash leader" and leader is not None:
            self._crash(leader)
        elif kind == "crash two":
            for node in rng.sample(up, min(2, len(up))):
                self._crash(node)
        elif kind == "crash all":
            for node in up:
                self._crash(node)
        for node in self.nodes.values():
            if not node.up and rng.random() < 0.3:
                self.at(self.now + rng.uniform(0.0, 1.0), self._restart, node)
        pause = rng.uniform(0.02, 0.35) if plan.storm else rng.uniform(0.05, 0.9)
        self.at(self.now + pause, self.fault)

    def _strand(self, leader: Node) -> None:
        """A leader is cut off, from all or all but one, and goes on taking commands; then it comes back."""
        rng = self.rng
        others = [name for name in self.nodes if name != leader.name]
        rng.shuffle(others)
        for other in others[rng.choice((0, 0, 1)) :]:
            self.network.cuts.add((leader.name, other))
            self.network.cuts.add((other, leader.name))
        for _ in range(rng.randint(1, 4)):
            if leader.up and leader.core.role is Role.LEADER and leader.paused_until <= self.now:
                self._write(leader)
        self.at(self.now + rng.uniform(0.2, 1.6), self.network.cuts.clear)
        if rng.random() < 0.2 and leader.up and self.plan.crash != "none":
            self._crash(leader)

    def _crash(self, node: Node) -> None:
        node.crash(self.plan.crash)
        if self.rng.random() < 0.8:
            self.at(self.now + self.rng.choice((0.01, 0.2, 1.0)) * self.rng.random(), self._restart, node)

    def _restart(self, node: Node) -> None:
        if not node.up:
            node.start()

    # -- one run -------------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        """Faults for a while, then calm: safety throughout, and in the end everybody agrees."""
        for name in self.nodes:
            self.at(self.rng.uniform(0, 0.3), self._restart, self.nodes[name])
        self.at(0.5, self.clients)
        self.at(0.7, self.housekeeping)
        if self.plan.members:
            self.at(1.0, self.membership)
        self.at(1.0, self.fault)
        self.run_until(self.plan.faults_s)
        self.calm = True
        self.network.heal()
        for node in self.nodes.values():
            node.paused_until = 0.0
            node.sync_fails = False
            if not node.up:
                self._restart(node)
        self._heap = [event for event in self._heap if event[2] not in (self.clients, self.membership)]
        heapq.heapify(self._heap)
        began = self.now
        if not self.run_until(began + self.plan.calm_s, self._has_leader_of_all):
            raise Stuck(self._picture("no agreement"))
        self._last_words()
        if not self.run_until(self.now + 5.0, self._has_last_words):
            raise Stuck(self._picture("a new command did not reach all"))
        members = self._members()
        self.checker.finally_complete({n.name: (n.applied, n.digest) for n in members})
        outcome = self.outcome
        outcome.acks, outcome.reads = self.checker.acks, self.checker.reads
        outcome.terms = max(self.checker.leaders, default=0)
        outcome.trace = hash(
            (self.now, self._sequence, outcome.acks, outcome.reads, *sorted(self.checker.digests.items()))
        )
        return outcome

    def _members(self) -> list[Node]:
        leader = self.leader()
        if leader is None:
            return []
        config = leader.core.log.config
        return [self.nodes[name] for name in [*config.voters, *config.learners]]

    def _has_leader_of_all(self) -> bool:
        """One leader, its log committed, applied by every member."""
        leader = self.leader()
        if leader is None or leader.core.commit_index < leader.core.log.last_index:
            return False
        last = leader.core.log.last_index
        return all(n.up and n.applied == last and n.core.term == leader.core.term for n in self._members())

    def _last_words(self) -> None:
        """One more command, when whoever leads takes it (not in the midst of handing over)."""
        leader = self.leader()
        if leader is None or not leader.propose([b"last"]):
            self.at(self.now + 0.1, self._last_words)

    def _has_last_words(self) -> bool:
        return b"last" in self.checker.command_index and self._has_leader_of_all()

    def _picture(self, what: str) -> str:
        lines = [what]
        for node in self.nodes.values():
            if node.up:
                core = node.core
                lines.append(
                    f"  {node.name}: {core.role.value} term {core.term} leader {core.leader_id} log "
                    f"{core.log.base_index}..{core.log.last_index} commit {core.commit_index} applied {node.applied} "
                    f"synced {core.synced_index} config {sorted(core.log.config.voters)} "
                    f"{ {p: (g.pace.value, g.match, g.next) for p, g in core.progress.items()} }"
                )
            else:
                lines.append(f"  {node.name}: down")
        return "\n".join(lines)


def run(plan: Plan, node_type: type[Node] = Node) -> Outcome:
    """Run one plan. Violation, Stuck and errors inside the core carry the command that repeats it."""
    world = World(plan, node_type)
    try:
        return world.play()
    except Exception as error:
        error.add_note(f"at {world.now:.4f} s; repeat with: {plan.command()}")
        raise


def plan_for(seed: int, **fixed: Any) -> Plan:
    """The plan of a seed when nothing else is said: every combination comes up."""
    rng = random.Random(f"{seed}/plan")
    drawn = Plan(
        seed=seed,
        voters=rng.choice((1, 3, 3, 3, 3, 5, 5, 7)),
        net=rng.choice(("tcp", "late", "wild", "wild")),
        crash=rng.choice(("none", "kill", "power", "power")),
        snapshots=rng.random() < 0.7,
        members=rng.random() < 0.4,
        store=rng.random() < 0.3,
        storm=rng.random() < 0.4,
    )
    return replace(drawn, **fixed)
