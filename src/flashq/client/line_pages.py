"""A read in NDJSON over as many answers as it takes, going on where a connection broke. No I/O.

An answer is streamed and holds 10,000 records at most. Its bytes are handed on as whole lines: of what is lost with a
connection, no part of a line has been given, and none is given twice.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import msgspec

from flashq.api.schemas import MAX_POLL_RECORDS
from flashq.client.errors import ConnectionFailed
from flashq.client.exchange import Answer, Request, header_number
from flashq.client.operations import at_least
from flashq.client.reads import lines_request, start_of_read
from flashq.client.retry import Attempts, Backoff, Pause


class _Line(msgspec.Struct):
    offset: int


_offset_in = msgspec.json.Decoder(_Line).decode


class LinePages:
    """Which request comes next, what of an answer can be given, and when to ask again.

    `next_offset` is where to read on after what has been given; None before the first answer, unless it was asked for.
    """

    def __init__(
        self,
        topic: str,
        *,
        group: str | None,
        from_offset: int | None,
        from_time_ms: int | None,
        max_records: int | None,
        follow: bool,
        wait_s: float,
    ) -> None:
        self.next_offset = from_offset
        self.high_water_mark: int | None = None
        self.topic = topic
        self.went_to = 0
        """How far the log was when this read needed it to: to its end then or, if followed, to where this has got."""
        self._group = group
        self._start = start_of_read(group, from_offset, from_time_ms)
        self._left = sys.maxsize if max_records is None else at_least("max_records", max_records, 0)
        self._follow = follow
        self._wait_s = wait_s
        self._end: int | None = None  # of the log at the first answer, unless it is followed
        self._page_end = 0
        self._given = b""  # the lines of this answer given last
        self._tail = bytearray()

    def next_request(self) -> Request | None:
        """The next page; None where the read is at its end."""
        if self._left == 0:
            return None
        if self._end is not None and self.next_offset is not None and self.next_offset >= self._end:
            return None
        self._given = b""
        self._tail.clear()
        timeout_s = self._wait_s if self._follow else 0.0
        max_records = min(self._left, MAX_POLL_RECORDS)
        if self._end is not None and self.next_offset is not None:
            max_records = min(max_records, self._end - self.next_offset)
        return lines_request(self.topic, self._group, self._start, max_records=max_records, timeout_s=timeout_s)

    def begin(self, answer: Answer) -> None:
        """A good answer has begun."""
        self._page_end = header_number(answer, "x-next-offset")
        self.high_water_mark = header_number(answer, "x-high-water-mark")
        if self._end is None and not self._follow:
            self._end = self.went_to = self.high_water_mark
        if not self._start:
            self.went_to = self._page_end  # a group stands where it has been

    @property
    def ends_early(self) -> bool:
        """Whether the answer that has begun says that the log is shorter than it was: then `check_end`."""
        return self.high_water_mark is not None and self.high_water_mark < self.went_to

    def feed(self, chunk: bytes) -> bytes:
        """The whole lines there are now; maybe none."""
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            self._tail += chunk
            return b""
        lines = bytes(self._tail) + chunk[:cut]
        self._tail[:] = chunk[cut:]
        self._left -= lines.count(b"\n")
        self._given = lines
        return lines

    def ended(self) -> None:
        """The answer has come to its end."""
        self._go_on_from(self._page_end)
        if self._follow and self.high_water_mark is not None:
            self.went_to = min(self._page_end, self.high_water_mark)

    def broken(self) -> bool:
        """The answer will not come to its end; whether something of it has been given."""
        if not self._given:
            return False
        self._go_on_from(_offset_in(self._given[self._given.rfind(b"\n", 0, -1) + 1 :]).offset + 1)
        return True

    def _go_on_from(self, offset: int) -> None:
        self.next_offset = offset
        self._start = {"from_offset": offset}


class Patience:
    """Retries of a read in lines; an answer that has brought something makes up for the failures before."""

    def __init__(self, retries: int, backoff: Backoff) -> None:
        self._retries = retries
        self._backoff = backoff
        self._attempts: Attempts | None = None

    def after(self, request: Request, failed: Answer | ConnectionFailed, *, got_some: bool) -> Pause:
        """The wait before the next attempt. Raises the error if there is to be none."""
        if got_some or self._attempts is None:
            self._attempts = Attempts(request, self._retries, self._backoff)
        return self._attempts.failed(failed)

    def restore(self) -> None:
        self._attempts = None


class _Reader:
    """Where a read in lines stands."""

    def __init__(self, pages: LinePages) -> None:
        self._pages = pages

    @property
    def next_offset(self) -> int | None:
        """Where to read on, as of the latest answer that is over; None before that if no offset was asked for."""
        return self._pages.next_offset

    @property
    def high_water_mark(self) -> int | None:
        """Of the topic when the latest answer began; None before the first."""
        return self._pages.high_water_mark


class LineReader(_Reader):
    """Iterates over chunks of whole lines of NDJSON, some 64 KiB each."""

    def __init__(self, pages: LinePages, chunks: Iterator[bytes]) -> None:
        super().__init__(pages)
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks


class AsyncLineReader(_Reader):
    """`LineReader` for `async for`."""

    def __init__(self, pages: LinePages, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(pages)
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks
