"""The bare codec, aiokafka's compiled batch builder and reader, alone and with JSON on its other side: the most that
anything made of them can do."""

from __future__ import annotations

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from benchmarks.peers import value
from benchmarks.peers.flashq_server import json_records
from benchmarks.peers.http_limit import TIMESTAMP, Answer, Offset, Page, RecordRead, decode, encode

NAME = "bare codec"
NAME_WITH_JSON = "codec and JSON alone"
_NOW_MS = 1_700_000_000_000


class Codec:
    """Batches of so many records of `size` bytes, back and forth."""

    def __init__(self, records: int, size: int) -> None:
        self._values = [value(size)] * records
        self._request = json_records(records, size)
        self._batch = encode_batch(self._values)

    def encode(self) -> int:
        encode_batch(self._values)
        return len(self._values)

    def decode(self) -> int:
        found = [(record.offset, record.timestamp, record.key, record.value) for record in _read(self._batch)]
        return len(found)

    def post(self) -> int:
        """A request's body to a batch, and the answer's body."""
        encode_batch([record.value.encode() for record in decode(self._request).records])
        encode(Answer([Offset(offset, TIMESTAMP) for offset in range(len(self._values))]))
        return len(self._values)

    def poll(self) -> int:
        """A batch to the answer's body."""
        read = [
            RecordRead(None, str(record.value, "utf-8"), None, record.offset, TIMESTAMP)
            for record in _read(self._batch)
        ]
        encode(Page(read, len(read), len(read), 0, 0))
        return len(self._values)


def _read(batch: bytes) -> DefaultRecordBatch:
    found = DefaultRecordBatch(batch)
    assert found.validate_crc()
    return found


def encode_batch(values: list[bytes]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    append = builder.append
    for at, content in enumerate(values):
        append(at, _NOW_MS, None, content, [])
    return bytes(builder.build())
