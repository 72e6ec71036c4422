"""Records as `consume` prints them: which, and in what form. No I/O."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from flashq.api.schemas import RecordOut
from flashq.errors import InvalidParameter
from flashq.logging import one_line

Output = Literal["text", "json", "value"]

_decode_lines: Final = msgspec.json.Decoder(RecordOut).decode_lines


class _Offset(msgspec.Struct):
    offset: int


_offset_in: Final = msgspec.json.Decoder(_Offset).decode


def record_offset(line: bytes) -> int:
    """The offset of a record."""
    return _offset_in(line).offset


def last_offset(lines: bytes) -> int:
    """The offset of the last record of whole lines, at least one."""
    return record_offset(lines[lines.rfind(b"\n", 0, -1) + 1 :])


class Wanted:
    """Which records are printed: those that fit all that is given. False where nothing is."""

    def __init__(self, key: str | None, headers: Mapping[str, str], pattern: str | None) -> None:
        """`pattern` is searched in the value. Raises `InvalidParameter` if it is no regular expression."""
        self._key = key
        self._headers = headers
        try:
            self._pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise InvalidParameter(f"--grep {pattern!r} is no regular expression: {error}. Nothing was read") from error

    def __bool__(self) -> bool:
        return self._key is not None or bool(self._headers) or self._pattern is not None

    def __contains__(self, record: RecordOut) -> bool:
        if self._key is not None and (record.key != self._key or record.key_encoding == "base64"):
            return False
        if self._headers and not self._headers.items() <= (record.headers or {}).items():
            return False
        return self._pattern is None or self._pattern.search(_text(record)) is not None


class Printer:
    """Turns lines of NDJSON, as the server sends them, into what is printed of them."""

    def __init__(self, output: Output, wanted: Wanted, max_records: int | None = None) -> None:
        self.next_offset = 0
        """After the latest record looked at."""
        self._left = max_records
        self._wanted = wanted
        self._form = _FORMS[output]
        self._is_raw = output == "json" and not wanted

    @property
    def is_done(self) -> bool:
        """Whether all that was to be printed is."""
        return self._left == 0

    def printed(self, lines: bytes) -> bytes:
        """Of whole lines, at least one. What comes after the last record to print is not looked at."""
        if self._is_raw:
            self.next_offset = last_offset(lines) + 1
            return lines
        out: list[bytes] = []
        for record, line in zip(_decode_lines(lines), lines.split(b"\n"), strict=False):  # after the last \n is no line
            if self._left == 0:
                break
            self.next_offset = record.offset + 1
            if self._wanted and record not in self._wanted:
                continue
            out.append(self._form(record, line))
            if self._left is not None:
                self._left -= 1
        return b"".join(out)


def _as_json(record: RecordOut, line: bytes) -> bytes:
    return line + b"\n"


def _as_value(record: RecordOut, line: bytes) -> bytes:
    return _value(record) + b"\n"


def _as_text(record: RecordOut, line: bytes) -> bytes:
    """Columns between tabs; whatever could break a line or steer a terminal is escaped, tabs among it."""
    key = "" if record.key is None else _key(record, record.key)
    headers = ",".join(f"{name}={value}" for name, value in (record.headers or {}).items())
    columns = (str(record.offset), record.timestamp, one_line(key), one_line(headers), one_line(_text(record)))
    return "\t".join(columns).encode() + b"\n"


_FORMS: Final[Mapping[Output, Callable[[RecordOut, bytes], bytes]]] = {
    "text": _as_text,
    "json": _as_json,
    "value": _as_value,
}


def _value(record: RecordOut) -> bytes:
    return b64decode(record.value) if record.encoding == "base64" else record.value.encode()


def _text(record: RecordOut) -> str:
    """The value as text; bytes that are not UTF-8 as \\xNN."""
    if record.encoding == "base64":
        return b64decode(record.value).decode("utf-8", "backslashreplace")
    return record.value


def _key(record: RecordOut, key: str) -> str:
    return b64decode(key).decode("utf-8", "backslashreplace") if record.key_encoding == "base64" else key
