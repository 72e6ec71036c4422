"""SQLite as a log: a table in WAL mode, synchronous NORMAL for periodic and FULL for always, a transaction a batch."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import Durability


class SQLite:
    name = f"SQLite {sqlite3.sqlite_version}"

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def opened(self, directory: Path, durability: Durability) -> Iterator[SQLiteLog]:
        log = SQLiteLog(directory / "log.sqlite", "FULL" if durability == "always" else "NORMAL")
        try:
            yield log
        finally:
            log.close()


class SQLiteLog:
    """A connection for each thread, as SQLite wants it."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._path, self._synchronous = path, synchronous
        self._connections: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._connection().execute(
            "CREATE TABLE log (offset INTEGER PRIMARY KEY, timestamp INTEGER, key BLOB, value BLOB)"
        )

    def append(self, values: list[bytes]) -> None:
        connection, now = self._connection(), time.time_ns() // 1_000_000
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO log (timestamp, key, value) VALUES (?, NULL, ?)", [(now, value) for value in values]
        )
        connection.execute("COMMIT")

    def read(self, offset: int, count: int) -> int:
        """Rows start at 1."""
        query = "SELECT offset, timestamp, key, value FROM log WHERE offset > ? ORDER BY offset LIMIT ?"
        return len(self._connection().execute(query, (offset, count)).fetchall())

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=60, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._local.connection = connection
            self._connections.append(connection)
        return connection
