"""The batches read last, of all topics together: readers that follow the same topic read it from Kafka once."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import deque

from flashq.batch import Batch

MAX_BYTES = 32 * 1024 * 1024


class Cache:
    """Batches by the id of their topic and offset. What was put first goes first, to keep within `max_bytes`.

    Whether what it holds is still there is for the reader to know: it asks the cluster where the topic begins.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._left = max_bytes
        self._lock = threading.Lock()
        self._order: deque[tuple[str, Batch]] = deque()
        self._bases: dict[str, list[int]] = {}  # of each topic, sorted
        self._batches: dict[tuple[str, int], Batch] = {}

    def put(self, topic_id: str, batches: list[Batch]) -> None:
        with self._lock:
            for batch in batches:
                place = topic_id, batch.base_offset
                known = self._batches.get(place)
                if known is None:
                    insort(self._bases.setdefault(topic_id, []), batch.base_offset)
                elif known.count >= batch.count:
                    continue
                self._batches[place] = batch
                self._order.append((topic_id, batch))
                self._left -= len(batch.frame)
            while self._left < 0:
                self._drop_first()

    def find(
        self, topic_id: str, from_offset: int, stop: int, max_records: int | None, max_bytes: int | None
    ) -> list[Batch]:
        """Batches without a hole from the one that holds `from_offset`, below `stop`, until one reaches a limit."""
        found: list[Batch] = []
        size, at = 0, from_offset
        with self._lock:
            bases = self._bases.get(topic_id, [])
            index = bisect_right(bases, at) - 1
            batch = self._batches[topic_id, bases[index]] if index >= 0 else None
            if batch is not None and batch.next_offset <= at:
                batch = None
            while batch is not None and at < stop:
                found.append(batch)
                at, size = batch.next_offset, size + len(batch.frame)
                if (max_records is not None and at - from_offset >= max_records) or (
                    max_bytes is not None and size >= max_bytes
                ):
                    break
                batch = self._batches.get((topic_id, at))  # not one that only holds it: batches may overlap
        return found

    def _drop_first(self) -> None:
        topic_id, batch = self._order.popleft()
        self._left += len(batch.frame)
        place = topic_id, batch.base_offset
        if self._batches.get(place) is batch:
            del self._batches[place]
            bases = self._bases[topic_id]
            del bases[bisect_right(bases, batch.base_offset) - 1]
            if not bases:
                del self._bases[topic_id]
