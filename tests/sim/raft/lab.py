"""A handful of cores under the hand of a test: nothing moves unless the test moves it.

For named schedules: who campaigns, which message arrives when and how often, which disk has synced. Time stands still
except for `later`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from raft.core import Core
from raft.effects import (
    InstallSnapshot,
    ReadReady,
    ReadRefused,
    ReceiveSnapshot,
    Role,
    RoleChanged,
    WriteEntries,
)
from raft.log import Log, encode_config
from raft.messages import Message, encode_commands
from raft.settings import Settings
from raft.storage_api import KIND_COMMANDS, KIND_CONFIG, Config, Entry, SnapshotMeta
from tests.sim.raft.disk import Disk, snapshot_meta

Letter = tuple[str, str, Message]


def entries_of(terms: Iterable[int], config: Config, tag: str = "") -> list[Entry]:
    """A log whose first entry founds the group, then one command per further term."""
    made = []
    for index, term in enumerate(terms, 1):
        if index == 1:
            made.append(Entry(1, term, KIND_CONFIG, encode_config(config)))
        else:
            made.append(Entry(index, term, KIND_COMMANDS, encode_commands([f"{tag}{index}.{term}".encode()])))
    return made


class LabNode:
    """One core, its disk, and what came out of it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.disk = Disk()
        self.auto_sync = True
        self.lives = 0
        self.core: Core

    def start(self, *, commit: int = 0) -> None:
        view, latest = self.disk.view, self.disk.latest()
        floor = latest.index if latest else 0
        configs = [(floor, latest.config)] if latest else []
        configs += [pair for pair in view.configs() if pair[0] > floor]
        log = Log(
            base_index=view.base_index,
            base_term=view.base_term,
            last_index=view.last_index,
            term_runs=view.runs(),
            configs=configs,
            read=self.disk.entries,
            tail_bytes_max=1 << 20,
        )
        self.core = self.lab.core_type(
            node_id=self.name,
            log=log,
            term=view.term,
            voted_for=view.voted_for,
            commit_index=max(floor, commit),
            snapshot=latest,
            settings=self.lab.settings,
            rng=random.Random(f"{self.name}/{self.lives}"),
            now=self.lab.now,
        )
        self.lives += 1
        self.applied = max(floor, commit)
        self.seq = 0
        self.effects: list[object] = []
        self.pump()

    def crash(self) -> None:
        """Power loss: everything unsynced is gone; then a restart."""
        self.disk.written = self.disk.synced
        self.disk.pending.clear()
        self.disk.view = self.disk.durable.copy()
        self.lab.mail = [letter for letter in self.lab.mail if letter[1] != self.name]
        self.start()

    def pump(self) -> None:
        """Take the output until there is no more; sync when the test lets it."""
        while True:
            output = self.core.output(self.lab.now)
            for write in output.writes:
                if isinstance(write, WriteEntries):
                    for entry in write.entries:
                        self.disk.write(entry)
                else:
                    self.disk.write(("vote", write.term, write.voted_for))
                self.seq = output.write_seq
            self.lab.mail.extend((self.name, to, message) for to, message in output.messages)
            for effect in output.effects:
                self._perform(effect)
            moved = False
            if output.writes and self.auto_sync:
                self.sync(pump=False)
                moved = True
            if output.apply_to > self.applied:
                self.applied = output.apply_to
                self.core.applied(self.applied)
                moved = True
            self.core.check_invariants()
            if not moved and not output.effects:
                return

    def _perform(self, effect: object) -> None:
        self.effects.append(effect)
        if isinstance(effect, RoleChanged) and effect.role is Role.LEADER:
            other = self.lab.leaders.setdefault(effect.term, self.name)
            assert other == self.name, f"ElectionSafety: {other} and {self.name} lead term {effect.term}"
        if isinstance(effect, ReceiveSnapshot):
            if self.disk.partial is None or self.disk.partial[0] != effect.meta:
                self.disk.partial = (effect.meta, b"")
            meta, held = self.disk.partial
            if effect.data and effect.offset == len(held):
                held += effect.data
                self.disk.partial = (meta, held)
            self.core.snapshot_received(meta, len(held))
        elif isinstance(effect, InstallSnapshot):
            assert self.disk.partial is not None
            self.disk.store_snapshot(effect.meta, self.disk.partial[1])
            self.disk.partial = None
            if effect.reset:
                self.disk.write(("reset", effect.meta.index, effect.meta.term))
                self.disk.sync(self.disk.written)
            self.core.snapshot_installed(effect.meta)
            self.applied = effect.meta.index

    def sync(self, *, pump: bool = True) -> None:
        self.disk.sync(self.disk.written)
        self.core.synced(self.lab.now, self.seq)
        if pump:
            self.pump()

    def receive(self, sender: str, *messages: Message) -> None:
        for message in messages:
            self.core.handle(self.lab.now, sender, message)
        self.pump()

    def propose(self, *names: str) -> int:
        """Append one entry per name. Returns the last index."""
        _, last = self.core.propose([encode_commands([name.encode()]) for name in names])
        self.pump()
        return last

    def reads(self) -> list[int]:
        """Indexes of the reads that became ready."""
        return [effect.index for effect in self.effects if isinstance(effect, ReadReady)]

    def refused_reads(self) -> int:
        return sum(len(effect.contexts) for effect in self.effects if isinstance(effect, ReadRefused))

    def terms(self) -> list[int]:
        log = self.core.log
        return [log.term_at(index) for index in range(log.base_index + 1, log.last_index + 1)]

    @property
    def is_leader(self) -> bool:
        return self.core.role is Role.LEADER


