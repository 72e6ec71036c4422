"""Readers waiting for a topic to move on: a callback each, no thread and no polling."""

from __future__ import annotations

from collections.abc import Callable


class Waiters:
    """Callbacks by topic. Not thread-safe: used from the thread that drives the logs (a server's event loop)."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[object, Callable[[], None]]] = {}

    def wait(self, topic_id: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back once, when the topic's high water mark has moved, or it is deleted. Returns what takes it back."""
        waiting = self._waiting.setdefault(topic_id, {})
        token = object()
        waiting[token] = callback

        def cancel() -> None:
            waiting.pop(token, None)

        return cancel

    def notify(self, topic_id: str) -> None:
        """Wake everyone who waits for this topic, first come first."""
        waiting = self._waiting.get(topic_id)
        if waiting:
            callbacks = list(waiting.values())
            waiting.clear()
            for callback in callbacks:
                callback()

    def forget(self, topic_id: str) -> None:
        """The topic is gone: wake who waits, so that they see it."""
        self.notify(topic_id)
        self._waiting.pop(topic_id, None)
