"""Which logs hold a file descriptor. One that has not been written to for a while lets go of it until its next write,
so that there may be more topics and groups than descriptors."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from typing import Protocol

_SHARE = 4
"""Of the descriptors there may be, logs hold one in so many; the others are for connections and reads."""
_LEAST, _MOST = 32, 4096


class Holder(Protocol):
    """A log that can write again after it has let go."""

    def rest(self) -> bool:
        """Let go of the descriptor; False if it is in use. Blocks."""


class Descriptors:
    """The logs that hold a descriptor, longest first. `submit` runs what may block. From any thread."""

    def __init__(self, submit: Callable[[Callable[[], None]], object], most: int | None = None) -> None:
        self._submit = submit
        self._most = most or min(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE, _LEAST), _MOST)
        self._lock = threading.Lock()
        self._holders: dict[Holder, None] = {}
        self._resting = False
        self._held_meanwhile = False

    def hold(self, log: Holder) -> None:
        """The log has a descriptor from now on; if those are too many, others let go soon."""
        with self._lock:
            self._holders[log] = None
            self._held_meanwhile = True
            if self._resting or len(self._holders) <= self._most:
                return
            self._resting = True
        self._rest_soon(self._most)

    def release(self, log: Holder) -> None:
        """The log is closed."""
        with self._lock:
            self._holders.pop(log, None)

    def run_out(self) -> None:
        """There are none left, or no space on the disk, where a log may have room: have every log let go that can."""
        with self._lock:
            if self._resting:
                return
            self._resting = True
        self._rest_soon(0)

    def _rest_soon(self, most: int) -> None:
        try:
            self._submit(lambda: self._rest(most))
        except RuntimeError:  # closing: all of them let go
            self._resting = False

    def _rest(self, most: int) -> None:
        """Go round until few enough hold one, or all are in use: in the first round a log may only note that it is not
        any more."""
        in_vain = 0
        while True:
            in_vain = 0 if self._go_round(most) else in_vain + 1
            with self._lock:
                if self._held_meanwhile:  # whoever came while others were asked did not start this again
                    in_vain, self._held_meanwhile = 0, False
                if len(self._holders) <= most or in_vain == 2:
                    self._resting = False
                    return

    def _go_round(self, most: int) -> int:
        """Ask each once, longest holder first, until few enough are left; how many have let go."""
        rested = 0
        for _ in range(len(self._holders)):
            with self._lock:
                if len(self._holders) <= most:
                    break
                log = next(iter(self._holders))
                del self._holders[log]
            if log.rest():
                rested += 1
            else:
                with self._lock:
                    self._holders[log] = None
        return rested
