"""The offsets of groups, as consumers ask for them: one for each group that is asked about, which never joins it.

Not through an admin client: that of librdkafka 2.16.1 ends the whole process where a broker says of a group's offsets
that it does not coordinate the group any more (`list_consumer_group_offsets`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from flashq.errors import Closed, StorageUnavailable

MAX_CONSUMERS = 16
_Commit = tuple[str, int, str]  # topic, offset, metadata
_LEAST_S = 0.2
_CLOSE_S = 10.0


class _Held:
    """A consumer, asked by one thread at a time, and what became of commits that nobody has looked at yet."""

    def __init__(self, make: Callable[[Callable[..., None]], Consumer]) -> None:
        self.consumer = make(self._committed)
        self.users = 0
        self.asking = threading.Lock()
        self.ended: dict[_Commit, KafkaError | None] = {}

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            self.ended[_key(each)] = error or each.error

    def commit(self, partition: TopicPartition, timeout_s: float) -> None:
        """Not a commit that waits by itself: without a coordinator, that one waits for ever."""
        begun = time.monotonic()
        self.ended.clear()  # of commits that nobody waits for any more
        self.consumer.commit(offsets=[partition], asynchronous=True)
        while _key(partition) not in self.ended:
            waited_s = time.monotonic() - begun
            if waited_s > timeout_s:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            self.consumer.poll(min(0.001 + waited_s / 4, 0.05))  # it does not return when it has told of a commit
        error = self.ended.pop(_key(partition))
        if error is not None:
            raise KafkaException(error)


class GroupOffsets:
    """A bounded pool: the consumer of the group that was asked about longest ago makes room. Any thread may ask.

    Every method blocks for the network and raises KafkaException.
    """

    def __init__(self, make: Callable[[str, Callable[..., None]], Consumer]) -> None:
        self._make = make
        self._changed = threading.Condition()
        self._held: dict[str, _Held] = {}  # the one used longest ago first
        self._closed = False

    def committed(self, group: str, topics: Iterable[str], timeout_s: float) -> dict[str, tuple[int, str | None]]:
        """Offset and metadata of the topics that the group has committed to."""
        partitions = [TopicPartition(topic, 0) for topic in topics]
        if not partitions:
            return {}
        with self._asking(group, timeout_s) as (held, left_s):
            told = held.consumer.committed(partitions, timeout=left_s)
        for each in told:
            if each.error is not None:
                raise KafkaException(each.error)
        return {each.topic: (each.offset, each.metadata) for each in told if each.offset >= 0}

    def commit(self, group: str, partition: TopicPartition, timeout_s: float) -> None:
        """Wait until Kafka has it. After a time-out it may get there later, but not after later commits from here."""
        with self._asking(group, timeout_s) as (held, left_s):
            held.commit(partition, left_s)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not any(held.users for held in self._held.values()), _CLOSE_S)
            idle = [self._held.pop(group) for group, held in list(self._held.items()) if not held.users]
            self._changed.notify_all()
        for held in idle:
            held.consumer.close()

    @contextmanager
    def _asking(self, group: str, timeout_s: float) -> Iterator[tuple[_Held, float]]:
        """The group's consumer, alone, and how many seconds are left."""
        deadline = time.monotonic() + timeout_s
        held, outdone = self._take(group, timeout_s)
        try:
            if outdone is not None:
                outdone.consumer.close()
            if not held.asking.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            try:
                yield held, max(deadline - time.monotonic(), _LEAST_S)
            finally:
                held.asking.release()
        finally:
            with self._changed:
                held.users -= 1
                self._changed.notify_all()

    def _take(self, group: str, timeout_s: float) -> tuple[_Held, _Held | None]:
        """The group's consumer, and one that made room for it and is to be closed."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._closed:
                    raise Closed(f"group {group} is closed; nothing was done")
                held, outdone = self._held.pop(group, None), None
                if held is None and len(self._held) >= MAX_CONSUMERS:
                    idle = next((name for name, each in self._held.items() if not each.users), None)
                    if idle is None:
                        if not self._changed.wait(deadline - time.monotonic()):
                            raise StorageUnavailable(
                                f"{MAX_CONSUMERS} other groups have been waiting for the cluster for {timeout_s:.0f} s."
                                f" Nothing was done for group {group}"
                            )
                        continue
                    outdone = self._held.pop(idle)
                if held is None:
                    held = _Held(lambda told: self._make(group, told))
                self._held[group] = held
                held.users += 1
                return held, outdone


def _key(partition: TopicPartition) -> _Commit:
    return partition.topic, partition.offset, partition.metadata or ""
