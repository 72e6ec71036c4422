"""Records as lines of NDJSON and back, in the shapes of the contract."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from flashq.api.records import to_rows
from flashq.api.schemas import MAX_BATCH_RECORDS, Encoding, RecordIn, RecordOut
from flashq.api.times import parse_time
from flashq.errors import ValidationError
from flashq.record import Postable, RecordWithOffset, to_row

_encoder = msgspec.json.Encoder()
_timestamp_ms = lru_cache(maxsize=1024)(parse_time)  # records posted together share one


class _Line(RecordIn, omit_defaults=True):
    """A record as posted, without what is not there."""


def encode_records(records: Iterable[Postable]) -> bytes:
    """The body of a post. Raises `ValidationError` for no records, over 1,000, and for what the contract cannot carry.

    Sizes are left to the server, which knows its limits.
    """
    if isinstance(records, str | bytes):
        raise ValidationError("post_records takes a list of records; post_record takes one", field="records")
    lines = [_line(record) for record in records]
    if not 1 <= len(lines) <= MAX_BATCH_RECORDS:
        raise ValidationError(
            f"a post has 1 to {MAX_BATCH_RECORDS} records, not {len(lines)}. Nothing was stored; "
            "a producer (client.producer) takes any number and posts them in batches",
            field="records",
            max_size=MAX_BATCH_RECORDS,
            actual_size=len(lines),
        )
    try:
        return _encoder.encode_lines(lines)
    except UnicodeEncodeError as error:
        raise _no_utf8(error) from error


def encode_record(record: Postable) -> bytes:
    """One line, with its end. Raises `ValidationError` also for a record over the contract's limits."""
    line = _line(record)
    try:
        to_rows([line])
        return _encoder.encode(line) + b"\n"
    except UnicodeEncodeError as error:
        raise _no_utf8(error) from error


def decode_record(record: RecordOut) -> RecordWithOffset:
    """A record as polled. Raises ValueError if it has not the contract's shape."""
    key, value, headers = record.key, record.value, record.headers
    return RecordWithOffset(
        record.offset,
        _timestamp_ms(record.timestamp),
        None if key is None else key.encode() if not record.key_encoding else b64decode(key),
        value.encode() if not record.encoding else b64decode(value),
        None if headers is None else {name: each.encode() for name, each in headers.items()},
    )


def _line(record: Postable) -> _Line:
    if type(record) is str:  # the usual thing in bulk
        return _Line(record)
    key, value, headers = to_row(record)
    coded_value, encoding = _text(value)
    coded_key, key_encoding = (None, None) if key is None else _text(key)
    return _Line(coded_value, coded_key, _header_texts(headers) if headers else None, encoding, key_encoding)


def _no_utf8(error: UnicodeEncodeError) -> ValidationError:
    return ValidationError(f"a value is text without a UTF-8 form: {error.reason}. Nothing was stored", field="value")


def _text(data: bytes) -> tuple[str, Encoding | None]:
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return b64encode(data).decode(), "base64"


def _header_texts(headers: list[tuple[str, bytes]]) -> dict[str, str]:
    try:
        return {name: value.decode() for name, value in headers}
    except UnicodeDecodeError as error:
        raise ValidationError(
            "over HTTP a header value is text, and this one is not UTF-8; nothing was stored", field="headers"
        ) from error
