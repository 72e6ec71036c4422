"""Handlers and streams for raw-socket tests: answers that wait for the test, and bodies as long as it likes."""

from __future__ import annotations

from flashq.http.message import Deferred, Request, Response, StreamSource


class Later:
    """A handler that keeps every request waiting until the test answers it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Deferred]] = []
        self.abandoned: list[str] = []
        self.answers_on_drain = False
        self.turns = 0

    def _take_turn(self) -> None:
        self.turns += 1

    def __call__(self, request: Request) -> Deferred:
        path = request.path
        deferred = Deferred(on_abandon=lambda: self.abandoned.append(path))
        if path == "/alone":
            deferred.alone, deferred.on_turn = True, self._take_turn
        if self.answers_on_drain:
            deferred.on_drain = lambda: deferred.send(Response(200, b"early"))
        self.waiting.append((path, deferred))
        return deferred


class Numbers(StreamSource):
    """`count` chunks of `size` bytes; notes what became of it."""

    def __init__(self, count: int, size: int = 65536) -> None:
        self.left = count
        self.chunk = b"n" * size
        self.closed = 0

    def next_chunk(self) -> bytes | None:
        self.left -= 1
        return self.chunk if self.left >= 0 else None

    def close(self) -> None:
        self.closed += 1
