"""Readers waiting for a topic to move on: a callback each, no thread and no polling."""

from __future__ import annotations

from collections.abc import Callable

from flashq.logging import get_logger
from flashq.storage.interface import TopicLog

logger = get_logger(__name__)


class Waiters:
    """Callbacks by topic. Not thread-safe: used from the thread that drives the logs (a server's event loop)."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[object, Callable[[], None]]] = {}

    def wait(self, log: TopicLog, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back once, when the log's high water mark has moved, or it is deleted. Returns what takes it back."""
        waiting = self._waiting.get(log.topic_id)
        if waiting is None:
            waiting = self._waiting[log.topic_id] = {}
            log.on_advance = lambda: self.notify(log)  # a log nobody waits for is not asked to tell
        token = object()
        waiting[token] = callback

        def cancel() -> None:
            waiting.pop(token, None)
            self._tidy(log, waiting)

        return cancel

    def notify(self, log: TopicLog) -> None:
        """Wake everyone who waits for this log, first come first."""
        waiting = self._waiting.get(log.topic_id)
        if waiting:
            callbacks = list(waiting.values())
            waiting.clear()
            for callback in callbacks:
                try:
                    callback()
                except Exception as mistake:  # must not keep the others from what they wait for
                    logger.error("internal_error", exc_info=mistake)
            self._tidy(log, waiting)

    def _tidy(self, log: TopicLog, waiting: dict[object, Callable[[], None]]) -> None:
        if not waiting and self._waiting.get(log.topic_id) is waiting:
            del self._waiting[log.topic_id]
            log.on_advance = None
