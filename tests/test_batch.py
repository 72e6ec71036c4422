"""The batch codec against Kafka's own, against its golden bytes, and against garbage."""

from __future__ import annotations

import gzip
import mmap
import random
import warnings
from struct import pack_into

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashq.batch import (
    HEADER,
    MAX_OFFSET,
    MAX_TIMESTAMP_MS,
    PREFIX,
    BadFrame,
    Batch,
    check,
    decode,
    encode,
    records_match_crc,
    to_kafka,
)
from flashq.errors import ValidationError
from flashq.record import NO_HEADERS, RecordWithOffset, Row

with warnings.catch_warnings():  # of importlib.resources, in its __init__
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
    from kafka.record.util import calc_crc32c

TIME_MS = 1_700_000_000_123
ROWS: list[Row] = [
    (b"key", b"value", [("header", b"h"), ("second", b"")]),
    (None, b"", NO_HEADERS),
    (b"", "Grüße 👋".encode(), [("ключ", b"\x00\xff")]),
    (b"k" * 300, b"v" * 100_000, [("h", b"x" * 200)] * 3),
]
GOLDEN = bytes.fromhex(
    "00000048"  # length
    "0000000000000007"  # base offset
    "00000003"  # epoch
    "02"  # magic
    "81d89145"  # CRC-32C
    "0000"  # attributes
    "00000001"  # last offset delta
    "0000018bcfe5687b"  # base timestamp
    "0000018bcfe5687b"  # max timestamp
    "ffffffffffffffff"  # producer id
    "ffff"  # producer epoch
    "ffffffff"  # base sequence
    "00000002"  # count
    "1a000000026b047631020268026a"  # key k, value v1, header h=j
    "10000002010476"
    "3200"  # no key, value v2
)


def placed(rows: list[Row], base_offset: int = 0, epoch: int = 0, timestamp_ms: int = TIME_MS) -> Batch:
    batch = encode(rows, timestamp_ms)
    batch.place(base_offset, epoch, 0)
    return batch


def checked(frame: bytes, base_offset: int | None = 7, epoch: int = 3) -> Batch:
    return check(frame, base_offset, lambda offset: epoch)


def with_crc(frame: bytes | bytearray) -> bytes:
    """The frame with the CRC its bytes should have, found with Kafka's Python code."""
    data = bytearray(frame)
    pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def test_the_bytes_of_a_batch_are_these() -> None:
    rows: list[Row] = [(b"k", b"v1", [("h", b"j")]), (None, b"v2", NO_HEADERS)]
    assert bytes(placed(rows, base_offset=7, epoch=3).frame).hex() == GOLDEN.hex()


def test_the_golden_bytes_decode() -> None:
    batch = checked(GOLDEN)
    assert (batch.base_offset, batch.count, batch.timestamp_ms, batch.next_offset) == (7, 2, TIME_MS, 9)
    assert decode(batch, RecordWithOffset) == [
        RecordWithOffset(7, TIME_MS, b"k", b"v1", {"h": b"j"}),
        RecordWithOffset(8, TIME_MS, None, b"v2", None),
    ]


def test_kafka_reads_what_we_write() -> None:
    kafka = DefaultRecordBatch(to_kafka(placed(ROWS, base_offset=41, epoch=5)))
    assert kafka.validate_crc()
    assert (kafka.base_offset, kafka.leader_epoch, kafka.magic, kafka.last_offset_delta) == (41, 5, 2, 3)
    found = [(record.offset, record.timestamp, record.key, record.value, record.headers) for record in kafka]
    assert found == [
        (41 + delta, TIME_MS, key, value, [(name, data) for name, data in headers])
        for delta, (key, value, headers) in enumerate(ROWS)
    ]


@pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
def test_we_read_what_kafka_writes(compression: int) -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for delta, (key, value, headers) in enumerate(ROWS):
        assert builder.append(delta, TIME_MS + delta, key, value, headers) is not None
    assert builder.append(4, TIME_MS + 4, b"null", None, []) is not None
    kafka = bytes(builder.build())
    frame = kafka[8:12] + kafka[:8] + kafka[12:]
    stated_epoch = int.from_bytes(frame[12:16], "big", signed=True)
    batch = check(frame, 0, lambda offset: stated_epoch)
    assert (batch.count, batch.timestamp_ms) == (5, TIME_MS + 4)
    expected = [
        RecordWithOffset(delta, TIME_MS + delta, key, value, dict(headers) if headers else None)
        for delta, (key, value, headers) in enumerate([*ROWS, (b"null", b"", NO_HEADERS)])
    ]
    assert decode(batch, RecordWithOffset) == expected
    assert to_kafka(batch) == kafka


