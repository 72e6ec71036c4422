"""One read as it was asked for: from where, how much, and its answer."""

from __future__ import annotations

from flashq.api.queries import PollQuery
from flashq.api.records import to_record_out
from flashq.api.schemas import MAX_ANSWER_BYTES, GroupRecords, RecordOut, Records, encode_json
from flashq.broker.flashq import FlashQ
from flashq.broker.polled import Polled
from flashq.errors import TopicNotFound
from flashq.metrics import Volume
from flashq.storage.interface import CommittedOffset, TopicLog


def group_start(committed: CommittedOffset | None, log: TopicLog) -> tuple[int, int]:
    """Where a group begins to read, and the committed offset it is shown: 0 before the first commit."""
    return (log.log_start_offset, 0) if committed is None else (committed.offset, committed.offset)


class Poll:
    """One read, as asked for, from offset `at`."""

    __slots__ = ("at", "committed_offset", "flashq", "log", "query", "read")

    def __init__(
        self, flashq: FlashQ, log: TopicLog, query: PollQuery, at: int, committed_offset: int | None, read: Volume
    ) -> None:
        self.flashq = flashq
        self.log = log
        self.query = query
        self.at = at
        self.committed_offset = committed_offset
        self.read = read

    @property
    def is_to_wait(self) -> bool:
        return bool(self.query.timeout_ms) and self.at >= self.log.high_water_mark

    def check_there(self) -> None:
        """Raises `TopicNotFound` once the topic has been deleted; another of its name is not what was asked for."""
        if self.flashq.log(self.log.name) is not self.log:
            raise TopicNotFound(f"topic {self.log.name} has been deleted", topic=self.log.name)

    def answer(self) -> bytes:
        """The records there are, as JSON."""
        return self.as_json(self.polled())

    def polled(self) -> Polled[RecordOut]:
        """The records there are."""
        query = self.query
        polled = self.flashq.read(
            self.log,
            self.at,
            to_record_out,
            max_records=query.max_records,
            max_bytes=min(query.max_bytes, MAX_ANSWER_BYTES),
        )
        if not query.include_headers:
            for record in polled:
                record.headers = None
        return polled

    def as_json(self, polled: Polled[RecordOut]) -> bytes:
        """The answer with these records."""
        facts = (polled, polled.next_offset, polled.high_water_mark, polled.lag, polled.log_start_offset)
        if self.committed_offset is None:
            body = encode_json(Records(*facts))
        else:
            body = encode_json(GroupRecords(*facts, self.committed_offset))
        self.read.add(len(polled), len(body))
        return body
