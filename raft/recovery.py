"""From what is on the disk to a running core: who this node is, a new group's first entry, what a crash left half done.

Everything here blocks and runs in a worker thread before anything else does.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Mapping
from pathlib import Path

from raft.core import Core
from raft.errors import SettingsInvalid, StorageFailed
from raft.log import Log, decode_config, encode_config
from raft.machine import StateMachine
from raft.settings import Settings
from raft.storage_api import KIND_CONFIG, Config, Entry, Journal, SnapshotStore

_NODE_ID_BYTES_MAX = 128


def identity(directory: Path, node_id: str | None) -> str:
    """The name this data directory was given at first; makes it one. Durable before it is used."""
    path = directory / "node_id"
    if path.exists():
        known = path.read_bytes().decode("utf-8", "replace").strip()
        if not known or "\ufffd" in known or len(known.encode()) > _NODE_ID_BYTES_MAX:
            raise SettingsInvalid(
                f"the file {path} is damaged: it should hold this node's id; restore it, or move the data "
                "directory away and let the node join as a new one"
            )
        if node_id is not None and node_id != known:
            raise SettingsInvalid(
                f"the data directory {directory} belongs to node {known}, not to {node_id}; a node keeps its "
                "directory"
            )
        return known
    name = node_id if node_id is not None else uuid.uuid4().hex
    if not name or len(name.encode()) > _NODE_ID_BYTES_MAX or name != name.strip():
        raise SettingsInvalid(
            f"{name!r} is no node id: 1 to {_NODE_ID_BYTES_MAX} bytes, no space at the ends"
        )
    _write_durably(path, name)
    return name


def _write_durably(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def found(
    journal: Journal, snapshots: SnapshotStore, node_id: str, initial_voters: Mapping[str, str] | None
) -> None:
    """(thread) A founding voter begins its log with the membership: the same entry 1 of term 1 on each of
    them."""
    is_new = journal.last_index == 0 and journal.term == 0 and snapshots.latest() is None
    if not is_new or (initial_voters is not None and not initial_voters):
        return
    voters = {node_id: ""} if initial_voters is None else dict(sorted(initial_voters.items()))
    if node_id not in voters:
        raise SettingsInvalid(f"{node_id} is not among the founding voters {sorted(voters)}")
    journal.set_term_vote(1, "")
    journal.append([Entry(1, 1, KIND_CONFIG, encode_config(Config(voters, {})))])
    journal.sync()


def reconcile(journal: Journal, snapshots: SnapshotStore) -> None:
    """(thread) After a crash between a snapshot's install and the journal's reset, finish the reset.

    The snapshot's entries are committed, so a log that does not contain its last one is obsolete as a
    whole."""
    latest = snapshots.latest()
    if latest is None:
        if journal.base_index:
            raise StorageFailed(
                f"the log begins at {journal.base_index + 1}, but no snapshot is left that covers what was "
                "before"
            )
        return
    if latest.index < journal.base_index:
        raise StorageFailed(
            f"the log begins at {journal.base_index + 1}, but the newest readable snapshot ends at "
            f"{latest.index}"
        )
    if latest.index <= journal.last_index:
        entry_term = journal.base_term
        if latest.index > journal.base_index:
            entry_term = journal.entries(latest.index, latest.index, 1)[0].term
        if entry_term == latest.term:
            return
    journal.reset(latest.index, latest.term)
    journal.sync()


def restore(journal: Journal, snapshots: SnapshotStore, machine: StateMachine) -> int:
    """(thread) Bring the state machine at least to the newest snapshot. Returns its applied index."""
    latest = snapshots.latest()
    applied = machine.applied_index
    if latest is not None and applied < latest.index:
        machine.restore(latest.index, latest.term, snapshots.chunks(latest))
        applied = latest.index
    if applied > journal.last_index:
        raise StorageFailed(
            f"the state machine has applied entry {applied}, but the log ends at {journal.last_index}: "
            "they are not of the same node or the same time"
        )
    return applied


def make_core(
    journal: Journal,
    snapshots: SnapshotStore,
    node_id: str,
    applied: int,
    settings: Settings,
    rng: random.Random,
    now: float,
) -> Core:
    latest = snapshots.latest()
    configs: list[tuple[int, Config]] = []
    floor = 0
    if latest is not None:
        floor = latest.index
        configs.append((latest.index, latest.config))
    for entry in journal.config_entries():
        if entry.index > floor:
            configs.append((entry.index, decode_config(entry.payload)))
    replicated = Log(
        base_index=journal.base_index,
        base_term=journal.base_term,
        last_index=journal.last_index,
        term_runs=journal.term_runs(),
        configs=configs,
        read=journal.entries,
        tail_bytes_max=settings.tail_bytes_max,
    )
    return Core(
        node_id=node_id,
        log=replicated,
        term=journal.term,
        voted_for=journal.voted_for,
        commit_index=max(applied, floor),
        snapshot=latest,
        settings=settings,
        rng=rng,
        now=now,
    )
