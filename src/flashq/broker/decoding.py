"""How batches become the records of a poll."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from flashq.batch import BadFrame, Batch, MakeRecord, decode
from flashq.broker.polled import Headers, content_bytes
from flashq.errors import DataCorruption
from flashq.storage.interface import TopicLog

T = TypeVar("T")


def decode_range(
    log: TopicLog, batches: Sequence[Batch], from_offset: int, stop: int, make: MakeRecord[T], max_bytes: int | None
) -> list[T]:
    """The records `[from_offset:stop)` of these batches, cut where they pass `max_bytes`, one at least."""
    if max_bytes is None or sum([len(batch.frame) for batch in batches]) <= max_bytes:
        return _decode_all(log, batches, from_offset, stop, make)
    sizes: list[int] = []

    def measured(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers) -> T:
        sizes.append(content_bytes(key, value, headers))
        return make(offset, timestamp_ms, key, value, headers)

    records = _decode_all(log, batches, from_offset, stop, measured)
    within = sum(1 for total in accumulate(sizes) if total <= max_bytes)
    return records[: max(within, 1)]


def _decode_all(log: TopicLog, batches: Sequence[Batch], from_offset: int, stop: int, make: MakeRecord[T]) -> list[T]:
    records: list[T] = []
    for batch in batches:
        if batch.base_offset >= stop:
            break
        try:
            records += decode(batch, make, max(from_offset - batch.base_offset, 0), stop - batch.base_offset)
        except BadFrame as error:
            if records:
                break
            raise undecodable(log, batch.base_offset, error) from error
    return records


def offset_after(batches: Sequence[Batch], first: int, count: int) -> int:
    """The offset after the last of `count` records from `first` on; between batches there may be holes."""
    at = first
    for batch in batches:
        at = max(at, batch.base_offset)
        taken = min(count, batch.next_offset - at)
        at, count = at + taken, count - taken
        if count == 0:
            break
    return at


def undecodable(log: TopicLog, offset: int, error: BadFrame) -> DataCorruption:
    """The error of a batch whose frame is whole and whose records are not."""
    return DataCorruption(f"topic {log.name} at offset {offset}: {error}", topic=log.name, offset=offset)
