"""What the journal holds, and that it holds the same after it was closed and opened again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from raft.errors import JournalDamaged, StorageFailed
from raft.files import DataDirectoryLocked, DirectoryLock, LocalFiles
from raft.journal import FileJournal, JournalSettings
from raft.journal_format import SegmentHead, encode_head, end_of_content
from raft.storage_api import KIND_COMMANDS, KIND_CONFIG, Entry, Journal

SMALL = JournalSettings(segment_bytes=4096, reserve_bytes=512, cache_bytes_max=600)


def entry(index: int, term: int = 1, size: int = 20, kind: int = KIND_COMMANDS) -> Entry:
    return Entry(index, term, kind, bytes([index % 251 + 1]) * size)


def opened(directory: Path, settings: JournalSettings = SMALL) -> FileJournal:
    return FileJournal.open(directory / "journal", settings=settings)


def reopened(journal: FileJournal, directory: Path, settings: JournalSettings = SMALL) -> FileJournal:
    journal.close()
    return opened(directory, settings)


def everything(journal: FileJournal) -> list[Entry]:
    if journal.last_index == journal.base_index:
        return []
    return journal.entries(journal.base_index + 1, journal.last_index, 1 << 30)


def test_it_fills_the_shape_that_the_driver_asks_for(tmp_path: Path) -> None:
    journal: Journal = opened(tmp_path)
    assert (journal.term, journal.voted_for, journal.base_index, journal.base_term, journal.last_index) == (
        (0, "", 0, 0, 0)
    )
    journal.close()


def test_synced_entries_and_votes_are_there_after_reopening(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.set_term_vote(1, "n1")
    journal.append([entry(1), entry(2, kind=KIND_CONFIG)])
    journal.append([entry(3)])
    journal.set_term_vote(2, "")
    journal.append([entry(4, term=2)])
    journal.sync()
    before = everything(journal)
    journal = reopened(journal, tmp_path)
    assert everything(journal) == before == [entry(1), entry(2, kind=KIND_CONFIG), entry(3), entry(4, term=2)]
    assert (journal.term, journal.voted_for) == (2, "")
    assert journal.term_runs() == [(1, 1), (4, 2)]
    assert journal.config_entries() == [entry(2, kind=KIND_CONFIG)]
    journal.close()


def test_a_log_over_many_segments_reads_the_same_from_memory_and_from_disk(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for index in range(1, 300):
        journal.append([entry(index, term=index // 100 + 1, size=index)])
        if index % 7 == 0:
            journal.sync()
    journal.sync()
    assert journal.stats().segments > 10
    assert journal.stats().cached_bytes <= SMALL.cache_bytes_max
    before = everything(journal)
    assert [held.index for held in before] == list(range(1, 300))
    journal = reopened(journal, tmp_path)
    assert everything(journal) == before
    assert journal.entries(5, 200, 0) == [before[4]]
    assert journal.entries(5, 200, 5 + 6 + 7) == before[4:7]
    assert journal.entries(299, 299, 10) == [before[298]]
    journal.close()


def test_an_overwritten_suffix_is_gone_and_stays_gone(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([entry(index) for index in range(1, 11)])
    journal.sync()
    journal.append([entry(6, term=2), entry(7, term=2)])
    journal.sync()
    expected = [entry(index) for index in range(1, 6)] + [entry(6, term=2), entry(7, term=2)]
    assert everything(journal) == expected
    journal = reopened(journal, tmp_path)
    assert everything(journal) == expected
    assert journal.term_runs() == [(1, 1), (6, 2)]
    journal.close()


def test_a_cut_config_entry_is_no_longer_listed(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([entry(1, kind=KIND_CONFIG), entry(2), entry(3, kind=KIND_CONFIG)])
    journal.append([entry(2, term=2)])
    journal.sync()
    assert journal.config_entries() == [entry(1, kind=KIND_CONFIG)]
    journal = reopened(journal, tmp_path)
    assert journal.config_entries() == [entry(1, kind=KIND_CONFIG)]
    journal.close()


def test_compaction_drops_whole_segments_and_keeps_term_vote_and_base(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.set_term_vote(7, "n3")
    journal.append([entry(index, term=index // 50 + 1, size=100) for index in range(1, 201)])
    journal.sync()
    kept = journal.entries(151, 200, 1 << 20)
    files_before = len(list((tmp_path / "journal").glob("*.seg")))
    journal.compact(150)
    assert 100 < journal.base_index <= 150
    assert journal.base_term == journal.base_index // 50 + 1
    assert len(list((tmp_path / "journal").glob("*.seg"))) < files_before
    base = (journal.base_index, journal.base_term)
    journal = reopened(journal, tmp_path)
    assert (journal.base_index, journal.base_term, journal.term, journal.voted_for) == (*base, 7, "n3")
    assert journal.entries(151, 200, 1 << 20) == kept
    with pytest.raises(IndexError):
        journal.entries(journal.base_index, 160, 100)
    journal.close()


def test_compaction_waits_for_a_cut_that_is_not_yet_on_the_disk(tmp_path: Path) -> None:
    """Else a crash would leave the dropped suffix without the log that it stood on."""
    journal = opened(tmp_path)
    journal.append([entry(index, size=100) for index in range(1, 101)])
    journal.sync()
    oldest_needed = journal.base_index
    journal.append([entry(11, term=2)])
    detached = journal._detach_segments(10)
    assert detached == []
    assert journal.base_index == oldest_needed
    journal.close()


def test_reset_replaces_the_log_by_its_base(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.set_term_vote(4, "n2")
    journal.append([entry(index, size=100) for index in range(1, 101)])
    journal.sync()
    journal.reset(5000, 3)
    journal.append([entry(5001, term=4)])
    journal.sync()
    for _ in range(2):
        assert (journal.base_index, journal.base_term, journal.last_index) == (5000, 3, 5001)
        assert everything(journal) == [entry(5001, term=4)]
        assert (journal.term, journal.voted_for) == (4, "n2")
        journal.compact(5000)
        assert journal.stats().segments == 1
        journal = reopened(journal, tmp_path)
    journal.close()


def test_what_was_not_synced_is_lost_as_a_whole_or_in_part_but_only_from_the_end(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([entry(1)])
    journal.sync()
    journal.append([entry(2)])
    journal = reopened(journal, tmp_path)
    assert everything(journal) == [entry(1)]
    journal.close()


@pytest.mark.parametrize(
    ("_case", "indexes"),
    [("gap behind the log", [3]), ("gap within the batch", [2, 4]), ("index 0", [0])],
)
def test_entries_that_do_not_fit_the_log_are_refused_and_change_nothing(
    tmp_path: Path, _case: str, indexes: list[int]
) -> None:
    journal = opened(tmp_path)
    journal.append([entry(1)])
    with pytest.raises(ValueError, match=r"entry \d"):
        journal.append([entry(index) for index in indexes])
    assert everything(journal) == [entry(1)]
    journal.close()


def test_an_entry_larger_than_a_segment_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    largest = 4096 - 512 - 33
    journal.append([entry(1, size=largest)])
    with pytest.raises(ValueError, match="larger than a segment"):
        journal.append([entry(2, size=largest + 1)])
    journal.sync()
    journal = reopened(journal, tmp_path)
    assert everything(journal) == [entry(1, size=largest)]
    journal.close()


def test_a_term_never_falls_and_a_vote_never_changes(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.set_term_vote(3, "")
    journal.set_term_vote(3, "n1")
    journal.set_term_vote(3, "n1")
    with pytest.raises(ValueError, match="cannot follow"):
        journal.set_term_vote(3, "n2")
    with pytest.raises(ValueError, match="cannot follow"):
        journal.set_term_vote(3, "")
    with pytest.raises(ValueError, match="cannot follow"):
        journal.set_term_vote(2, "n1")
    assert (journal.term, journal.voted_for) == (3, "n1")
    journal.close()


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([entry(index, size=100) for index in range(1, 101)])
    journal.sync()
    journal.close()
    segments = sorted((tmp_path / "journal").glob("*.seg"))
    segments[1].unlink()
    with pytest.raises(JournalDamaged, match="number 2, is missing"):
        opened(tmp_path)


def test_a_damaged_middle_says_file_offset_and_what_to_do(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for index in range(1, 4):
        journal.append([entry(index)])
        journal.sync()
    journal.close()
    (segment,) = (tmp_path / "journal").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[512 + 40] ^= 1
    segment.write_bytes(content)
    with pytest.raises(JournalDamaged) as caught:
        opened(tmp_path)
    text = str(caught.value)
    assert str(segment) in text
    assert "at byte 512" in text
    assert "move this node's data directory away" in text


def test_damage_that_comes_later_is_found_by_the_read(tmp_path: Path) -> None:
    journal = opened(tmp_path, JournalSettings(segment_bytes=4096, reserve_bytes=512, cache_bytes_max=0))
    journal.append([entry(1), entry(2)])
    journal.sync()
    (segment,) = (tmp_path / "journal").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[512 + 40] ^= 1
    segment.write_bytes(content)
    with pytest.raises(JournalDamaged, match="entry 1 does not read back"):
        journal.entries(1, 2, 1000)
    with pytest.raises(JournalDamaged):
        journal.append([entry(3)])
    journal.close()


def test_a_closed_journal_refuses_everything(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.close()
    journal.close()
    acts: list[Callable[[], None]] = [
        lambda: journal.append([entry(1)]),
        lambda: journal.set_term_vote(1, ""),
        journal.sync,
        lambda: journal.compact(1),
        lambda: journal.reset(1, 1),
    ]
    for act in acts:
        with pytest.raises(StorageFailed, match="closed"):
            act()
    assert not journal.has_room(1)


def test_settings_may_change_between_two_starts(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([entry(1)])
    journal.sync()
    larger = JournalSettings(segment_bytes=8192, reserve_bytes=512)
    journal = reopened(journal, tmp_path, larger)
    journal.append([entry(2, size=7000)])
    journal.sync()
    journal = reopened(journal, tmp_path, SMALL)
    assert everything(journal) == [entry(1), entry(2, size=7000)]
    journal.append([entry(3, size=1000)])
    journal.sync()
    journal = reopened(journal, tmp_path, SMALL)
    assert journal.last_index == 3
    journal.close()


@pytest.mark.parametrize(
    "wrong",
    [{"segment_bytes": 100}, {"segment_bytes": 4096, "reserve_bytes": 4000}, {"open_segments_max": 1}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        JournalSettings(**wrong)


def test_open_files_are_bounded_and_old_segments_still_read(tmp_path: Path) -> None:
    settings = JournalSettings(segment_bytes=4096, reserve_bytes=0, cache_bytes_max=0, open_segments_max=4)
    journal = opened(tmp_path, settings)
    for index in range(1, 201):
        journal.append([entry(index, size=500)])
        journal.sync()
    journal = reopened(journal, tmp_path, settings)
    assert journal.stats().segments > 20
    for index in (1, 200, 50, 150, 2):
        assert journal.entries(index, index, 0) == [entry(index, size=500)]
    assert sum(segment.descriptor >= 0 for segment in journal._segments) <= 5
    journal.close()


def test_the_second_user_of_a_data_directory_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    import os

    first = DirectoryLock(tmp_path / "data")
    with pytest.raises(DataDirectoryLocked, match=f"pid {os.getpid()}") as caught:
        DirectoryLock(tmp_path / "data")
    assert caught.value.holder == os.getpid()
    first.release()
    first.release()
    DirectoryLock(tmp_path / "data").release()


def test_a_bounded_read_of_a_long_log_reads_about_that_much_of_the_file(tmp_path: Path) -> None:
    """Each read of a follower's catching up names the whole rest of the log; that must not be read every time."""
    read_bytes = 0

    class CountingFiles(LocalFiles):
        def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
            nonlocal read_bytes
            read_bytes += length
            return super().read_at(descriptor, length, offset)

    settings = JournalSettings(segment_bytes=1 << 20, reserve_bytes=0, cache_bytes_max=0)
    journal = FileJournal.open(tmp_path / "journal", files=CountingFiles(), settings=settings)
    journal.append([entry(index, size=10) for index in range(1, 20_001)])
    journal.sync()
    read_bytes = 0
    assert len(journal.entries(1, 20_000, 1000)) == 100
    assert read_bytes < 20_000
    journal.close()


