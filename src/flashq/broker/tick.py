"""Posts of one tick, a turn of the event loop or two, stored together: one batch, one append, one answer to all.

A post stays whole and contiguous, and offsets follow the order of arrival; what the posts of a tick share is the
batch's header, checksum and timestamp, the cost of encoding them and, in the journal, their place in the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from flashq.batch import Batch, encode
from flashq.broker.terms import Terms, append_on
from flashq.errors import FlashQError
from flashq.logging import get_logger
from flashq.record import Row
from flashq.storage.backend import Deliver
from flashq.storage.interface import TopicLog

logger = get_logger(__name__)

MAX_SHARED_RECORDS = 1000
MAX_SHARED_BYTES = 256 * 1024
"""Of posts in one batch. A larger post has a batch of its own: sharing saves it nothing."""

Post = TypeVar("Post")
Answer = Callable[[TopicLog, "list[Post]", "Batch | None", "FlashQError | None"], None]
"""Called once for the posts of a batch, when the log's promise holds or it was refused: the log, the posts in the order
of their records in the batch, and the batch or what refused it. A post whose answer fails must not keep the others from
theirs: that is the callable's to see to."""


class _Shared(Generic[Post]):
    """Posts to one log that wait for the end of the tick."""

    __slots__ = ("log", "posts", "rows", "size")

    def __init__(self, log: TopicLog) -> None:
        self.log = log
        self.rows: list[Row] = []
        self.posts: list[Post] = []  # whom to tell
        self.size = 0


class Tick(Generic[Post]):
    """Collects posts while the loop finds more to read. Used from the loop's thread only."""

    def __init__(
        self,
        call_soon: Deliver,
        clock_ms: Callable[[], int],
        answer: Answer[Post],
        together: AbstractContextManager[object] | None = None,
    ) -> None:
        """`together` is `StorageBackend.together`, inside which a tick is appended."""
        self._together = together or nullcontext()
        self._call_soon = call_soon
        self._clock_ms = clock_ms
        self._answer = answer
        self._collected: deque[_Shared[Post]] = deque()  # in the order they are to be stored
        self._open: dict[TopicLog, _Shared[Post]] = {}  # those of them that take more posts
        self._is_due = False  # the loop is going to call `end`
        self._in_second_turn = False

    def post(self, log: TopicLog, rows: list[Row], size: int, post: Post) -> None:
        """Store `rows` (of about `size` bytes) in this tick; `post` is answered when the log's promise holds.

        Nothing is answered before this returns: answers let in the next requests of their connections.
        """
        shared = self._open.get(log)
        if shared is None or len(shared.rows) + len(rows) > MAX_SHARED_RECORDS or shared.size + size > MAX_SHARED_BYTES:
            shared = self._collect(log)
        shared.posts.append(post)
        shared.rows += rows
        shared.size += size

    def post_alone(self, log: TopicLog, rows: list[Row], terms: Terms, post: Post) -> None:
        """Store `rows` now, after what has been collected, on terms that no other post shares."""
        while self._collected:
            self._append_first()
        alone: _Shared[Post] = _Shared(log)
        alone.posts.append(post)
        alone.rows = rows
        self._append(alone, terms)

    def end(self) -> None:
        """Append what has been collected, unless more is on its way.

        Where several posts came in one turn of the loop, others arrive while these are read: the tick goes on for a
        second turn, once, and twice as many share what a batch costs. A post that came alone waits for nobody.
        """
        self._is_due = False
        self._in_second_turn = not self._in_second_turn and sum(len(shared.posts) for shared in self._collected) > 1
        if self._in_second_turn:
            self._call_end_soon()
            return
        try:
            with self._together:
                for _ in range(len(self._collected)):  # a batch that an answer begins is for the next tick
                    if self._collected:
                        self._append_first()
        finally:
            if self._collected:  # an answer has raised, or has begun more
                self._call_end_soon()

    def _call_end_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._call_soon(self.end)

    def _collect(self, log: TopicLog) -> _Shared[Post]:
        """A new batch of posts, the last in the tick."""
        self._call_end_soon()
        shared: _Shared[Post] = _Shared(log)
        self._collected.append(shared)
        self._open[log] = shared
        return shared

    def _append_first(self) -> None:
        """Append the first of the batches, which takes no more posts: its answers may let some in."""
        shared = self._collected.popleft()
        if self._open.get(shared.log) is shared:
            del self._open[shared.log]
        self._append(shared)

    def _append(self, shared: _Shared[Post], terms: Terms | None = None) -> None:
        log, posts, answer = shared.log, shared.posts, self._answer
        try:
            if terms is None:
                append = log.append(encode(shared.rows, self._clock_ms()))
            else:
                append = append_on(terms, log, shared.rows, self._clock_ms())
        except FlashQError as error:
            answer(log, posts, None, error)
        except Exception as mistake:
            logger.error("internal_error", exc_info=mistake)
            message = "the server failed to store this post; whether it did is not known"
            answer(log, posts, None, FlashQError(message, outcome="unknown"))
        else:
            append.add_done_callback(lambda append: answer(log, posts, append.batch, append.error))
