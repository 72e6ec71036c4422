"""Reads: a bounded pool of consumers, each standing somewhere in a topic.

A reader that goes on where it stopped finds a consumer that stands there and has read ahead. One that jumps takes the
consumer that has been idle for longest and moves it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from flashq.batch import Batch
from flashq.errors import Closed, OffsetOutOfRange, StorageUnavailable
from flashq.storage.kafka.errors import refused
from flashq.storage.kafka.meet import meet
from flashq.storage.kafka.runs import Runs

MAX_CONSUMERS = 8
TIMEOUT_S = 10.0
_AT_ONCE = 500  # messages
_AT_ONCE_BYTES = 4 * 1024 * 1024


class _Standing:
    """A consumer and where it stands: the topic's id and the offset it gives next."""

    __slots__ = ("_met", "at", "consumer")

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.at: tuple[str, int] | None = None
        self._met: set[str] = set()  # ids of topics

    def move(self, topic: str, topic_id: str, offset: int) -> None:
        meet(self.consumer, topic, topic_id, self._met)
        self.consumer.assign([TopicPartition(topic, 0, offset)])


class Readers:
    """The pool. Any thread may read; it waits while all consumers are at work."""

    def __init__(self, make: Callable[[], Consumer]) -> None:
        self._make = make
        self._changed = threading.Condition()
        self._idle: deque[_Standing] = deque()  # the one idle for longest first
        self._made = 0
        self._closed = False

    def read(
        self, topic: str, topic_id: str, from_offset: int, stop: int, max_records: int | None, max_bytes: int | None
    ) -> list[Batch]:
        """Batches of what is in `[from_offset, stop)`, until one reaches a limit. [] where there are no records."""
        standing = self._take((topic_id, from_offset), topic)
        try:
            if standing.at != (topic_id, from_offset):
                standing.move(topic, topic_id, from_offset)
            standing.at = None
            runs, at = self._collect(standing.consumer, topic, from_offset, stop, max_records, max_bytes)
            if at >= stop:
                standing.consumer.unassign()  # else it would go on asking for what is not there yet
            else:
                standing.at = (topic_id, at)
            return runs.take()
        except KafkaException as error:
            raise refused(error.args[0], f"topic {topic} cannot be read", topic=topic) from error
        finally:
            with self._changed:
                self._idle.append(standing)
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: len(self._idle) == self._made, TIMEOUT_S)
            idle, self._idle = list(self._idle), deque()
            self._made -= len(idle)
            self._changed.notify_all()
        for standing in idle:
            standing.consumer.close()

    def _take(self, at: tuple[str, int], topic: str) -> _Standing:
        deadline = time.monotonic() + TIMEOUT_S
        with self._changed:
            while True:
                if self._closed:
                    raise Closed(f"topic {topic} is closed")
                for standing in self._idle:
                    if standing.at == at:
                        self._idle.remove(standing)
                        return standing
                if self._made < MAX_CONSUMERS and all(each.at is not None for each in self._idle):
                    self._made += 1
                    break
                if self._idle:
                    free = next((each for each in self._idle if each.at is None), self._idle[0])
                    self._idle.remove(free)
                    return free
                if not self._changed.wait(deadline - time.monotonic()):
                    raise StorageUnavailable(
                        f"topic {topic} cannot be read: {MAX_CONSUMERS} reads have been waiting for the cluster "
                        f"for {TIMEOUT_S:g} s",
                        topic=topic,
                    )
        try:
            return _Standing(self._make())
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise

    def _collect(
        self, consumer: Consumer, topic: str, at: int, stop: int, max_records: int | None, max_bytes: int | None
    ) -> tuple[Runs, int]:
        """What was read, and the offset the consumer gives next."""
        runs = Runs()
        deadline = time.monotonic() + TIMEOUT_S
        while at < stop or not runs.is_whole:
            first = consumer.poll(max(deadline - time.monotonic(), 0))
            if first is None:
                raise StorageUnavailable(
                    f"topic {topic} cannot be read at offset {at}: no answer within {TIMEOUT_S:g} s", topic=topic
                )
            messages = [first]
            if count := self._next_count(runs, max_records, max_bytes):
                messages += consumer.consume(count, 0)
            ends = _ends_in(messages, topic, at)
            records = [each for each in messages if each.error() is None]
            if records:
                runs.add(records)
                at = runs.next_offset
                deadline = time.monotonic() + TIMEOUT_S
            if ends >= stop:
                return runs, stop  # short of it, a new leader is still finding out what was committed
            if runs.is_whole and _is_enough(runs, max_records, max_bytes):
                break
        return runs, at

    def _next_count(self, runs: Runs, max_records: int | None, max_bytes: int | None) -> int:
        """How many messages more to take at once, so as not to hold much more than is wanted."""
        count = _AT_ONCE
        if max_records is not None:
            count = min(count, max_records - runs.records - 1)
        average = runs.size // runs.records if runs.records else (max_bytes or _AT_ONCE_BYTES) // 16
        wanted = min(_AT_ONCE_BYTES, _AT_ONCE_BYTES if max_bytes is None else max_bytes - runs.size)
        return max(min(count, wanted // max(average, 1)), 0)


def _is_enough(runs: Runs, max_records: int | None, max_bytes: int | None) -> bool:
    return (max_records is not None and runs.records >= max_records) or (
        max_bytes is not None and runs.size >= max_bytes
    )


def _ends_in(messages: Sequence[Message], topic: str, at: int) -> int:
    """The last offset where the topic is said to end; records may follow that one. Raises what else is told."""
    ends = -1
    for message in messages:
        error = message.error()
        if error is None:
            continue
        if error.code() == KafkaError._PARTITION_EOF:
            ends = message.offset()
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise OffsetOutOfRange(f"offset {at} of topic {topic} is not there any more", topic=topic)
        else:
            raise refused(error, f"topic {topic} cannot be read at offset {at}", topic=topic)
    return ends
