"""`live.db`: the hot state on disk, one row per live execution, everything of one applied index.

Written by one thread. Read at start, and by snapshots, each from one read transaction of its own.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from node.coordinator.keyed import Cached, Rate
from node.coordinator.program import Program
from node.coordinator.state import (
    Dedupe,
    Definition,
    Limits,
    Stage,
    State,
    Workflow,
    decode_execution,
    scopes_of,
)
from node.coordinator.store.flush import FlushJob, decode_control
from node.coordinator.store.sqlite import StoreDamaged, open_database, open_reader

_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (one INTEGER PRIMARY KEY CHECK (one = 1), applied_index INTEGER NOT NULL,
  term INTEGER NOT NULL, now REAL NOT NULL, accepted INTEGER NOT NULL, limits BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS executions (number INTEGER PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS definitions (hash BLOB PRIMARY KEY, payload BLOB NOT NULL, control BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS workflows (id TEXT PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dedupe (tenant TEXT, key TEXT, execution_id TEXT NOT NULL, digest BLOB NOT NULL,
  at REAL NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (tenant, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cache (tenant TEXT, key TEXT, value BLOB NOT NULL, ends REAL NOT NULL,
  PRIMARY KEY (tenant, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rates (tenant TEXT, key TEXT, row BLOB NOT NULL, PRIMARY KEY (tenant, key)) WITHOUT ROWID
"""
_TABLES: Final = {  # name -> (columns, statement that puts one row back)
    "meta": ("one, applied_index, term, now, accepted, limits", "INSERT INTO meta VALUES (?, ?, ?, ?, ?, ?)"),
    "definitions": ("hash, payload, control", "INSERT INTO definitions VALUES (?, ?, ?)"),
    "workflows": ("id, row", "INSERT INTO workflows VALUES (?, ?)"),
    "dedupe": (
        "tenant, key, execution_id, digest, at, number",
        "INSERT INTO dedupe VALUES (?, ?, ?, ?, ?, ?)",
    ),
    "cache": ("tenant, key, value, ends", "INSERT INTO cache VALUES (?, ?, ?, ?)"),
    "rates": ("tenant, key, row", "INSERT INTO rates VALUES (?, ?, ?)"),
    "executions": ("number, row", "INSERT INTO executions VALUES (?, ?)"),
}
_CHUNK_BYTES: Final = 256 * 1024
_CHUNK_BYTES_MAX: Final = 256 * 1024 * 1024  # a frame above this is damage: one row is at most an execution
_HEADER: Final = struct.Struct("<I")
_frame_decoder: Final = msgspec.msgpack.Decoder(tuple[str, list[list[Any]]])
_limits_decoder: Final = msgspec.msgpack.Decoder(Limits)
_rate_decoder: Final = msgspec.msgpack.Decoder(Rate)
_workflow_decoder: Final = msgspec.msgpack.Decoder(Workflow)


