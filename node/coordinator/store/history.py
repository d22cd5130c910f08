"""`history.db`: executions that have ended: columns to search by, and the whole record of each.

Not part of snapshots. Written before `live.db`, by the same thread; read through a connection of its own, by another.
Equal rows may be written again (a replay of the log), which changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from node.coordinator.store.flush import FlushJob
from node.coordinator.store.sqlite import open_database, open_reader

_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (one INTEGER PRIMARY KEY CHECK (one = 1), applied_index INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS executions (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL,
  workflow_id TEXT NOT NULL, created_at REAL NOT NULL, started_at REAL NOT NULL, finished_at REAL NOT NULL,
  tags TEXT, error TEXT, steps_total INTEGER NOT NULL, steps_done INTEGER NOT NULL, plan BLOB NOT NULL,
  record BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_status ON executions (status, number) WHERE status <> 'completed';
CREATE INDEX IF NOT EXISTS by_workflow ON executions (workflow_id, number) WHERE workflow_id <> '';
CREATE TABLE IF NOT EXISTS tags (tag TEXT, number INTEGER, PRIMARY KEY (tag, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plans (hash BLOB PRIMARY KEY, control BLOB NOT NULL, payload BLOB NOT NULL,
  last_used REAL NOT NULL)
"""
_SUMMARY: Final = (
    "number, id, workflow_id, status, created_at, started_at, finished_at, tags, error, steps_total, "
    "steps_done"
)
PLAN_REFRESH_S: Final = 3600.0
"""How exactly the last use of a plan is known: a plan in use is written again so often."""
RETENTION_ROWS_PER_FLUSH_MAX: Final = 2000
"""Rows looked at for removal with one flush: some 5 ms, and more than any load we have measured adds between two."""


def tag_text(key: str, value: str) -> str:
    """A tag as it is indexed."""
    return f"{key}\x1f{value}"


class HistoryStore:
    """The writing side; one thread at a time."""

    def __init__(self, path: Path, *, keep_s: float, keep_count_max: int) -> None:
        self.path = path
        self._keep_s = keep_s
        self._keep_count_max = keep_count_max
        self._connection = open_database(path, _SCHEMA, version=_FORMAT)
        found = self._connection.execute("SELECT applied_index FROM meta").fetchone()
        self.applied_index: int = found[0] if found else 0

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def write(self, job: FlushJob) -> None:
        """All of the job, or nothing (sqlite3.Error)."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        row.number,
                        row.id,
                        row.status,
                        row.workflow_id,
                        row.created_at,
                        row.started_at,
                        row.finished_at,
                        json.dumps(row.tags) if row.tags else None,
                        row.error,
                        row.steps_total,
                        row.steps_done,
                        row.plan,
                        row.record,
                    )
                    for row in job.finished
                ],
            )
            tags = [(tag_text(*tag), row.number) for row in job.finished for tag in row.tags.items()]
            connection.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", tags)
            connection.executemany(
                "INSERT INTO plans VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET last_used = excluded.last_used",
                [(plan, control, payload, job.now) for plan, (control, payload) in job.plans.items()],
            )
            self._forget_old(job.now)
            index = max(job.index, self.applied_index)
            connection.execute("INSERT OR REPLACE INTO meta VALUES (1, ?)", (index,))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.applied_index = index

    def skip_to(self, index: int) -> None:
        """A snapshot was installed: what ended before it is not here, and never will come through the log."""
        self.applied_index = max(index, self.applied_index)
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (1, ?)", (self.applied_index,))

    def _forget_old(self, now: float) -> None:
        """Retention, a bounded piece of it: the oldest go when they are too old or too many."""
        connection = self._connection
        if not self._may_have_old(now):
            return
        oldest = connection.execute(
            "SELECT number, finished_at FROM executions ORDER BY number LIMIT ?",
            (RETENTION_ROWS_PER_FLUSH_MAX,),
        ).fetchall()
        newest = connection.execute("SELECT max(number) FROM executions").fetchone()[0]
        gone = [
            (number,)
            for number, finished_at in oldest
            if finished_at < now - self._keep_s or number <= newest - self._keep_count_max
        ]
        connection.executemany("DELETE FROM executions WHERE number = ?", gone)
        connection.execute("DELETE FROM tags WHERE number <= ? AND number >= ?", (gone[-1][0], gone[0][0]))
        connection.execute(
            "DELETE FROM plans WHERE last_used < ?", (now - self._keep_s - 2 * PLAN_REFRESH_S,)
        )
        connection.execute("PRAGMA incremental_vacuum(256)")

    def _may_have_old(self, now: float) -> bool:
        """One look at the oldest row decides whether the others are looked at."""
        row = self._connection.execute(
            "SELECT number, finished_at, (SELECT max(number) FROM executions) FROM executions ORDER BY number LIMIT 1"
        ).fetchone()
        return row is not None and (row[1] < now - self._keep_s or row[0] <= row[2] - self._keep_count_max)


class HistoryReader:
    """The reading side; its methods block, one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = open_reader(path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def record(self, execution_id: str) -> tuple[bytes, bytes] | None:
        """(encoded execution, encoded control plan) of one that has ended."""
        row: tuple[bytes, bytes] | None = self._connection.execute(
            "SELECT record, control FROM executions JOIN plans ON plans.hash = executions.plan WHERE id = ?",
            (execution_id,),
        ).fetchone()
        return row

    def payload(self, plan: bytes) -> bytes | None:
        """The canonical definition of a plan that an ended execution used."""
        row = self._connection.execute("SELECT payload FROM plans WHERE hash = ?", (plan,)).fetchone()
        return row[0] if row else None

    def search(
        self,
        *,
        below: int,
        status: str | None,
        workflow_id: str | None,
        tag: tuple[str, str] | None,
        limit: int,
    ) -> list[tuple[Any, ...]]:
        """Summaries (`number, id, workflow_id, status, created_at, started_at, finished_at, tags, error, steps_total,
        steps_done`) of executions with a number below `below`, highest first."""
        conditions = ["number < ?"]
        values: list[Any] = [below]
        if status is not None:
            conditions.append("status = ?")
            values.append(status)
        if workflow_id is not None:
            conditions.append("workflow_id = ? AND workflow_id <> ''")
            values.append(workflow_id)
        if tag is not None:
            conditions.append("number IN (SELECT number FROM tags WHERE tag = ? AND number < ?)")
            values += [tag_text(*tag), below]
        values.append(limit)
        return self._connection.execute(
            f"SELECT {_SUMMARY} FROM executions WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?",  # noqa: S608
            values,
        ).fetchall()

    def counts(self) -> dict[str, int]:
        """Executions by status."""
        found = self._connection.execute("SELECT status, count(*) FROM executions GROUP BY status").fetchall()
        return dict(found)
