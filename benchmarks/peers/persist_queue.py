"""persist-queue's FIFOSQLiteQueue, committing once a batch (auto_commit off), with SQLite's default of
synchronous FULL. It cannot read without taking, so it has no row among the reads."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import Durability


class PersistQueue:
    name = "persist-queue"

    def missing(self) -> str:
        return "" if importlib.util.find_spec("persistqueue") else "persist-queue is not installed (make bench-peers)"

    @contextlib.contextmanager
    def opened(self, directory: Path, durability: Durability) -> Iterator[PersistQueueLog]:
        import persistqueue

        queue = persistqueue.FIFOSQLiteQueue(str(directory), multithreading=True, auto_commit=False)
        try:
            yield PersistQueueLog(queue)
        finally:
            queue.close()


class PersistQueueLog:
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def append(self, values: list[bytes]) -> None:
        for value in values:
            self._queue.put(value)
        self._queue.task_done()

    def read(self, offset: int, count: int) -> int:
        raise NotImplementedError("persist-queue reads by taking")
