"""Snapshots on disk: what is kept, what counts when one is damaged, and receiving with resume."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import pytest

from raft.errors import SnapshotDamaged, StorageFailed, StorageFull
from raft.snapshots import FileSnapshotStore
from raft.storage_api import Config, SnapshotMeta, SnapshotStore
from tests.property.raft.simulated_disk import SimulatedDisk

CONFIG = Config(voters={"n1": "a:1", "n2": "b:2"}, learners={"n3": "c:3"})
CHUNKS = [b"first", b"", b"\0" * 700, bytes(range(256)) * 5]


def opened(disk: SimulatedDisk) -> FileSnapshotStore:
    return FileSnapshotStore.open("/s", files=disk)


def path_of(meta: SnapshotMeta) -> str:
    return f"/s/{meta.index:020d}-{meta.term:020d}.snap"


def sent(
    source: SnapshotStore, meta: SnapshotMeta, receiver_store: SnapshotStore, step: int = 333
) -> SnapshotMeta:
    receiver = receiver_store.receive(meta)
    while data := source.read(meta, receiver.offset, step):
        receiver.write(receiver.offset, data)
    return receiver.finish()


def test_a_snapshot_reads_back_as_written_also_after_reopening() -> None:
    disk = SimulatedDisk()
    store: SnapshotStore = opened(disk)
    assert store.latest() is None
    meta = store.write(17, 3, CONFIG, iter(CHUNKS))
    assert (meta.index, meta.term, meta.config) == (17, 3, CONFIG)
    assert meta.size == len(disk.content(path_of(meta)))
    for found in (store, opened(disk)):
        assert found.latest() == meta
        assert list(found.chunks(meta)) == CHUNKS
    assert disk.open_descriptors() == 0


def test_a_snapshot_may_have_no_chunks() -> None:
    disk = SimulatedDisk()
    meta = opened(disk).write(1, 1, Config(), [])
    assert list(opened(disk).chunks(meta)) == []


def test_the_newest_three_are_kept() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    metas = [store.write(index, 1, CONFIG, CHUNKS) for index in (10, 20, 30, 40, 50)]
    assert store.kept() == metas[2:]
    assert opened(disk).kept() == metas[2:]
    assert len(disk.names()) == 3
    with pytest.raises(SnapshotDamaged, match="no longer kept"):
        list(store.chunks(metas[0]))
    with pytest.raises(SnapshotDamaged, match="no longer kept"):
        store.read(metas[0], 0, 10)


def test_writing_the_same_index_again_replaces_it() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    store.write(10, 1, CONFIG, [b"old"])
    meta = store.write(10, 1, CONFIG, [b"new"])
    assert store.kept() == [meta]
    assert list(store.chunks(meta)) == [b"new"]


def test_when_the_newest_is_damaged_the_one_before_counts_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    older = store.write(10, 1, CONFIG, CHUNKS)
    newer = store.write(20, 2, CONFIG, CHUNKS)
    disk.content(path_of(newer))[100] ^= 4
    with caplog.at_level(logging.WARNING):
        store = opened(disk)
    assert store.latest() == older
    assert store.kept() == [older]
    (record,) = caplog.records
    assert record.__dict__["event"] == "raft.snapshot_damaged"
    assert "checksum" in record.__dict__["reason"]
    assert [name for name in disk.names() if name.endswith(".damaged")]
    # It is looked at once only, and does not pile up.
    caplog.clear()
    opened(disk)
    assert not caplog.records


def test_every_flipped_bit_is_found_by_opening_and_by_reading() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    meta = store.write(10, 1, CONFIG, [b"chunk one", b"chunk two"])
    whole = bytes(disk.content(path_of(meta)))
    for position in range(len(whole)):
        for bit in range(8):
            disk.content(path_of(meta))[position] ^= 1 << bit
            found = []
            with pytest.raises(SnapshotDamaged):
                found.extend(store.chunks(meta))
            assert found in ([], [b"chunk one"], [b"chunk one", b"chunk two"])
            disk.content(path_of(meta))[:] = whole
        spoiled = SimulatedDisk()
        spoiled.close(spoiled.open(path_of(meta), create=True))
        spoiled.content(path_of(meta))[:] = whole
        spoiled.content(path_of(meta))[position] ^= 16
        assert opened(spoiled).latest() is None


def test_every_cut_and_every_addition_is_found() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    meta = store.write(10, 1, CONFIG, [b"chunk one", b"chunk two"])
    whole = bytes(disk.content(path_of(meta)))
    for spoiled in [*(whole[:cut] for cut in range(len(whole))), whole + b"\0", whole + whole]:
        disk.content(path_of(meta))[:] = spoiled
        with pytest.raises(SnapshotDamaged):
            list(store.chunks(meta))
    disk.content(path_of(meta))[:] = whole
    assert list(store.chunks(meta)) == [b"chunk one", b"chunk two"]


def test_a_file_under_the_name_of_another_snapshot_does_not_count() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    meta = store.write(10, 1, CONFIG, CHUNKS)
    disk.rename(path_of(meta), "/s/00000000000000000099-00000000000000000001.snap")
    assert opened(disk).latest() is None


def test_an_error_of_the_source_leaves_nothing_behind() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    kept = store.write(5, 1, CONFIG, CHUNKS)

    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("the state machine failed")

    with pytest.raises(RuntimeError, match="the state machine failed"):
        store.write(10, 1, CONFIG, chunks())
    assert disk.names() == [path_of(kept)]
    assert disk.open_descriptors() == 0
    assert store.kept() == [kept]


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageFailed)],
)
@pytest.mark.parametrize("operation", ["write_at", "sync_data", "rename", "open"])
def test_a_failing_disk_leaves_the_kept_ones_alone(
    operation: str, number: int, error: type[Exception]
) -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    kept = store.write(5, 1, CONFIG, CHUNKS)
    disk.fault = lambda called, _path: number if called == operation else None
    with pytest.raises(error):
        store.write(10, 1, CONFIG, CHUNKS)
    disk.fault = lambda _operation, _path: None
    assert store.kept() == [kept]
    assert disk.names() == [path_of(kept)]
    assert disk.open_descriptors() == 0
    assert store.write(10, 1, CONFIG, CHUNKS) == store.latest()


def test_a_temporary_file_that_cannot_be_removed_is_logged_and_goes_at_the_next_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    disk.fault = lambda called, _path: errno.EIO if called in ("sync_data", "unlink") else None
    with caplog.at_level(logging.WARNING), pytest.raises(StorageFailed):
        store.write(10, 1, CONFIG, CHUNKS)
    assert caplog.records[0].__dict__["event"] == "raft.snapshot_discard_failed"
    disk.fault = lambda _operation, _path: None
    assert disk.names() == ["/s/writing-10.tmp"]
    opened(disk)
    assert disk.names() == []


def test_a_directory_that_cannot_be_used_is_an_error() -> None:
    disk = SimulatedDisk()
    disk.fault = lambda _operation, _path: errno.EACCES
    with pytest.raises(StorageFailed, match="cannot be opened"):
        opened(disk)


def test_a_read_error_while_sending_or_restoring_is_damage_of_that_snapshot() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    meta = store.write(5, 1, CONFIG, CHUNKS)
    for operation in ("read_at", "open"):
        disk.fault = lambda called, _path, failing=operation: errno.EIO if called == failing else None
        with pytest.raises(SnapshotDamaged):
            store.read(meta, 0, 100)
        with pytest.raises(SnapshotDamaged):
            list(store.chunks(meta))
    assert disk.open_descriptors() == 0


def test_a_snapshot_sent_in_pieces_is_the_same_file() -> None:
    here, there = SimulatedDisk(), SimulatedDisk()
    source, target = opened(here), opened(there)
    meta = source.write(17, 3, CONFIG, CHUNKS)
    assert sent(source, meta, target) == meta
    assert target.latest() == meta
    assert list(target.chunks(meta)) == CHUNKS
    assert there.content(path_of(meta)) == here.content(path_of(meta))
    assert there.names() == [path_of(meta)]
    assert there.open_descriptors() == 0


def test_receiving_goes_on_behind_the_last_sound_chunk_after_a_restart() -> None:
    here, there = SimulatedDisk(), SimulatedDisk()
    source, target = opened(here), opened(there)
    chunks = [bytes([number]) * 100 for number in range(1, 20)]
    meta = source.write(17, 3, CONFIG, chunks)
    receiver = target.receive(meta)
    receiver.write(0, source.read(meta, 0, 1000))
    assert receiver.offset == 1000
    there.kill()
    resumed = opened(there).receive(meta)
    assert 880 < resumed.offset < 1000
    resumed.abort()
    there.content(f"/s/receiving-{meta.digest.hex()}.part")[500] ^= 1
    target = opened(there)
    resumed = target.receive(meta)
    assert 300 < resumed.offset < 500
    resumed.abort()
    assert sent(source, meta, target) == meta
    assert list(target.chunks(meta)) == chunks


def test_every_place_to_stop_and_go_on_gives_the_same_file() -> None:
    here = SimulatedDisk()
    source = opened(here)
    meta = source.write(17, 3, CONFIG, [b"a" * 50, b"b" * 60, b"c"])
    for stop in range(meta.size + 1):
        there = SimulatedDisk()
        opened(there).receive(meta).write(0, source.read(meta, 0, stop))
        there.kill()
        target = opened(there)
        assert target.latest() is None
        assert sent(source, meta, target, step=7) == meta
        assert there.names() == [path_of(meta)]


def test_a_piece_at_the_wrong_offset_changes_nothing() -> None:
    source, target = opened(SimulatedDisk()), opened(SimulatedDisk())
    meta = source.write(17, 3, CONFIG, CHUNKS)
    receiver = target.receive(meta)
    assert receiver.write(0, source.read(meta, 0, 100)) == 100
    assert receiver.write(0, b"again") == 100
    assert receiver.write(200, b"ahead") == 100
    assert receiver.offset == 100


def test_a_snapshot_that_arrives_damaged_is_refused_and_receiving_begins_anew() -> None:
    there = SimulatedDisk()
    source, target = opened(SimulatedDisk()), opened(there)
    meta = source.write(17, 3, CONFIG, CHUNKS)
    receiver = target.receive(meta)
    spoiled = bytearray(source.read(meta, 0, meta.size))
    spoiled[-40] ^= 1
    receiver.write(0, bytes(spoiled))
    with pytest.raises(SnapshotDamaged, match="received damaged"):
        receiver.finish()
    assert target.latest() is None
    assert there.names() == []
    assert there.open_descriptors() == 0
    assert sent(source, meta, target) == meta


def test_a_sound_file_that_is_not_the_announced_one_is_refused() -> None:
    source, target = opened(SimulatedDisk()), opened(SimulatedDisk())
    meta = source.write(17, 3, CONFIG, CHUNKS)
    lie = SnapshotMeta(99, meta.term, meta.config, meta.size, meta.digest)
    receiver = target.receive(lie)
    receiver.write(0, source.read(meta, 0, meta.size))
    with pytest.raises(SnapshotDamaged, match="it says that it is"):
        receiver.finish()
    assert target.latest() is None


def test_too_few_and_too_many_bytes_are_refused() -> None:
    there = SimulatedDisk()
    source, target = opened(SimulatedDisk()), opened(there)
    meta = source.write(17, 3, CONFIG, CHUNKS)
    receiver = target.receive(meta)
    receiver.write(0, source.read(meta, 0, 100))
    with pytest.raises(SnapshotDamaged, match=f"100 of {meta.size} bytes"):
        receiver.finish()
    receiver = target.receive(meta)
    assert receiver.offset == 0
    receiver.write(0, source.read(meta, 0, meta.size))
    with pytest.raises(SnapshotDamaged, match="more than"):
        receiver.write(meta.size, b"x")
    assert there.names() == []
    with pytest.raises(StorageFailed, match="closed"):
        receiver.write(meta.size, b"")


def test_receiving_another_snapshot_removes_the_partial_file_of_the_first() -> None:
    there = SimulatedDisk()
    source, target = opened(SimulatedDisk()), opened(there)
    first = source.write(17, 3, CONFIG, CHUNKS)
    second = source.write(18, 3, CONFIG, CHUNKS)
    receiver = target.receive(first)
    receiver.write(0, source.read(first, 0, 200))
    receiver.abort()
    target.receive(second).abort()
    assert there.names() == [f"/s/receiving-{second.digest.hex()}.part"]


def test_a_full_disk_while_receiving_keeps_what_is_there() -> None:
    there = SimulatedDisk()
    source, target = opened(SimulatedDisk()), opened(there)
    meta = source.write(17, 3, CONFIG, CHUNKS)
    receiver = target.receive(meta)
    receiver.write(0, source.read(meta, 0, 300))
    there.capacity = 300
    with pytest.raises(StorageFull):
        receiver.write(300, source.read(meta, 300, 300))
    there.capacity = 1 << 20
    while data := source.read(meta, receiver.offset, 300):
        receiver.write(receiver.offset, data)
    assert receiver.finish() == meta


def test_chunks_and_member_lists_that_are_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import raft.snapshots

    disk = SimulatedDisk()
    store = opened(disk)
    monkeypatch.setattr(raft.snapshots, "CHUNK_BYTES_MAX", 10)
    store.write(1, 1, CONFIG, [b"x" * 10])
    with pytest.raises(ValueError, match="11 bytes"):
        store.write(2, 1, CONFIG, [b"x" * 11])
    with pytest.raises(ValueError, match="list of members"):
        store.write(2, 1, Config(voters={"n": "x" * (1 << 20)}), [])
    assert [meta.index for meta in store.kept()] == [1]


def test_at_least_one_snapshot_must_be_kept() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FileSnapshotStore("/s", SimulatedDisk(), 0)
