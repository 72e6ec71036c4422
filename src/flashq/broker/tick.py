"""Posts of one event-loop tick, stored together: one batch, one append, one answer to all of them.

A post stays whole and contiguous, and offsets follow the order of arrival; what the posts of a tick share is the
batch's header, checksum and timestamp, the cost of encoding them and, in the journal, their place in the queue.
"""

from __future__ import annotations

from collections.abc import Callable

from flashq.batch import Batch, encode
from flashq.broker.terms import Terms, append_on
from flashq.errors import FlashQError
from flashq.logging import get_logger
from flashq.record import Row
from flashq.storage.backend import Deliver
from flashq.storage.interface import Append, TopicLog

log = get_logger(__name__)

MAX_SHARED_RECORDS = 1000
MAX_SHARED_BYTES = 256 * 1024
"""Of posts in one batch. A larger post has a batch of its own: sharing saves it nothing."""

Posted = Callable[["Batch | None", int, "FlashQError | None"], None]
"""Called once with the batch that holds the post and the offset of its first record, or with what refused it."""


class _Shared:
    """Posts to one log that wait for the end of the tick."""

    __slots__ = ("log", "posts", "rows", "size")

    def __init__(self, log: TopicLog) -> None:
        self.log = log
        self.rows: list[Row] = []
        self.posts: list[tuple[int, Posted]] = []  # index of its first row, whom to tell
        self.size = 0


class Tick:
    """Collects posts until the loop has read all there is to read. Used from the loop's thread only."""

    def __init__(self, call_soon: Deliver, clock_ms: Callable[[], int]) -> None:
        self._call_soon = call_soon
        self._clock_ms = clock_ms
        self._open: dict[TopicLog, _Shared] = {}

    def post(self, log: TopicLog, rows: list[Row], size: int, posted: Posted) -> None:
        """Store `rows` (of about `size` bytes) in this tick; `posted` is called when the log's promise holds."""
        shared = self._open.get(log)
        if shared is None:
            if not self._open:
                self._call_soon(self.end)
            shared = self._open[log] = _Shared(log)
        elif len(shared.rows) + len(rows) > MAX_SHARED_RECORDS or shared.size + size > MAX_SHARED_BYTES:
            self._append(shared)
            shared = self._open[log] = _Shared(log)
        shared.posts.append((len(shared.rows), posted))
        shared.rows += rows
        shared.size += size

    def post_alone(self, log: TopicLog, rows: list[Row], terms: Terms, posted: Posted) -> None:
        """Store `rows` now, after what has been collected, on terms that no other post shares."""
        shared = self._open.pop(log, None)
        if shared is not None:
            self._append(shared)
        alone = _Shared(log)
        alone.posts.append((0, posted))
        alone.rows = rows
        self._append(alone, terms)

    def end(self) -> None:
        """Append what has been collected."""
        collected, self._open = self._open, {}
        for shared in collected.values():
            self._append(shared)

    def _append(self, shared: _Shared, terms: Terms | None = None) -> None:
        posts = shared.posts

        def done(append: Append) -> None:
            for first, posted in posts:
                _tell(posted, append.batch, append.batch.base_offset + first, append.error)

        try:
            if terms is None:
                append = shared.log.append(encode(shared.rows, self._clock_ms()))
            else:
                append = append_on(terms, shared.log, shared.rows, self._clock_ms())
        except Exception as error:
            refusal = error if isinstance(error, FlashQError) else _mistake(error)
            for _, posted in posts:
                _tell(posted, None, -1, refusal)
        else:
            append.add_done_callback(done)


def _tell(posted: Posted, batch: Batch | None, offset: int, error: FlashQError | None) -> None:
    """One that fails must not keep the others from their answers."""
    try:
        posted(batch, offset, error)
    except Exception as failure:
        _mistake(failure)


def _mistake(error: Exception) -> FlashQError:
    log.error("internal_error", exc_info=error)
    return FlashQError("the server failed to store this post; whether it did is not known", outcome="unknown")
