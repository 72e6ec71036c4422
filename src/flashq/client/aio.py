"""`AsyncClient`: `Client` for asyncio, on the same core."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx2

from flashq.api import schemas
from flashq.broker.polled import PolledRecords
from flashq.broker.reset import ResetTo
from flashq.client import operations, reads
from flashq.client.aio_consumer import AsyncConsumer
from flashq.client.aio_producer import AsyncProducer
from flashq.client.endpoint import DEFAULT_URL, Endpoint, client_closed, connection_failed, from_environment
from flashq.client.errors import ConnectionFailed
from flashq.client.exchange import Answer, Request, Steps
from flashq.client.line_pages import AsyncLineReader, LinePages, Patience
from flashq.client.pending import (
    DEFAULT_BATCH_BYTES,
    DEFAULT_BATCH_RECORDS,
    DEFAULT_PENDING_BYTES,
    DEFAULT_PENDING_RECORDS,
    Bounds,
)
from flashq.client.progress import StartAt
from flashq.client.retry import Backoff, Pause, new_idempotency_key, talk
from flashq.errors import Closed
from flashq.names import check_name
from flashq.record import Postable, RecordWithOffset

if TYPE_CHECKING:
    from flashq.broker.flashq import Conditions, TopicChanges

T = TypeVar("T")


class AsyncClient:
    """`Client` with `async def`: the same methods, results, errors and retries, described there.

    For one event loop. A call that is cancelled may have been carried out.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
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
        self._http = httpx2.AsyncClient(**self._endpoint.http_options())

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A client of FLASHQ_URL, with the token FLASHQ_TOKEN, as far as these are set; `options` go first."""
        return cls(**{**from_environment(os.environ), **options})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """The address of the server."""
        return self._endpoint.base_url

    async def close(self) -> None:
        """End all connections. Calling it again does nothing."""
        await self._http.aclose()

    # -- records

    async def post_record(self, topic: str, record: Postable, **conditions: Unpack[Conditions]) -> int:
        """Store one record; its offset, once the server's promise holds. The topic is created on first use."""
        return await self._do(operations.post_record(topic, record, **self._keyed(conditions)))

    async def post_records(
        self, topic: str, records: Iterable[Postable], **conditions: Unpack[Conditions]
    ) -> list[int]:
        """Store 1 to 1,000 records together, all or nothing, contiguous; their offsets in order."""
        return await self._do(operations.post_records(topic, records, **self._keyed(conditions)))

    async def post_lines(self, topic: str, body: bytes, **conditions: Unpack[Conditions]) -> schemas.PostedLines:
        """`post_records` of a ready body of NDJSON, a record a line; first and last offset, and how many."""
        return await self._do(operations.post_lines(topic, body, **self._keyed(conditions)))

    async def poll_records(
        self,
        topic: str,
        *,
        from_offset: int | None = None,
        from_time_ms: int | None = None,
        count: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float = 0.0,
    ) -> PolledRecords:
        """Records from an offset on, in order; at most `count`, all there are without it. Changes nothing."""
        return await self._do(
            reads.poll_records(
                topic,
                from_offset=from_offset,
                from_time_ms=from_time_ms,
                count=count,
                max_bytes=max_bytes,
                timeout_s=timeout_s,
            )
        )

    async def stream(
        self,
        topic: str,
        *,
        from_offset: int | None = None,
        from_time_ms: int | None = None,
        follow: bool = False,
        page_records: int = 1000,
        wait_s: float = 20.0,
    ) -> AsyncIterator[RecordWithOffset]:
        """Records one by one, `page_records` in memory at a time, up to where the log ended when it began."""
        timeout_s = wait_s if follow else 0.0
        page = await self.poll_records(
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
            page = await self.poll_records(topic, from_offset=page.next_offset, count=page_records, timeout_s=timeout_s)
            if page.high_water_mark < went_to:
                reads.check_end(await self.describe_topic(topic), went_to)

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
    ) -> AsyncLineReader:
        """Records as the server writes them in NDJSON: iterate for chunks of whole lines."""
        pages = LinePages(
            topic,
            group=group,
            from_offset=from_offset,
            from_time_ms=from_time_ms,
            max_records=max_records,
            follow=follow,
            wait_s=wait_s,
        )
        return AsyncLineReader(pages, self._chunks(pages))

    # -- topics

    async def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        return await self._do(operations.topics())

    async def topic_summaries(self) -> list[schemas.TopicSummary]:
        """All topics with offsets and sizes, by name."""
        return await self._do(operations.topic_summaries())

    async def describe_topic(self, topic: str) -> schemas.Topic:
        """Offsets, size, retention and durability of a topic. Raises `TopicNotFound`."""
        return await self._do(operations.describe_topic(topic))

    async def create_topic(
        self,
        topic: str,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        segment_bytes: int | None = None,
    ) -> bool:
        """Create a topic; False if it was there, and stays as it is. None takes the server's default."""
        return await self._do(
            operations.create_topic(
                topic, retention_ms=retention_ms, retention_bytes=retention_bytes, segment_bytes=segment_bytes
            )
        )

    async def configure_topic(self, topic: str, **changes: Unpack[TopicChanges]) -> None:
        """Change how a topic is kept, as `FlashQ.configure_topic`."""
        await self._do(operations.configure_topic(topic, **changes))

    async def delete_topic(self, topic: str) -> None:
        """Delete a topic and what groups have committed in it, for good. Raises `TopicNotFound`."""
        await self._do(operations.delete_topic(topic))

    async def high_water_mark(self, topic: str) -> int:
        """The first offset of a topic that readers may not yet see; 0 in an empty topic. Raises `TopicNotFound`."""
        return await self._do(operations.high_water_mark(topic))

    # -- consumer groups

    async def create_consumer_group(self, group: str) -> bool:
        """Create a group; False if it was there, or if the first answer was lost and the request repeated."""
        return await self._do(operations.create_consumer_group(group))

    async def delete_consumer_group(self, group: str) -> None:
        """Delete a group and its offsets, for good. Raises `GroupNotFound`."""
        await self._do(operations.delete_consumer_group(group))

    async def consumer_groups(self) -> list[str]:
        """Names of all groups, sorted."""
        return await self._do(operations.consumer_groups())

    async def describe_consumer_group(self, group: str) -> schemas.Group:
        """Where a group stands in each topic it has committed in. Raises `GroupNotFound`."""
        return await self._do(operations.describe_consumer_group(group))

    async def describe_consumer_group_offset(self, group: str, topic: str) -> schemas.GroupOffset:
        """Where a group stands in a topic: committed offset, lag, time and note of the last commit."""
        return await self._do(operations.describe_consumer_group_offset(group, topic))

    async def consumer_group_offset(self, group: str, topic: str) -> int:
        """The offset a group reads next in a topic; 0 before its first commit."""
        return await self._do(operations.consumer_group_offset(group, topic))

    async def commit_offset(self, group: str, topic: str, offset: int, metadata: str | None = None) -> None:
        """Set the offset a group reads next; back is allowed. Errors as `FlashQ.commit_offset`."""
        await self._do(operations.commit_offset(group, topic, offset, metadata))

    async def reset_offset(
        self, group: str, topic: str, to: ResetTo, at: int | None = None, *, dry_run: bool = False
    ) -> tuple[int, int]:
        """Move a group, as `FlashQ.reset_offset`; offset before and after."""
        return await self._do(operations.reset_offset(group, topic, to, at, dry_run=dry_run))

    async def poll_records_for_consumer_group(
        self,
        group: str,
        topic: str,
        *,
        count: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float = 0.0,
    ) -> PolledRecords:
        """Records from the group's committed offset on; from the log start before its first commit. Never moves it."""
        return await self._do(
            reads.poll_records(topic, group=group, count=count, max_bytes=max_bytes, timeout_s=timeout_s)
        )

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
    ) -> AsyncProducer:
        """Posts records in batches in the background, in order. `send` waits while `max_pending_*` are under way."""
        bounds = Bounds(
            linger_ms=linger_ms,
            batch_size=batch_size,
            batch_bytes=batch_bytes,
            max_pending_records=max_pending_records,
            max_pending_bytes=max_pending_bytes,
        )
        return AsyncProducer(self, check_name("topic", topic), bounds)

    def consumer(
        self,
        group: str,
        topic: str,
        *,
        max_records: int = 500,
        auto_commit: bool = True,
        from_: StartAt = "earliest",
        follow: bool = True,
        wait_s: float = 20.0,
    ) -> AsyncConsumer:
        """The records of a topic from where the group stands, committed as they are done with; see `AsyncConsumer`."""
        return AsyncConsumer(
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

    async def health(self) -> schemas.HealthReport:
        """What the server says of itself, also when it is unhealthy."""
        return await self._do(operations.health())

    async def openapi(self) -> dict[str, Any]:
        """The server's OpenAPI document."""
        return await self._do(operations.openapi())

    # -- how it is done

    def _keyed(self, conditions: Conditions) -> Conditions:
        if conditions.get("idempotency_key") is None and self._retries:
            return {**conditions, "idempotency_key": self._new_key()}
        return conditions

    async def _do(self, steps: Steps[T]) -> T:
        """Perform an operation: exchange requests, sleep before retries."""
        going = talk(steps, self._retries, self._backoff)
        said: Answer | ConnectionFailed | Closed | None = None
        try:
            while True:
                step = going.send(said)
                said = await (self._sleep(step.seconds) if isinstance(step, Pause) else self._exchange(step))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _exchange(self, request: Request) -> Answer | ConnectionFailed | Closed:
        if self._http.is_closed:
            return client_closed()
        try:
            answer = await self._http.request(**self._endpoint.request_options(request))
        except httpx2.TransportError as error:
            return connection_failed(error, request, self._endpoint.base_url)
        return Answer(answer.status_code, answer.headers, answer.content)

    async def _chunks(self, pages: LinePages) -> AsyncIterator[bytes]:
        patience = Patience(self._retries, self._backoff)
        while (request := pages.next_request()) is not None:
            failed: Answer | ConnectionFailed | None = None
            if self._http.is_closed:
                raise client_closed()
            try:
                async with self._http.stream(**self._endpoint.request_options(request)) as answer:
                    if answer.status_code == 200:
                        pages.begin(Answer(200, answer.headers))
                        if pages.ends_early:
                            reads.check_end(await self.describe_topic(pages.topic), pages.went_to)
                        async for chunk in answer.aiter_raw():
                            if lines := pages.feed(chunk):
                                yield lines
                    else:
                        failed = Answer(answer.status_code, answer.headers, await answer.aread())
            except httpx2.TransportError as error:
                failed = connection_failed(error, request, self._endpoint.base_url)
            if failed is None:
                pages.ended()
                patience.restore()
            else:
                await self._sleep(patience.after(request, failed, got_some=pages.broken()).seconds)
