"""The latest answers made of the end of each log: readers who follow it together ask the same, and it is made once."""

from __future__ import annotations

from typing import NamedTuple

from flashq.api.queries import PollQuery
from flashq.http.message import Response
from flashq.storage.interface import TopicLog

_MAX_ANSWERS = 64
_MAX_BYTES = 64 * 1024  # of an answer; together they hold 4 MiB at most


class _Made(NamedTuple):
    at: int
    query: PollQuery
    log_start_offset: int
    high_water_mark: int
    records: int
    response: Response


class LatestAnswers:
    """One answer for each log, good for as long as the log begins and ends where it did: records never change."""

    __slots__ = ("_by_topic",)

    def __init__(self) -> None:
        self._by_topic: dict[str, _Made] = {}  # by id, so that no deleted log is held

    def find(self, log: TopicLog, at: int, query: PollQuery) -> tuple[int, Response] | None:
        """The number of records in it and the answer to this poll from offset `at`, if it was the last one made."""
        made = self._by_topic.get(log.topic_id)
        if (
            made is None
            or made.at != at
            or made.high_water_mark != log.high_water_mark
            or made.log_start_offset != log.log_start_offset
            or made.query != query
        ):
            return None
        return made.records, made.response

    def keep(
        self, log: TopicLog, at: int, query: PollQuery, start: int, end: int, records: int, made: Response
    ) -> None:
        """Remember the answer of a log that began at `start` and ended at `end`: if it reaches the end and is small.

        But not that nothing came: who asks to wait for a record is to wait again.
        """
        if len(made.body) <= _MAX_BYTES and at + records >= end and (records or not query.timeout_ms):
            if len(self._by_topic) >= _MAX_ANSWERS:
                self._by_topic.clear()
            self._by_topic[log.topic_id] = _Made(at, query, start, end, records, made)
