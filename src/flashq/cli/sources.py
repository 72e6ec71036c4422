"""Records of a file or a pipe, as batches of NDJSON lines ready to post. No network.

Three formats. Text: a line is a value; its end (one line feed) is left out, and an empty line is an empty value.
NDJSON: a line is a record as the HTTP contract has it, passed on as it is; empty lines are skipped. JSON: an array of
such records. Whatever the size of the file, a few megabytes of it are in memory.

Where a file is read on from the end of a batch, the same batches follow as in one go: a post that is repeated after a
crash has the same records under the same name. Lines from a pipe are a batch as soon as the next one may take a wait.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from flashq.api.schemas import MAX_BATCH_RECORDS
from flashq.client.lines import encode_records
from flashq.errors import FlashQError
from flashq.record import Record

Format = Literal["text", "ndjson", "json"]

MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""In the source. A value of 1 MiB has six times that where every character is an escape."""

_BATCH_BYTES: Final = 1024 * 1024  # of the source; a longer record is a batch of its own
_CHUNK_BYTES: Final = 256 * 1024
_BY_EXTENSION: Final[dict[str, Format]] = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json", ".txt": "text"}
_BY_FIRST_BYTE: Final[dict[bytes, Format]] = {b"{": "ndjson", b"[": "json"}
_LINE_OF_BATCH: Final = re.compile(r"^line \d+ ")
_NUMBER_IN_BATCH: Final = re.compile(r"\brecords\[\d+\]\.")
_JSON_SPACE: Final = re.compile(r"[ \t\r\n]*")


class RecordRefused(FlashQError, ValueError):
    """A record of the source cannot be posted. `details`: line. What came before it is stored."""

    code = "record_refused"

    def __init__(self, line: int, why: str, hint: str | None = None) -> None:
        super().__init__(f"line {line}: {why}", line=line)
        if hint is not None:
            self.details["hint"] = hint


def plain(message: str) -> str:
    """Why a record was refused, without the number that it has in its batch and what became of the batch."""
    return _NUMBER_IN_BATCH.sub("the ", _LINE_OF_BATCH.sub("the record ", message)).removesuffix(". Nothing was stored")


class Place(NamedTuple):
    """Where reading goes on: a position in bytes, and the number of the line there, from 1."""

    position: int = 0
    line: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """1 to 1,000 records that are posted together."""

    start: Place
    raw: list[bytes]
    """The bytes of the source from one record's end to the next one's."""
    body: bytes
    """NDJSON, a line for each of them, with its end."""
    first_offset: int | None = None
    """The only offset at which it may be stored, if there is one."""

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def end(self) -> Place:
        return _after(self.start, self.raw)

    def line_of(self, index: int) -> int:
        """The line of the source on which a record begins."""
        raw = self.raw[index].rstrip()
        lead = raw[: len(raw) - len(_bare(raw))]
        return _after(self.start, self.raw[:index]).line + lead.count(b"\n")

    def before(self, index: int) -> Batch:
        """The records before one of them, which is not the first."""
        return replace(self, raw=self.raw[:index], body=b"\n".join(self.body.split(b"\n", index)[:index]) + b"\n")


def _after(start: Place, raw: list[bytes]) -> Place:
    return Place(start.position + sum(map(len, raw)), start.line + b"".join(raw).count(b"\n"))


def guess_format(name: str, file: BufferedReader) -> Format:
    """By the extension of the name; else NDJSON if the first byte that is no space is {, JSON if it is [, or text."""
    known = _BY_EXTENSION.get(os.path.splitext(name)[1].lower())
    return known or _BY_FIRST_BYTE.get(file.peek().lstrip()[:1], "text")


# -- formats: records from a place on, which is where the file is


def text_batches(
    file: BufferedReader, start: Place, *, is_live: bool, key: str | None, headers: dict[str, str]
) -> Iterator[Batch]:
    """A record of each line, all with that key and those headers. `is_live`: of a pipe."""
    for place, lines in _runs(_lines(file, start, is_live=is_live), start, is_live=is_live):
        values = [line.removesuffix(b"\n") for line in lines]
        is_plain = key is None and not headers
        yield Batch(
            place, lines, encode_records(values if is_plain else [Record(each, key, headers) for each in values])
        )


def ndjson_batches(file: BufferedReader, start: Place, *, is_live: bool) -> Iterator[Batch]:
    """The lines as they are."""
    for place, lines in _runs(_lines(file, start, is_live=is_live), start, is_live=is_live):
        if not any(map(bytes.isspace, lines)):
            last = b"" if lines[-1].endswith(b"\n") else b"\n"
            yield Batch(place, lines, b"".join(lines) + last)
        elif raw := _without_empty(lines):
            yield Batch(place, raw, b"".join([line.strip() + b"\n" for line in raw]))


def array_batches(file: BufferedReader, start: Place) -> Iterator[Batch]:
    """The elements of a JSON array, each on a line. From a later place on: what follows an element."""
    elements = _Array(_chunks(file, is_live=False), start).elements()
    for place, raw in _runs(([element] for element in elements), start, is_live=False):
        # Within JSON a line end is a space: in a string it is written \n.
        yield Batch(place, raw, b"".join([_bare(each).replace(b"\n", b" ") + b"\n" for each in raw]))


def _without_empty(lines: list[bytes]) -> list[bytes]:
    """The lines, empty ones joined to the next or at the end to the last; none if all are empty."""
    joined: list[bytes] = []
    empty = b""
    for line in lines:
        if line.isspace():
            empty += line
        else:
            joined.append(empty + line)
            empty = b""
    if joined:
        joined[-1] += empty
    return joined


