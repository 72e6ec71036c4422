"""The batch codec: records to the bytes of a log, and back. The only module that imports aiokafka.

A frame is Kafka's record batch, magic 2 (https://kafka.apache.org/documentation/#recordbatch), with its first two
fields in the other order, all big-endian:

    length        u32   the bytes after `base_offset`
    base_offset   u64   the offset of the first record
    epoch         i32   partition leader epoch: here, the epoch of the log
    magic         i8    2
    crc           u32   CRC-32C of everything from `attributes` to the end
    attributes    i16   0: uncompressed, create time
    last_delta    i32   offset of the last record minus base_offset
    base_ts       i64   Unix milliseconds of the first record
    max_ts        i64   Unix milliseconds of the latest record
    producer_id   i64   -1, or with the next two the hash of an idempotency key (`hash_of_key`)
    producer_epoch i16  -1
    base_sequence i32   -1
    count         i32   number of records
    records             varint-coded, each with deltas to base_ts and base_offset

The CRC does not cover length, base_offset, epoch and magic: a batch is numbered by patching its first bytes, and
whoever trusts a frame must check these four against what the log expects (`check`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from struct import Struct
from typing import TypeVar

import msgspec
from aiokafka.record.default_records import DefaultRecord, DefaultRecordBatch, DefaultRecordBatchBuilder
from crc32c import crc32c

from flashq.errors import ValidationError
from flashq.record import Row

MAGIC = 2
PREFIX = Struct(">IQ")  # length, base_offset: the seed's frame
HEADER = Struct(">IQibIhiqqqhii")
_KAFKA_PREFIX = Struct(">QI")
_NUMBERING = Struct(">IQi")  # length, base_offset, epoch
_CRC = Struct(">I")
_TIMESTAMPS = Struct(">qq")
_CRC_AT = Struct(">IQib").size
_ATTRIBUTES_AT = _CRC_AT + _CRC.size
_TIMESTAMPS_AT = Struct(">IQibIhi").size
_KEY = Struct(">qhi")  # producer_id, producer_epoch, base_sequence
_KEY_AT = _TIMESTAMPS_AT + _TIMESTAMPS.size
_KEY_STOP = _KEY_AT + _KEY.size
_SIGNS = int.from_bytes(_KEY.pack(-(1 << 63), -(1 << 15), -(1 << 31)), "big")
KEY_HASH_BYTES = _KEY.size

MIN_LENGTH = HEADER.size - PREFIX.size
"""The smallest `length` a frame can state."""
MAX_FRAME_BYTES = (1 << 31) - 1
MAX_OFFSET = (1 << 63) - 1
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: later ones have no date to be shown as."""
MAX_EXPANDED_BYTES = 128 * 1024 * 1024
"""What the records of another writer's compressed batch may have; gzip makes a thousandth of the right bytes."""
_EXPAND_BYTES = 64 * 1024
_GZIP = 1
_COMPRESSION_MASK = 7
_PADDING = bytes(16)
_NO_PRODUCER = -1

