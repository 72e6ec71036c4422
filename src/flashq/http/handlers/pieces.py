"""Records of a log as bytes, some 64 KiB at a time: what streamed answers are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flashq.api.records import to_record_out
from flashq.api.schemas import RecordOut
from flashq.batch import BadFrame, Batch, decode, decode_each
from flashq.errors import DataCorruption
from flashq.storage.interface import TopicLog

PIECE_BYTES = 64 * 1024

Headers = dict[str, bytes] | None


class Pieces:
    """Encoded records from `at` on, below `stop` if it is given. Holds one piece and what it has read ahead.

    It reads some 64 KiB of batches, or one larger batch, at a time, and decodes a record at a time.
    """

    __slots__ = ("_encode", "_log", "_make", "_records", "_rest", "_stop", "at")

    def __init__(
        self,
        log: TopicLog,
        at: int,
        stop: int | None,
        encode: Callable[[RecordOut], bytes],
        *,
        include_headers: bool = True,
    ) -> None:
        self.at = at
        """The offset after the last record encoded."""
        self._log = log
        self._stop = stop
        self._encode = encode
        self._make = to_record_out if include_headers else _without_headers
        self._records: Iterator[RecordOut] = iter(())
        self._rest = memoryview(b"")  # of a large record

    def take(self) -> bytes:
        """The next piece; b"" where nothing (more) can be read. Raises as `TopicLog.read` does."""
        if self._rest:
            return self._split(self._rest)
        found: list[bytes] = []
        size = 0
        while size < PIECE_BYTES:
            record = next(self._records, None)
            if record is None:
                if found:
                    break
                self._records = self._read()
                record = next(self._records, None)
                if record is None:
                    break
            found.append(self._encode(record))
            size += len(found[-1])
            self.at = record.offset + 1
        whole = found[0] if len(found) == 1 else b"".join(found)
        return whole if size <= 2 * PIECE_BYTES else self._split(memoryview(whole))

    def _split(self, data: memoryview) -> bytes:
        self._rest = data[PIECE_BYTES:]
        return bytes(data[:PIECE_BYTES])

    def _read(self) -> Iterator[RecordOut]:
        left = None if self._stop is None else self._stop - self.at
        batches = self._log.read(self.at, max_records=left, max_bytes=PIECE_BYTES) if left != 0 else []
        return self._decoded(batches, self.at)

    def _decoded(self, batches: list[Batch], at: int) -> Iterator[RecordOut]:
        batches.reverse()
        while batches:
            base_offset = batches[-1].base_offset
            stop = None if self._stop is None else self._stop - base_offset
            # The batch is handed over: its frame is held once, however long its records take to go out.
            try:
                yield from decode_each(batches.pop(), self._make, max(at - base_offset, 0), stop)
            except BadFrame as error:
                raise undecodable(self._log, base_offset, error) from error


def end_of_read(log: TopicLog, from_offset: int, stop: int, max_bytes: int) -> int:
    """Where a read of `[from_offset, stop)` ends that takes at most `max_bytes` of keys, values and headers.

    One record at least. Before damage, if good records come first. Walks the batches, holding few: may read the disk.
    """
    everything_fits = max_bytes >= log.size_bytes
    at, left = from_offset, max_bytes
    while at < stop:
        try:
            batches = log.read(at, max_records=stop - at, max_bytes=PIECE_BYTES)
        except DataCorruption:
            if at == from_offset:
                raise
            return at
        for batch in batches:
            if not everything_fits:
                for size in _sizes(log, batch, at, stop):
                    if size > left and at > from_offset:
                        return at
                    left -= size
                    at += 1
            at = min(batch.next_offset, stop)
    return at


def _sizes(log: TopicLog, batch: Batch, from_offset: int, stop: int) -> list[int]:
    first = max(from_offset - batch.base_offset, 0)
    try:
        return decode(batch, _size, first, stop - batch.base_offset)
    except BadFrame as error:
        raise undecodable(log, batch.base_offset, error) from error


def _size(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers) -> int:
    in_headers = sum(len(name.encode()) + len(data) for name, data in headers.items()) if headers else 0
    return len(value) + len(key or b"") + in_headers


def _without_headers(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers) -> RecordOut:
    return to_record_out(offset, timestamp_ms, key, value, None)


def undecodable(log: TopicLog, offset: int, error: BadFrame) -> DataCorruption:
    return DataCorruption(f"topic {log.name} at offset {offset}: {error}", topic=log.name, offset=offset)