def test_the_end_of_what_is_not_zero_is_found_across_pieces() -> None:
    for position in (0, 1, 65535, 65536, 65537, 131071, 199_999):
        data = bytearray(200_000)
        data[position] = 1
        for offset in (0, 1, 500, 65536, 70_000, 199_999, 200_000):
            assert end_of_content(bytes(data), offset) == max(offset, position + 1)
    assert end_of_content(bytes(1000), 7) == 7


def test_a_state_behind_an_older_term_is_damage(tmp_path: Path) -> None:
    """A frame that is whole but contradicts those before it was not written by this program."""
    journal = opened(tmp_path)
    journal.set_term_vote(5, "n1")
    journal._term = 0
    journal._vote = b""
    journal.set_term_vote(4, "n2")
    journal.sync()
    with pytest.raises(JournalDamaged, match="makes no sense"):
        reopened(journal, tmp_path)


def test_an_entry_out_of_place_is_damage(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([entry(1)])
    journal._append_entry(entry(3))
    journal.sync()
    with pytest.raises(JournalDamaged, match="entry 3 stands where 2 belongs"):
        reopened(journal, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda head: head[:100], "shorter than a segment head"),
        (lambda head: b"\0" * 512, "checksum of the segment head"),
        (lambda head: _with_checksum(b"X" + head[5:]), "not a journal segment"),
        (lambda head: _with_checksum(head[4:12] + b"\x09" + head[13:]), "format version 9"),
    ],
)
def test_a_head_that_is_not_ours_is_damage(
    tmp_path: Path, spoil: Callable[[bytes], bytes], text: str
) -> None:
    opened(tmp_path).close()
    (segment,) = (tmp_path / "journal").glob("*.seg")
    content = segment.read_bytes()
    head = spoil(content[:512])
    segment.write_bytes(head + content[512:] if len(head) == 512 else head)
    with pytest.raises(JournalDamaged, match=text):
        opened(tmp_path)


def _with_checksum(body: bytes) -> bytes:
    return crc32(body).to_bytes(4, "little") + body


def test_a_name_too_long_to_vote_for_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.set_term_vote(1, "n" * 400)
    with pytest.raises(ValueError, match="at most 400 bytes"):
        journal.set_term_vote(2, "n" * 401)
    with pytest.raises(ValueError, match="longer than 400"):
        encode_head(SegmentHead(1, 0, 0, 0, b"n" * 401, 0, 0))
    journal.append([entry(index, size=500) for index in range(1, 30)])  # the heads hold it as well
    journal.sync()
    journal = reopened(journal, tmp_path)
    assert journal.voted_for == "n" * 400
    journal.close()


def test_a_reset_cannot_go_back_below_the_base(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.reset(100, 1)
    with pytest.raises(ValueError, match="cannot go back to 99"):
        journal.reset(99, 1)
    journal.close()


def test_an_empty_append_and_a_sync_of_nothing_do_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([])
    journal.sync()
    assert journal.stats().buffered_bytes == 0
    journal.close()
