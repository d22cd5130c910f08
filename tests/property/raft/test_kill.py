"""Real processes on the real disk, killed with SIGKILL while they write: what they reported as synced is there.

The writer prints a line after each finished sync or snapshot. The test kills it at a random moment, looks, and starts
the next one on the same directory.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from raft.files import DataDirectoryLocked, DirectoryLock
from raft.journal import FileJournal, JournalSettings
from raft.snapshots import FileSnapshotStore
from raft.storage_api import Entry

ROOT = Path(__file__).parents[3]
SETTINGS = JournalSettings(segment_bytes=65536, reserve_bytes=4096)
ROUNDS = 12


def payload(index: int, term: int) -> bytes:
    return random.Random(index * 1000 + term).randbytes(200 + index % 700)


WRITER = """
import sys
from raft.files import DirectoryLock
from raft.journal import FileJournal
from raft.snapshots import FileSnapshotStore
from raft.storage_api import Config, Entry
from tests.property.raft.test_kill import SETTINGS, payload

lock = DirectoryLock(sys.argv[1])
journal = FileJournal.open(sys.argv[1] + "/journal", settings=SETTINGS)
snapshots = FileSnapshotStore.open(sys.argv[1] + "/snapshots")
term = journal.term + 1
journal.set_term_vote(term, "n1")
journal.sync()
print("term", term, flush=True)
index = max(journal.base_index, journal.last_index - 3)  # a new term overwrites some of the old one's end
while True:
    entries = [Entry(index + number, term, 0, payload(index + number, term)) for number in range(1, 8)]
    journal.append(entries)
    journal.sync()
    index += 7
    print("synced", index, flush=True)
    if index % 91 == 0:
        snapshots.write(index, term, Config(), [payload(index, number) for number in range(5)])
        print("snapshot", index, flush=True)
        journal.compact(index - 30)
"""


def test_a_process_killed_at_random_moments_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    rng = random.Random(11)
    data = tmp_path / "data"
    terms: dict[int, int] = {}  # index -> term of what was last reported there
    for _ in range(ROUNDS):
        term, synced, snapshot = _run_and_kill(data, lines=rng.randrange(2, 120))
        lock = DirectoryLock(data)  # died with its process
        journal = FileJournal.open(data / "journal", settings=SETTINGS)
        snapshots = FileSnapshotStore.open(data / "snapshots")
        assert journal.term >= term
        assert journal.voted_for == "n1"
        assert journal.last_index >= synced
        for held in _entries(journal):
            assert held.payload == payload(held.index, held.term)
            if held.index <= synced and terms.get(held.index, 0) > held.term:
                raise AssertionError(f"entry {held.index} went back to term {held.term}")
            terms[held.index] = held.term
        latest = snapshots.latest()
        if snapshot:
            assert latest is not None
            assert latest.index >= snapshot
        if latest is not None:
            assert journal.base_index <= latest.index
            assert list(snapshots.chunks(latest)) == [payload(latest.index, number) for number in range(5)]
        journal.close()
        lock.release()


def _entries(journal: FileJournal) -> list[Entry]:
    if journal.base_index == journal.last_index:
        return []
    return journal.entries(journal.base_index + 1, journal.last_index, 1 << 30)


def _run_and_kill(data: Path, *, lines: int) -> tuple[int, int, int]:
    """(term, index synced, snapshot index) as last reported before the process was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    seen = {"term": 0, "synced": 0, "snapshot": 0}
    assert process.stdout is not None
    with process.stdout:
        for number, line in enumerate(process.stdout):
            _note(seen, line)
            if number == lines:
                process.kill()
        # The loop went on to the end of the pipe: whatever was printed before the kill counts.
    assert process.wait() == -9
    return seen["term"], seen["synced"], seen["snapshot"]


def _note(seen: dict[str, int], line: str) -> None:
    word, _, number = line.strip().partition(" ")
    if line.endswith("\n"):
        seen[word] = int(number)


def test_a_second_process_on_the_same_directory_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from raft.files import DirectoryLock\n"
            "lock = DirectoryLock(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirectoryLocked, match=f"pid {holder.pid}") as caught:
            DirectoryLock(tmp_path)
        assert caught.value.holder == holder.pid
        holder.kill()
        holder.wait()
        DirectoryLock(tmp_path).release()
    finally:
        holder.kill()
        holder.wait()
        for pipe in (holder.stdin, holder.stdout):
            if pipe is not None:
                pipe.close()