@pytest.mark.parametrize("stop", [1, 5, None])
@pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
def test_a_record_alone_is_read_like_one_of_many(compression: int, stop: int | None) -> None:
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 30)
    assert builder.append(0, TIME_MS, b"k", b"x" * 1000, [("h", b"v")]) is not None
    kafka = bytes(builder.build())
    batch = check(kafka[8:12] + kafka[:8] + kafka[12:], 0, lambda _: int.from_bytes(kafka[12:16], "big", signed=True))
    assert len(batch.frame) > 1000 or compression
    assert decode(batch, RecordWithOffset, 0, stop) == [RecordWithOffset(0, TIME_MS, b"k", b"x" * 1000, {"h": b"v"})]
    assert decode(batch, RecordWithOffset, 0, 0) == decode(batch, RecordWithOffset, 1, stop) == []


rows_strategy = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=40),
        st.binary(max_size=200),
        st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=20)), max_size=4, unique_by=lambda h: h[0]),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(rows_strategy, st.integers(0, 1 << 50), st.integers(0, (1 << 31) - 1), st.integers(0, 1 << 44), st.data())
def test_what_goes_in_comes_out(rows: list[Row], base: int, epoch: int, timestamp_ms: int, data: st.DataObject) -> None:
    batch = check(bytes(placed(rows, base, epoch, timestamp_ms).frame), base, lambda offset: epoch)
    expected = [
        RecordWithOffset(base + delta, timestamp_ms, key, value, dict(headers) if headers else None)
        for delta, (key, value, headers) in enumerate(rows)
    ]
    assert decode(batch, RecordWithOffset) == expected
    first, stop = data.draw(st.integers(0, 25)), data.draw(st.integers(0, 25))
    assert decode(batch, RecordWithOffset, first, stop) == expected[first:stop]
    assert (batch.base_offset, batch.count, batch.timestamp_ms) == (base, len(rows), timestamp_ms)


def test_a_clock_that_went_back_moves_the_timestamp_up_and_the_crc_is_right() -> None:
    batch = encode(ROWS, TIME_MS)
    batch.place(10, 2, TIME_MS + 5000)
    assert batch.timestamp_ms == TIME_MS + 5000
    again = check(bytes(batch.frame), 10, lambda offset: 2)
    assert again.timestamp_ms == TIME_MS + 5000
    assert {record.timestamp_ms for record in decode(again, RecordWithOffset)} == {TIME_MS + 5000}
    kafka = DefaultRecordBatch(to_kafka(again))
    assert kafka.validate_crc()
    assert {record.timestamp for record in kafka} == {TIME_MS + 5000}


def test_placing_changes_nothing_but_the_numbering() -> None:
    batch = encode(ROWS, TIME_MS)
    before = bytes(batch.frame)
    batch.place(123456789, 9, TIME_MS)
    assert bytes(batch.frame)[16:] == before[16:]
    assert (batch.base_offset, batch.next_offset) == (123456789, 123456793)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError):
        encode([], 0)


def changed(position: int, data: bytes, *, right_crc: bool = False) -> bytes:
    frame = GOLDEN[:position] + data + GOLDEN[position + len(data) :]
    return with_crc(frame) if right_crc else frame


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"", "too few"),
        (GOLDEN[: HEADER.size - 1], "too few"),
        (GOLDEN[:-1], "length"),
        (GOLDEN + b"\0", "length"),
        (changed(0, b"\x00\x00\x00\x47"), "length"),
        (changed(4, b"\x00\x00\x00\x00\x00\x00\x00\x08"), "offset 8 where 7"),
        (changed(12, b"\x00\x00\x00\x04"), "epoch"),
        (changed(16, b"\x01"), "magic"),
        (changed(17, b"\x00"), "CRC"),
        (changed(21, b"\x01"), "CRC"),
        (changed(len(GOLDEN) - 1, b"\x01"), "CRC"),
        (changed(23, b"\x00\x00\x00\x02", right_crc=True), "do not end"),
        (changed(57, b"\x00\x00\x00\x03", right_crc=True), "do not end"),
        (changed(23, b"\xff\xff\xff\xff" + GOLDEN[27:57] + b"\x00\x00\x00\x00", right_crc=True), "do not end"),
    ],
)
def test_each_check_rejects_what_it_is_there_for(frame: bytes, complaint: str) -> None:
    with pytest.raises(BadFrame, match=complaint):
        checked(frame)


def test_every_single_flipped_bit_is_rejected() -> None:
    for bit in range(8 * len(GOLDEN)):
        frame = bytearray(GOLDEN)
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrame):
            checked(bytes(frame))


def test_a_frame_that_is_expected_anywhere_may_state_any_offset() -> None:
    assert checked(GOLDEN, base_offset=None).base_offset == 7


def test_the_crc_speaks_for_the_records_whatever_the_length_says() -> None:
    assert records_match_crc(GOLDEN)
    assert records_match_crc(changed(0, b"\xff\xff\xff\xff"))
    assert not records_match_crc(GOLDEN[:-1])
    assert not records_match_crc(b"")


