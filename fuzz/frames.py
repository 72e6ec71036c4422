"""Bytes of a log, as a disk or a stranger may have left them: recovery, the batch decoder, a topic opened on them.

Whatever the bytes: errors are `BadFrame` and `DataCorruption`, nothing is read past a frame's end, no memory is taken
on a length's word, a verdict is the same the second time, and the records are those aiokafka's Python decoder finds.

The first byte of the input says how to look at the rest, so that mutations get past the checksum.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from itertools import pairwise
from struct import pack_into, unpack_from
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py
from crc32c import crc32c

from flashq.api.records import to_record_out
from flashq.batch import HEADER, MAX_TIMESTAMP_MS, PREFIX, BadFrame, Batch, decode, encode, to_kafka
from flashq.errors import DataCorruption
from flashq.record import NO_HEADERS, RecordWithOffset
from flashq.storage.file import index as index_file
from flashq.storage.file import keys as keys_file
from flashq.storage.file.consumer_group import read_commits
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.flush import Flusher
from flashq.storage.file.opening import Recovered, open_topic
from flashq.storage.file.recovery import Broken, Scan, scan
from flashq.storage.file.runs import runs
from flashq.storage.file.segment import segment_path
from flashq.storage.file.topic_log import PARTITION, EpochStart, TopicFile, save
from fuzz.fence import Fence

MAX_BYTES = 4096
RIGHT_CRCS, RIGHT_NUMBERS, ANY_OFFSET, WHOLE_TOPIC = 1, 2, 4, 8
"""Bits of the first byte: mend the checksums, mend what they do not cover, read as a group's file, open a topic."""

_SLACK_BYTES = 512 * 1024  # the objects made of at most `MAX_BYTES` bytes; a length that is believed takes far more
_EXPANDED_BYTES = 4 * 1032 * MAX_BYTES  # what gzip can make of so few bytes, kept some times over
_MEMORY_DIR = "/dev/shm"
_TIMES_MS = range(MAX_TIMESTAMP_MS + 1)
_disk = Disk()
_fence = Fence()


class KafkaBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """aiokafka's decoder in Python alone: by itself it takes a compiled part that reads past the end."""

    def _read_msg(self) -> Any:
        return super()._read_msg(decode_varint_py)


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    how, log = data[0], mended(data[1 : MAX_BYTES + 1], data[0])
    if how & WHOLE_TOPIC:
        _check_topic(log)
    else:
        _check_scan(log, None if how & ANY_OFFSET else 0)
        _check_side_files(log)


def mended(log: bytes, how: int) -> bytes:
    """The frames of `log` with right numbers and checksums, as far as `how` asks for them."""
    out, position, offset = bytearray(log), 0, 0
    while how & (RIGHT_CRCS | RIGHT_NUMBERS) and len(out) - position >= HEADER.size:
        (length,) = unpack_from(">I", out, position)
        end = min(position + PREFIX.size + max(length, HEADER.size - PREFIX.size), len(out))
        if how & RIGHT_NUMBERS:
            (count,) = unpack_from(">i", out, position + 57)
            count = max(count % 8, 1)
            pack_into(">IQib", out, position, end - position - PREFIX.size, offset, 0, 2)
            pack_into(">i", out, position + 23, count - 1)
            pack_into(">i", out, position + 57, count)
            offset += count
        if how & RIGHT_CRCS:
            pack_into(">I", out, position + 17, crc32c(out[position + 21 : end]))
        position = end
    return bytes(out)


# -- one file


def _check_scan(log: bytes, base_offset: int | None) -> None:
    file = _file_of(log)
    with memory_within(2 * len(log) + _SLACK_BYTES):
        batches: list[tuple[int, Batch]] = []
        found = scan(_disk, file, base_offset, _epoch, on_batch=lambda at, batch: batches.append((at, batch)))
    _check_verdict(file, log, base_offset, found, batches)
    for _, batch in batches:
        _check_batch(batch)
    with contextlib.suppress(ValueError):
        read_commits(batch for _, batch in batches)
    with memory_within(2 * len(log) + _SLACK_BYTES):
        spans = [
            (run.start, run.end, run.base_offset, run.next_offset) for run in runs(_disk, file, base_offset, _epoch)
        ]
    for before, after in pairwise(spans):
        assert before[0] <= before[1] < after[0] <= after[1], f"runs overlap: {spans}"
        assert before[3] < after[2] <= after[3], f"offsets of runs overlap: {spans}"


