"""Opening SQLite the way both stores want it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from node.errors import ThaiyyalError


class StoreDamaged(ThaiyyalError):
    """A store's file cannot be used; the text names it and what can be done."""

    code = "store_damaged"
    definite = True


def open_database(path: Path, schema: str, *, version: int) -> sqlite3.Connection:
    """A connection for writing: WAL, every commit synced. Makes the file and its tables if they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # durable_index() is a promise to the log
        connection.execute("PRAGMA temp_store=MEMORY")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, version):
            raise StoreDamaged(
                f"{path} has format {found}, this version reads {version}; use the version that wrote it"
            )
        connection.executescript(f"BEGIN; {schema}; PRAGMA user_version={version}; COMMIT;")
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise StoreDamaged(
            f"{path} is not a usable database: {error}; restore it, or rejoin as a new node"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A second connection to an existing file, for reading."""
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=30.0,
    )
    connection.execute("PRAGMA query_only=1")
    return connection