def test_a_right_crc_over_garbage_is_a_bad_frame_and_nothing_worse() -> None:
    """Whatever stands where the records should be, under every compression: records, or `BadFrame`."""
    rng = random.Random(11)
    decoded = 0
    for number in range(4000):
        body = bytearray(GOLDEN[HEADER.size :])
        if number % 2:
            body[rng.randrange(len(body))] = rng.randrange(256)
        else:
            body = bytearray(rng.randbytes(rng.choice([0, 1, 5, 30, 300])))
        if number % 3 == 0:
            body = body[: rng.randrange(len(body) + 1)]
        count = rng.choice([1, 2, 2, 2, 3, 1000, (1 << 31) - 1])
        frame = bytearray(GOLDEN[: HEADER.size]) + body
        pack_into(">I", frame, 0, len(frame) - PREFIX.size)
        pack_into(">i", frame, 23, count - 1)
        pack_into(">i", frame, 57, count)
        frame[22] = rng.choice([0, 0, 0, 1, 2, 3, 4, 5, 7, 8, 16, 32])
        batch = checked(with_crc(frame))
        try:
            decode(batch, RecordWithOffset)
            decoded += 1
        except BadFrame:
            pass
    assert decoded > 50


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_a_bad_frame(data: bytes) -> None:
    for base_offset in (0, None):
        with pytest.raises(BadFrame):
            check(data, base_offset, lambda offset: 0)


def framed(records: bytes, count: int = 1, *, attributes: int = 0) -> bytes:
    """A frame whose header agrees with itself and whose CRC is right, over any bytes in the place of records."""
    frame = bytearray(GOLDEN[: HEADER.size]) + records
    pack_into(">I", frame, 0, len(frame) - PREFIX.size)
    pack_into(">hi", frame, 21, attributes, count - 1)
    pack_into(">i", frame, 57, count)
    return with_crc(frame)


def test_a_length_beyond_all_memory_is_a_bad_frame() -> None:
    key_length = b"\x9c" + b"\xff" * 8 + b"\x01"  # 2^63 - 50, where adding a position turns the sum negative
    with pytest.raises(BadFrame, match="absurd"):
        decode(checked(framed(b"\x64\0\0\0" + key_length)), RecordWithOffset)


@pytest.mark.parametrize(
    "records",
    [b"\x80", b"\x14\0\0\0\1\0\2\2h\x81", b"\x14\0\0\0\1\0\4\2h\xff"],
    ids=["a length that goes on", "a header's value", "another header after it"],
)
def test_nothing_is_read_past_the_end_of_a_batch(records: bytes) -> None:
    batch = checked(framed(records))
    assert_reads_nothing_past(batch)
    with pytest.raises(BadFrame):
        decode(batch, RecordWithOffset)


def assert_reads_nothing_past(batch: Batch) -> None:
    """Whatever follows the bytes in memory, the outcome is the same word for word."""
    told = set()
    for filler in (b"\0", b"\x01", b"\x7f", b"\x81", b"\xff"):
        with mmap.mmap(-1, mmap.PAGESIZE) as memory:
            memory.write(bytes(batch.frame) + b"\0" + filler * 100)  # CPython puts the NUL behind its bytes
            view = memoryview(memory)[: len(batch.frame)]
            try:
                told.add(str(decode(Batch(view, batch.count, batch.timestamp_ms, 7), RecordWithOffset)))  # type: ignore[arg-type]
            except BadFrame as error:
                told.add(str(error))
                error.__traceback__ = error.__cause__ = error.__context__ = None  # they hold the view
            finally:
                view.release()
    assert len(told) == 1, told


def test_a_little_gzip_does_not_become_a_gigabyte() -> None:
    piece = gzip.compress(bytes(1 << 20), mtime=0)
    bomb = checked(framed(piece * 200, attributes=1))
    assert len(bomb.frame) < 250_000
    with pytest.raises(BadFrame, match="once expanded"):
        decode(bomb, RecordWithOffset)


@pytest.mark.parametrize("timestamp_ms", [-1, -(1 << 63), MAX_TIMESTAMP_MS + 1, (1 << 63) - 1])
def test_a_time_that_is_no_date_is_a_bad_frame(timestamp_ms: int) -> None:
    """It could not be shown, and would move every later record up to it."""
    time = timestamp_ms.to_bytes(8, "big", signed=True)
    for position in (27, 35):
        with pytest.raises(BadFrame, match="times"):
            checked(changed(position, time, right_crc=True))
    minus_two = framed(b"\x0e\0\x03\0\1\2v\0")
    first_ms = (1).to_bytes(8, "big")
    with pytest.raises(BadFrame, match="time outside"):
        decode(checked(with_crc(minus_two[:27] + first_ms + minus_two[35:])), RecordWithOffset)


def test_an_offset_beyond_the_last_there_can_be_is_a_bad_frame() -> None:
    assert checked(changed(4, (MAX_OFFSET - 2).to_bytes(8, "big")), None).next_offset == MAX_OFFSET
    for offset in (MAX_OFFSET - 1, (1 << 64) - 1):
        with pytest.raises(BadFrame, match="beyond"):
            checked(changed(4, offset.to_bytes(8, "big")), None)
