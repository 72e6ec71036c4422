"""Work that may block on the disk or a network: done by an executor, answered on the event loop."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TypeVar

from flashq.errors import FlashQError, StorageFailed
from flashq.http.message import Deferred, Request, Response
from flashq.http.router import error_response
from flashq.logging import get_logger

T = TypeVar("T")
log = get_logger(__name__)


class Blocking:
    """Runs work off the loop. Whatever it raises becomes an answer: nobody is left waiting."""

    def __init__(self, loop: AbstractEventLoop, executor: Executor, *, is_remote: bool = False) -> None:
        self.is_remote = is_remote
        """Whether all of storage is over a network: looking something up blocks, too."""
        self._loop = loop
        self._executor = executor

    def look_up(self, request: Request, work: Callable[[], T], respond: Callable[[T], Response]) -> Response | Deferred:
        """`answer`, where storage is remote; at hand, the answer here and now."""
        if self.is_remote:
            return self.answer(request, work, respond)
        return respond(work())

    def answer(self, request: Request, work: Callable[[], T], respond: Callable[[T], Response]) -> Deferred:
        """Do `work` off the loop, then answer `request`, on the loop, with what `respond` makes of its result.

        What is not just a read is done between those before and after it on the connection: they may be about what it
        makes or removes.
        """
        deferred = Deferred()

        def finish(done: Future[T]) -> None:
            try:
                response = respond(done.result())
            except Exception as error:
                response = error_response(as_flashq_error(error), request)
            deferred.send(response)

        if request.method in ("GET", "HEAD"):
            self._submit(work, finish)
        else:
            deferred.alone, deferred.on_turn = True, lambda: self._submit(work, finish)
        return deferred

    def run(self, work: Callable[[], T], then: Callable[[T], None], failed: Callable[[FlashQError], None]) -> None:
        """Do `work` off the loop, then, on the loop, `then` with its result; `failed` if either raises."""

        def finish(done: Future[T]) -> None:
            try:
                then(done.result())
            except Exception as error:
                failed(as_flashq_error(error))

        self._submit(work, finish)

    def _submit(self, work: Callable[[], T], finish: Callable[[Future[T]], None]) -> None:
        submitted = self._executor.submit(work)
        submitted.add_done_callback(lambda done: self._loop.call_soon_threadsafe(finish, done))


def as_flashq_error(error: Exception) -> FlashQError:
    """What the client is told of an error of any kind; one nobody expected is logged."""
    if isinstance(error, FlashQError):
        return error
    if isinstance(error, OSError):
        return StorageFailed(f"the disk failed: {error.strerror or error}", outcome="unknown")
    return mistaken(error)


def mistaken(error: Exception) -> FlashQError:
    """What the client is told of an error that is the server's own; it is logged."""
    log.error("internal_error", exc_info=error)
    return FlashQError("the server failed; whether the request was carried out is not known", outcome="unknown")
