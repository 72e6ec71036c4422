"""Reads: as many requests as one answer of `FlashQ.poll_records` takes. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flashq.api.schemas import MAX_ANSWER_BYTES, MAX_POLL_RECORDS, MAX_TIMEOUT_MS, GroupOffset, Records, Topic
from flashq.broker.polled import Polled, PolledRecords, content_bytes
from flashq.client.errors import unexpected
from flashq.client.exchange import Answer, Request, Steps, read, request_for
from flashq.client.lines import decode_record
from flashq.client.operations import at_least, describe_consumer_group_offset, describe_topic
from flashq.errors import DataCorruption, InvalidParameter, OffsetOutOfRange
from flashq.record import RecordWithOffset

_records = msgspec.json.Decoder(Records)


def poll_records(
    topic: str,
    *,
    group: str | None = None,
    from_offset: int | None = None,
    from_time_ms: int | None = None,
    count: int | None = None,
    max_bytes: int | None = None,
    timeout_s: float = 0.0,
) -> Steps[PolledRecords]:
    """Records to where the log ended at the first answer, at least; from the group's offset, or from 0, if not told.

    Waits up to `timeout_s` for the first record. What cannot be read ends the records that can be.
    """
    _check_bounds(from_offset, from_time_ms, count, max_bytes)
    start = start_of_read(group, from_offset, from_time_ms)
    if count == 0:
        return (yield from _no_records(topic, group, from_offset))
    budget = _Budget(count, max_bytes)
    wait_ms = _wait_ms(timeout_s)
    page = yield from _page(topic, group, {**start, **budget.query(), "timeout_ms": wait_ms})
    end = page.high_water_mark
    polled = budget.take(page)
    while page and polled.next_offset < end and budget.goes_on_after(page):
        try:
            page = yield from _page(topic, group, {"from_offset": polled.next_offset, **budget.query()})
        except (OffsetOutOfRange, DataCorruption):
            break  # the next poll, which begins there, will tell
        more = budget.take(page)
        polled.extend(more)
        polled.next_offset, polled.high_water_mark = more.next_offset, more.high_water_mark
        polled.log_start_offset = more.log_start_offset
    return polled


def check_end(stands: Topic, offset: int) -> None:
    """Raises `OffsetOutOfRange` if a log that has been up to `offset` ends before it now.

    Whoever goes on reading there would wait for ever, or miss the records that come before. Not for what an answer to
    a poll says of the end: on Kafka, one server of several may not have heard yet how far the log goes.
    """
    if stands.high_water_mark < offset:
        raise OffsetOutOfRange(
            f"topic {stands.name} ends at offset {stands.high_water_mark}, and went to {offset} before: it was made "
            "anew, or records were lost. Nothing was read there",
            topic=stands.name,
            offset=offset,
            high_water_mark=stands.high_water_mark,
            log_start_offset=stands.log_start_offset,
            hint="begin anew; a group that stands beyond the end goes back by a reset",
        )


def lines_request(
    topic: str,
    group: str | None,
    start: Mapping[str, int],
    *,
    max_records: int,
    timeout_s: float,
) -> Request:
    """A read answered in lines, streamed. Nothing but the number of records bounds it."""
    query = {**start, "max_records": min(max_records, MAX_POLL_RECORDS), "max_bytes": (1 << 63) - 1}
    return _request(topic, group, {**query, "timeout_ms": _wait_ms(timeout_s)}, {"Accept": "application/x-ndjson"})


def _request(
    topic: str, group: str | None, query: Mapping[str, int], headers: Mapping[str, str] | None = None
) -> Request:
    return request_for(
        "poll_records" if group is None else "poll_group",
        topic=topic,
        group=group,
        query=query,
        headers=headers,
        wait_s=query.get("timeout_ms", 0) / 1000,
    )


def _page(topic: str, group: str | None, query: Mapping[str, int]) -> Steps[PolledRecords]:
    answer = yield _request(topic, group, query)
    return _decode(answer)


def _decode(answer: Answer) -> PolledRecords:
    page = read(answer, _records)
    try:
        records = [decode_record(record) for record in page.records]
    except ValueError as error:
        raise unexpected(answer.status, answer.body, is_write=False) from error
    return Polled(records, page.next_offset, page.high_water_mark, page.log_start_offset)


class _Budget:
    """What is left of the `count` and `max_bytes` of a poll."""

    def __init__(self, count: int | None, max_bytes: int | None) -> None:
        self._count = count
        self._bytes = max_bytes
        self._has_given = False
        self._asked: dict[str, int] = {}

    def goes_on_after(self, page: PolledRecords) -> bool:
        """Whether it was a bound of one answer that ended this page, and the poll takes more."""
        if self._count == 0 or self._bytes == 0:
            return False
        is_full = len(page) >= self._asked["max_records"]
        return is_full or self._asked["max_bytes"] == MAX_ANSWER_BYTES

    def query(self) -> dict[str, int]:
        """The bounds of the next request."""
        count = MAX_POLL_RECORDS if self._count is None else min(self._count, MAX_POLL_RECORDS)
        size = MAX_ANSWER_BYTES if self._bytes is None else min(max(self._bytes, 1), MAX_ANSWER_BYTES)
        self._asked = {"max_records": count, "max_bytes": size}
        return self._asked

    def take(self, page: PolledRecords) -> PolledRecords:
        """As much of the page as fits; of the first page, one record at least."""
        fits = self._fitting(page)
        if self._count is not None:
            self._count -= fits
        self._has_given = True
        if fits == len(page):
            return page
        next_offset = page[fits].offset
        return Polled(page[:fits], next_offset, page.high_water_mark, page.log_start_offset)

    def _fitting(self, page: PolledRecords) -> int:
        if self._bytes is None:
            return len(page)
        for at, record in enumerate(page):
            size = content_bytes(record.key, record.value, record.headers)
            if size > self._bytes and (at or self._has_given):
                self._bytes = 0
                return at
            self._bytes = max(self._bytes - size, 0)
        return len(page)


def _no_records(topic: str, group: str | None, from_offset: int | None) -> Steps[PolledRecords]:
    """What a poll for no records tells: where the topic stands."""
    committed: GroupOffset | None = None
    if group is not None:
        committed = yield from describe_consumer_group_offset(group, topic)
    stands: Topic = yield from describe_topic(topic)
    if from_offset is None:
        from_offset = 0 if committed is None else _group_start(committed, stands)
    empty: list[RecordWithOffset] = []
    return Polled(empty, from_offset, stands.high_water_mark, stands.log_start_offset)


def _group_start(committed: GroupOffset, topic: Topic) -> int:
    has_committed = committed.last_commit_time is not msgspec.UNSET
    return committed.committed_offset if has_committed else topic.log_start_offset


def start_of_read(group: str | None, from_offset: int | None, from_time_ms: int | None) -> dict[str, int]:
    """Where to begin, as query parameters. Raises `InvalidParameter` for two beginnings."""
    if from_time_ms is not None:
        if from_offset is not None:
            raise InvalidParameter(
                "from_offset and from_time_ms exclude each other; give one", parameter="from_time_ms"
            )
        return {"from_time": from_time_ms}
    if from_offset is not None:
        return {"from_offset": from_offset}
    return {} if group is not None else {"from_offset": 0}


def _check_bounds(from_offset: int | None, from_time_ms: int | None, count: int | None, max_bytes: int | None) -> None:
    given = {"from_offset": from_offset, "from_time_ms": from_time_ms, "count": count, "max_bytes": max_bytes}
    for name, value in given.items():
        if value is not None:
            at_least(name, value, 0)


def _wait_ms(timeout_s: float) -> int:
    wait_ms = round(timeout_s * 1000)
    if not 0 <= wait_ms <= MAX_TIMEOUT_MS:
        raise InvalidParameter(
            f"timeout_s is {timeout_s}; it must be 0 to {MAX_TIMEOUT_MS // 1000}", parameter="timeout_s"
        )
    return wait_ms