Stored = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Timestamp (Unix ms), key, value and headers of a record that another log holds."""

T = TypeVar("T")
MakeRecord = Callable[[int, int, bytes | None, bytes, dict[str, bytes] | None], T]
"""Makes a record of its offset, timestamp (Unix ms), key, value and headers."""


class BadFrame(ValueError):
    """Bytes that are not the frame a log expects at this place; says why."""


class Batch(msgspec.Struct, gc=False, eq=False):  # gc=False: it holds no containers, and a log holds millions of it
    """Records encoded together: `frame` (bytes), `count`, `timestamp_ms` and, once numbered, `base_offset`."""

    frame: bytes | bytearray
    count: int
    timestamp_ms: int
    base_offset: int = -1

    @property
    def next_offset(self) -> int:
        """The offset after the batch's last record."""
        return self.base_offset + self.count

    @property
    def key_hash(self) -> bytes | None:
        """Of the idempotency key it was posted with, or None."""
        return key_hash_in(self.frame)

    def place(self, base_offset: int, epoch: int, not_before_ms: int) -> None:
        """Number the batch where the log has put it; move its timestamp up to `not_before_ms` if it is older.

        Twelve bytes and the epoch are patched, nothing is encoded again; only a clock that went back costs a CRC.
        """
        frame = self.frame
        assert type(frame) is bytearray
        if self.timestamp_ms < not_before_ms:
            self.restamp(not_before_ms)
        self.base_offset = base_offset
        _NUMBERING.pack_into(frame, 0, len(frame) - PREFIX.size, base_offset, epoch)

    def restamp(self, timestamp_ms: int) -> None:
        """Give a batch whose records have one time another one. Costs a CRC."""
        frame = self.frame
        assert type(frame) is bytearray
        self.timestamp_ms = timestamp_ms
        _TIMESTAMPS.pack_into(frame, _TIMESTAMPS_AT, timestamp_ms, timestamp_ms)
        _CRC.pack_into(frame, _CRC_AT, crc32c(memoryview(frame)[_ATTRIBUTES_AT:]))


def hash_of_key(key: bytes) -> bytes:
    """109 bits of BLAKE2b, as the 14 bytes of the producer's fields: the sign of each is clear, so none reads as -1."""
    digest = int.from_bytes(hashlib.blake2b(key, digest_size=_KEY.size).digest(), "big")
    return (digest & ~_SIGNS).to_bytes(_KEY.size, "big")


def key_hash_in(frame: bytes | bytearray | memoryview) -> bytes | None:
    """The hash of the idempotency key in a frame's header, or None; only the header need be there."""
    return bytes(frame[_KEY_AT:_KEY_STOP]) if frame[_KEY_AT] < 0x80 else None


def encode(rows: Sequence[Row], timestamp_ms: int, key_hash: bytes | None = None) -> Batch:
    """One batch of all rows, stamped with one time; `key_hash` is that of an idempotency key (`hash_of_key`).

    Raises `ValidationError`: no rows, or over 2 GiB together.
    """
    if not rows:
        raise ValidationError("a post needs at least one record", field="records", min_size=1, actual_size=0)
    # Positional: the compiled builder takes keywords at twice the cost.
    if key_hash is None:
        builder = DefaultRecordBatchBuilder(MAGIC, 0, 0, _NO_PRODUCER, _NO_PRODUCER, _NO_PRODUCER, MAX_FRAME_BYTES)
    else:
        builder = DefaultRecordBatchBuilder(MAGIC, 0, 0, *_KEY.unpack(key_hash), MAX_FRAME_BYTES)
    append = builder.append
    delta = 0
    for key, value, headers in rows:
        if append(delta, timestamp_ms, key, value, headers) is None:
            raise ValidationError(
                f"the records of one post have over {MAX_FRAME_BYTES} bytes together; post fewer at once",
                field="records",
                max_size=MAX_FRAME_BYTES,
            )
        delta += 1
    return Batch(builder.build(), delta, timestamp_ms)


def encode_stored(base_offset: int, records: Sequence[Stored], key_hash: bytes | None = None) -> Batch:
    """The batch of records as another log holds them, without a hole, from `base_offset` on, each with its own time.

    The timestamp of the batch is its last record's.
    """
    producer = (_NO_PRODUCER,) * 3 if key_hash is None else _KEY.unpack(key_hash)
    builder = DefaultRecordBatchBuilder(MAGIC, 0, 0, *producer, MAX_FRAME_BYTES)
    append = builder.append
    for delta, (timestamp_ms, key, value, headers) in enumerate(records):
        append(delta, timestamp_ms, key, value, headers)
    batch = Batch(builder.build(), len(records), records[-1][0])
    batch.place(base_offset, 0, batch.timestamp_ms)
    return batch


