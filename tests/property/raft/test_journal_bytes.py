"""Every byte and every bit of a journal's end: torn, lost or flipped, it is told, or exactly a prefix comes back."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from raft.errors import JournalDamaged
from raft.journal import FileJournal, JournalSettings
from raft.journal_format import FRAME_OVERHEAD_BYTES, HEAD_BYTES
from raft.storage_api import Entry
from tests.property.raft.simulated_disk import SimulatedDisk

SETTINGS = JournalSettings(segment_bytes=8192, reserve_bytes=512)
SEGMENT = "/j/00000001-00000000000000000001.seg"


def entry(index: int, term: int, size: int) -> Entry:
    """No byte of the payload is 0."""
    rng = random.Random(index * 1000 + term)
    return Entry(index, term, index % 3, bytes(rng.randrange(1, 256) for _ in range(size)))


def opened(disk: SimulatedDisk) -> FileJournal:
    return FileJournal.open("/j", files=disk, settings=SETTINGS)


def written(batches: list[list[Entry]]) -> tuple[SimulatedDisk, list[int]]:
    """A journal with these batches, one sync each; and where each entry's frame ends."""
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.set_term_vote(2, "n2")
    ends = []
    for batch in batches:
        journal.append(batch)
        journal.sync()
        ends += [
            journal._offset - sum(len(e.payload) + FRAME_OVERHEAD_BYTES for e in batch[number + 1 :])
            for number in range(len(batch))
        ]
    journal.close()
    return disk, ends


def with_content(content: bytes) -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.close(disk.open(SEGMENT, create=True))
    disk.content(SEGMENT)[:] = content
    return disk


def found(journal: FileJournal) -> list[Entry]:
    if journal.last_index == 0:
        return []
    return journal.entries(1, journal.last_index, 1 << 30)


BATCHES = [
    [entry(1, 2, 40)],
    [entry(2, 2, 600)],
    [entry(3, 2, 3), entry(4, 2, 0), entry(5, 2, 700), entry(6, 2, 30)],
]
ALL = [held for batch in BATCHES for held in batch]


@pytest.mark.parametrize("short_file", [False, True], ids=["zeros behind the cut", "file ends at the cut"])
def test_a_cut_at_every_byte_of_the_last_frames_leaves_the_exact_prefix(short_file: bool) -> None:
    disk, ends = written(BATCHES)
    whole = bytes(disk.content(SEGMENT))
    for cut in range(HEAD_BYTES, ends[-1] + 1):
        content = whole[:cut] if short_file else whole[:cut].ljust(len(whole), b"\0")
        torn = with_content(content)
        journal = opened(torn)
        survivors = [held for held, end in zip(ALL, ends, strict=True) if end <= cut]
        assert found(journal) == survivors, cut
        # It goes on from there, and what was torn never comes back.
        following = entry(len(survivors) + 1, 3, 5)
        journal.append([following])
        journal.sync()
        journal.close()
        journal = opened(torn)
        assert found(journal) == [*survivors, following], cut
        journal.close()


def test_every_flipped_bit_within_what_was_acknowledged_is_damage() -> None:
    disk, ends = written(BATCHES)
    whole = bytes(disk.content(SEGMENT))
    for position in range(ends[-1]):
        for bit in range(8):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            with pytest.raises(JournalDamaged, match=SEGMENT):
                opened(with_content(content))


def test_every_wrong_byte_is_damage_or_loses_at_most_the_last_frame() -> None:
    """Overwriting the end of the last frame with a 0 looks just like a write that was cut short."""
    disk, ends = written(BATCHES)
    whole = bytes(disk.content(SEGMENT))
    rng = random.Random(5)
    torn_look_alikes = 0
    for position in range(ends[-1]):
        for value in {0, 255, rng.randrange(256)} - {whole[position]}:
            content = bytearray(whole)
            content[position] = value
            try:
                journal = opened(with_content(content))
            except JournalDamaged:
                continue
            assert found(journal) == ALL[:-1]
            torn_look_alikes += 1
            journal.close()
    assert torn_look_alikes <= 2