class LiveStore:
    """The file. `load` and `write` are called by one thread at a time; `snapshot` may run beside them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_database(path, _SCHEMA, version=_FORMAT)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def load(self) -> tuple[State, int, int]:
        """(the state, its applied index, the term of that entry); empty, 0, 0 for a new file."""
        return _load(self._connection, self._path)

    def write(self, job: FlushJob) -> None:
        """All of the job, or nothing (sqlite3.Error)."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if job.removed:
                connection.executemany("DELETE FROM executions WHERE number = ?", job.removed)
            if job.rows:
                connection.executemany("INSERT OR REPLACE INTO executions VALUES (?, ?)", job.rows)
            connection.executemany("DELETE FROM definitions WHERE hash = ?", job.definitions_removed)
            connection.executemany("INSERT OR REPLACE INTO definitions VALUES (?, ?, ?)", job.definitions_put)
            connection.executemany("DELETE FROM workflows WHERE id = ?", job.workflows_removed)
            connection.executemany("INSERT OR REPLACE INTO workflows VALUES (?, ?)", job.workflows_put)
            connection.executemany("DELETE FROM dedupe WHERE tenant = ? AND key = ?", job.dedupe_removed)
            connection.executemany("INSERT OR REPLACE INTO dedupe VALUES (?, ?, ?, ?, ?, ?)", job.dedupe_put)
            connection.executemany("DELETE FROM cache WHERE tenant = ? AND key = ?", job.cache_removed)
            connection.executemany("INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?)", job.cache_put)
            connection.executemany("DELETE FROM rates WHERE tenant = ? AND key = ?", job.rates_removed)
            connection.executemany("INSERT OR REPLACE INTO rates VALUES (?, ?, ?)", job.rates_put)
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?)",
                (job.index, job.term, job.now, job.accepted, job.limits),
            )
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        """(applied index, chunks) of what the file holds now; later writes do not show. The iterator owns its
        connection and closes it at its end."""
        reader = open_reader(self._path)
        try:
            reader.execute("BEGIN")
            found = reader.execute("SELECT applied_index FROM meta").fetchone()
        except BaseException:
            reader.close()
            raise
        return (found[0] if found else 0), _chunks(reader)

    def install(self, chunks: Iterable[bytes]) -> tuple[State, int]:
        """Replace everything by a snapshot; all or nothing. Returns the state and its applied index."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for table in _TABLES:
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
            for table, rows in _frames(chunks):
                if table not in _TABLES:
                    raise StoreDamaged(f"the snapshot has a table {table!r} that this version does not know")
                connection.executemany(_TABLES[table][1], rows)
            state, index, _ = _load(connection, self._path)
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        return state, index


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _chunks(reader: sqlite3.Connection) -> Iterator[bytes]:
    try:
        for table, (columns, _) in _TABLES.items():
            rows: list[tuple[Any, ...]] = []
            size = 0
            for row in reader.execute(f"SELECT {columns} FROM {table}"):  # noqa: S608 - our own names
                rows.append(row)
                size += sum(len(value) if isinstance(value, bytes | str) else 9 for value in row)
                if size >= _CHUNK_BYTES:
                    yield _frame(table, rows)
                    rows, size = [], 0
            if rows:
                yield _frame(table, rows)
    finally:
        reader.close()


def _frame(table: str, rows: list[tuple[Any, ...]]) -> bytes:
    body = msgspec.msgpack.encode((table, rows))
    return _HEADER.pack(len(body)) + body


def _frames(chunks: Iterable[bytes]) -> Iterator[tuple[str, list[list[Any]]]]:
    """Frames of a snapshot whose bytes may have been cut anywhere."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(buffer)
            if size > _CHUNK_BYTES_MAX:
                raise StoreDamaged(f"the snapshot has a frame of {size} bytes (limit {_CHUNK_BYTES_MAX})")
            if len(buffer) < _HEADER.size + size:
                break
            yield _frame_decoder.decode(bytes(buffer[_HEADER.size : _HEADER.size + size]))
            del buffer[: _HEADER.size + size]
    if buffer:
        raise StoreDamaged("the snapshot ends in the middle of a frame")


def _load(connection: sqlite3.Connection, path: Path) -> tuple[State, int, int]:
    state = State()
    meta = connection.execute("SELECT applied_index, term, now, accepted, limits FROM meta").fetchone()
    if meta is None:
        return state, 0, 0
    try:
        index, term, state.now, state.accepted, limits = meta
        state.limits = _limits_decoder.decode(limits)
        for plan, payload, control in connection.execute("SELECT hash, payload, control FROM definitions"):
            decoded = decode_control(control)
            state.definitions[plan] = Definition(payload, decoded, Program(decoded))
        for name, row in connection.execute("SELECT id, row FROM workflows ORDER BY id"):
            workflow = state.workflows[name] = _workflow_decoder.decode(row)
            for version in workflow.versions:
                state.definitions[version.plan].references += 1
        claims = connection.execute(
            "SELECT tenant, key, execution_id, digest, at, number FROM dedupe ORDER BY number"
        )
        for tenant, key, execution_id, digest, at, number in claims:
            state.dedupe[(tenant, key)] = Dedupe(execution_id, digest, at, number)
            state.dedupe_order.append((tenant, key))
            state.dedupe_counts[tenant] = state.dedupe_counts.get(tenant, 0) + 1
        for tenant, key, value, ends in connection.execute("SELECT tenant, key, value, ends FROM cache"):
            state.keyed.load_cached((tenant, key), Cached(value, ends))
        for tenant, key, row in connection.execute("SELECT tenant, key, row FROM rates"):
            state.keyed.load_rate((tenant, key), _rate_decoder.decode(row))
        for (row,) in connection.execute("SELECT row FROM executions ORDER BY number"):
            _add(state, row)
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise StoreDamaged(f"{path} holds what this version cannot read: {error}") from error
    return state, index, term


def _add(state: State, row: bytes) -> None:
    execution = decode_execution(row)
    definition = state.definitions[execution.plan]
    definition.references += 1
    state.executions[execution.id] = execution
    state.held += execution.held
    program = definition.program
    for scope in scopes_of(execution):
        for segment, attempt in scope.attempts.items():
            if program.writes[segment] and attempt.stage in (Stage.ACTIVE, Stage.QUEUED):
                counts = state.granted if attempt.stage == Stage.ACTIVE else state.queued
                queue = program.queues[segment]
                counts[queue] = counts.get(queue, 0) + 1
