"""litequeue, a queue on SQLite: by its `put`, and by puts in one of its transactions. It knows one durability: WAL with
synchronous NORMAL, our periodic. It cannot read without taking, so it has no row among the reads."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import Durability


class LiteQueue:
    def __init__(self, *, transactions: bool) -> None:
        self.name = "litequeue, a transaction a batch" if transactions else "litequeue"
        self._transactions = transactions

    def missing(self) -> str:
        return "" if importlib.util.find_spec("litequeue") else "litequeue is not installed (make bench-peers)"

    @contextlib.contextmanager
    def opened(self, directory: Path, durability: Durability) -> Iterator[LiteQueueLog]:
        import litequeue

        assert durability == "periodic"
        queue = litequeue.LiteQueue(directory / "queue.sqlite")
        try:
            yield LiteQueueLog(queue, self._transactions)
        finally:
            queue.close()


class LiteQueueLog:
    def __init__(self, queue: Any, transactions: bool) -> None:
        self._queue = queue
        self._batch = queue.transaction if transactions else contextlib.nullcontext

    def append(self, values: list[bytes]) -> None:
        with self._batch():
            for value in values:
                self._queue.put(value.decode())

    def read(self, offset: int, count: int) -> int:
        raise NotImplementedError("litequeue reads by taking")
