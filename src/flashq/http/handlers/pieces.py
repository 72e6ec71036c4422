"""Records of a log as bytes, some 64 KiB at a time: what streamed answers are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flashq.api.records import to_record_out
from flashq.api.schemas import RecordOut
from flashq.batch import BadFrame, Batch, decode, decode_each
from flashq.broker.decoding import undecodable
from flashq.broker.polled import Headers, content_bytes
from flashq.errors import DataCorruption, FlashQError
from flashq.http.handlers.blocking import Blocking
from flashq.metrics import Volume
from flashq.storage.interface import TopicLog

PIECE_BYTES = 64 * 1024


class Pieces:
    """Encoded records from `at` on, below `stop` if it is given, counted in `read`. Holds one piece and what it has
    read ahead.

    It reads some 64 KiB of batches, or one larger batch, at a time, and decodes a record at a time.
    """

    __slots__ = ("_encode", "_make", "_read_volume", "_records", "_rest", "_stop", "at", "log")

    def __init__(
        self,
        log: TopicLog,
        at: int,
        stop: int | None,
        encode: Callable[[RecordOut], bytes],
        read: Volume,
        *,
        include_headers: bool = True,
    ) -> None:
        self.at = at
        """The offset after the last record encoded."""
        self.log = log
        self._stop = stop
        self._encode = encode
        self._read_volume = read
        self._make = to_record_out if include_headers else _without_headers
        self._records: Iterator[RecordOut] = iter(())
        self._rest = memoryview(b"")  # of a large record

    @property
    def end(self) -> int:
        """The offset after the last record there is to encode, so far."""
        return self.log.high_water_mark if self._stop is None else self._stop

    @property
    def is_at_hand(self) -> bool:
        """Whether `take` most likely returns without waiting for a disk or a network."""
        return bool(self._rest) or self.log.is_at_hand(self.at, PIECE_BYTES)

    def take(self) -> bytes:
        """The next piece; b"" where nothing (more) can be read. Raises as `TopicLog.read` does."""
        if self._rest:
            return self._split(self._rest)
        found = self._encode_some()
        if not found:
            self._records = self._read()
            found = self._encode_some()
        whole = found[0] if len(found) == 1 else b"".join(found)
        return whole if len(whole) <= 2 * PIECE_BYTES else self._split(memoryview(whole))

    def _encode_some(self) -> list[bytes]:
        """A piece of what has been read."""
        found: list[bytes] = []
        size, record = 0, None
        encode = self._encode
        for record in self._records:
            data = encode(record)
            found.append(data)
            size += len(data)
            if size >= PIECE_BYTES:
                break
        if record is not None:
            self.at = record.offset + 1
            self._read_volume.add(len(found), size)
        return found

    def _split(self, data: memoryview) -> bytes:
        self._rest = data[PIECE_BYTES:]
        return bytes(data[:PIECE_BYTES])

    def _read(self) -> Iterator[RecordOut]:
        left = None if self._stop is None else self._stop - self.at
        if left == 0:
            return iter(())
        end = self.log.high_water_mark
        batches = self.log.read(self.at, max_records=left, max_bytes=PIECE_BYTES)
        if not batches and self._stop is None:
            self.at = max(self.at, end)  # another writer's log: a hole up to there
        return self._decoded(batches, self.at)

    def _decoded(self, batches: list[Batch], at: int) -> Iterator[RecordOut]:
        batches.reverse()
        while batches:
            base_offset = batches[-1].base_offset
            stop = None if self._stop is None else self._stop - base_offset
            try:
                yield from decode_each(batches.pop(), self._make, max(at - base_offset, 0), stop)
            except BadFrame as error:
                raise undecodable(self.log, base_offset, error) from error


class PiecesAhead:
    """`Pieces` for the event loop, which waits for no disk and no network: made there and then while the log is at
    hand, else in a thread, one ahead of the client. What is not here yet is said to be nothing, and `wake` called once
    it is."""

    def __init__(self, pieces: Pieces, blocking: Blocking) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._pieces = pieces
        self._blocking = blocking
        self._piece = b""
        self._error: FlashQError | None = None
        self.is_reading = False
        """Whether a thread has the pieces: until it calls `wake`, there is nothing to take."""
        self.at = pieces.at
        """The offset after the last record handed out."""

    def take(self) -> bytes:
        """The next piece, if it is here; b"" otherwise. Raises what reading it has raised."""
        if self._error is not None:
            raise self._error
        if self.is_reading:
            return b""
        piece, self._piece = self._piece, b""
        self.at = self._pieces.at
        if self._pieces.is_at_hand:
            if not piece:
                piece = self._pieces.take()
                self.at = self._pieces.at
        elif self.at < self._pieces.end:
            self.is_reading = True
            self._blocking.run(self._pieces.take, self._arrived, self._failed)
        return piece

    def _arrived(self, piece: bytes) -> None:
        self.is_reading = False
        self._piece = piece
        if not piece:
            self.at = self._pieces.at
        self.wake()

    def _failed(self, error: FlashQError) -> None:
        self.is_reading = False
        self._error = error
        self.wake()


def end_of_read(log: TopicLog, from_offset: int, stop: int, max_bytes: int) -> int:
    """Where a read of `[from_offset, stop)` ends that takes at most `max_bytes` of keys, values and headers.

    One record at least. Before damage, if good records come first. Walks the batches, holding few: reads the disk.
    """
    if _frames_fit(log, from_offset, stop, max_bytes):
        return stop
    at, left = from_offset, max_bytes
    while at < stop:
        try:
            batches = log.read(at, max_records=stop - at, max_bytes=PIECE_BYTES)
        except DataCorruption:
            if at == from_offset:
                raise
            return at
        for batch in batches:
            for size in _sizes(log, batch, at, stop):
                if size > left and at > from_offset:
                    return at
                left -= size
                at += 1
        del batches, batch  # not held while the next are read
    return at


def _frames_fit(log: TopicLog, at: int, stop: int, max_bytes: int) -> bool:
    """Whether all is within `max_bytes` as it is stored: then nothing need be decoded to know where the read ends."""
    try:
        while at < stop and max_bytes >= 0:
            batches = log.read(at, max_records=stop - at, max_bytes=PIECE_BYTES)
            max_bytes -= sum(len(batch.frame) for batch in batches)
            at = batches[-1].next_offset
            del batches  # not held while the next are read
    except DataCorruption:
        return False
    return max_bytes >= 0


def _sizes(log: TopicLog, batch: Batch, from_offset: int, stop: int) -> list[int]:
    first = max(from_offset - batch.base_offset, 0)
    try:
        return decode(batch, _size, first, stop - batch.base_offset)
    except BadFrame as error:
        raise undecodable(log, batch.base_offset, error) from error


def _size(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers) -> int:
    return content_bytes(key, value, headers)


def _without_headers(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers) -> RecordOut:
    return to_record_out(offset, timestamp_ms, key, value, None)
