"""How much memory the bytes of a log can take, whatever they say of themselves: as many more at the same time, twice.

Fuzzing looks at this with 4 KiB, where the objects of Python outweigh what a buffer too many would take.
"""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Callable
from struct import pack_into

import pytest
from crc32c import crc32c

from flashq.batch import HEADER, MAX_EXPANDED_BYTES, PREFIX, BadFrame, Batch, check, decode, decode_each
from flashq.record import RecordWithOffset
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.recovery import READ_BYTES, scan
from flashq.storage.file.runs import runs
from fuzz.frames import memory_within

MIB = 1024 * 1024
SIZE = 4 * MIB
SLACK_BYTES = 128 * 1024
TIME_MS = 1_700_000_000_123
TOO_MUCH = (1 << 31) - 1


def framed(records: bytes, count: int = 1, *, offset: int = 0, attributes: int = 0) -> bytes:
    """A frame whose header agrees with itself and whose CRC is right, over any bytes in the place of records."""
    header = (0, offset, 0, 2, 0, attributes, count - 1, TIME_MS, TIME_MS, -1, -1, -1, count)
    frame = bytearray(HEADER.pack(*header) + records)
    pack_into(">I", frame, 0, len(frame) - PREFIX.size)
    pack_into(">I", frame, 17, crc32c(memoryview(frame)[21:]))
    return bytes(frame)