def decode(batch: Batch, make: MakeRecord[T], first: int = 0, stop: int | None = None) -> list[T]:
    """`make(offset, timestamp_ms, key, value, headers)` of the records `[first:stop]`, in order. Raises `BadFrame`.

    A null value, or header value, of another writer's batch reads as empty. The CRC is the caller's to check
    (`check`); here the records' own structure is.
    """
    try:  # `decode_each` without the generator: a third faster
        records = _records(batch)
        if batch.count == 1 and first == 0 and stop is not None and stop > 0:
            # A record alone, in two thirds of the time.
            return [_made(make, batch.base_offset, next(iter(records)))]
        return [
            make(
                offset,
                at if 0 <= (at := record.timestamp) <= MAX_TIMESTAMP_MS else _no_time(offset),
                record.key,
                record.value or b"",
                _headers(headers) if (headers := record.headers) else None,
            )
            for offset, record in enumerate(islice(records, first, stop), batch.base_offset + first)
        ]
    except Exception as error:
        raise _undecodable(batch, error) from error


def decode_each(batch: Batch, make: MakeRecord[T], first: int = 0, stop: int | None = None) -> Iterator[T]:
    """`decode`, a record at a time: nothing but the batch is held."""
    try:
        for offset, record in enumerate(islice(_records(batch), first, stop), batch.base_offset + first):
            yield _made(make, offset, record)
    except Exception as error:
        raise _undecodable(batch, error) from error


def _records(batch: Batch) -> DefaultRecordBatch:
    return _reader(_plain(batch.frame))


def _plain(frame: bytes | bytearray) -> bytes | bytearray:
    """The frame, uncompressed."""
    return _expanded(frame) if frame[_ATTRIBUTES_AT + 1] & _COMPRESSION_MASK else frame


def _reader(frame: bytes | bytearray) -> DefaultRecordBatch:
    """The codec's. Not in Kafka's order, which would take a copy: it takes the length for the base offset."""
    return DefaultRecordBatch(frame if frame[-1] < 0x80 else _padded(frame))


def _made(make: MakeRecord[T], offset: int, record: DefaultRecord) -> T:
    at = record.timestamp if 0 <= record.timestamp <= MAX_TIMESTAMP_MS else _no_time(offset)
    headers = record.headers
    return make(offset, at, record.key, record.value or b"", _headers(headers) if headers else None)


def _headers(headers: list[tuple[str, bytes | None]]) -> dict[str, bytes]:
    return {name: value or b"" for name, value in headers}


def _no_time(offset: int) -> int:
    raise BadFrame(f"offset {offset} is of a time outside the years 1970 to 9999")


def _undecodable(batch: Batch, error: Exception) -> BadFrame:
    """How a failure to decode is told. The decompressors of another writer's batch each have errors of their own.

    The codec asks for as many bytes as a length says, which is no want of memory where the length is absurd: the
    records are read again, none of them kept, for `MemoryError` to be raised only where there is too little.
    """
    if isinstance(error, MemoryError):
        error.__traceback__ = None  # it holds the records made so far
        frame = _plain(batch.frame)
        try:
            for _ in _reader(frame):
                pass
        except Exception:
            bytes(2 * len(frame))  # what any true lengths need; by `calloc`, so not touched
            return BadFrame("records of the batch do not decode: a length is absurd")
        raise error
    return BadFrame(f"records of the batch do not decode: {error}")


def _padded(frame: bytes | bytearray) -> memoryview:
    """The same bytes with zeros behind them.

    aiokafka 0.14's compiled decoder looks for the end of a number past the end of the batch if its last byte says that
    it goes on. Else the NUL that CPython puts behind the bytes is the furthest it reads.
    """
    return memoryview(b"".join((frame, _PADDING)))[: len(frame)]


