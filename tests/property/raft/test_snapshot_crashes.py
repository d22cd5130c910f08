"""Snapshots through crashes at every change of the disk: the old or the new one, never something in between."""

from __future__ import annotations

import random

import pytest

from raft.errors import SnapshotDamaged
from raft.snapshots import FileSnapshotStore
from raft.storage_api import Config, SnapshotMeta
from tests.property.raft.simulated_disk import SimulatedCrash, SimulatedDisk

CONFIG = Config(voters={"n1": "a"})


def opened(disk: SimulatedDisk) -> FileSnapshotStore:
    return FileSnapshotStore.open("/s", files=disk, kept_max=1)


def chunks_of(index: int) -> list[bytes]:
    return [random.Random(index + number).randbytes(300) for number in range(3)]


def source_with(index: int) -> tuple[FileSnapshotStore, SnapshotMeta]:
    store = FileSnapshotStore.open("/s", files=SimulatedDisk(), kept_max=1)
    return store, store.write(index, 1, CONFIG, chunks_of(index))


def _write(disk: SimulatedDisk, done: list[int]) -> None:
    store = opened(disk)
    for index in (10, 20, 30, 40):
        store.write(index, 1, CONFIG, chunks_of(index))
        done.append(index)


def _receive(disk: SimulatedDisk, done: list[int]) -> None:
    store = opened(disk)
    for index in (10, 20, 30, 40):
        source, meta = source_with(index)
        receiver = store.receive(meta)
        while data := source.read(meta, receiver.offset, 250):
            receiver.write(receiver.offset, data)
        receiver.finish()
        done.append(index)


@pytest.mark.parametrize("script", [_write, _receive])
@pytest.mark.parametrize("how", ["kill", "bytes", "sectors"])
def test_a_crash_at_every_change_leaves_whole_snapshots_and_the_newest_finished_one(script, how: str) -> None:  # type: ignore[no-untyped-def]
    whole = SimulatedDisk()
    script(whole, [])
    assert whole.changes > 30
    for crash_at in range(1, whole.changes + 1):
        for seed in range(3):
            disk, done = SimulatedDisk(), []
            disk.crash_at, disk.crash_bytes = crash_at, random.Random(seed).randrange(400)
            with pytest.raises(SimulatedCrash):
                script(disk, done)
            _crash(disk, how, seed)
            store = opened(disk)
            latest = store.latest()
            newest_done = max(done, default=0)
            assert (0 if latest is None else latest.index) in (newest_done, newest_done + 10)
            assert not [name for name in disk.names() if name.endswith((".tmp", ".damaged"))]
            assert len(store.kept()) <= 1
            for meta in store.kept():
                assert list(store.chunks(meta)) == chunks_of(meta.index)
            # Whatever was being received goes on to its end.
            source, meta = source_with(newest_done + 10)
            receiver = store.receive(meta)
            while data := source.read(meta, receiver.offset, 1000):
                receiver.write(receiver.offset, data)
            try:
                receiver.finish()
            except SnapshotDamaged:
                pytest.fail("a resumed snapshot did not come out whole")
            _crash(disk, "bytes", seed)
            assert opened(disk).latest() == meta


def _crash(disk: SimulatedDisk, how: str, seed: int) -> None:
    disk.kill()
    if how != "kill":
        disk.lose_power(random.Random(seed), sectors=how == "sectors")
