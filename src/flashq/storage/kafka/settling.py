"""Who completes appends on Kafka: whoever waits is woken, whoever listens is called, on the loop if there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flashq.logging import get_logger
from flashq.storage.backend import Deliver, deliver_here, deliver_on
from flashq.storage.interface import Append, Settler

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

logger = get_logger(__name__)


class Completions(Settler):
    """Of all logs of a backend. `deliver` runs callbacks: here and now, until a loop is given."""

    def __init__(self) -> None:
        self.deliver: Deliver = deliver_here
        self._changed = threading.Condition()
        self._callbacks: dict[Append, list[Callable[[Append], None]]] = {}

    def drive_from_loop(self, loop: AbstractEventLoop) -> None:
        self.deliver = deliver_on(loop)

    def settle(self, append: Append) -> None:
        with self._changed:
            self._changed.wait_for(lambda: append.done)

    def notify(self, append: Append, callback: Callable[[Append], None]) -> None:
        with self._changed:
            if not append.done:
                self._callbacks.setdefault(append, []).append(callback)
                return
        callback(append)

    def complete(self, appends: Sequence[Append]) -> None:
        """They are done, with or without an error."""
        calls: list[tuple[Callable[[Append], None], Append]] = []
        with self._changed:
            for append in appends:
                append.done = True
                calls += [(callback, append) for callback in self._callbacks.pop(append, ())]
            self._changed.notify_all()
        if calls:
            self.deliver(lambda: _call(calls))


def _call(calls: list[tuple[Callable[[Append], None], Append]]) -> None:
    for callback, append in calls:
        try:
            callback(append)
        except Exception as mistake:  # must not keep the others from their answers
            logger.error("internal_error", exc_info=mistake)
