"""Reads as NDJSON, a record a line: who asks for it, and the answer, streamed where it is large.

`X-Next-Offset` goes out before the first line, so the end is found first: unless the whole log is within `max_bytes`,
by reading ahead, off the loop. What then cannot be read, or is no longer there, cuts the answer short.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from flashq.api.schemas import RecordOut, encode_json
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.pieces import Pieces, PiecesAhead
from flashq.http.message import Fields, Response, StreamSource
from flashq.storage.interface import TopicLog

NDJSON = b"application/x-ndjson"
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


@lru_cache(maxsize=256)
def prefers_lines(accept: bytes | None) -> bool:
    """Whether `Accept` names NDJSON and does not rank it below JSON."""
    if accept is None:
        return False
    ranks: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (each.strip() for each in part.split(";"))
        ranks[media_type] = max(_rank(parameters), ranks.get(media_type, 0.0))
    lines = ranks.get("application/x-ndjson", 0.0)
    json = ranks.get("application/json", ranks.get("application/*", ranks.get("*/*", 0.0)))
    return lines > 0 and lines >= json


def _rank(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            quality = value.strip()  # of more than float takes for white space
            return float(quality) if _QUALITY.fullmatch(quality) else 0.0
    return 1.0


def line(record: RecordOut) -> bytes:
    return encode_json(record) + b"\n"


def lines_answer(
    log: TopicLog, pieces: Pieces, next_offset: int, committed: int | None, blocking: Blocking, *, is_small: bool
) -> Response:
    """The answer with the lines of `pieces`, which end at `next_offset`."""
    fields = position_fields(next_offset, log.high_water_mark, log.log_start_offset, committed)
    if is_small:
        return Response(200, b"".join(iter(pieces.take, b"")), NDJSON, fields)
    return Response(200, b"", NDJSON, fields, _Lines(PiecesAhead(pieces, blocking), next_offset))


def position_fields(next_offset: int, high_water_mark: int, log_start_offset: int, committed: int | None) -> Fields:
    """What a JSON answer says beside its records."""
    fields: Fields = (
        (b"x-next-offset", b"%d" % next_offset),
        (b"x-high-water-mark", b"%d" % high_water_mark),
        (b"x-log-start-offset", b"%d" % log_start_offset),
    )
    return fields if committed is None else (*fields, (b"x-committed-offset", b"%d" % committed))


class _Lines(StreamSource):
    """The lines of a large answer, read as the client takes them."""

    def __init__(self, pieces: PiecesAhead, stop: int) -> None:
        self._pieces: PiecesAhead | None = pieces
        self._stop = stop

    def start(self, wake: Callable[[], None]) -> None:
        if self._pieces is not None:
            self._pieces.wake = wake

    def next_chunk(self) -> bytes | None:
        if self._pieces is None:
            return None
        piece = self._pieces.take()
        if piece or self._pieces.is_reading:
            return piece
        assert self._pieces.at == self._stop, f"the lines end at {self._pieces.at}, not {self._stop} as announced"
        return None

    def close(self) -> None:
        self._pieces = None