class Lab:
    """Cores `names`, a mailbag, and a clock that stands still."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        core_type: type[Core] = Core,
        logs: dict[str, Sequence[int]] | None = None,
        terms: dict[str, int] | None = None,
        commits: dict[str, int] | None = None,
        voters: Sequence[str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        """`logs`: terms of the entries on each node (the first is the founding one); `terms`: current terms."""
        self.core_type = core_type
        self.settings = settings or Settings()
        self.now = 100.0
        self.mail: list[Letter] = []
        self.leaders: dict[int, str] = {}
        self.config = Config(dict.fromkeys(voters if voters is not None else names, ""), {})
        self.nodes: dict[str, LabNode] = {}
        for name in names:
            node = self.nodes[name] = LabNode(self, name)
            log = (logs or {}).get(name, [1])
            node.disk.write(("vote", (terms or {}).get(name, log[-1] if log else 0), ""))
            for entry in entries_of(log, self.config):
                node.disk.write(entry)
            node.disk.sync(node.disk.written)
            node.start(commit=(commits or {}).get(name, 0))

    def __getitem__(self, name: str) -> LabNode:
        return self.nodes[name]

    def later(self, seconds: float = 10.0) -> None:
        """Time passes; nobody's timers are looked at until the test does."""
        self.now += seconds

    def tick(self, name: str) -> None:
        self[name].core.tick(self.now)
        self[name].pump()

    def campaign(self, name: str) -> None:
        """`name` has heard nobody for long and asks for pre-votes."""
        self.now += 1.0
        self.tick(name)  # so late that it thinks it stood still, and waits a moment for its mail
        self.now = max(self.now, self[name].core.next_deadline())
        self.tick(name)

    def deliver(self, matching: Callable[[Letter], bool] = lambda letter: True) -> int:
        """Deliver what is in the mailbag now and matches, once, in order; the rest stays. Returns how many."""
        chosen = [letter for letter in self.mail if matching(letter)]
        self.mail = [letter for letter in self.mail if not matching(letter)]
        for sender, to, message in chosen:
            self[to].receive(sender, message)
        return len(chosen)

    def settle(self, *among: str) -> None:
        """Deliver among the named nodes (all, if none is named) until nothing moves; other mail is lost."""
        group = set(among or self.nodes)
        for _ in range(1000):
            if not self.deliver(lambda letter: letter[0] in group and letter[1] in group):
                break
        else:
            raise AssertionError("the group chatters for ever")
        self.mail = []

    def elect(self, name: str, *among: str) -> LabNode:
        """Make `name` leader with the votes of `among` (all)."""
        for _ in range(3):  # the first may only teach it a newer term
            self.campaign(name)
            self.settle(*among)
            if self[name].is_leader:
                break
        assert self[name].is_leader, f"{name} was not elected"
        return self[name]

    def drop(self, matching: Callable[[Letter], bool] = lambda letter: True) -> list[Letter]:
        """Take letters out of the mailbag."""
        taken = [letter for letter in self.mail if matching(letter)]
        self.mail = [letter for letter in self.mail if not matching(letter)]
        return taken


def between(*names: str) -> Callable[[Letter], bool]:
    """Letters among these nodes."""
    group = set(names)
    return lambda letter: letter[0] in group and letter[1] in group


def meta_of(lab: Lab, index: int, term: int, data: bytes) -> SnapshotMeta:
    return snapshot_meta(index, term, lab.config, data)