# -- batches


def _runs(blocks: Iterator[list[bytes]], start: Place, *, is_live: bool) -> Iterator[tuple[Place, list[bytes]]]:
    """Raw records, as many at a time as make a batch, and the place where they begin.

    Where a run ends depends on the records only, and not on how they were read; unless `is_live`: then the end of a
    block is that of a run too. What comes before a refused record is given before `RecordRefused` is raised.
    """
    waiting: list[bytes] = []
    size = 0
    while True:
        refused: RecordRefused | None = None
        try:
            block = next(blocks, [])
        except RecordRefused as error:
            block, refused = [], error
        waiting += block
        size += sum(map(len, block))
        while waiting and (not block or is_live or len(waiting) >= MAX_BATCH_RECORDS or size > _BATCH_BYTES):
            run = waiting[: _length_of_run(waiting)]
            del waiting[: len(run)]
            yield start, run
            end = _after(start, run)
            size -= end.position - start.position
            start = end
        if refused is not None:
            raise refused
        if not block:
            return


def _length_of_run(raw: list[bytes]) -> int:
    """How many of these records make a batch: one at least."""
    raw = raw[:MAX_BATCH_RECORDS]
    if sum(map(len, raw)) <= _BATCH_BYTES:
        return len(raw)
    return max(1, bisect_right(list(accumulate(map(len, raw))), _BATCH_BYTES))


def _lines(file: BufferedReader, start: Place, *, is_live: bool) -> Iterator[list[bytes]]:
    """Whole lines with their ends, a few at a time; at the end of the file perhaps one without."""
    number = start.line
    rest = BytesIO()
    for chunk in _chunks(file, is_live=is_live):
        if b"\n" not in chunk:
            rest.write(chunk)
            _check_size(rest.tell(), number)
            continue
        lines = BytesIO(rest.getvalue() + chunk).readlines()
        rest = BytesIO()
        if not lines[-1].endswith(b"\n"):
            rest.write(lines.pop())
        yield lines
        number += len(lines)
    if last := rest.getvalue():
        yield [last]


def _chunks(file: BufferedReader, *, is_live: bool) -> Iterator[bytes]:
    read: Callable[[int], bytes] = file.read1 if is_live else file.read
    return iter(lambda: read(_CHUNK_BYTES), b"")


def _check_size(size: int, line: int) -> None:
    if size > MAX_RECORD_BYTES:
        raise RecordRefused(line, f"a record has more than {MAX_RECORD_BYTES} bytes")


def _bare(raw: bytes) -> bytes:
    """An element of an array without what is between it and the one before."""
    return raw.lstrip(b" \t\r\n,[")


class _Array:
    """A cursor in JSON that is read in chunks.

    The bytes are looked at as Latin-1: a character is a byte, so that sizes are those of the file, and what JSON is
    made of is ASCII anyway. What is in the strings is for the server to check.
    """

    def __init__(self, chunks: Iterator[bytes], start: Place) -> None:
        self._chunks = chunks
        self._is_begin = start.position == 0
        self._line = start.line
        self._text = ""
        self._from = 0  # the end of the latest element
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def elements(self) -> Iterator[bytes]:
        """Each element with what is between it and the one before. Raises `RecordRefused`."""
        if self._is_begin:
            self._take("[", "an array begins with [")
            if self._peek() != "]":
                yield self._element()
        while self._peek() == ",":
            self._take(",", "")
            yield self._element()
        self._take("]", "after a record of an array comes , or ]")
        if found := self._peek():
            raise RecordRefused(self._line, f"after the array there is {found!r}")

    def _peek(self) -> str:
        """The next character that is no space, to which it moves; "" at the end of the file."""
        while True:
            space = _JSON_SPACE.match(self._text, self._at)
            assert space is not None
            self._move(space.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read(_CHUNK_BYTES):
                return ""

    def _take(self, character: str, why: str) -> None:
        """Moves past a character that must come."""
        found = self._peek()
        if found != character:
            raise RecordRefused(self._line, f"{why}; {_here(found)}")
        self._move(self._at + 1)

    def _element(self) -> bytes:
        found = self._peek()
        if found != "{":
            raise RecordRefused(self._line, f'a record is an object like {{"value": "text"}}; {_here(found)}')
        self._move(self._end_of_object())
        raw = self._text[self._from : self._at].encode("latin-1")
        self._from = self._at
        return raw

    def _end_of_object(self) -> int:
        while True:
            try:
                return self._decode(self._text, self._at)[1]
            except (ValueError, RecursionError) as error:
                size = len(self._text) - self._at
                _check_size(size, self._line)
                # Twice as much before the next attempt: a long record is not parsed again for every chunk of it.
                if isinstance(error, RecursionError) or not self._read(max(size, _CHUNK_BYTES)):
                    raise RecordRefused(self._line, f"this is not JSON: {error}") from error

    def _move(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _read(self, at_least: int) -> bool:
        """More of the file; False at its end."""
        more: list[str] = []
        while at_least > 0 and (chunk := next(self._chunks, b"")):
            more.append(chunk.decode("latin-1"))
            at_least -= len(chunk)
        self._text = self._text[self._from :] + "".join(more)
        self._at -= self._from
        self._from = 0
        return bool(more)


def _here(found: str) -> str:
    return f"here is {found!r}" if found else "here the file ends"
