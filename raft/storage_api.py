"""What the core and the driver ask of storage: the shapes `journal.py` and `snapshots.py` fill.

Rules of this file: types and Protocols only, no I/O. A simulated disk in the tests fills the same shapes.

**Who calls what, and on which thread.** Everything is called on the event-loop thread, except what is marked
*(thread)*: those methods block on the disk and run in a worker thread, one at a time per object, while the
loop may go on calling `append`, `set_term_vote` and the readers.

**Durable** means: found again after power loss. Only `sync()` makes anything durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NewType, Protocol

import msgspec

NodeId = NewType("NodeId", str)
"""A member for all time: random, made once per data directory, never an address, never reused."""

KIND_COMMANDS = 0
"""Payload: msgpack list of byte strings, one per command."""
KIND_NOOP = 1
"""Payload: empty. A new leader's first entry."""
KIND_CONFIG = 2
"""Payload: msgpack of `Config`."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of the replicated log; also its form on the wire. Indexes start at 1."""

    index: int
    term: int
    kind: int
    payload: bytes


class Config(msgspec.Struct, frozen=True, array_like=True):
    """The members of the group: node id -> address (opaque to raft; the transport reads it).

    A node is in at most one of the two. Only voters elect and count for a majority.
    """

    voters: dict[str, str] = {}
    learners: dict[str, str] = {}


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """Names one complete snapshot file. Two files with the same digest have the same bytes."""

    index: int
    """Last log index whose effects are in the snapshot."""
    term: int
    """Term of the entry at `index`."""
    config: Config
    """The newest membership at or below `index`."""
    size: int
    """Bytes of the stored file: what `SnapshotStore.read` can return in total."""
    digest: bytes
    """Checksum of the whole stored file (16 bytes, blake2b)."""


class Journal(Protocol):
    """The log of one node on its disk: entries, and term and vote in the same files.

    Invariants: entries `first_index..last_index` are contiguous; `base_index == first_index - 1`; an empty
    journal has `last_index == base_index`. `term` never falls. What open() returns has survived: a torn
    tail (an unfinished last write) was cut, damage before the tail raised `JournalDamaged`.
    """

    @property
    def term(self) -> int:
        """Current term; 0 at the very start. Set by `set_term_vote`."""
        ...

    @property
    def voted_for(self) -> str:
        """Whom this node voted for in `term`; "" for nobody."""
        ...

    @property
    def base_index(self) -> int:
        """Index just below the oldest entry held (0 for a log from the start)."""
        ...

    @property
    def base_term(self) -> int:
        """Term of the entry that was at `base_index` (0 when that is 0). Kept durably with the oldest
        segment."""
        ...

    @property
    def last_index(self) -> int: ...

    def term_runs(self) -> list[tuple[int, int]]:
        """[(first index of the run, term)], ascending, covering base_index+1..last_index. Called once after
        open."""
        ...

    def config_entries(self) -> list[Entry]:
        """All held entries of KIND_CONFIG, ascending. Called once after open."""
        ...

    def entries(self, lo: int, hi: int, bytes_max: int) -> list[Entry]:
        """Entries lo..hi (both included), as many as fit into `bytes_max` of payload, at least one.

        Requires base_index < lo <= hi <= last_index. The caller keeps unsynced entries itself and asks only
        for entries covered by an earlier finished `sync`. Reads from disk (page cache) and checks checksums:
        raises `JournalDamaged`.
        """
        ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries. `entries[0].index` is at most last_index + 1; if it is at most
        last_index, the old suffix from there on is overwritten (never at or below base_index). Buffered: no
        disk wait."""
        ...

    def set_term_vote(self, term: int, voted_for: str) -> None:
        """Record term and vote, ordered after earlier appends. Buffered; durable with the next `sync`."""
        ...

    def sync(self) -> None:
        """*(thread)* Make everything durable that was appended or set before the call.

        Raises `StorageFailed` on any I/O error; the journal then refuses everything that follows.
        Writes made by the loop during the call belong to the next one.
        """
        ...

    def has_room(self, size: int, *, use_reserve: bool = False) -> bool:
        """Whether `size` more payload bytes certainly fit on the disk (preallocated, or allocatable now).

        A part of the preallocated space is a reserve for no-ops, membership and votes: it counts only with
        `use_reserve`. False means ENOSPC was met; asking again later tries again (at most once in 0.5 s),
        so space that came back is noticed. Never blocks for long: preallocation of the next segment happens
        in `sync`.
        """
        ...

    def reset(self, index: int, term: int) -> None:
        """Drop every entry: afterwards base_index == last_index == index, base_term == term.

        Used when a snapshot replaces a log that does not contain its last entry. Buffered like an append:
        until the next `sync` a crash may bring back the old log as a whole, never a mixture.
        Term and vote are kept.
        """
        ...

    def compact(self, index: int) -> None:
        """*(thread)* Entries up to and including `index` are not needed: drop whole segments that hold
        nothing newer.

        `base_index` moves up to the last entry of the last dropped segment, at most `index`. Never tears:
        files are removed oldest first, after the new base is durable.
        """
        ...

    def close(self) -> None:
        """Close files. Unsynced data may be lost, as in a crash."""
        ...


class SnapshotReceiver(Protocol):
    """One snapshot on its way in, in a partial file that survives restarts."""

    @property
    def meta(self) -> SnapshotMeta: ...

    @property
    def offset(self) -> int:
        """Bytes already held; the next write must start here."""
        ...

    def write(self, offset: int, data: bytes) -> int:
        """*(thread)* Add bytes at `offset`; returns the new offset. A wrong offset changes nothing and
        returns the present one."""
        ...

    def finish(self) -> SnapshotMeta:
        """*(thread)* Verify size, digest and every chunk, sync, rename: afterwards it is
        `SnapshotStore.latest()`.

        Raises `SnapshotDamaged` after removing the partial file; receiving then starts from offset 0.
        """
        ...

    def abort(self) -> None:
        """*(thread)* Close; the partial file stays for a later resume."""
        ...


class SnapshotStore(Protocol):
    """Complete snapshots of one node, the newest K=3, each checked when the store was opened."""

    def latest(self) -> SnapshotMeta | None:
        """The newest whose checksums were right at open or when written."""
        ...

    def kept(self) -> list[SnapshotMeta]:
        """All kept ones, oldest first. Compaction of the journal may not pass the oldest."""
        ...

    def write(self, index: int, term: int, config: Config, chunks: Iterable[bytes]) -> SnapshotMeta:
        """*(thread)* Store one: temporary file, chunks framed with CRC, sync, rename, directory sync; then
        drops those over K.

        Chunk boundaries are preserved. Durable when it returns. An error leaves no visible file.
        """
        ...

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """*(thread)* The chunks as they were written, each verified. Raises `SnapshotDamaged`."""
        ...

    def read(self, meta: SnapshotMeta, offset: int, bytes_max: int) -> bytes:
        """*(thread)* Raw bytes of the stored file, for sending. b"" at the end. Raises `SnapshotDamaged`
        when it is gone."""
        ...

    def receive(self, meta: SnapshotMeta) -> SnapshotReceiver:
        """*(thread)* Start receiving the file `meta` names, or go on with its partial file. Partials of
        others are removed."""
        ...
