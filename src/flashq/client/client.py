"""`Client`: the operations of a FlashQ server, under the names they have in `FlashQ`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx2

from flashq.api import schemas
from flashq.broker.polled import PolledRecords
from flashq.broker.reset import ResetTo
from flashq.client import operations, reads
from flashq.client.consumer import Consumer
from flashq.client.endpoint import DEFAULT_URL, Endpoint, client_closed, connection_failed, from_environment
from flashq.client.errors import ConnectionFailed
from flashq.client.exchange import Answer, Request, Steps
from flashq.client.line_pages import LinePages, LineReader, Patience
from flashq.client.pending import (
    DEFAULT_BATCH_BYTES,
    DEFAULT_BATCH_RECORDS,
    DEFAULT_PENDING_BYTES,
    DEFAULT_PENDING_RECORDS,
    Bounds,
)
from flashq.client.producer import Producer
from flashq.client.progress import StartAt
from flashq.client.retry import Backoff, Pause, new_idempotency_key, talk
from flashq.errors import Closed
from flashq.names import check_name
from flashq.record import Postable, RecordWithOffset

if TYPE_CHECKING:
    from flashq.broker.flashq import Conditions, TopicChanges

T = TypeVar("T")


class Client:
    """A FlashQ over HTTP. Safe to use from any thread; `close` ends its connections.

    Methods have the names, parameters, results and errors of `FlashQ`. Any of them also raises `ConnectionFailed`,
    whose `outcome` says whether the request may have been carried out, and `UnexpectedAnswer` where no FlashQ answers.

    What passes by itself is tried again up to `retries` times, waiting as `backoff` says. Lost connections are too,
    where that does no harm: reads, commits, creating and configuring, and posts, which get an `Idempotency-Key` for
    it. Deleting and resetting are not, once they may have been done. `retries=0` turns both off, retries and generated
    keys: the server can then store posts of many clients as one batch, and a post with unknown outcome stays unknown.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        verify: str | os.PathLike[str] | None = None,
        proxy: str | None = None,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        retries: int = 5,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
        new_key: Callable[[], str] = new_idempotency_key,
    ) -> None:
        """Connects when first used. `verify` is a file of CA certificates (PEM) to trust in place of the usual ones.

        `timeout_s` is how long the server may take to answer, waits it was asked for not counted. Proxies of the
        environment are not used; `proxy` is the URL of one to use.
        """
        self._endpoint = Endpoint(base_url, token, timeout_s, connect_timeout_s, verify, proxy)
        self._retries = operations.at_least("retries", retries, 0)
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        self._new_key = new_key
        self._http = httpx2.Client(**self._endpoint.http_options())

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A client of FLASHQ_URL, with the token FLASHQ_TOKEN, as far as these are set; `options` go first."""
        return cls(**{**from_environment(os.environ), **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """The address of the server."""
        return self._endpoint.base_url

    def close(self) -> None:
        """End all connections. Calling it again does nothing."""
        self._http.close()

    # -- records

    def post_record(self, topic: str, record: Postable, **conditions: Unpack[Conditions]) -> int:
        """Store one record; its offset, once the server's promise holds. The topic is created on first use."""
        return self._do(operations.post_record(topic, record, **self._keyed(conditions)))

    def post_records(self, topic: str, records: Iterable[Postable], **conditions: Unpack[Conditions]) -> list[int]:
        """Store 1 to 1,000 records together, all or nothing, contiguous; their offsets in order.

        Conditions and errors are those of `FlashQ.post_records`; a key is made up where none is given. The limits of
        the contract hold (value 1 MiB, key and header value 1,024 bytes): `ValidationError`. More records: `producer`.
        """
        return self._do(operations.post_records(topic, records, **self._keyed(conditions)))

    def post_lines(self, topic: str, body: bytes, **conditions: Unpack[Conditions]) -> schemas.PostedLines:
        """`post_records` of a ready body of NDJSON, a record a line; first and last offset, and how many."""
        return self._do(operations.post_lines(topic, body, **self._keyed(conditions)))

    def poll_records(
        self,
        topic: str,
        *,
        from_offset: int | None = None,
        from_time_ms: int | None = None,
        count: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float = 0.0,
    ) -> PolledRecords:
        """Records from an offset on, in order; at most `count`, all there are without it. Changes nothing.

        From 0 without a beginning; `from_time_ms` (Unix milliseconds): from the first record stored then or later.
        Waits up to `timeout_s` (at most 60) for the first record. Takes a request for every 10,000 records or 8 MiB.
        """
        return self._do(
            reads.poll_records(
                topic,
                from_offset=from_offset,
                from_time_ms=from_time_ms,
                count=count,
                max_bytes=max_bytes,
                timeout_s=timeout_s,
            )
        )

    def stream(
        self,
        topic: str,
        *,
        from_offset: int | None = None,
        from_time_ms: int | None = None,
        follow: bool = False,
        page_records: int = 1000,
        wait_s: float = 20.0,
    ) -> Iterator[RecordWithOffset]:
        """Records one by one, `page_records` in memory at a time, up to where the log ended when it began.

        With `follow` it goes on and waits for what is posted, in requests of `wait_s`. Raises as `poll_records`, and
        `OffsetOutOfRange` if the log has become shorter; to go on after an error, begin anew after the last record.
        """
        timeout_s = wait_s if follow else 0.0
        page = self.poll_records(
            topic, from_offset=from_offset, from_time_ms=from_time_ms, count=page_records, timeout_s=timeout_s
        )
        went_to = page.high_water_mark
        end = math.inf if follow else went_to
        while True:
            for record in page:
                if record.offset >= end:
                    return
                yield record
            if page.next_offset >= end:
                return
            if follow:
                went_to = min(page.next_offset, page.high_water_mark)
            page = self.poll_records(topic, from_offset=page.next_offset, count=page_records, timeout_s=timeout_s)
            if page.high_water_mark < went_to:
                reads.check_end(self.describe_topic(topic), went_to)

    def read_lines(
        self,
        topic: str,
        *,
        group: str | None = None,
        from_offset: int | None = None,
        from_time_ms: int | None = None,
        max_records: int | None = None,
        follow: bool = False,
        wait_s: float = 20.0,
    ) -> LineReader:
        """Records as the server writes them in NDJSON: iterate for chunks of whole lines.

        Ends where the log ended when it began, unless `follow`. Goes on by offset after a lost connection. Raises as
        `stream`.
        """
        pages = LinePages(
            topic,
            group=group,
            from_offset=from_offset,
            from_time_ms=from_time_ms,
            max_records=max_records,
            follow=follow,
            wait_s=wait_s,
        )
        return LineReader(pages, self._chunks(pages))

    # -- topics

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        return self._do(operations.topics())

    def topic_summaries(self) -> list[schemas.TopicSummary]:
        """All topics with offsets and sizes, by name."""
        return self._do(operations.topic_summaries())

    def describe_topic(self, topic: str) -> schemas.Topic:
        """Offsets, size, retention and durability of a topic. Raises `TopicNotFound`."""
        return self._do(operations.describe_topic(topic))

    def create_topic(
        self,
        topic: str,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        segment_bytes: int | None = None,
    ) -> bool:
        """Create a topic; False if it was there, and stays as it is. None takes the server's default.

        If the first answer was lost and the request repeated, False may be of our own doing. With options it looks
        first: a topic that someone else makes in between gets them.
        """
        return self._do(
            operations.create_topic(
                topic, retention_ms=retention_ms, retention_bytes=retention_bytes, segment_bytes=segment_bytes
            )
        )

    def configure_topic(self, topic: str, **changes: Unpack[TopicChanges]) -> None:
        """Change how a topic is kept, as `FlashQ.configure_topic`.

        It looks first whether the topic is there; one that is deleted in between is made anew.
        """
        self._do(operations.configure_topic(topic, **changes))

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and what groups have committed in it, for good. Raises `TopicNotFound`."""
        self._do(operations.delete_topic(topic))

    def high_water_mark(self, topic: str) -> int:
        """The first offset of a topic that readers may not yet see; 0 in an empty topic. Raises `TopicNotFound`."""
        return self._do(operations.high_water_mark(topic))

    # -- consumer groups

    def create_consumer_group(self, group: str) -> bool:
        """Create a group; False if it was there, or if the first answer was lost and the request repeated."""
        return self._do(operations.create_consumer_group(group))

    def delete_consumer_group(self, group: str) -> None:
        """Delete a group and its offsets, for good. Raises `GroupNotFound`."""
        self._do(operations.delete_consumer_group(group))

    def consumer_groups(self) -> list[str]:
        """Names of all groups, sorted."""
        return self._do(operations.consumer_groups())

    def describe_consumer_group(self, group: str) -> schemas.Group:
        """Where a group stands in each topic it has committed in. Raises `GroupNotFound`."""
        return self._do(operations.describe_consumer_group(group))

    def describe_consumer_group_offset(self, group: str, topic: str) -> schemas.GroupOffset:
        """Where a group stands in a topic: committed offset, lag, time and note of the last commit."""
        return self._do(operations.describe_consumer_group_offset(group, topic))

    def consumer_group_offset(self, group: str, topic: str) -> int:
        """The offset a group reads next in a topic; 0 before its first commit."""
        return self._do(operations.consumer_group_offset(group, topic))

    def commit_offset(self, group: str, topic: str, offset: int, metadata: str | None = None) -> None:
        """Set the offset a group reads next; back is allowed. Errors as `FlashQ.commit_offset`."""
        self._do(operations.commit_offset(group, topic, offset, metadata))

    def reset_offset(
        self, group: str, topic: str, to: ResetTo, at: int | None = None, *, dry_run: bool = False
    ) -> tuple[int, int]:
        """Move a group, as `FlashQ.reset_offset`; offset before and after."""
        return self._do(operations.reset_offset(group, topic, to, at, dry_run=dry_run))

    def poll_records_for_consumer_group(
        self,
        group: str,
        topic: str,
        *,
        count: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float = 0.0,
    ) -> PolledRecords:
        """Records from the group's committed offset on; from the log start before its first commit. Never moves it."""
        return self._do(reads.poll_records(topic, group=group, count=count, max_bytes=max_bytes, timeout_s=timeout_s))

    # -- many records

    def producer(
        self,
        topic: str,
        *,
        linger_ms: float = 5.0,
        batch_size: int = DEFAULT_BATCH_RECORDS,
        batch_bytes: int = DEFAULT_BATCH_BYTES,
        max_pending_records: int = DEFAULT_PENDING_RECORDS,
        max_pending_bytes: int = DEFAULT_PENDING_BYTES,
    ) -> Producer:
        """Posts records in batches in the background, in order. `send` blocks while `max_pending_*` are under way."""
        bounds = Bounds(
            linger_ms=linger_ms,
            batch_size=batch_size,
            batch_bytes=batch_bytes,
            max_pending_records=max_pending_records,
            max_pending_bytes=max_pending_bytes,
        )
        return Producer(self, check_name("topic", topic), bounds)

    def consumer(
        self,
        group: str,
        topic: str,
        *,
        max_records: int = 500,
        auto_commit: bool = True,
        from_: StartAt = "earliest",
        follow: bool = True,
        wait_s: float = 2.0,
    ) -> Consumer:
        """The records of a topic from where the group stands, committed as they are done with; see `Consumer`."""
        return Consumer(
            self,
            check_name("group", group),
            check_name("topic", topic),
            max_records=max_records,
            auto_commit=auto_commit,
            from_=from_,
            follow=follow,
            wait_s=wait_s,
        )

    # -- the whole

    def health(self) -> schemas.HealthReport:
        """What the server says of itself, also when it is unhealthy."""
        return self._do(operations.health())

    def openapi(self) -> dict[str, Any]:
        """The server's OpenAPI document."""
        return self._do(operations.openapi())

    # -- how it is done

    def _keyed(self, conditions: Conditions) -> Conditions:
        if conditions.get("idempotency_key") is None and self._retries:
            return {**conditions, "idempotency_key": self._new_key()}
        return conditions

    def _do(self, steps: Steps[T]) -> T:
        """Perform an operation: exchange requests, sleep before retries."""
        going = talk(steps, self._retries, self._backoff)
        said: Answer | ConnectionFailed | Closed | None = None
        try:
            while True:
                step = going.send(said)
                said = self._sleep(step.seconds) if isinstance(step, Pause) else self._exchange(step)
        except StopIteration as end:
            result: T = end.value
            return result

    def _exchange(self, request: Request) -> Answer | ConnectionFailed | Closed:
        if self._http.is_closed:
            return client_closed()
        try:
            answer = self._http.request(**self._endpoint.request_options(request))
        except httpx2.TransportError as error:
            return connection_failed(error, request, self._endpoint.base_url)
        return Answer(answer.status_code, answer.headers, answer.content)

    def _chunks(self, pages: LinePages) -> Iterator[bytes]:
        patience = Patience(self._retries, self._backoff)
        while (request := pages.next_request()) is not None:
            failed: Answer | ConnectionFailed | None = None
            if self._http.is_closed:
                raise client_closed()
            try:
                with self._http.stream(**self._endpoint.request_options(request)) as answer:
                    if answer.status_code == 200:
                        pages.begin(Answer(200, answer.headers))
                        if pages.ends_early:
                            reads.check_end(self.describe_topic(pages.topic), pages.went_to)
                        for chunk in answer.iter_raw():
                            if lines := pages.feed(chunk):
                                yield lines
                    else:
                        failed = Answer(answer.status_code, answer.headers, answer.read())
            except httpx2.TransportError as error:
                failed = connection_failed(error, request, self._endpoint.base_url)
            if failed is None:
                pages.ended()
                patience.restore()
            else:
                self._sleep(patience.after(request, failed, got_some=pages.broken()).seconds)