def _expanded(frame: bytes | bytearray) -> bytes:
    """The batch without its gzip compression, as aiokafka would expand it: but it knows no limit to what few bytes
    may become. So it is not asked for the others either, which it has where cramjam is installed: 16 KiB of zstd took
    1 GiB. Raises `BadFrame`, and what gzip raises."""
    codec = frame[_ATTRIBUTES_AT + 1] & _COMPRESSION_MASK
    if codec != _GZIP:
        raise BadFrame(f"they are compressed with codec {codec} of Kafka's; only gzip, {_GZIP}, is read")
    expanded = bytearray(frame[: HEADER.size])
    expanded[_ATTRIBUTES_AT + 1] &= ~_COMPRESSION_MASK
    with gzip.GzipFile(fileobj=io.BytesIO(frame[HEADER.size :])) as compressed:
        while piece := compressed.read(_EXPAND_BYTES):  # it takes memory for as many at once as it is asked for
            expanded += piece
            if len(expanded) > MAX_EXPANDED_BYTES:
                raise BadFrame(f"they have over {MAX_EXPANDED_BYTES} bytes once expanded")
    return bytes(expanded)


def same_records(one: Batch, other: Batch) -> bool:
    """Whether both hold the same keys, values and headers in the same order, whenever they were posted.

    Raises `BadFrame`.
    """
    return one.count == other.count and decode(one, _content) == decode(other, _content)


def _content(
    offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: dict[str, bytes] | None
) -> tuple[bytes | None, bytes, list[tuple[str, bytes]]]:
    return key, value, list(headers.items()) if headers else []


def check(frame: bytes | bytearray | memoryview, base_offset: int | None, epoch: Callable[[int], int]) -> Batch:
    """The batch in exactly these bytes, if it is the one the log expects at `base_offset`. Raises `BadFrame`.

    `epoch(offset)` is the epoch this log had when it wrote that offset; `base_offset` None takes any.
    """
    if len(frame) < HEADER.size:
        raise BadFrame(f"{len(frame)} bytes are too few for a batch")
    length, offset, stated_epoch, magic, crc, _, last_delta, base_ts, max_ts, *_, count = HEADER.unpack_from(frame)
    if length != len(frame) - PREFIX.size:
        raise BadFrame(f"states a length of {length}, has {len(frame) - PREFIX.size}")
    if base_offset is not None and offset != base_offset:
        raise BadFrame(f"states offset {offset} where {base_offset} must be")
    if magic != MAGIC:
        raise BadFrame(f"magic is {magic}, not {MAGIC}")
    if crc32c(memoryview(frame)[_ATTRIBUTES_AT:]) != crc:
        raise BadFrame("the CRC-32C does not match")
    if stated_epoch != epoch(offset):
        raise BadFrame(f"states epoch {stated_epoch}; offset {offset} was written in epoch {epoch(offset)}")
    if count < 1 or last_delta != count - 1:
        raise BadFrame(f"{count} records do not end at offset delta {last_delta}")
    if offset + count > MAX_OFFSET:
        raise BadFrame(f"offset {offset} is beyond the last there can be")
    if not (0 <= base_ts <= MAX_TIMESTAMP_MS and 0 <= max_ts <= MAX_TIMESTAMP_MS):
        raise BadFrame("its times are outside the years 1970 to 9999")
    return Batch(bytes(frame), count, max_ts, offset)


def records_match_crc(frame: bytes | memoryview, more_zeros: int = 0) -> bool:
    """Whether everything after the CRC field matches it, whatever the length field says; or does so with some zeros
    behind it, `more_zeros` at most."""
    if len(frame) < HEADER.size:
        return False
    crc: int = _CRC.unpack_from(frame, _CRC_AT)[0]
    found = crc32c(memoryview(frame)[_ATTRIBUTES_AT:])
    while found != crc and more_zeros:
        found, more_zeros = crc32c(b"\0", found), more_zeros - 1
    return found == crc


def to_kafka(batch: Batch) -> bytes:
    """The batch as Kafka's wire and log files have it: base offset first, then length."""
    return bytes(_kafka_order(batch))


def _kafka_order(batch: Batch) -> bytearray:
    data = bytearray(batch.frame)
    _KAFKA_PREFIX.pack_into(data, 0, batch.base_offset, len(data) - PREFIX.size)
    return data