def test_flipped_bits_behind_the_end_change_nothing() -> None:
    disk, ends = written(BATCHES)
    whole = bytes(disk.content(SEGMENT))
    for position in [*range(ends[-1], ends[-1] + 700), len(whole) - 1]:
        content = bytearray(whole)
        content[position] ^= 1 << (position % 8)
        journal = opened(with_content(content))
        assert found(journal) == ALL
        assert journal.stats().torn_bytes > 0
        journal.close()


def test_any_set_of_lost_sectors_of_an_unsynced_batch_leaves_a_prefix() -> None:
    synced = [entry(1, 2, 100)]
    batch = [entry(2, 2, 300), entry(3, 2, 900), entry(4, 2, 20), entry(5, 2, 20), entry(6, 2, 1200)]
    disk, ends = written([synced, batch])
    whole = bytes(disk.content(SEGMENT))
    first_lost = ends[0]
    sectors = range(first_lost // 512, (ends[-1] - 1) // 512 + 1)
    assert len(sectors) >= 6
    for count in range(1, len(sectors) + 1):
        for lost in combinations(sectors, count):
            content = bytearray(whole)
            for sector in lost:
                start = max(sector * 512, first_lost)
                content[start : (sector + 1) * 512] = bytes((sector + 1) * 512 - start)
            journal = opened(with_content(content))
            survivors = [
                held
                for held, end in zip(synced + batch, ends, strict=True)
                if end <= max(min(lost) * 512, first_lost)
            ]
            assert found(journal) == survivors
            journal.close()


def test_a_lost_sector_of_what_a_later_frame_says_was_synced_is_damage() -> None:
    disk, ends = written([[entry(1, 2, 2000)], [entry(2, 2, 10)]])
    content = bytearray(disk.content(SEGMENT))
    content[1024:1536] = bytes(512)
    with pytest.raises(JournalDamaged, match=f"on disk up to byte {ends[0]}"):
        opened(with_content(content))


def test_a_payload_that_holds_journal_frames_is_not_mistaken_for_them() -> None:
    """Else a user could make a torn write look like damage."""
    disk, ends = written(BATCHES)
    embedded = bytes(disk.content(SEGMENT))[HEAD_BYTES : ends[2]]
    outer = SimulatedDisk()
    outer.salt()  # another salt than the embedded one's
    journal = opened(outer)
    journal.append([entry(1, 1, 10)])
    journal.sync()
    start = journal._offset
    journal.append([Entry(2, 1, 0, embedded + b"end")])
    journal.sync()
    journal.close()
    whole = bytes(outer.content(SEGMENT))
    for cut in range(start, len(whole[:start]) + len(embedded)):
        journal = opened(with_content(whole[:cut].ljust(len(whole), b"\0")))
        assert found(journal) == [entry(1, 1, 10)]
        journal.close()


def test_a_segment_before_the_last_must_be_whole() -> None:
    disk = SimulatedDisk()
    journal = opened(disk)
    for index in range(1, 40):
        journal.append([entry(index, 1, 400)])
        journal.sync()
    journal.close()
    names = [name for name in disk.names() if name.endswith(".seg")]
    assert len(names) >= 3
    for name in names[:-1]:
        whole = bytes(disk.content(name))
        used = len(whole.rstrip(b"\0"))
        for position in range(0, used, 13):
            disk.content(name)[position] ^= 16
            with pytest.raises(JournalDamaged):
                opened(disk)
            disk.kill()
            disk.content(name)[:] = whole
        for cut in range(HEAD_BYTES, used, 29):
            disk.content(name)[cut:] = bytes(len(whole) - cut)
            with pytest.raises(JournalDamaged):
                opened(disk)
            disk.kill()
            disk.content(name)[:] = whole
    opened(disk).close()
