"""Between Kafka's records and batches: what a post becomes as messages, and messages as batches.

A Kafka client is given records one by one; how they were batched, it is not told. Here a batch is a run of records
without a hole, of some 64 KiB. A post with an idempotency key is a batch of its own again: its first record bears the
key's hash and the number of records in a header, which FlashQ's readers are not shown:

    flashq-post   hash (14 bytes, as in a batch's header), count u32, big-endian
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from confluent_kafka import Message

from flashq.batch import KEY_HASH_BYTES, Batch, Stored, decode, encode_stored
from flashq.errors import ValidationError

POST_HEADER = "flashq-post"
RUN_BYTES = 64 * 1024
_POST = Struct(f">{KEY_HASH_BYTES}sI")
_RECORD_BYTES = 16  # about what a record takes beside its content

ToSend = tuple[int, bytes | None, bytes, list[tuple[str, bytes]]]
"""Timestamp (Unix ms), key, value, headers."""


def rows_of(batch: Batch) -> list[ToSend]:
    """The records of a post as they are sent. Raises `ValidationError` for what a Kafka client cannot send."""
    rows = decode(batch, _row)
    if any("\0" in name for _, _, _, headers in rows if headers for name, _ in headers):
        raise ValidationError(
            "a header name has a NUL character, which Kafka's clients cannot send. Nothing was stored", field="headers"
        )
    key_hash = batch.key_hash
    if key_hash is not None:
        timestamp_ms, key, value, headers = rows[0]
        rows[0] = timestamp_ms, key, value, [*headers, (POST_HEADER, _POST.pack(key_hash, batch.count))]
    return rows


def _row(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: dict[str, bytes] | None) -> ToSend:
    return timestamp_ms, key, value, list(headers.items()) if headers else []


class Runs:
    """Messages of one topic in order of offset, made into batches. A run that is not whole yet is held back."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.records = 0
        self.size = 0  # bytes of content, of what was added
        self._records: list[Stored] = []
        self._base_offset = 0
        self._bytes = 0
        self._key_hash: bytes | None = None
        self._missing = 0  # records of a post with a key that are yet to come

    @property
    def is_whole(self) -> bool:
        """Whether no post with a key is cut."""
        return self._missing <= 0

    @property
    def next_offset(self) -> int:
        """The offset after the last message added."""
        return self._base_offset + len(self._records)

    def add(self, messages: Sequence[Message]) -> None:
        for message in messages:
            offset = message.offset()
            key, value, headers = message.key(), message.value(), message.headers() or []
            post = _post_in(headers) if headers else None
            if post is not None:
                headers = [each for each in headers if each[0] != POST_HEADER]
            if self._records and (offset != self.next_offset or post is not None or self._is_full()):
                self._close()
            if not self._records:
                self._base_offset = offset
            if post is not None:
                self._key_hash, self._missing = post
            self._records.append((message.timestamp()[1], key, value, headers))
            size = _RECORD_BYTES + len(value or b"") + len(key or b"")
            self._bytes += size
            self.size += size
            self.records += 1
            self._missing -= 1
            if self._missing == 0:
                self._close()

    def take(self) -> list[Batch]:
        """What there is, the run under way closed."""
        if self._records:
            if not self.is_whole:
                self._key_hash = None  # without all of its records it cannot stand for the post
            self._close()
        batches, self.batches = self.batches, []
        return batches

    def _is_full(self) -> bool:
        return self._missing <= 0 and self._bytes >= RUN_BYTES

    def _close(self) -> None:
        key_hash = self._key_hash if self._missing <= 0 else None
        self.batches.append(encode_stored(self._base_offset, self._records, key_hash))
        self._base_offset = self.next_offset
        self._records = []
        self._bytes = self._missing = 0
        self._key_hash = None


def _post_in(headers: Sequence[tuple[str, bytes | None]]) -> tuple[bytes, int] | None:
    for name, value in headers:
        if name == POST_HEADER and value is not None and len(value) == _POST.size:
            key_hash, count = _POST.unpack(value)
            return (key_hash, count) if count else None
    return None
