"""Who waits for a topic to move on, waits here: one consumer at the end of every topic that is waited for.

Long polls and streams cost no consumer each. What it reads goes into the cache, from where those who waited take it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Message, TopicPartition

from flashq.storage.kafka.meet import meet
from flashq.storage.kafka.runs import Runs

if TYPE_CHECKING:
    from flashq.storage.kafka.topic_log import KafkaTopicLog

GRACE_S = 5.0
"""A topic is followed for so long after the last one has stopped waiting: a client's next long poll is on its way."""
_LOOK_S = 0.02  # how often it looks for topics that are newly waited for


class Follower:
    """Watches logs from a thread of its own, which runs while there is something to watch."""

    def __init__(self, make: Callable[[], Consumer]) -> None:
        self._make = make
        self._changed = threading.Condition()
        self._wanted: dict[KafkaTopicLog, float | None] = {}  # until when; None: somebody waits
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, log: KafkaTopicLog) -> None:
        """From now on tell the log when it has moved on. Returns at once."""
        with self._changed:
            self._wanted[log] = None
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="flashq-kafka-follower", daemon=True)
                self._thread.start()
            self._changed.notify()

    def unwatch(self, log: KafkaTopicLog) -> None:
        """Nobody waits for the log any more. Returns at once."""
        with self._changed:
            if log in self._wanted:
                self._wanted[log] = time.monotonic() + GRACE_S

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        followed: dict[str, KafkaTopicLog] = {}
        met: set[str] = set()  # ids of topics
        consumer = self._make()
        while self._choose(consumer, followed, met):
            first = consumer.poll(_LOOK_S)
            if first is not None:
                self._tell([first, *consumer.consume(500, 0)], followed, consumer)
        consumer.close()

    def _choose(self, consumer: Consumer, followed: dict[str, KafkaTopicLog], met: set[str]) -> bool:
        """Follow what is wanted now, and nothing else; False at the end. Waits while nothing is."""
        with self._changed:
            while True:
                now = time.monotonic()
                self._wanted = {
                    log: until
                    for log, until in self._wanted.items()
                    if not log.is_closed and (until is None or until > now)
                }
                wanted = {log.name: log for log in self._wanted}
                if self._closed or wanted or followed:
                    break
                self._changed.wait()
        if self._closed:
            return False
        gone = [name for name, log in followed.items() if wanted.get(name) is not log]
        new = [log for name, log in wanted.items() if followed.get(name) is not log]
        if gone:
            consumer.incremental_unassign([TopicPartition(name, 0) for name in gone])
            for name in gone:
                del followed[name]
        for log in new:
            meet(consumer, log.name, log.topic_id, met)
            consumer.incremental_assign([TopicPartition(log.name, 0, log.high_water_mark)])
            followed[log.name] = log
        return True

    def _tell(self, messages: list[Message], followed: dict[str, KafkaTopicLog], consumer: Consumer) -> None:
        runs: defaultdict[str, Runs] = defaultdict(Runs)
        lost: set[str] = set()
        for message in messages:
            topic = message.topic()
            if message.error() is None:
                runs[topic].add([message])
            elif topic in followed and message.error().code() != message.error()._PARTITION_EOF:
                lost.add(topic)
        for topic, read in runs.items():
            if topic in followed:
                followed[topic].found(read.take())
        for topic in lost & followed.keys():
            self._let_go(topic, followed, consumer)

    def _let_go(self, topic: str, followed: dict[str, KafkaTopicLog], consumer: Consumer) -> None:
        """Its place is lost: it was removed by retention, or the leader is not there. Next, it is followed anew.

        From the end that the log has heard of last, and the backend sees to it that the log hears.
        """
        del followed[topic]
        consumer.incremental_unassign([TopicPartition(topic, 0)])
