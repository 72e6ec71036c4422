"""What is stored: a record, and a record as it is read back. Bytes in, bytes out; text is a view.

A value is bytes. Text given to `Record` is stored as UTF-8; what is read back is always bytes, with `text`,
`key_text` and `json()` beside it, so that a type never depends on the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from flashq.errors import ValidationError

MAX_VALUE_BYTES = 64 * 1024 * 1024
"""The largest value the engine takes; the HTTP edge allows less."""

Row = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
"""Key, value, headers: a record in the shape the batch codec eats."""

NO_HEADERS: list[tuple[str, bytes]] = []
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Readable:
    """Views on the bytes of a record; shared by what is posted and what is polled."""

    __slots__ = ()
    value: bytes
    key: bytes | None
    headers: dict[str, bytes] | None

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Raises UnicodeDecodeError if it is not."""
        return self.value.decode()

    @property
    def key_text(self) -> str | None:
        """The key as UTF-8 text, or None where there is no key. Raises UnicodeDecodeError if it is not text."""
        return None if self.key is None else self.key.decode()

    def json(self) -> Any:
        """The value parsed as JSON. Raises ValueError (json.JSONDecodeError, UnicodeDecodeError) if it is not."""
        return json.loads(self.value)


class Record(_Readable):
    """A record to post: `value`, an optional `key`, optional `headers` (name to value). Text becomes UTF-8 bytes.

    An empty value, an empty key and an empty header value are valid and are not None. Raises `ValidationError`
    for other types, for text that has no UTF-8 form (lone surrogates) and for a value over 64 MiB.
    """

    __slots__ = ("headers", "key", "value")

    def __init__(
        self, value: str | bytes, key: str | bytes | None = None, headers: Mapping[str, str | bytes] | None = None
    ) -> None:
        self.value: bytes = value if type(value) is bytes else _to_bytes(value, "value")
        self.key: bytes | None = key if key is None or type(key) is bytes else _to_bytes(key, "key")
        self.headers: dict[str, bytes] | None = _headers(headers) if headers else None
        if len(self.value) > MAX_VALUE_BYTES:
            raise _too_large(len(self.value))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return (self.value, self.key, self.headers) == (other.value, other.key, other.headers)

    def __hash__(self) -> int:
        return hash((self.value, self.key))

    def __repr__(self) -> str:
        return f"Record(value={self.value!r}, key={self.key!r}, headers={self.headers!r})"


class RecordWithOffset(_Readable, msgspec.Struct, frozen=True, gc=False):
    """A record as polled: its bytes, its `offset` and when it was appended (`timestamp_ms`, Unix milliseconds)."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: dict[str, bytes] | None

    @property
    def timestamp(self) -> datetime:
        """When it was appended, as an aware datetime in UTC."""
        return _EPOCH + timedelta(milliseconds=self.timestamp_ms)


Postable = Record | RecordWithOffset | str | bytes
"""What may be posted: a record, or plain text or bytes standing for one without key and headers."""


def to_row(record: Postable) -> Row:
    """A postable thing as the codec takes it. Raises `ValidationError` for anything else."""
    if isinstance(record, bytes):
        if len(record) > MAX_VALUE_BYTES:
            raise _too_large(len(record))
        return None, record, NO_HEADERS
    if isinstance(record, Record | RecordWithOffset):
        headers = record.headers
        return record.key, record.value, list(headers.items()) if headers else NO_HEADERS
    return None, Record(record).value, NO_HEADERS


def _to_bytes(data: object, field: str) -> bytes:
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise ValidationError(f"the {field} is text without a UTF-8 form: {error.reason}", field=field) from error
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise ValidationError(f"a {field} is text or bytes, not {type(data).__name__}", field=field)


def _headers(headers: Mapping[str, str | bytes]) -> dict[str, bytes]:
    if not isinstance(headers, Mapping):
        raise ValidationError(f"headers map names to values, not {type(headers).__name__}", field="headers")
    out: dict[str, bytes] = {}
    for name, value in headers.items():
        if not isinstance(name, str):
            raise ValidationError(f"a header name is text, not {type(name).__name__}", field="headers")
        _to_bytes(name, "header name")
        out[name] = _to_bytes(value, f"header {name!r}")
    return out


def _too_large(size: int) -> ValidationError:
    return ValidationError(
        f"the value has {size} bytes; the largest allowed is {MAX_VALUE_BYTES}",
        field="value",
        max_size=MAX_VALUE_BYTES,
        actual_size=size,
    )
