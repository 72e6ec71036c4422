"""A consumer: the records of a topic from where its group stands, committed as they are done with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgspec import UNSET

from flashq.client import dead_letters
from flashq.client.progress import Progress, StartAt, Stopped, check_start
from flashq.client.reads import check_end
from flashq.errors import FlashQError, IdempotencyKeyReused
from flashq.record import RecordWithOffset

if TYPE_CHECKING:
    from flashq.client.client import Client

Handler = Callable[[RecordWithOffset], object]


class Consumer:
    """Iterate over it for records, at least once each: who asks for the next record is done with the one before.

    With `auto_commit`, what is done with is committed before the next poll, and when the `with` block ends: with the
    record of the moment if it ended well (also by `break`), without it if it raised. Consumers of one group do not
    share a topic out among them: run one. Only `close` may be called from another thread.
    """

    def __init__(
        self,
        client: Client,
        group: str,
        topic: str,
        *,
        max_records: int = 500,
        auto_commit: bool = True,
        from_: StartAt = "earliest",
        follow: bool = True,
        wait_s: float = 2.0,
    ) -> None:
        """Nothing is asked before the first record is. The group is created if need be, the topic is not.

        A group that has never committed starts at the log start (`from_` "earliest") or the end ("latest", which is
        committed). `max_records` is what one poll takes. With `follow` it waits for more, in polls of `wait_s`, which
        is how long `close` may take to be heard; without, it ends at the end of the log. Iterating raises
        `OffsetOutOfRange` where retention was faster, and where the log now ends before the place reached.
        """
        check_start(from_)
        self.group = group
        self.topic = topic
        self._client = client
        self._max_records = max_records
        self._auto_commit = auto_commit
        self._from = from_
        self._follow = follow
        self._wait_s = wait_s if follow else 0.0
        self._progress: Progress | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self._progress is not None:
            self._progress.complete()
        with suppress(*(() if error is None else (FlashQError,))):  # the program's own error is the one to see
            self._auto_commit_completed()

    def close(self) -> None:
        """The iteration ends when the next record is asked for, and commits. May be called from anywhere."""
        self._closed.set()

    def commit(self) -> None:
        """Commit everything handed out so far, the latest record too."""
        if self._progress is not None:
            self._progress.complete()
            self._commit_completed()

    def __iter__(self) -> Iterator[RecordWithOffset]:
        return self

    def __next__(self) -> RecordWithOffset:
        progress = self._progress
        if progress is None:
            progress = self._progress = self._begin()
        progress.complete()
        while not self._closed.is_set():
            record = progress.take()
            if record is not None:
                return record
            self._auto_commit_completed()
            if not self._poll(progress):
                break
        self._auto_commit_completed()
        raise StopIteration

    def run(self, handler: Handler, *, retries: int = 3, backoff_s: float = 0.1, dead_letter: bool = True) -> None:
        """Call `handler` with each record until closed, or to the end of the log without `follow`.

        When it raises, it is called again up to `retries` times, after `backoff_s`, twice that, and so on. Then the
        record goes to the topic `{topic}.dlq`, once, before it is committed, with `flashq-dlq-*` headers that say
        where it came from and why; the next follows. Without `dead_letter` the handler's error is raised, and the
        record is not committed.
        """
        if dead_letter:
            dead_letters.topic_for(self.topic)
        try:
            for record in self:
                error = self._try(handler, record, retries, backoff_s)
                if error is not None and not dead_letter:
                    raise error
                if error is not None:
                    self._post_dead_letter(record, error, retries + 1)
        except Stopped:
            self._auto_commit_completed()
        except BaseException:
            if self._progress is not None:
                self._progress.give_back()  # also if the program goes on
            with suppress(FlashQError):  # the error on its way is the one to see
                self._auto_commit_completed()
            raise

    def _try(self, handler: Handler, record: RecordWithOffset, retries: int, backoff_s: float) -> Exception | None:
        """The last error of the handler. Raises `Stopped` if the consumer is closed between attempts."""
        for attempt in range(retries + 1):
            try:
                handler(record)
                return None
            except Exception as error:
                failed = error
            if attempt < retries and self._closed.wait(backoff_s * 2.0**attempt):
                assert self._progress is not None
                self._progress.give_back()
                raise Stopped
        return failed

    def _post_dead_letter(self, record: RecordWithOffset, error: Exception, attempts: int) -> None:
        key = dead_letters.key_of(record, self.topic, self.group)
        letter = dead_letters.letter_of(record, self.topic, self.group, error, attempts)
        try:
            self._client.post_record(dead_letters.topic_for(self.topic), letter, idempotency_key=key)
        except IdempotencyKeyReused:
            pass  # it is there from before a crash, with the error of that time

    def _begin(self) -> Progress:
        client, group, topic = self._client, self.group, self.topic
        client.create_consumer_group(group)
        stands = client.describe_consumer_group_offset(group, topic)
        if stands.last_commit_time is not UNSET:
            return Progress(stands.committed_offset, stands.committed_offset)
        if self._from == "earliest":
            start = client.describe_topic(topic).log_start_offset
            return Progress(start, start)
        # Without a commit, a restart would skip what comes meanwhile.
        client.commit_offset(group, topic, stands.high_water_mark)
        return Progress(stands.high_water_mark, stands.high_water_mark)

    def _poll(self, progress: Progress) -> bool:
        """More records, if there are any; False at the end of a log that is not followed."""
        polled = self._client.poll_records(
            self.topic, from_offset=progress.position, count=self._max_records, timeout_s=self._wait_s
        )
        if polled.high_water_mark < progress.position:
            check_end(self._client.describe_topic(self.topic), progress.position)
        progress.fill(polled)
        return bool(polled) or self._follow

    def _auto_commit_completed(self) -> None:
        if self._auto_commit:
            self._commit_completed()

    def _commit_completed(self) -> None:
        progress = self._progress
        if progress is not None and (offset := progress.to_commit) is not None:
            self._client.commit_offset(self.group, self.topic, offset)
            progress.committed = offset