def _check_verdict(
    file: OpenFile, log: bytes, base_offset: int | None, found: Scan, batches: list[tuple[int, Batch]]
) -> None:
    assert (found.verdict == "clean") == (not any(log[found.end :])), found  # or there is room
    position, offset = 0, base_offset
    for at, batch in batches:
        assert at == position, "a hole between frames"
        assert offset is None or batch.base_offset == offset, "a hole between offsets"
        assert batch.frame == log[at : at + len(batch.frame)], "these bytes are not in the file"
        assert KafkaBatch(to_kafka(batch)).validate_crc(), "Kafka finds another checksum"
        position, offset = at + len(batch.frame), batch.next_offset
    assert position == found.end
    if found.verdict == "torn":
        os.ftruncate(file.fd, found.end)
        again = scan(_disk, file, base_offset, _epoch)
        assert (again.verdict, again.end, again.next_offset) == ("clean", found.end, found.next_offset)
        os.pwrite(file.fd, log[found.end :], found.end)


def _check_batch(batch: Batch) -> None:
    """The records, read with a fence behind them, are those of another decoder."""
    at_fence = Batch(_fence.put(batch.frame), batch.count, batch.timestamp_ms, batch.base_offset)  # type: ignore[arg-type]
    with memory_within(2 * len(batch.frame) + _SLACK_BYTES + (_EXPANDED_BYTES if batch.frame[22] & 7 else 0)):
        try:
            records = decode(at_fence, RecordWithOffset)
        except BadFrame:
            records = None
    expected = _kafka_records(batch)
    assert records == expected, f"we read {records}, Kafka {expected}"
    if records is not None:
        for number, record in enumerate(records):
            assert record.offset == batch.base_offset + number
            to_record_out(record.offset, record.timestamp_ms, record.key, record.value, record.headers)


def _kafka_records(batch: Batch) -> list[RecordWithOffset] | None:
    try:
        kafka = list(KafkaBatch(to_kafka(batch)))
    except (KafkaError, EOFError, OSError, ValueError, zlib.error):
        return None
    if not all(record.timestamp in _TIMES_MS for record in kafka):
        return None
    return [
        RecordWithOffset(
            batch.base_offset + number,
            record.timestamp,
            record.key,
            record.value or b"",
            {name: value or b"" for name, value in record.headers} if record.headers else None,
        )
        for number, record in enumerate(kafka)
    ]


def _check_side_files(data: bytes) -> None:
    """Indexes are believed only if they are whole; keys of a segment come from its headers alone."""
    with memory_within(2 * len(data) + _SLACK_BYTES):
        index_file.decode(data, 0, 0)
        keys_file.decode(data, 0)
        with contextlib.suppress(Broken):
            keys_file.scan_keys(_disk, _file_of(data), len(data), 0)


def _epoch(offset: int) -> int:
    return 0


def _file_of(data: bytes) -> OpenFile:
    file = OpenFile(os.memfd_create("log"), "log")
    os.pwrite(file.fd, data, 0)
    return file


@contextlib.contextmanager
def memory_within(limit: int) -> Iterator[None]:
    """Whatever is done inside never holds more than `limit` bytes that Python has allocated."""
    was_tracing = tracemalloc.is_tracing()  # to start and stop it for every input leaks some hundred bytes each time
    if not was_tracing:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak <= limit, f"{peak} bytes were taken where {limit} are allowed"
    finally:
        if not was_tracing:
            tracemalloc.stop()


# -- a topic on the disk


def _check_topic(log: bytes) -> None:
    directory = tempfile.mkdtemp(prefix="flashq-fuzz-", dir=_MEMORY_DIR if os.path.isdir(_MEMORY_DIR) else None)
    try:
        topic = os.path.join(directory, "t")
        os.makedirs(os.path.join(topic, PARTITION), 0o700)
        about = TopicFile(name="t", topic_id="id", segment_bytes=1 << 20, epochs=[EpochStart(0, 0)])
        save(_disk, topic, about)
        path = segment_path(os.path.join(topic, PARTITION), 0)
        with open(path, "wb") as file:
            file.write(log)
        found = _records_and_one_more(topic)
        again = _records_and_one_more(topic)
        assert again[: len(found)] == found, "the second opening finds other records"
    finally:
        shutil.rmtree(directory)


def _records_and_one_more(topic: str) -> list[RecordWithOffset]:
    """What the topic holds once opened, and a record posted to it unless it is damaged."""
    flusher = Flusher("always", 1, 1.0)
    *_, log = open_topic(topic, disk=_disk, flusher=flusher, epoch=0, recovered=Recovered())
    assert log is not None
    try:
        try:
            log.append(encode([(b"k", b"v", NO_HEADERS)], 0)).result()
        except DataCorruption:
            assert log.damage is not None
        records: list[RecordWithOffset] = []
        try:
            while batches := log.read(records[-1].offset + 1 if records else 0):
                records += [record for batch in batches for record in decode(batch, RecordWithOffset)]
        except (BadFrame, DataCorruption):
            pass
        else:
            assert [record.offset for record in records] == list(range(log.high_water_mark))
        return records
    finally:
        log.close()
        flusher.close()
