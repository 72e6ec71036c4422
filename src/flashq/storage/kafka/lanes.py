"""How posts reach Kafka: lanes, each a producer and a thread, that send one topic's waiting posts as one batch.

A post must be in one Kafka batch: brokers append a batch whole or not at all, and its records have consecutive
offsets. librdkafka cuts batches when `linger.ms` is over, so here that is long, and a lane says when: it hands over all
records of a batch, then flushes, and takes the next posts once the cluster has answered. So a topic has one batch under
way, and posts that come meanwhile share the next one, like posts that share an fsync on a disk. A topic whose leader
does not answer keeps one lane waiting, not the others; more than `MAX_LANES` of them keep all. Yet no post waits longer
than messages may and `SLACK_S`, however many are before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from flashq.errors import (
    Closed,
    FlashQError,
    NotConfirmed,
    StorageRefused,
    StorageUnavailable,
    TopicNotFound,
    ValidationError,
)
from flashq.logging import get_logger
from flashq.storage.interface import Append
from flashq.storage.kafka.errors import refused
from flashq.storage.kafka.meet import meet
from flashq.storage.kafka.runs import ToSend, rows_of

if TYPE_CHECKING:
    from flashq.storage.kafka.topic_log import KafkaTopicLog

logger = get_logger(__name__)
MAX_LANES = 8
SHARED_BYTES = 768 * 1024
"""Of posts in one batch: below the 1 MiB that brokers take by default. A larger post has a batch of its own."""

SLACK_S = 2.0
"""How much later than promised librdkafka says that a message's time is over: it looks once a second."""
LEAST_S = 1.0
"""With less time left a post is not sent any more: better nothing stored than not known."""
_LOOK_S = 0.25

Complete = Callable[[Sequence[Append]], None]
Answer = Callable[["KafkaTopicLog", Sequence[Append]], None]
Waiting = tuple[Append, float]
"""An append, and when its time is over (`time.monotonic`)."""


