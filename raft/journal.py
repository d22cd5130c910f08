"""The log of one node on its disk: entries, term and vote, in segment files that are only ever appended to.

`FileJournal` fills `storage_api.Journal`; the bytes are described in `journal_format.py`, file-system calls
go through `files.py`. Names in the directory: `<sequence>-<first index>.seg`, and `spare-<n>` for segments
made ahead.

Rules of this file:

- A segment gets its name only after the one before it is complete and on the disk, and its own head is too.
  So a torn write can only be at the end of the last segment; a fault anywhere else is damage
  (`JournalDamaged`).
- Nothing is overwritten. A conflicting suffix is cut by a frame that says so; later frames win.
- What was not synced may vanish, but only from the end: the survivors are always a prefix of what was
  written.
- Every segment's head repeats term, vote and the last entry's term, so older segments can go as whole files.
- A failed write or sync is final (`StorageFailed`): after it a page may be "clean" and yet not on the disk.
  Lack of space is different: it is met when the next segment is allocated, ahead of need, before anything is
  written.

The event loop calls everything but `sync` and `compact`, which run in one worker thread at a time. `_lock`
guards the tables; it is held while the disk works only for reads, and when a segment was not made ahead
in time.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from zlib import crc32

from raft import journal_format as fmt
from raft.errors import JournalDamaged, StorageFailed, StorageFull
from raft.files import Files, LocalFiles
from raft.journal_format import Frame, FrameKind, SegmentHead
from raft.storage_api import KIND_CONFIG, Entry

_SEGMENT_NAME = re.compile(r"(\d{8})-(\d{20})\.seg")
_SPARE_NAME = re.compile(r"spare-(\d+)")
_OFFSET_BITS = 32  # a position is (sequence << 32) | offset: it only ever grows along the log
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_ROOM_MARGIN_BYTES = 4096  # frames' own bytes and a segment's unused end, when asked by payload size
_READ_AHEAD_BYTES = 4096
_NOTHING_CACHED = 1 << 63  # above any index, while the journal is being recovered

_ADVICE = (
    "The node does not start, because entries that it had acknowledged may be missing. If the other "
    "voters are well, move this node's data directory away and let it join as a new node; else restore it "
    "from a backup."
)


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Sizes of a journal. All may change between two starts."""

    segment_bytes: int = 64 << 20  # a file; compaction drops whole ones
    reserve_bytes: int = 1 << 20  # of the preallocated space, kept for votes, no-ops and membership
    cache_bytes_max: int = 32 << 20  # newest entries in memory; a lagging follower reads the rest from disk
    open_segments_max: int = 64  # file descriptors; the oldest segment is closed and opened again for a read
    retry_space_after_s: float = 0.5  # a full disk is asked again no sooner

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that cannot work."""
        if not 2 * fmt.HEAD_BYTES <= self.segment_bytes <= _OFFSET_MASK:
            raise ValueError(f"segment_bytes must be between {2 * fmt.HEAD_BYTES} and {_OFFSET_MASK}")
        if not 0 <= self.reserve_bytes <= self.segment_bytes // 2:
            raise ValueError("reserve_bytes must be at most half of segment_bytes")
        if self.open_segments_max < 4:
            raise ValueError("open_segments_max must be at least 4")


@dataclass(frozen=True, slots=True)
class JournalStats:
    """A moment of a journal, for status and metrics."""

    segments: int
    spare_segments: int
    cached_bytes: int
    buffered_bytes: int  # appended, not yet written
    space_short: bool  # the last attempt to allocate a segment met a full disk
    torn_bytes: int  # bytes of unfinished writes that were cut off when the journal was opened


@dataclass(slots=True)
class _Segment:
    sequence: int
    path: str
    limit: int  # bytes that may be used
    salt: int
    descriptor: int  # -1: closed
    head: bytes | None = None  # still to be written: the segment is a spare until then


@dataclass(slots=True)
class _Run:
    """Frames that stand one behind the other in a segment, waiting to be written."""

    segment: _Segment
    offset: int
    parts: list[bytes] = field(default_factory=list)


class FileJournal:
    """`storage_api.Journal` on a directory. Use `open`."""

    def __init__(
        self,
        directory: str | Path,
        files: Files | None = None,
        settings: JournalSettings | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an object without touching the disk; `open` calls this and then recovers."""
        self._directory = str(directory)
        self._files: Files = LocalFiles() if files is None else files
        self._settings = settings or JournalSettings()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._disk_lock = threading.Lock()  # sync, compact, close: one at a time

        self._term = 0
        self._vote = b""
        self._base_index = 0
        self._base_term = 0
        self._last_index = 0
        self._positions = array("Q")  # entry i stands at _positions[i - base_index - 1]
        self._terms = array("Q")
        self._config_indexes: list[int] = []

        self._segments: list[_Segment] = []
        self._spares: list[_Segment] = []
        self._spare_count = 0
        self._offset = 0  # where the next frame goes in the last segment
        self._runs: list[_Run] = []
        self._buffered_bytes = 0
        # Cuts that are not on the disk: (where their frame ends, oldest segment that has what they cut).
        self._buffered_cuts: list[tuple[int, int]] = []
        self._written_position = 0  # everything before is in the files
        self._synced_position = 0  # everything before is on the disk

        self._cache: dict[int, Entry] = {}
        self._cache_first = 1  # indexes from here to the last are in _cache
        self._cached_bytes = 0

        self._failure: StorageFailed | None = None
        self._closed = False
        self._space_short = False
        self._space_asked_at: float | None = None
        self._torn_bytes = 0

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        files: Files | None = None,
        settings: JournalSettings | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> FileJournal:
        """Recover the journal in `directory`, or begin one in an empty or missing directory. Blocks.

        The remains of an unfinished last write are cut off. Whatever is visible afterwards is on the disk.
        The caller holds the data directory's lock. Raises JournalDamaged, StorageFailed for an error of the
        disk, and StorageFull if there is no room to begin a new journal (an existing one opens on a full
        disk).
        """
        journal = cls(directory, files, settings, monotonic)
        try:
            journal._recover()
        except OSError as error:
            journal.close()
            if error.errno in _SPACE_ERRORS:
                raise StorageFull(f"no space to begin a journal in {journal._directory}: {error}") from error
            raise StorageFailed(f"the journal in {journal._directory} cannot be read: {error}") from error
        except BaseException:
            journal.close()
            raise
        return journal

    # What it holds

    @property
    def term(self) -> int:
        """Current term; 0 at the very start."""
        return self._term

    @property
    def voted_for(self) -> str:
        """Whom this node voted for in `term`; "" for nobody."""
        return self._vote.decode()

    @property
    def base_index(self) -> int:
        """Index just below the oldest entry held."""
        return self._base_index

    @property
    def base_term(self) -> int:
        """Term of the entry that was at `base_index`."""
        return self._base_term

    @property
    def last_index(self) -> int:
        """Index of the newest entry; `base_index` if there is none."""
        return self._last_index

    def term_runs(self) -> list[tuple[int, int]]:
        """[(first index of the run, term)], ascending, covering base_index+1..last_index."""
        runs: list[tuple[int, int]] = []
        previous = -1
        for index, term in enumerate(self._terms, self._base_index + 1):
            if term != previous:
                runs.append((index, term))
                previous = term
        return runs

    def config_entries(self) -> list[Entry]:
        """All held entries of KIND_CONFIG, ascending."""
        return [self.entries(index, index, 0)[0] for index in self._config_indexes]

    def stats(self) -> JournalStats:
        """The present sizes."""
        with self._lock:
            return JournalStats(
                segments=len(self._segments),
                spare_segments=len(self._spares),
                cached_bytes=self._cached_bytes,
                buffered_bytes=self._buffered_bytes,
                space_short=self._space_short,
                torn_bytes=self._torn_bytes,
            )

    def bytes_after(self, index: int) -> int:
        """About what the entries above `index` take of the files."""
        with self._lock:
            if index >= self.last_index:
                return 0
            start = self._positions[max(index - self._base_index, 0)]
            newest = self._segments[-1]
            between = (newest.sequence - (start >> _OFFSET_BITS)) * newest.limit
            return max(between + self._offset - (start & ((1 << _OFFSET_BITS) - 1)), 0)

    def entries(self, lo: int, hi: int, bytes_max: int) -> list[Entry]:
        """Entries lo..hi (both included), as many as fit into `bytes_max` of payload, at least one.

        Requires base_index < lo <= hi <= last_index (else IndexError). Newest ones come from memory, others
        are read and their checksums verified: raises JournalDamaged, StorageFailed.
        """
        with self._lock:
            self._raise_if_unusable()
            if not self._base_index < lo <= hi <= self._last_index:
                raise IndexError(
                    f"entries {lo}..{hi} are not within {self._base_index + 1}..{self._last_index}"
                )
            found: list[Entry] = []
            left = bytes_max
            while lo <= hi:
                if lo >= self._cache_first:
                    batch = [self._cache[lo]]
                else:
                    batch = self._read(lo, min(hi, self._cache_first - 1), max(left, 0))
                for entry in batch:
                    left -= len(entry.payload)
                    if left < 0 and found:
                        return found
                    found.append(entry)
                lo += len(batch)
            return found

    # Adding

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries; an index that exists already cuts the log there first. Buffered.

        All or nothing: raises StorageFull if the entries do not fit into the space that could be allocated
        (ask `has_room` before), ValueError for a gap, for entries at or below base_index and for an entry
        larger than a segment, StorageFailed after a failure. May use the reserve.
        """
        if not entries:
            return
        first = entries[0].index
        with self._lock:
            self._raise_if_unusable()
            last = self._last_index
            if not self._base_index < first <= last + 1:
                raise ValueError(f"entry {first} does not continue a log of {self._base_index + 1}..{last}")
            size = fmt.FRAME_OVERHEAD_BYTES
            for number, entry in enumerate(entries, first):
                if entry.index != number:
                    raise ValueError(f"entry {entry.index} stands where {number} belongs")
                size = max(size, fmt.FRAME_OVERHEAD_BYTES + len(entry.payload))
            if size > self._settings.segment_bytes - fmt.HEAD_BYTES:
                raise ValueError(f"an entry of {size} bytes is larger than a segment of the journal")
            self._reserve_space(entries, cuts=first <= last)
            if first <= last:
                self._cut(first - 1)
            for entry in entries:
                self._append_entry(entry)
            self._trim_cache()

    def set_term_vote(self, term: int, voted_for: str) -> None:
        """Record term and vote, ordered after earlier appends. Buffered; durable with the next `sync`.

        Raises ValueError if the term would fall, or the vote in a term would change; StorageFull only when
        even the reserve is used up.
        """
        vote = voted_for.encode()
        if len(vote) > fmt.VOTE_BYTES_MAX:
            raise ValueError(f"the name of a candidate has at most {fmt.VOTE_BYTES_MAX} bytes")
        with self._lock:
            self._raise_if_unusable()
            if term < self._term or (term == self._term and self._vote not in (b"", vote)):
                raise ValueError(
                    f"({term}, {voted_for!r}) cannot follow term {self._term} with a vote "
                    f"for {self.voted_for!r}"
                )
            self._reserve_space([Entry(0, 0, 0, vote)], cuts=False)
            self._put(FrameKind.STATE, 0, 0, term, vote)
            self._term = term
            self._vote = vote

    def reset(self, index: int, term: int) -> None:
        """Drop every entry: afterwards base_index == last_index == index and base_term == term. Buffered."""
        with self._lock:
            self._raise_if_unusable()
            if index < self._base_index:
                raise ValueError(
                    f"the log cannot go back to {index}: entries up to {self._base_index} are gone"
                )
            self._reserve_space([Entry(0, 0, 0, b"")], cuts=False)
            self._put(FrameKind.RESET, 0, index, term, b"")
            self._buffered_cuts.append((self._end_position(), self._segments[0].sequence))
            self._forget_all(index, term)

    def has_room(self, size: int, *, use_reserve: bool = False) -> bool:
        """Whether `size` more payload bytes certainly fit on the disk.

        A part of the preallocated space is a reserve: it counts only with `use_reserve`. False means that the
        disk is full; it is asked again at most every `retry_space_after_s`.
        """
        needed = size + _ROOM_MARGIN_BYTES + (0 if use_reserve else self._settings.reserve_bytes)
        with self._lock:
            if self._failure is not None or self._closed:
                return False
            while self._room() < needed:
                if not self._space_may_be_asked() or not self._make_spare():
                    return False
            return True

    # On the disk

    def sync(self) -> None:
        """*(thread)* Everything appended or set before this call is on the disk when it returns.

        Writes made meanwhile belong to the next call. Raises StorageFailed on any error; the journal then
        refuses everything that follows.
        """
        with self._disk_lock:
            with self._lock:
                self._raise_if_unusable()
                runs, self._runs = self._runs, []
                target = self._end_position()
                size, self._buffered_bytes = self._buffered_bytes, 0
            if size == 0 and target == self._synced_position:
                return
            try:
                self._write_and_sync(runs)
            except OSError as error:
                raise self._fail(error) from error
            except BaseException as error:
                self._fail(error)
                raise
            with self._lock:
                self._written_position = self._synced_position = target
                self._buffered_cuts = [cut for cut in self._buffered_cuts if cut[0] > target]
                self._trim_cache()
                if len(runs) > 1:
                    self._close_old_segments(self._segments[-1], in_use=target >> _OFFSET_BITS)
                wants_spare = not self._spares and self._space_may_be_asked()
            if wants_spare:
                self._make_spare()

    def _write_and_sync(self, runs: list[_Run]) -> None:
        segment = self._segment_of(self._synced_position >> _OFFSET_BITS)
        for run in runs:
            if run.segment is not segment:
                # The old segment is complete on the disk before the next one exists under its name.
                self._files.sync_data(segment.descriptor)
                segment = run.segment
                self._give_name(segment)
            self._files.write_at(segment.descriptor, run.parts, run.offset)
        self._files.sync_data(segment.descriptor)

    def _give_name(self, segment: _Segment) -> None:
        """Turn a spare into the segment that its head says."""
        head = segment.head
        assert head is not None
        self._files.write_at(segment.descriptor, [head], 0)
        self._files.sync_data(segment.descriptor)
        path = self._path(_segment_name(fmt.decode_head(head)))
        self._files.rename(segment.path, path)
        self._files.sync_directory(self._directory)
        segment.path = path
        segment.head = None

    def compact(self, index: int) -> None:
        """*(thread)* Entries up to `index` are not needed: drop whole segments that hold nothing newer.

        Files go oldest first, each durably before the next, and only when what makes them needless is on the
        disk.
        """
        self.sync()
        with self._disk_lock:
            with self._lock:
                self._raise_if_unusable()
                dropped = self._detach_segments(index)
            try:
                for segment in dropped:
                    if segment.descriptor >= 0:
                        self._files.close(segment.descriptor)
                    self._files.unlink(segment.path)
                    self._files.sync_directory(self._directory)
            except OSError as error:
                raise self._fail(error) from error
            with self._lock:
                wants_spare = self._space_short and bool(dropped)
            if wants_spare:
                self._make_spare()

    def _detach_segments(self, index: int) -> list[_Segment]:
        keep = self._synced_position >> _OFFSET_BITS
        index = max(index, self._base_index)
        if index < self._last_index:
            keep = min(keep, self._positions[index - self._base_index] >> _OFFSET_BITS)
        for _, oldest_needed in self._buffered_cuts:
            keep = min(keep, oldest_needed)
        dropped = [segment for segment in self._segments if segment.sequence < keep]
        if not dropped:
            return []
        del self._segments[: len(dropped)]
        count = bisect_left(self._positions, keep << _OFFSET_BITS)
        if count:
            self._base_term = self._terms[count - 1]
            self._base_index += count
            del self._positions[:count]
            del self._terms[:count]
            self._config_indexes = [held for held in self._config_indexes if held > self._base_index]
            for gone in range(self._cache_first, self._base_index + 1):
                self._cached_bytes -= len(self._cache.pop(gone).payload)
            self._cache_first = max(self._cache_first, self._base_index + 1)
        return dropped

    def close(self) -> None:
        """Close the files. What was not synced is lost, as in a crash."""
        with self._disk_lock, self._lock:
            self._closed = True
            for segment in self._segments + self._spares:
                if segment.descriptor >= 0:
                    self._files.close(segment.descriptor)
                    segment.descriptor = -1

    # Buffering; the caller holds _lock

    def _append_entry(self, entry: Entry) -> None:
        # The hot path: _put written out, as a call costs a third of it.
        payload = entry.payload
        size = len(payload) + fmt.FRAME_OVERHEAD_BYTES
        segment = self._segments[-1]
        if self._offset + size > segment.limit:
            segment = self._roll()
        offset = self._offset
        sequence = segment.sequence
        synced = self._synced_position
        known = synced & _OFFSET_MASK if synced >> _OFFSET_BITS == sequence else 0
        header = _pack_header(len(payload), entry.index, entry.term, known, 4, entry.kind, fmt.FRAME_MAGIC)
        checksum = crc32(payload, crc32(header, segment.salt))
        runs = self._runs
        if not runs or runs[-1].segment is not segment:
            runs.append(_Run(segment, offset))
        runs[-1].parts += (_pack_checksum(checksum), header, payload, fmt.TRAILER)
        self._offset = offset + size
        self._buffered_bytes += size
        self._positions.append(sequence << _OFFSET_BITS | offset)
        self._terms.append(entry.term)
        self._last_index = entry.index
        self._cache[entry.index] = entry
        self._cached_bytes += len(payload)
        if entry.kind == KIND_CONFIG:
            self._config_indexes.append(entry.index)

    def _put(self, kind: FrameKind, tag: int, index: int, term: int, payload: bytes) -> None:
        size = len(payload) + fmt.FRAME_OVERHEAD_BYTES
        segment = self._segments[-1]
        if self._offset + size > segment.limit:
            segment = self._roll()
        synced = self._synced_position
        known = synced & _OFFSET_MASK if synced >> _OFFSET_BITS == segment.sequence else 0
        header = _pack_header(len(payload), index, term, known, kind, tag, fmt.FRAME_MAGIC)
        checksum = crc32(payload, crc32(header, segment.salt))
        if not self._runs or self._runs[-1].segment is not segment:
            self._runs.append(_Run(segment, self._offset))
        self._runs[-1].parts += (_pack_checksum(checksum), header, payload, fmt.TRAILER)
        self._offset += size
        self._buffered_bytes += size

    def _cut(self, last: int) -> None:
        """The log ends at `last` from now on (base_index <= last < last_index)."""
        # Frame first, tables after: if it opens a segment, the head there tells of the log before the cut.
        oldest_needed = self._positions[last - self._base_index] >> _OFFSET_BITS
        term = self._base_term if last == self._base_index else self._terms[last - self._base_index - 1]
        self._put(FrameKind.TRUNCATE, 0, last, term, b"")
        self._buffered_cuts.append((self._end_position(), oldest_needed))
        self._forget_from(last + 1)

    def _forget_from(self, index: int) -> None:
        for gone in range(max(index, self._cache_first), self._last_index + 1):
            self._cached_bytes -= len(self._cache.pop(gone).payload)
        self._cache_first = min(self._cache_first, index)
        del self._positions[index - self._base_index - 1 :]
        del self._terms[index - self._base_index - 1 :]
        self._last_index = index - 1
        while self._config_indexes and self._config_indexes[-1] >= index:
            self._config_indexes.pop()

    def _forget_all(self, base_index: int, base_term: int) -> None:
        self._forget_from(self._base_index + 1)
        self._base_index = self._last_index = base_index
        self._base_term = base_term
        self._cache_first = base_index + 1

    def _roll(self) -> _Segment:
        """Go on in a spare segment (there is one: _reserve_space saw to it)."""
        old = self._segments[-1]
        new = self._spares.pop(0)
        new.sequence = old.sequence + 1
        head = SegmentHead(
            sequence=new.sequence,
            base_index=self._last_index,
            base_term=self._terms[-1] if self._terms else self._base_term,
            term=self._term,
            vote=self._vote,
            previous_end=self._offset,
            salt=new.salt,
        )
        new.head = fmt.encode_head(head)
        self._segments.append(new)
        self._offset = fmt.HEAD_BYTES
        self._buffered_bytes += fmt.HEAD_BYTES
        return new

    def _reserve_space(self, entries: Sequence[Entry], *, cuts: bool) -> None:
        """See to it that the frames of `entries` (and a cut) fit. Raises StorageFull with nothing changed."""
        limit = self._segments[-1].limit
        capacity = self._settings.segment_bytes
        offset = self._offset
        rolls = 0
        sizes = [len(entry.payload) + fmt.FRAME_OVERHEAD_BYTES for entry in entries]
        if cuts:
            sizes.insert(0, fmt.FRAME_OVERHEAD_BYTES)
        if offset + sum(sizes) <= limit:
            return
        for size in sizes:
            if offset + size > limit:
                rolls += 1
                offset, limit = fmt.HEAD_BYTES, capacity
            offset += size
        while len(self._spares) < rolls:
            if not self._make_spare():
                raise StorageFull(
                    f"the disk of {self._directory} has no room for another segment of the journal "
                    f"({capacity} bytes); free some space, and it goes on"
                )

    def _room(self) -> int:
        """Payload bytes that fit into the space allocated now, not counting frames' own bytes."""
        room = sum(spare.limit - fmt.HEAD_BYTES for spare in self._spares)
        return room + max(self._segments[-1].limit - self._offset, 0)

    def _space_may_be_asked(self) -> bool:
        asked = self._space_asked_at
        if not self._space_short or asked is None:
            return True
        return self._monotonic() - asked >= self._settings.retry_space_after_s

    def _make_spare(self) -> bool:
        """Allocate a segment ahead of need; False if the disk is full. Any other error is final."""
        self._space_asked_at = self._monotonic()
        try:
            spare = self._allocate_spare()
        except OSError as error:
            if error.errno in _SPACE_ERRORS:
                self._space_short = True
                return False
            raise self._fail(error) from error
        self._space_short = False
        self._spares.append(spare)
        return True

    def _allocate_spare(self) -> _Segment:
        size = self._settings.segment_bytes
        # Asked first, because a refused allocation may fill the disk for a moment, and others live on it too.
        if self._files.free_bytes(self._directory) < size:
            raise OSError(errno.ENOSPC, "no space for another segment", self._directory)
        self._spare_count += 1
        path = self._path(f"spare-{self._spare_count}")
        descriptor = self._files.open(path, create=True)
        try:
            self._files.allocate(descriptor, size)
        except OSError:
            self._files.close(descriptor)
            self._files.unlink(path)
            raise
        return _Segment(0, path, size, self._files.salt(), descriptor)

    def _trim_cache(self) -> None:
        """Drop the oldest cached entries above the bound, but none that is not in a file yet."""
        limit = self._settings.cache_bytes_max
        while self._cached_bytes > limit and self._cache_first <= self._last_index:
            if self._positions[self._cache_first - self._base_index - 1] >= self._written_position:
                return
            self._cached_bytes -= len(self._cache.pop(self._cache_first).payload)
            self._cache_first += 1

    def _end_position(self) -> int:
        return self._segments[-1].sequence << _OFFSET_BITS | self._offset

    # Reading

    def _read(self, lo: int, hi: int, bytes_max: int) -> list[Entry]:
        """Entries from the file of `lo`, from one read: at least one, not more than fit into it."""
        start = self._positions[lo - self._base_index - 1]
        segment = self._segment_of(start >> _OFFSET_BITS)
        offset = start & _OFFSET_MASK
        # Small entries need more for their frames than this: the rest comes with another read.
        frames = min((hi - lo + 1) * fmt.FRAME_OVERHEAD_BYTES, bytes_max)
        wanted = min(segment.limit - offset, bytes_max + frames + _READ_AHEAD_BYTES)
        try:
            block = self._read_block(segment, offset, wanted)
        except OSError as error:
            raise self._fail(error) from error
        found: list[Entry] = []
        for index in range(lo, hi + 1):
            position = self._positions[index - self._base_index - 1] - start
            entry = fmt.entry_at(block, position, segment.salt) if position < len(block) else None
            if entry is None and found:
                break  # beyond what was read: the next read begins with it, and knows
            if entry is None or entry.index != index:
                self._failure = self._damage(segment.path, offset, f"entry {index} does not read back")
                raise self._failure
            found.append(entry)
        return found

    def _read_block(self, segment: _Segment, offset: int, wanted: int) -> bytes:
        """`wanted` bytes, and more if the first frame has more."""
        descriptor = self._descriptor(segment)
        block = self._files.read_at(descriptor, wanted, offset)
        if len(block) < fmt.FRAME_OVERHEAD_BYTES:
            return block
        first = fmt.FRAME_HEADER.unpack_from(block)[1] + fmt.FRAME_OVERHEAD_BYTES
        missing = min(first, segment.limit - offset) - len(block)
        if missing > 0:
            block += self._files.read_at(descriptor, missing, offset + len(block))
        return block

    def _descriptor(self, segment: _Segment) -> int:
        if segment.descriptor < 0:
            segment.descriptor = self._files.open(segment.path)
            self._close_old_segments(segment, in_use=self._synced_position >> _OFFSET_BITS)
        return segment.descriptor

    def _close_old_segments(self, wanted: _Segment, *, in_use: int) -> None:
        """Keep the number of open files in bounds; segments from `in_use` on are written and stay open."""
        opened = [held for held in self._segments if held.descriptor >= 0 and held is not wanted]
        for held in opened[: max(0, len(opened) + 1 - self._settings.open_segments_max)]:
            if held.sequence < in_use:
                self._files.close(held.descriptor)
                held.descriptor = -1

    def _segment_of(self, sequence: int) -> _Segment:
        return self._segments[sequence - self._segments[0].sequence]

    # Recovery

    def _recover(self) -> None:
        self._files.make_directory(self._directory)
        # A process that was killed between a rename and this call left names that are seen but not durable.
        self._files.sync_directory(self._directory)
        names: list[tuple[int, str]] = []
        for name in self._files.list_directory(self._directory):
            if match := _SEGMENT_NAME.fullmatch(name):
                names.append((int(match[1]), name))
            elif match := _SPARE_NAME.fullmatch(name):
                self._adopt_spare(name, int(match[1]))
        names.sort()
        if not names:
            self._begin()
            return
        for (sequence, _), (following, name) in pairwise(names):
            if following != sequence + 1:
                reason = f"the segment before it, number {following - 1}, is missing"
                raise self._damage(self._path(name), 0, reason)
        self._cache_first = _NOTHING_CACHED
        for sequence, name in names:
            self._recover_segment(self._path(name), sequence, is_last=sequence == names[-1][0])
        self._written_position = self._synced_position = self._end_position()
        self._cache_first = self._last_index + 1
        if not self._spares:
            self._make_spare()

    def _adopt_spare(self, name: str, number: int) -> None:
        """A spare that was left: only its head was ever written, and that is written anew."""
        path = self._path(name)
        self._spare_count = max(self._spare_count, number)
        descriptor = self._files.open(path)
        if self._spares or self._files.size(descriptor) != self._settings.segment_bytes:
            self._files.close(descriptor)
            self._files.unlink(path)
            return
        self._files.allocate(descriptor, self._settings.segment_bytes)
        self._spares.append(_Segment(0, path, self._settings.segment_bytes, self._files.salt(), descriptor))

    def _begin(self) -> None:
        segment = self._spares.pop() if self._spares else self._allocate_spare()
        segment.sequence = 1
        segment.head = fmt.encode_head(SegmentHead(1, 0, 0, 0, b"", 0, segment.salt))
        self._segments.append(segment)
        self._offset = fmt.HEAD_BYTES
        self._give_name(segment)
        self._written_position = self._synced_position = self._end_position()
        self._make_spare()

    def _recover_segment(self, path: str, sequence: int, *, is_last: bool) -> None:
        descriptor = self._files.open(path)
        segment = _Segment(sequence, path, self._files.size(descriptor), 0, descriptor)
        previous_end = self._offset
        self._segments.append(segment)
        if is_last:
            # What a killed process left in memory gets to the disk, and is then read from there: after a
            # failed sync memory may hold what the disk does not.
            self._files.sync_data(descriptor)
            self._files.drop_cache(descriptor)
        data = self._files.read_at(descriptor, segment.limit, 0)
        try:
            head = fmt.decode_head(data)
        except ValueError as error:
            raise self._damage(path, 0, str(error)) from error
        segment.salt = head.salt
        follows = len(self._segments) == 1 or self._continues(head, previous_end)
        if head.sequence != sequence or not path.endswith(_segment_name(head)) or not follows:
            reason = "it does not continue the segment before it, which may have lost its end"
            raise self._damage(path, 0, reason)
        if len(self._segments) == 1:
            self._base_index = self._last_index = head.base_index
            self._base_term = head.base_term
        self._term, self._vote = head.term, head.vote
        end = self._replay(data, segment)
        self._offset = end
        if not is_last:
            # Zeros in place of frames are found by the next segment, whose head tells where this one ended.
            if fmt.end_of_content(data, end) > end:
                raise self._damage(path, end, "a frame is damaged, and later segments exist")
            self._close_old_segments(segment, in_use=sequence)
            return
        if (damage := fmt.judge_tail(data, end, segment.salt)) is not None:
            raise self._damage(path, end, damage)
        self._cut_torn_tail(segment, data, end)

    def _continues(self, head: SegmentHead, previous_end: int) -> bool:
        last_term = self._terms[-1] if self._terms else self._base_term
        here = (self._last_index, last_term, self._term, self._vote, previous_end)
        return here == (head.base_index, head.base_term, head.term, head.vote, head.previous_end)

    def _cut_torn_tail(self, segment: _Segment, data: bytes, end: int) -> None:
        size = max(segment.limit, self._settings.segment_bytes)
        self._torn_bytes = fmt.end_of_content(data, end) - end
        if self._torn_bytes:
            self._files.truncate(segment.descriptor, end)
        elif segment.limit == size:
            return
        # Now the file is too short: after this cut, after a crash within one, or by new settings.
        segment.limit = end
        try:
            if self._files.free_bytes(self._directory) >= size - end:
                self._files.allocate(segment.descriptor, size)
                segment.limit = size
        except OSError as error:
            if error.errno not in _SPACE_ERRORS:
                raise
            self._files.truncate(segment.descriptor, end)
        self._files.sync_data(segment.descriptor)

    def _replay(self, data: bytes, segment: _Segment) -> int:
        """Take in the frames of one segment; returns where the last sound one ends."""
        salt = segment.salt
        base_position = segment.sequence << _OFFSET_BITS
        view = memoryview(data)
        positions, terms = self._positions, self._terms
        unpack = fmt.FRAME_HEADER.unpack_from
        header_bytes = fmt.FRAME_HEADER.size
        frame_magic = fmt.FRAME_MAGIC
        size = len(data)
        offset = fmt.HEAD_BYTES
        limit = size - fmt.FRAME_OVERHEAD_BYTES
        expected = self._last_index + 1
        while offset <= limit:
            checksum, length, index, term, _, kind, tag, magic = unpack(data, offset)
            last = offset + header_bytes + length
            if (
                magic != frame_magic
                or last >= size
                or data[last] != 0xA5
                or crc32(view[offset + 4 : last], salt) != checksum
            ):
                break
            if kind == 4:
                if index != expected:
                    raise self._damage(segment.path, offset, f"entry {index} stands where {expected} belongs")
                positions.append(base_position | offset)
                terms.append(term)
                if tag == KIND_CONFIG:
                    self._config_indexes.append(index)
                expected += 1
            else:
                self._last_index = expected - 1
                payload = bytes(view[offset + header_bytes : last])
                self._replay_other(Frame(kind, tag, index, term, 0, payload, last + 1), segment, offset)
                self._cache_first = _NOTHING_CACHED
                expected = self._last_index + 1
            offset = last + 1
        self._last_index = expected - 1
        return offset

    def _replay_other(self, frame: Frame, segment: _Segment, offset: int) -> None:
        index = frame.index
        match frame.kind:
            case FrameKind.STATE if frame.term >= self._term:
                self._term, self._vote = frame.term, frame.payload
            case FrameKind.TRUNCATE if self._base_index <= index <= self._last_index:
                self._forget_from(index + 1)
            case FrameKind.TRUNCATE if index < self._base_index:
                # What this cut left standing was in older segments, and those were compacted away.
                self._forget_all(index, frame.term)
            case FrameKind.RESET:
                self._forget_all(index, frame.term)
            case _:
                reason = f"a frame of kind {frame.kind} for entry {index} makes no sense here"
                raise self._damage(segment.path, offset, reason)

    # Errors

    def _raise_if_unusable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StorageFailed("the journal is closed")

    def _fail(self, error: BaseException) -> StorageFailed:
        """Refuse everything from now on, because of `error`."""
        self._failure = StorageFailed(
            f"the journal in {self._directory} could not be read or written: {error}. The node stops; what "
            f"it had acknowledged is on the disk. Check the disk, then start it again"
        )
        return self._failure

    def _damage(self, path: str, offset: int, reason: str) -> JournalDamaged:
        return JournalDamaged(f"the journal file {path} is damaged at byte {offset}: {reason}. {_ADVICE}")

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


_pack_header = fmt.COVERED_HEADER.pack
_pack_checksum = fmt.CRC.pack


def _segment_name(head: SegmentHead) -> str:
    return f"{head.sequence:08d}-{head.base_index + 1:020d}.seg"
