"""fdatasync without a thread: the kernel does it (Linux AIO), and an event loop hears of its end by an eventfd.

A thread that comes back from fdatasync asks for the interpreter lock, again and again, and makes the loop stand in line
for it: a post of one record cost 34 microseconds of CPU under `periodic` where it costs 24 without syncs. The kernel
needs no lock. What is durable when it ends is the same: both are vfs_fsync_range in a worker of the kernel or of ours.

Needs Linux 4.18 and caio's compiled module, and a sandbox that allows io_setup; threads do the work elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flashq.logging import get_logger

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from caio.linux_aio import Context

Ended = Callable[["OSError | None"], None]
"""Told of the end of a sync, and of what went wrong with it."""

MAX_IN_FLIGHT = 64  # logs that sync at the same time; more of them use a thread
log = get_logger(__name__)


class KernelSync:
    """Syncs begun by one event loop. All calls on its thread."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        """Raises OSError, ImportError or NotImplementedError where this cannot be had."""
        from caio.linux_aio import Context, Operation

        try:
            self._context: Context = Context(MAX_IN_FLIGHT)
        except SystemError as error:  # how caio tells of io_setup
            raise OSError(errno.ENOSYS, "no kernel AIO") from error
        self._fdsync: Callable[[int], Any] = Operation.fdsync
        self._in_flight = 0
        self._closed = False
        self._loop = loop
        loop.add_reader(self._context.fileno, self._hear)

    def begin(self, fd: int, ended: Ended) -> bool:
        """Begin an fdatasync of `fd`; `ended` is called once, on the loop. False, and nothing begun, if that fails."""
        if self._closed or self._in_flight == MAX_IN_FLIGHT:
            return False
        operation = self._fdsync(fd)
        operation.set_callback(partial(self._end, ended))
        try:
            begun = self._context.submit(operation) == 1
        except (SystemError, ValueError, OverflowError):  # how caio tells of io_submit: a file system that cannot, say
            return False
        self._in_flight += begun
        return begun

    def close(self) -> None:
        """Begin no more, and block until those under way have ended and been told of."""
        self._closed = True
        while self._in_flight:
            try:
                self._context.process_events(MAX_IN_FLIGHT, min_requests=1, timeout=-1)
            except SystemError as error:  # how caio tells of io_getevents
                if error.args[:1] != (errno.EINTR,):  # a signal has been handled
                    raise
        self._loop.remove_reader(self._context.fileno)

    def _hear(self) -> None:
        try:
            self._context.poll()
        except BlockingIOError:
            pass
        self._context.process_events(MAX_IN_FLIGHT)

    def _end(self, ended: Ended, result: int) -> None:
        self._in_flight -= 1
        try:
            ended(None if result == 0 else error_of(result))
        except Exception:  # caio would drop it; whoever waits would wait for ever, and nobody would know why
            log.exception("sync_not_noted")


def error_of(result: int) -> OSError:
    """The kernel's negative errno, which caio passes on as a 64-bit number without a sign."""
    number = (1 << 64) - result
    return OSError(number, os.strerror(number))
