"""What a poll gives: records in order with the state of their topic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from flashq.record import RecordWithOffset

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


def content_bytes(key: bytes | None, value: bytes, headers: Headers) -> int:
    """What `max_bytes` counts of a record: key, value, names and values of headers."""
    in_headers = sum(len(name.encode()) + len(data) for name, data in headers.items()) if headers else 0
    return len(value) + len(key or b"") + in_headers
