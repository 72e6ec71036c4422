"""The shapes of the HTTP contract, as msgspec types, and how they become records and back.

Shared by server and client. Sizes are bytes of UTF-8; times on the wire are ISO 8601 UTC with milliseconds and Z.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from flashq.errors import ValidationError
from flashq.record import NO_HEADERS, Row

MAX_KEY_BYTES = 1024
MAX_HEADER_VALUE_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_BATCH_RECORDS = 1000
MAX_POLL_RECORDS = 10_000
DEFAULT_POLL_RECORDS = 100
MAX_POLL_BYTES = 8 * 1024 * 1024
MAX_TIMEOUT_MS = 60_000

Encoding = Literal["base64"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordIn(msgspec.Struct):
    """A record as posted. `encoding` "base64" says what `value` is written in."""

    value: str
    key: str | None = None
    headers: dict[str, str] | None = None
    encoding: Encoding | None = None


class PostRecords(msgspec.Struct):
    """The body of `POST /topics/{topic}/records`."""

    records: list[RecordIn]


class RecordOut(msgspec.Struct):
    """A record as read. Text that is not UTF-8 comes in base64, and `encoding` or `key_encoding` says so."""

    key: str | None
    value: str
    headers: dict[str, str] | None
    offset: int
    timestamp: str
    encoding: Encoding | UnsetType = UNSET
    key_encoding: Encoding | UnsetType = UNSET


class Records(msgspec.Struct):
    """The answer to `GET /topics/{topic}/records`."""

    records: list[RecordOut]
    next_offset: int
    high_water_mark: int
    lag: int
    log_start_offset: int


class HealthReport(msgspec.Struct):
    """The answer to `GET /health`. `timestamp` is Unix seconds, `uptime` seconds."""

    status: Literal["healthy", "degraded", "unhealthy"]
    service: str
    timestamp: int
    version: str
    uptime: float
    topics_count: int
    consumer_groups_count: int
    problems: list[str] | UnsetType = UNSET


decode_post = msgspec.json.Decoder(PostRecords).decode
encode_json = msgspec.json.Encoder().encode


def to_rows(records: list[RecordIn]) -> list[Row]:
    """Posted records as the codec takes them. Raises `ValidationError` at the first one outside the limits."""
    if not 1 <= len(records) <= MAX_BATCH_RECORDS:
        raise _outside("records", MAX_BATCH_RECORDS, len(records), "records (1 at least)")
    rows: list[Row] = []
    for record in records:
        value = record.value.encode() if record.encoding is None else _from_base64(record.value, len(rows))
        if len(value) > MAX_VALUE_BYTES:
            raise _outside(f"records[{len(rows)}].value", MAX_VALUE_BYTES, len(value))
        key = record.key
        if key is not None and len(coded := key.encode()) > MAX_KEY_BYTES:
            raise _outside(f"records[{len(rows)}].key", MAX_KEY_BYTES, len(coded))
        headers = _header_row(record.headers, len(rows)) if record.headers else NO_HEADERS
        rows.append((None if key is None else coded, value, headers))
    return rows


def to_record_out(
    offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: dict[str, bytes] | None
) -> RecordOut:
    """A stored record as the contract shows it. A header value that is not UTF-8 shows its odd bytes as \\xNN."""
    try:
        return RecordOut(
            None if key is None else key.decode(),
            value.decode(),
            _headers_out(headers) if headers else None,
            offset,
            iso_timestamp(timestamp_ms),
        )
    except UnicodeDecodeError:
        shown_key, key_encoding = (None, None) if key is None else _text_or_base64(key)
        shown_value, encoding = _text_or_base64(value)
        return RecordOut(
            shown_key,
            shown_value,
            _headers_out(headers) if headers else None,
            offset,
            iso_timestamp(timestamp_ms),
            encoding or UNSET,
            key_encoding or UNSET,
        )


def posted_body(first_offset: int, count: int, timestamp_ms: int) -> bytes:
    """The answer to a post: `{"offsets":[{"offset","timestamp"}]}`, one for each record, in order."""
    after = _after_offset(timestamp_ms)
    if count == 1:
        return b'{"offsets":[{"offset":%d%b]}' % (first_offset, after)
    offsets = [b'{"offset":%d%b' % (offset, after) for offset in range(first_offset, first_offset + count)]
    return b'{"offsets":[%b]}' % b",".join(offsets)


@lru_cache(maxsize=1024)
def _after_offset(timestamp_ms: int) -> bytes:
    return b',"timestamp":"%b"}' % iso_timestamp(timestamp_ms).encode()


@lru_cache(maxsize=1024)
def iso_timestamp(timestamp_ms: int) -> str:
    """Unix milliseconds as ISO 8601 UTC: 2026-01-15T10:30:45.123Z."""
    return f"{_iso_seconds(timestamp_ms // 1000)}.{timestamp_ms % 1000:03}Z"


@lru_cache(maxsize=64)
def _iso_seconds(timestamp_s: int) -> str:
    return (_EPOCH + timedelta(seconds=timestamp_s)).strftime("%Y-%m-%dT%H:%M:%S")


def _header_row(headers: dict[str, str], at: int) -> list[tuple[str, bytes]]:
    row = [(name, value.encode()) for name, value in headers.items()]
    for name, value in row:
        if len(value) > MAX_HEADER_VALUE_BYTES:
            raise _outside(f"records[{at}].headers[{name[:100]}]", MAX_HEADER_VALUE_BYTES, len(value))
    return row


def _headers_out(headers: dict[str, bytes]) -> dict[str, str]:
    return {name: value.decode(errors="backslashreplace") for name, value in headers.items()}


def _from_base64(text: str, at: int) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise ValidationError(f"records[{at}].value is not base64: {error}", field=f"records[{at}].value") from error


def _text_or_base64(data: bytes) -> tuple[str, Encoding | None]:
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return b64encode(data).decode(), "base64"


def _outside(field: str, limit: int, actual: int, unit: str = "bytes") -> ValidationError:
    return ValidationError(
        f"{field} has {actual} {unit}; at most {limit} are allowed. Nothing was stored",
        field=field,
        max_size=limit,
        actual_size=actual,
    )
