"""The journal against a plain list, through crashes that lose any part of what was not synced.

The model keeps the state after every frame since the last finished sync. Whatever crash happens, the journal that is
opened afterwards must show one of these states: nothing that was synced is missing, and nothing is out of order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raft.errors import JournalDamaged
from raft.journal import FileJournal, JournalSettings
from raft.storage_api import KIND_CONFIG, Entry
from tests.property.raft.simulated_disk import SimulatedCrash, SimulatedDisk

SETTINGS = JournalSettings(segment_bytes=2048, reserve_bytes=256, cache_bytes_max=400, open_segments_max=4)


@dataclass(frozen=True)
class State:
    """What a journal must show. Entries that compaction may have dropped stay in the model."""

    base: int = 0
    base_term: int = 0
    entries: tuple[Entry, ...] = ()
    term: int = 0
    vote: str = ""

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def term_at(self, index: int) -> int:
        return self.base_term if index == self.base else self.entries[index - self.base - 1].term


class Model:
    """States that may be found after a crash, oldest first; the last is the present one."""

    def __init__(self) -> None:
        self.states = [State()]
        self.compacted = 0  # highest index that a compaction was asked for

    @property
    def now(self) -> State:
        return self.states[-1]

    def append(self, entries: list[Entry]) -> None:
        kept = self.now.entries[: entries[0].index - self.now.base - 1]
        if len(kept) < len(self.now.entries):
            self.states.append(replace(self.now, entries=kept))
        for held in entries:
            self.states.append(replace(self.now, entries=(*self.now.entries, held)))

    def vote(self, term: int, vote: str) -> None:
        self.states.append(replace(self.now, term=term, vote=vote))

    def reset(self, index: int, term: int) -> None:
        self.states.append(replace(self.now, base=index, base_term=term, entries=()))

    def synced(self) -> None:
        del self.states[:-1]

    def matches(self, state: State, journal: FileJournal) -> bool:
        highest_base = max(state.base, min(self.compacted, state.last))
        if not state.base <= journal.base_index <= highest_base or journal.last_index != state.last:
            return False
        if (journal.term, journal.voted_for) != (state.term, state.vote):
            return False
        if journal.base_term != state.term_at(journal.base_index):
            return False
        expected = list(state.entries[journal.base_index - state.base :])
        runs = journal.term_runs()
        configs = [held for held in expected if held.kind == KIND_CONFIG]
        return (
            entries_of(journal) == expected
            and runs == runs_of(expected)
            and journal.config_entries() == configs
        )

    def recognise(self, journal: FileJournal) -> None:
        """After a crash: the journal must show one of the states; it is the only one from now on."""
        for state in reversed(self.states):
            if self.matches(state, journal):
                self.states = [state]
                return
        raise AssertionError(
            f"found base {journal.base_index}/{journal.base_term}, last {journal.last_index}, "
            f"term {journal.term} {journal.voted_for!r}; expected one of {self.states}"
        )


def entries_of(journal: FileJournal) -> list[Entry]:
    if journal.last_index == journal.base_index:
        return []
    return journal.entries(journal.base_index + 1, journal.last_index, 1 << 30)


def runs_of(entries: list[Entry]) -> list[tuple[int, int]]:
    return [
        (held.index, held.term)
        for number, held in enumerate(entries)
        if number == 0 or entries[number - 1].term != held.term
    ]


def make_entries(first: int, term: int, sizes: list[int], seed: int) -> list[Entry]:
    rng = random.Random(seed)
    return [
        Entry(
            first + number, term, rng.choice([0, 0, 0, 1, 2]), rng.choice([rng.randbytes(size), bytes(size)])
        )
        for number, size in enumerate(sizes)
    ]


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.disk = SimulatedDisk()
        self.model = Model()
        self.journal = FileJournal.open("/j", files=self.disk, settings=SETTINGS)

    @rule(
        back=st.integers(0, 6),
        sizes=st.lists(st.integers(0, 500), min_size=1, max_size=6),
        newer=st.booleans(),
        seed=st.integers(0, 1 << 16),
    )
    def append(self, back: int, sizes: list[int], newer: bool, seed: int) -> None:
        now = self.model.now
        first = max(now.last + 1 - back, self.journal.base_index + 1, self.model.compacted + 1, now.base + 1)
        if first > now.last + 1:
            return
        entries = make_entries(first, now.term + newer, sizes, seed)
        self.journal.append(entries)
        self.model.append(entries)

    @rule(more=st.integers(0, 2), voter=st.sampled_from(["", "n1", "candidate-with-a-long-name"]))
    def vote(self, more: int, voter: str) -> None:
        now = self.model.now
        if more == 0 and now.vote:
            voter = now.vote
        self.journal.set_term_vote(now.term + more, voter)
        self.model.vote(now.term + more, voter)

    @rule(ahead=st.integers(0, 50))
    def reset(self, ahead: int) -> None:
        index = self.model.now.last + ahead
        self.journal.reset(index, self.model.now.term)
        self.model.reset(index, self.model.now.term)

    @rule()
    def sync(self) -> None:
        self.journal.sync()
        self.model.synced()

    @rule(back=st.integers(0, 10))
    def compact(self, back: int) -> None:
        index = max(0, self.model.now.last - back)
        self.model.compacted = max(self.model.compacted, index)
        self.journal.compact(index)
        self.model.synced()

    @rule(
        act=st.sampled_from(["sync", "compact"]),
        at=st.integers(1, 12),
        through=st.integers(0, 400),
        how=st.sampled_from(["kill", "bytes", "sectors"]),
        seed=st.integers(0, 1 << 16),
    )
    def crash_within(self, act: str, at: int, through: int, how: str, seed: int) -> None:
        self.disk.crash_at = self.disk.changes + at
        self.disk.crash_bytes = through
        try:
            if act == "sync":
                self.sync()
            else:
                self.compact(2)
        except SimulatedCrash:
            pass
        self.crash(how, seed)

    @rule(how=st.sampled_from(["close", "kill", "bytes", "sectors"]), seed=st.integers(0, 1 << 16))
    def crash(self, how: str, seed: int) -> None:
        if how == "close":
            self.disk.crash_at = None
            self.journal.close()
            assert self.disk.open_descriptors() == 0
        elif how == "kill":
            self.disk.kill()
        else:
            self.disk.lose_power(random.Random(seed), sectors=how == "sectors")
        self.journal = FileJournal.open("/j", files=self.disk, settings=SETTINGS)
        self.model.recognise(self.journal)

    @precondition(lambda self: self.model.now.last > self.journal.base_index)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        now = self.model.now
        lo = data.draw(st.integers(self.journal.base_index + 1, now.last))
        hi = data.draw(st.integers(lo, now.last))
        bytes_max = data.draw(st.integers(0, 2000))
        found = self.journal.entries(lo, hi, bytes_max)
        assert found
        assert found == list(now.entries[lo - now.base - 1 :][: len(found)])
        total = sum(len(held.payload) for held in found)
        assert len(found) == 1 or total <= bytes_max
        if found[-1].index < hi:
            following = now.entries[found[-1].index - now.base]
            assert total + len(following.payload) > bytes_max

    @invariant()
    def shows_the_present_state(self) -> None:
        assert self.model.matches(self.model.now, self.journal)
        stats = self.journal.stats()
        assert stats.buffered_bytes > 0 or stats.cached_bytes <= SETTINGS.cache_bytes_max


JournalMachine.TestCase.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=30, deadline=None
)
TestJournalModel = JournalMachine.TestCase


def _script(journal: FileJournal, model: Model) -> None:
    """Every kind of change, over several segments."""

    def append(first: int, term: int, sizes: list[int]) -> None:
        entries = make_entries(first, term, sizes, seed=first)
        journal.append(entries)
        model.append(entries)

    def vote(term: int, voter: str) -> None:
        journal.set_term_vote(term, voter)
        model.vote(term, voter)

    def sync() -> None:
        journal.sync()
        model.synced()

    def compact(index: int) -> None:
        model.compacted = max(model.compacted, index)
        journal.compact(index)
        model.synced()

    vote(1, "n1")
    append(1, 1, [100, 200, 300])
    sync()
    append(4, 1, [400] * 5)
    vote(2, "")
    append(7, 2, [10, 900, 20])
    sync()
    compact(4)
    append(8, 3, [500] * 6)
    vote(3, "n2")
    compact(12)
    journal.reset(100, 3)
    model.reset(100, 3)
    append(101, 3, [700, 700, 700])
    sync()
    compact(102)
    append(104, 4, [50])


@pytest.mark.parametrize("how", ["kill", "bytes", "sectors"])
@pytest.mark.parametrize("through", [0, 1, 31, 150, 512, 700])
def test_a_crash_at_every_change_of_the_disk_leaves_a_state_between_two_syncs(how: str, through: int) -> None:
    def run(crash_at: int | None, disk: SimulatedDisk, model: Model) -> None:
        disk.crash_at, disk.crash_bytes = crash_at, through
        _script(FileJournal.open("/j", files=disk, settings=SETTINGS), model)

    whole = SimulatedDisk()
    run(None, whole, Model())
    assert whole.changes > 40
    for crash_at in range(1, whole.changes + 1):
        for seed in range(3):
            disk, model = SimulatedDisk(), Model()
            with pytest.raises(SimulatedCrash):
                run(crash_at, disk, model)
            _crash(disk, how, seed)
            # Recovery itself is cut off as well, at its first, second, ... change.
            for again in range(1, 4):
                disk.crash_at = disk.changes + again
                try:
                    FileJournal.open("/j", files=disk, settings=SETTINGS)
                except SimulatedCrash:
                    _crash(disk, how, seed + again)
            disk.kill()
            journal = FileJournal.open("/j", files=disk, settings=SETTINGS)
            model.recognise(journal)
            more = make_entries(journal.last_index + 1, 9, [30, 1000], 5)
            journal.append(more)
            model.append(more)
            journal.sync()
            model.synced()
            _crash(disk, "bytes", seed)
            model.recognise(FileJournal.open("/j", files=disk, settings=SETTINGS))


def _crash(disk: SimulatedDisk, how: str, seed: int) -> None:
    disk.kill()
    if how != "kill":
        disk.lose_power(random.Random(seed), sectors=how == "sectors")


def _without_sync(disk: SimulatedDisk) -> None:
    disk.sync_data = lambda _descriptor: None  # type: ignore[method-assign]


def _without_directory_sync(disk: SimulatedDisk) -> None:
    disk.sync_directory = lambda _path: None  # type: ignore[method-assign]


@pytest.mark.parametrize("spoil", [_without_sync, _without_directory_sync])
def test_the_model_sees_a_journal_that_does_not_sync(spoil: Callable[[SimulatedDisk], None]) -> None:
    """The tests above can fail."""
    caught = 0
    for seed in range(20):
        disk, model = SimulatedDisk(), Model()
        spoil(disk)
        _script(FileJournal.open("/j", files=disk, settings=SETTINGS), model)
        _crash(disk, "bytes", seed)
        try:
            model.recognise(FileJournal.open("/j", files=disk, settings=SETTINGS))
        except (AssertionError, JournalDamaged):
            caught += 1
    assert caught > 10