def varint(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


def record(value: bytes, *, delta: int = 0, end: bytes = b"\0") -> bytes:
    """Without a key, and with no headers unless `end` has some."""
    content = b"\0\0" + varint(delta) + varint(-1) + varint(len(value)) + value + end
    return varint(len(content)) + content


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


LARGE = framed(record(noise(SIZE)))
SMALL = record(noise(180))
SMALL_BYTES = len(framed(SMALL))


def small_frames() -> bytes:
    return b"".join(framed(SMALL, offset=offset) for offset in range(SIZE // SMALL_BYTES))


def with_length(frames: bytes, length: int) -> bytes:
    return length.to_bytes(4, "big") + frames[4:]


# -- a file

FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a large frame": ("clean", lambda: LARGE),
    "two of them": ("clean", lambda: LARGE + framed(record(noise(SIZE)), offset=1)),
    "the second one damaged": ("damage", lambda: LARGE + framed(record(noise(SIZE)), offset=1)[:-1] + b"\1"),
    "a large damaged frame, and a good one": ("damage", lambda: LARGE[:-1] + b"\1" + framed(record(b"v"), offset=1)),
    "a large torn frame": ("torn", lambda: LARGE[: SIZE // 2] + bytes(SIZE // 2)),
    "a torn frame in much room": ("torn", lambda: LARGE[:200] + bytes(SIZE)),
    "a frame and much room": ("clean", lambda: framed(record(b"v")) + bytes(SIZE)),
    "a length of 2 GiB": ("damage", lambda: with_length(LARGE, TOO_MUCH)),
    "a length of 4 GiB": ("damage", lambda: with_length(LARGE, 0xFFFFFFFF)),
    "a good frame, and a length of 2 GiB": ("torn", lambda: framed(record(b"v")) + with_length(noise(SIZE), TOO_MUCH)),
    "a count of 2^31 - 1": ("clean", lambda: framed(record(noise(SIZE)), TOO_MUCH)),
    "a count below zero": ("damage", lambda: framed(record(noise(SIZE)), -TOO_MUCH)),
    "garbage": ("damage", lambda: with_length(noise(SIZE), SIZE // 2)),
    "ones": ("torn", lambda: b"\xff" * SIZE),
    "many small frames": ("clean", small_frames),
    "many small frames behind a length of 2 GiB": ("damage", lambda: with_length(small_frames(), TOO_MUCH)),
}


def file_of(data: bytes) -> OpenFile:
    file = OpenFile(os.memfd_create("log"), "log")
    os.pwrite(file.fd, data, 0)
    return file


@pytest.mark.parametrize("name", FILES)
def test_reading_a_file_takes_no_more_than_it_has_twice(name: str) -> None:
    verdict, make = FILES[name]
    data = make()
    file = file_of(data)
    with memory_within(2 * len(data) + READ_BYTES + SLACK_BYTES):
        found = scan(Disk(), file, 0, lambda offset: 0)
    assert found.verdict == verdict
    of_frames = 128 * len(data) // SMALL_BYTES if "many" in name else 0  # where they are, to find the log behind damage
    with memory_within(2 * len(data) + READ_BYTES + SLACK_BYTES + of_frames):
        for _ in runs(Disk(), file, 0, lambda offset: 0):
            pass


def test_reading_a_long_file_of_good_frames_takes_what_is_read_of_it_at_once() -> None:
    data = b"".join(framed(record(noise(READ_BYTES // 2)), offset=offset) for offset in range(16))
    assert len(data) > 8 * MIB
    with memory_within(3 * READ_BYTES):  # what was read, what is read, and a frame of it
        assert scan(Disk(), file_of(data), 0, lambda offset: 0).frames == 16


# -- a batch

LIES = {
    "the length of a record": varint(TOO_MUCH),
    "the length of a record, beyond all memory": varint(1 << 62),
    "the length of a record, below zero": varint(-TOO_MUCH),
    "the length of a key": varint(SIZE) + b"\0\0\0" + varint(TOO_MUCH),
    "the length of a key, beyond all memory": varint(SIZE) + b"\0\0\0" + varint((1 << 63) - 50),
    "the length of a value": varint(SIZE) + b"\0\0\0\1" + varint(TOO_MUCH),
    "the length of a value, some more than there is": varint(SIZE) + b"\0\0\0\1" + varint(SIZE + MIB),
    "the number of headers": varint(SIZE) + b"\0\0\0\1\1" + varint(TOO_MUCH),
    "the number of headers, beyond all memory": varint(SIZE) + b"\0\0\0\1\1" + varint(1 << 62),
    "the length of a header's name": varint(SIZE) + b"\0\0\0\1\1\2" + varint(TOO_MUCH),
    "the length of a header's value": varint(SIZE) + b"\0\0\0\1\1\2\2h" + varint(TOO_MUCH),
}


def batch_of(frame: bytes) -> Batch:
    return check(frame, 0, lambda offset: 0)


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_a_length_takes_no_more_than_the_batch_has_twice(name: str) -> None:
    for count in (1, 2, TOO_MUCH):
        batch = batch_of(framed(LIES[name] + noise(SIZE), count))
        limit = 2 * len(batch.frame) + SLACK_BYTES
        if "beyond all memory" in name:
            limit += len(batch.frame)  # asked for, and never touched, to tell a lie from a lack of memory
        with memory_within(limit), pytest.raises(BadFrame):
            decode(batch, RecordWithOffset)


@pytest.mark.parametrize("end", [b"\0", b"\2\2h\2\xff"], ids=["as it is", "its last byte looks like a number's"])
@pytest.mark.parametrize("count", [1, TOO_MUCH])
def test_a_large_record_takes_no_more_than_the_batch_has_twice(count: int, end: bytes) -> None:
    batch = batch_of(framed(record(noise(SIZE), end=end), count))
    with memory_within(2 * len(batch.frame) + SLACK_BYTES):
        try:
            assert count == len(decode(batch, RecordWithOffset))
        except BadFrame:
            assert count == TOO_MUCH


def test_many_records_taken_one_at_a_time_take_nothing_but_the_batch() -> None:
    count = SIZE // len(SMALL)
    batch = batch_of(framed(SMALL * count, count))
    with memory_within(SLACK_BYTES):
        assert sum(1 for _ in decode_each(batch, RecordWithOffset)) == batch.count


@pytest.mark.parametrize(
    "value_bytes", [MAX_EXPANDED_BYTES - 1000, MAX_EXPANDED_BYTES + 1000], ids=["within", "beyond"]
)
def test_a_compressed_batch_takes_what_it_may_expand_to_and_as_much_for_its_records(value_bytes: int) -> None:
    batch = batch_of(framed(gzip.compress(record(bytes(value_bytes)), 1), attributes=1))
    with memory_within(MAX_EXPANDED_BYTES * 9 // 4):  # a bytearray that grows takes an eighth more
        try:
            assert len(decode(batch, RecordWithOffset)[0].value) == value_bytes
        except BadFrame:
            assert value_bytes > MAX_EXPANDED_BYTES


def test_megabytes_of_gzip_that_would_become_gigabytes_take_what_they_may_expand_to() -> None:
    piece = gzip.compress(bytes(MIB))
    batch = batch_of(framed(piece * (SIZE // len(piece)), attributes=1))
    with memory_within(2 * len(batch.frame) + MAX_EXPANDED_BYTES * 9 // 8 + MIB), pytest.raises(BadFrame):
        decode(batch, RecordWithOffset)


# -- that it would be seen


def test_what_the_compiled_decoder_takes_is_seen() -> None:
    batch = batch_of(LARGE)
    with pytest.raises(AssertionError, match="bytes were taken"), memory_within(SIZE - SLACK_BYTES):
        decode(batch, RecordWithOffset)


def test_memory_taken_on_the_word_of_a_length_is_seen() -> None:
    class Trusting(Disk):
        def read(self, file: OpenFile, size: int, position: int) -> bytes:
            data = super().read(file, size, position)
            bytearray(PREFIX.unpack_from(data)[0])
            return data

    file = file_of(with_length(LARGE, 64 * MIB))
    with pytest.raises(AssertionError, match="bytes were taken"), memory_within(2 * len(LARGE) + READ_BYTES):
        scan(Trusting(), file, 0, lambda offset: 0)


# -- a lack of memory is no lie


SHORT_OF_MEMORY = """
import resource
from flashq.batch import BadFrame, decode
from flashq.record import RecordWithOffset
from tests.test_batch_memory import BATCHES, MIB

batch = BATCHES[{name!r}]()
taken_kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (taken_kib * 1024 + 40 * MIB, -1))
try:
    decode(batch, RecordWithOffset)
except (BadFrame, MemoryError) as error:
    print(type(error).__name__)
"""
BATCHES = {
    "a large record": lambda: batch_of(framed(record(bytes(64 * MIB)))),
    "many records": lambda: batch_of(framed(record(b"") * MIB, MIB)),
    "what it expands to": lambda: batch_of(framed(gzip.compress(record(bytes(100 * MIB)), 1), attributes=1)),
    "a lie": lambda: batch_of(framed(LIES["the length of a key, beyond all memory"] + noise(SIZE))),
}


@pytest.mark.parametrize("name", BATCHES)
def test_good_records_that_find_no_memory_are_no_bad_frame(name: str) -> None:
    run = [sys.executable, "-c", SHORT_OF_MEMORY.format(name=name)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.stdout == ("BadFrame\n" if name == "a lie" else "MemoryError\n"), done.stderr
