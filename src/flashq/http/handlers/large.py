"""Large reads as JSON: one document, encoded as the client takes it, so that one who does not holds one piece of it.

The offsets come after the records. What then cannot be read, or is no longer there, cuts the document short.
"""

from __future__ import annotations

from collections.abc import Callable

from flashq.api.schemas import RecordOut, encode_json
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.pieces import Pieces, PiecesAhead
from flashq.http.message import Response, StreamSource
from flashq.storage.interface import TopicLog


def element(record: RecordOut) -> bytes:
    """A record in the list, with the comma before it."""
    return b"," + encode_json(record)


def large_answer(
    log: TopicLog, pieces: Pieces, next_offset: int, committed: int | None, blocking: Blocking
) -> Response:
    """The answer with the records of `pieces`, made of `element`s, which end at `next_offset`."""
    mark = log.high_water_mark
    facts = {
        "next_offset": next_offset,
        "high_water_mark": mark,
        "lag": max(mark - next_offset, 0),
        "log_start_offset": log.log_start_offset,
    }
    if committed is not None:
        facts["committed_offset"] = committed
    return Response(200, stream=_Document(PiecesAhead(pieces, blocking), next_offset, b"]," + encode_json(facts)[1:]))


class _Document(StreamSource):
    """`{"records":[...]` and the facts behind it."""

    def __init__(self, pieces: PiecesAhead, stop: int, end: bytes) -> None:
        self._pieces: PiecesAhead | None = pieces
        self._stop = stop
        self._end = end
        self._has_begun = False

    def start(self, wake: Callable[[], None]) -> None:
        if self._pieces is not None:
            self._pieces.wake = wake

    def next_chunk(self) -> bytes | None:
        if self._pieces is None:
            return None
        piece = self._pieces.take()
        if not piece:
            if self._pieces.is_reading:
                return b""
            assert self._pieces.at == self._stop, f"the records end at {self._pieces.at}, not {self._stop}"
            self._pieces = None
            return self._end
        if not self._has_begun:
            self._has_begun = True
            return b'{"records":[' + piece[1:]
        return piece

    def close(self) -> None:
        self._pieces = None