class Lanes:
    """Sends appends, in order for each topic. `complete` is told of each once, from a lane's thread."""

    def __init__(self, settings: dict[str, object], timeout_s: float, complete: Complete) -> None:
        self._settings = settings
        self.timeout_s = timeout_s
        self._least_s = min(LEAST_S, timeout_s / 4)
        self._complete = complete
        self._changed = threading.Condition()
        self._waiting: dict[KafkaTopicLog, deque[Waiting]] = {}
        self._ready: deque[KafkaTopicLog] = deque()  # topics with posts that wait and none under way
        self._under_way: set[KafkaTopicLog] = set()
        self._lanes: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._ended = threading.Event()
        self._late = threading.Thread(target=self._refuse_late, name="flashq-kafka-late", daemon=True)
        self._late.start()
        self._start()  # a producer needs a moment until it can send: not that of the first post

    def submit(self, log: KafkaTopicLog, append: Append) -> None:
        """Take an append in; returns at once. Raises `Closed`."""
        with self._changed:
            if self._closed:
                raise Closed(f"topic {log.name} is closed; nothing was stored")
            waiting = self._waiting.get(log)
            if waiting is None:
                waiting = self._waiting[log] = deque()
                if log not in self._under_way:
                    self._ready.append(log)
            waiting.append((append, time.monotonic() + self.timeout_s))
            if self._ready and self._idle < len(self._ready) and len(self._lanes) < MAX_LANES:
                self._start()
            self._changed.notify()

    def close(self) -> None:
        """Have everything taken in answered; nothing more is taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()
        self._ended.set()
        self._late.join()

    def _start(self) -> None:
        self._idle += 1  # it will be, in a moment; until then nobody else need be started
        lane = threading.Thread(target=self._run, name="flashq-kafka-lane", daemon=True)
        self._lanes.append(lane)
        lane.start()

    def _run(self) -> None:
        lane = _Lane(self._settings, self.timeout_s)
        while (work := self._next()) is not None:
            log, waiting = work
            try:
                lane.send(log, waiting, self._answer)
            except Exception as mistake:
                logger.error("internal_error", exc_info=mistake)
                unanswered = [append for append, _ in waiting if not append.done]
                for append in unanswered:
                    append.error = append.error or NotConfirmed(
                        f"posting to topic {log.name} failed; whether the records are stored is not known"
                    )
                self._answer(log, unanswered)
            with self._changed:
                self._idle += 1
                self._under_way.discard(log)
                if log in self._waiting:
                    self._ready.append(log)
                    self._changed.notify()

    def _answer(self, log: KafkaTopicLog, appends: Sequence[Append]) -> None:
        log.settled(appends)
        self._complete(appends)

    def _next(self) -> tuple[KafkaTopicLog, list[Waiting]] | None:
        """A topic and the posts for its next batch; None at the end."""
        with self._changed:
            while not self._ready:
                if self._closed and not self._waiting:
                    self._changed.notify_all()
                    return None
                self._changed.wait()
            log = self._ready.popleft()
            self._under_way.add(log)
            self._idle -= 1
            return log, self._take(log)

    def _take(self, log: KafkaTopicLog) -> list[Waiting]:
        """Posts that fit one batch. Holds the lock."""
        waiting = self._waiting[log]
        batch: list[Waiting] = []
        size = 0
        while waiting:
            size += len(waiting[0][0].batch.frame)
            if batch and size > min(SHARED_BYTES, log.max_batch_bytes):
                break
            batch.append(waiting.popleft())
        if not waiting:
            del self._waiting[log]
        return batch

    def _refuse_late(self) -> None:
        """What waits is answered in time also while every lane waits for a cluster."""
        while not self._ended.wait(_LOOK_S):
            with self._changed:
                late = [(log, appends) for log in list(self._waiting) if (appends := self._take_late(log))]
            for log, appends in late:
                for append in appends:
                    append.error = StorageUnavailable(
                        f"the posts before this one to Kafka took {self.timeout_s:g} s. Nothing was stored",
                        topic=log.name,
                    )
                self._answer(log, appends)

    def _take_late(self, log: KafkaTopicLog) -> list[Append]:
        """Posts that would hardly be answered in time. Holds the lock."""
        waiting, soon = self._waiting[log], time.monotonic() + self._least_s
        late: list[Append] = []
        while waiting and waiting[0][1] < soon:
            late.append(waiting.popleft()[0])
        if not waiting:
            del self._waiting[log]
            if log in self._ready:
                self._ready.remove(log)
            self._changed.notify_all()  # a lane may be waiting for the end
        return late


class _Lane:
    """A producer, used by one thread. It is made anew after an error that librdkafka calls fatal."""

    def __init__(self, settings: dict[str, object], timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._producer: Producer | None = Producer(settings)
        self._met: set[str] = set()  # ids of topics

    def send(self, log: KafkaTopicLog, waiting: Sequence[Waiting], answer: Answer) -> None:
        """Send the appends as one batch and wait until Kafka has told of all of it.

        `answer` is given each append once, with its offset or its error: all at the end, but those whose time is over
        before when it is.
        """
        if self._producer is None:
            self._producer = Producer(self._settings)
            self._met.clear()
        producer = self._producer
        meet(producer, log.name, log.topic_id, self._met)
        sent: list[_Sent] = []
        for append, deadline in waiting:
            try:
                _check_size(log, append)
                append.batch.place(0, 0, 0)  # by a clock before 1970: Kafka has no such time
                sent.append(_Sent(append, deadline, rows_of(append.batch), log.not_before(append.batch)))
            except FlashQError as error:
                append.error = error
        try:
            for each in sent:
                each.produce(producer, log.name)
        except (KafkaException, BufferError) as error:
            producer.purge(in_queue=True, in_flight=False)  # nothing has left: it is not flushed yet
            for each in sent:
                each.failed = each.failed or _refused_here(error, log)
        for each in sent:  # in the order in which their time is over
            if producer.flush(max(each.deadline + SLACK_S - time.monotonic(), 0)) == 0:
                break
            each.settle(log)
            answer(log, [each.append])
        producer.flush(self._timeout_s + 5)
        for each in sent:
            if not each.append.done:
                each.settle(log)
        answer(log, [append for append, _ in waiting if not append.done])
        if any(each.is_fatal for each in sent):
            self._producer = None


class _Sent:
    """One append on its way, and what became of its first and last record."""

    __slots__ = ("append", "deadline", "failed", "first", "is_fatal", "last", "not_before_ms", "rows", "told_ms")

    def __init__(self, append: Append, deadline: float, rows: list[ToSend], not_before_ms: int) -> None:
        self.append = append
        self.deadline = deadline
        self.rows = rows
        self.not_before_ms = not_before_ms
        self.told_ms = 0  # the time of the records, as Kafka tells it
        self.first: int | None = None
        self.last: int | None = None
        self.failed: FlashQError | KafkaError | None = None
        self.is_fatal = False

    def produce(self, producer: Producer, topic: str) -> None:
        rows, self.rows = self.rows, []
        produce, not_before_ms, end = producer.produce, self.not_before_ms, len(rows) - 1
        for at, (timestamp_ms, key, value, headers) in enumerate(rows):
            told: dict[str, Any] = {"headers": headers} if headers else {}
            if at == 0:
                told["on_delivery"] = self._first_done
            elif at == end:
                told["on_delivery"] = self._last_done
            produce(topic, value, key, partition=0, timestamp=max(timestamp_ms, not_before_ms), **told)

    def settle(self, log: KafkaTopicLog) -> None:
        append, batch = self.append, self.append.batch
        if isinstance(self.failed, FlashQError):
            append.error = self.failed
        elif self.failed is not None:
            what = f"{batch.count} records could not be posted to topic {log.name}"
            append.error = refused(self.failed, what, topic=log.name, is_post=True)
        elif self.first is None or (batch.count > 1 and self.last != self.first + batch.count - 1):
            append.error = NotConfirmed(
                f"Kafka has not confirmed all {batch.count} records to topic {log.name} together; "
                "which are stored is not known",
                topic=log.name,
            )
        else:
            batch.place(self.first, 0, self.not_before_ms)
            # A broker that meets a batch again answers with the latest time in it, whoever has given the times:
            # what it tells is the records' time only where it is the one who gives it.
            if log.has_append_time:
                batch.restamp(self.told_ms)

    def _first_done(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._fail(error)
        else:
            self.first = message.offset()
            self.told_ms = message.timestamp()[1]

    def _last_done(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._fail(error)
        else:
            self.last = message.offset()

    def _fail(self, error: KafkaError) -> None:
        self.is_fatal = self.is_fatal or error.fatal()
        self.failed = self.failed or error


def _check_size(log: KafkaTopicLog, append: Append) -> None:
    size = len(append.batch.frame)
    if size <= log.max_batch_bytes:
        return
    raise ValidationError(
        f"the records of the post have {size} bytes together; topic {log.name} takes {log.max_batch_bytes} "
        "(its max.message.bytes). Nothing was stored; post fewer at once",
        field="records",
        max_size=log.max_batch_bytes,
        actual_size=size,
    )


def _refused_here(error: KafkaException | BufferError, log: KafkaTopicLog) -> FlashQError:
    """The error of a post that did not come as far as the network."""
    if isinstance(error, KafkaException):
        told = refused(error.args[0], f"posting to topic {log.name}", topic=log.name)
        if isinstance(told, TopicNotFound | ValidationError | StorageRefused):
            return told
    return StorageUnavailable(f"posting to topic {log.name}: {error}. Nothing was stored", topic=log.name)
