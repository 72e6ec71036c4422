"""Posted records to rows of the codec, and stored records to what the contract shows.

Sizes are bytes of UTF-8.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error

from msgspec import UNSET

from flashq.api.schemas import (
    MAX_BATCH_RECORDS,
    MAX_HEADER_VALUE_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Encoding,
    RecordIn,
    RecordOut,
    encode_json,
)
from flashq.api.times import iso_timestamp
from flashq.errors import ValidationError
from flashq.record import NO_HEADERS, Row


def to_rows(records: list[RecordIn]) -> list[Row]:
    """Posted records as the codec takes them. Raises `ValidationError` at the first one outside the limits."""
    if not 1 <= len(records) <= MAX_BATCH_RECORDS:
        raise _outside("records", MAX_BATCH_RECORDS, len(records), "records (1 at least)")
    rows: list[Row] = []
    for record in records:
        value = record.value.encode() if record.encoding is None else _from_base64(record.value, "value", len(rows))
        if len(value) > MAX_VALUE_BYTES:
            raise _outside(f"records[{len(rows)}].value", MAX_VALUE_BYTES, len(value))
        key = None if record.key is None else _key(record, record.key, len(rows))
        headers = _header_row(record.headers, len(rows)) if record.headers else NO_HEADERS
        rows.append((key, value, headers))
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


def posted_body(first_offset: int, count: int, stamp: bytes) -> bytes:
    """The answer to a post: `{"offsets":[{"offset","timestamp"}]}`, one for each record, in order; `stamp` is their
    `stamp_of` the batch's timestamp."""
    if count == 1:
        return b'{"offsets":[{"offset":%d%b]}' % (first_offset, stamp)
    # Only the numbers differ: they are written as a list, whose commas become what stands between two of them.
    numbers = encode_json(list(range(first_offset, first_offset + count)))[1:-1]
    return b'{"offsets":[{"offset":%b%b]}' % (numbers.replace(b",", b'%b,{"offset":' % stamp), stamp)


def lines_body(first_offset: int, count: int, stamp: bytes) -> bytes:
    """The answer to a post of NDJSON lines: `{"first_offset","last_offset","count"}`."""
    return b'{"first_offset":%d,"last_offset":%d,"count":%d}' % (first_offset, first_offset + count - 1, count)


def stamp_of(timestamp_ms: int) -> bytes:
    """What follows the offset where a post is answered: the same for all records of a batch."""
    return b',"timestamp":"%b"}' % iso_timestamp(timestamp_ms).encode()


def _header_row(headers: dict[str, str], at: int) -> list[tuple[str, bytes]]:
    row = [(name, value.encode()) for name, value in headers.items()]
    for name, value in row:
        if len(value) > MAX_HEADER_VALUE_BYTES:
            raise _outside(f"records[{at}].headers[{name[:100]}]", MAX_HEADER_VALUE_BYTES, len(value))
    return row


def _headers_out(headers: dict[str, bytes]) -> dict[str, str]:
    return {name: value.decode(errors="backslashreplace") for name, value in headers.items()}


def _key(record: RecordIn, key: str, at: int) -> bytes:
    coded = key.encode() if record.key_encoding is None else _from_base64(key, "key", at)
    if len(coded) > MAX_KEY_BYTES:
        raise _outside(f"records[{at}].key", MAX_KEY_BYTES, len(coded))
    return coded


def _from_base64(text: str, name: str, at: int) -> bytes:
    try:
        data = b64decode(text, validate=True)
        if len(text) != 4 * ((len(data) + 2) // 3):  # some versions of Python take more padding than there must be
            raise ValueError("excess padding")
    except (Base64Error, ValueError) as error:
        raise ValidationError(f"records[{at}].{name} is not base64: {error}", field=f"records[{at}].{name}") from error
    return data


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
