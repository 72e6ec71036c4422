"""What a poll gives: records in order with the state of their topic, and how batches become them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from flashq.batch import BadFrame, Batch, MakeRecord, decode
from flashq.errors import DataCorruption
from flashq.record import RecordWithOffset
from flashq.storage.interface import TopicLog

T = TypeVar("T")
Headers = dict[str, bytes] | None


class Polled(list[T]):
    """Records in order of offset, and where the topic stood when they were read.

    `next_offset` is where to read on; `lag` is how many records were readable from there.
    """

    __slots__ = ("high_water_mark", "log_start_offset", "next_offset")

    def __init__(self, records: Iterable[T], next_offset: int, high_water_mark: int, log_start_offset: int) -> None:
        super().__init__(records)
        self.next_offset = next_offset
        self.high_water_mark = high_water_mark
        self.log_start_offset = log_start_offset

    @property
    def lag(self) -> int:
        return max(self.high_water_mark - self.next_offset, 0)


PolledRecords = Polled[RecordWithOffset]


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
        try:
            records += decode(batch, make, max(from_offset - batch.base_offset, 0), stop - batch.base_offset)
        except BadFrame as error:
            if records:
                break
            raise undecodable(log, batch.base_offset, error) from error
    return records


def content_bytes(key: bytes | None, value: bytes, headers: Headers) -> int:
    """What `max_bytes` counts of a record: key, value, names and values of headers."""
    in_headers = sum(len(name.encode()) + len(data) for name, data in headers.items()) if headers else 0
    return len(value) + len(key or b"") + in_headers


def undecodable(log: TopicLog, offset: int, error: BadFrame) -> DataCorruption:
    """The error of a batch whose frame is whole and whose records are not."""
    return DataCorruption(f"topic {log.name} at offset {offset}: {error}", topic=log.name, offset=offset)
