"""One read as it was asked for: from where, how much, and its answer."""

from __future__ import annotations

from flashq.api.queries import PollQuery
from flashq.api.records import to_record_out
from flashq.api.schemas import MAX_ANSWER_BYTES, GroupRecords, RecordOut, Records, encode_json
from flashq.broker.flashq import FlashQ
from flashq.broker.polled import Polled
from flashq.errors import TopicNotFound
from flashq.http.handlers.latest import LatestAnswers
from flashq.http.handlers.pieces import PIECE_BYTES
from flashq.http.message import Response
from flashq.metrics import Volume
from flashq.storage.interface import CommittedOffset, TopicLog

SMALL_BYTES = 4 * PIECE_BYTES
"""An answer from no more than these is made at once; a larger one is streamed."""


def group_start(committed: CommittedOffset | None, log: TopicLog) -> tuple[int, int]:
    """Where a group begins to read, and the committed offset it is shown: 0 before the first commit."""
    return (log.log_start_offset, 0) if committed is None else (committed.offset, committed.offset)


class Poll:
    """One read, as asked for, from offset `at`."""

    __slots__ = ("at", "committed_offset", "flashq", "latest", "log", "query", "read")

    def __init__(
        self,
        flashq: FlashQ,
        log: TopicLog,
        query: PollQuery,
        at: int,
        committed_offset: int | None,
        read: Volume,
        latest: LatestAnswers,
    ) -> None:
        self.flashq = flashq
        self.log = log
        self.query = query
        self.at = at
        self.committed_offset = committed_offset
        self.read = read
        self.latest = latest

    @property
    def is_to_wait(self) -> bool:
        return bool(self.query.timeout_ms) and self.at >= self.log.high_water_mark

    @property
    def stop(self) -> int:
        """Where it ends if no limit of bytes ends it sooner."""
        return max(min(self.at + self.query.max_records, self.log.high_water_mark), self.at)

    def check_there(self) -> None:
        """Raises `TopicNotFound` once the topic has been deleted; another of its name is not what was asked for."""
        if self.flashq.log(self.log.name) is not self.log:
            raise TopicNotFound(f"topic {self.log.name} has been deleted", topic=self.log.name)

    def fetch(self) -> None:
        """Read what the answer is made of and drop it: then it is in memory. May wait for the disk."""
        query = self.query
        self.log.read(self.at, max_records=query.max_records, max_bytes=min(query.max_bytes, SMALL_BYTES))

    def small_answer(self) -> Response | None:
        """The records there are, as JSON; None if they are more than a client may leave lying in our memory."""
        made = self.latest.find(self.log, self.at, self.query) if self.committed_offset is None else None
        if made is not None:
            records, response = made
            self.read.add(records, len(response.body))
            return response
        query = self.query
        max_bytes = min(query.max_bytes, SMALL_BYTES)
        polled = self._polled(max_bytes)
        if max_bytes < query.max_bytes and polled.next_offset < self.stop:
            return None
        response = Response(200, self.as_json(polled))
        if self.committed_offset is None:
            start, end = polled.log_start_offset, polled.high_water_mark
            self.latest.keep(self.log, self.at, query, start, end, len(polled), response)
        return response

    def polled(self) -> Polled[RecordOut]:
        """The records there are, as many as one answer may have."""
        return self._polled(min(self.query.max_bytes, MAX_ANSWER_BYTES))

    def as_json(self, polled: Polled[RecordOut]) -> bytes:
        """The body of the answer with these records, which counts as read."""
        facts = (polled, polled.next_offset, polled.high_water_mark, polled.lag, polled.log_start_offset)
        if self.committed_offset is None:
            body = encode_json(Records(*facts))
        else:
            body = encode_json(GroupRecords(*facts, self.committed_offset))
        self.read.add(len(polled), len(body))
        return body

    def _polled(self, max_bytes: int) -> Polled[RecordOut]:
        polled = self.flashq.read(
            self.log, self.at, to_record_out, max_records=self.query.max_records, max_bytes=max_bytes
        )
        if not self.query.include_headers:
            for record in polled:
                record.headers = None
        return polled
