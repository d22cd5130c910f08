"""A disk that forgets what was not synced, at any byte.

Fills the shapes of `raft.storage_api` as far as the simulated shell uses them, by value: what survives a crash is a
prefix of the bytes written since the last finished sync, a torn last record being dropped as the journal drops it.
"""

from __future__ import annotations

import random
from collections import deque
from hashlib import blake2b

from raft.log import decode_config
from raft.storage_api import KIND_CONFIG, Config, Entry, SnapshotMeta

KEPT = 3


class LogState:
    """Contents of a journal."""

    def __init__(self) -> None:
        self.term = 0
        self.voted_for = ""
        self.base_index = 0
        self.base_term = 0
        self.entries: list[Entry] = []

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    def copy(self) -> LogState:
        twin = LogState()
        twin.term, twin.voted_for = self.term, self.voted_for
        twin.base_index, twin.base_term = self.base_index, self.base_term
        twin.entries = list(self.entries)
        return twin

    def term_at(self, index: int) -> int | None:
        if index == self.base_index:
            return self.base_term
        if self.base_index < index <= self.last_index:
            return self.entries[index - self.base_index - 1].term
        return None

    def do(self, record: Record) -> None:
        if isinstance(record, Entry):
            assert self.base_index < record.index <= self.last_index + 1, (
                record.index,
                self.base_index,
                self.last_index,
            )
            del self.entries[record.index - self.base_index - 1 :]
            self.entries.append(record)
        elif record[0] == "vote":
            assert record[1] >= self.term, "the term on disk would fall"
            self.term, self.voted_for = record[1], record[2]
        else:
            self.base_index, self.base_term = record[1], record[2]
            self.entries = []

    def compact(self, index: int) -> None:
        index = min(index, self.last_index)
        if index > self.base_index:
            term = self.term_at(index)
            assert term is not None
            del self.entries[: index - self.base_index]
            self.base_index, self.base_term = index, term

    def runs(self) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for entry in self.entries:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
        return runs

    def configs(self) -> list[tuple[int, Config]]:
        return [(e.index, decode_config(e.payload)) for e in self.entries if e.kind == KIND_CONFIG]


Record = Entry | tuple


class Disk:
    """One node's disk. `view` is what the node sees, `durable` what survives now; between them `pending` records."""

    def __init__(self) -> None:
        self.durable = LogState()
        self.view = LogState()
        self.pending: deque[Record] = deque()
        self.written = 0
        self.synced = 0
        """Records ever written, and how many of them are durable."""
        self.snapshots: list[tuple[SnapshotMeta, bytes]] = []
        self.partial: tuple[SnapshotMeta, bytes] | None = None
        self.machine: tuple[int, int] = (0, 0)
        """The state machine's own durable store: (applied index, digest)."""

    def write(self, record: Record) -> None:
        self.view.do(record)
        self.pending.append(record)
        self.written += 1

    def entries(self, lo: int, hi: int, bytes_max: int) -> list[Entry]:
        view = self.view
        assert view.base_index < lo <= hi <= view.last_index
        found: list[Entry] = []
        for entry in view.entries[lo - view.base_index - 1 : hi - view.base_index]:
            bytes_max -= len(entry.payload)
            if bytes_max < 0 and found:
                break
            found.append(entry)
        return found

    def sync(self, upto: int) -> None:
        """The first `upto` records ever written are durable now."""
        while self.synced < upto:
            self.durable.do(self.pending.popleft())
            self.synced += 1

    def crash(self, rng: random.Random) -> None:
        """Power is gone: a prefix of the unsynced bytes survives."""
        sizes = [36 + len(r.payload) if isinstance(r, Entry) else 60 for r in self.pending]
        left = rng.randint(0, sum(sizes))
        survivors = 0
        for size in sizes:
            left -= size
            if left < 0:
                break
            survivors += 1
        self.sync(self.synced + survivors)
        self.written = self.synced
        self.pending.clear()
        self.view = self.durable.copy()
        if self.partial is not None:
            meta, data = self.partial
            self.partial = (meta, data[: rng.randint(0, len(data))])

    def compact(self, index: int) -> None:
        """As the journal does: everything is synced first, whole segments go."""
        self.sync(self.written)
        self.view.compact(index)
        self.durable.compact(index)

    def latest(self) -> SnapshotMeta | None:
        return self.snapshots[-1][0] if self.snapshots else None

    def store_snapshot(self, meta: SnapshotMeta, data: bytes) -> None:
        if not self.snapshots or meta.index > self.snapshots[-1][0].index:
            self.snapshots.append((meta, data))
            del self.snapshots[:-KEPT]

    def read_snapshot(self, meta: SnapshotMeta, offset: int, size: int) -> bytes | None:
        for kept, data in self.snapshots:
            if kept.digest == meta.digest:
                return data[offset : offset + size]
        return None

    def has(self, index: int, term: int) -> bool:
        """Whether the entry would survive now, in the log or inside a snapshot."""
        if self.snapshots and self.snapshots[-1][0].index >= index:
            return True
        return index < self.durable.base_index or self.durable.term_at(index) == term

    def recover(self) -> None:
        """What the driver does when it opens: finish an interrupted install."""
        latest = self.latest()
        if (
            latest is not None
            and self.view.term_at(latest.index) != latest.term
            and latest.index >= self.view.base_index
        ):
            self.write(("reset", latest.index, latest.term))
            self.sync(self.written)


def snapshot_meta(index: int, term: int, config: Config, data: bytes) -> SnapshotMeta:
    return SnapshotMeta(index, term, config, len(data), blake2b(data, digest_size=16).digest())
