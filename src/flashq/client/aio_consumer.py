"""`Consumer` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgspec import UNSET

from flashq.broker.polled import PolledRecords
from flashq.client import dead_letters
from flashq.client.progress import Progress, StartAt, Stopped, check_start
from flashq.client.reads import check_end
from flashq.errors import FlashQError, IdempotencyKeyReused
from flashq.record import RecordWithOffset

if TYPE_CHECKING:
    from flashq.client.aio import AsyncClient

AsyncHandler = Callable[[RecordWithOffset], Awaitable[object]]


class AsyncConsumer:
    """`Consumer` for `async for`, on one event loop. `close` ends a poll that waits, at once."""

    def __init__(
        self,
        client: AsyncClient,
        group: str,
        topic: str,
        *,
        max_records: int = 500,
        auto_commit: bool = True,
        from_: StartAt = "earliest",
        follow: bool = True,
        wait_s: float = 20.0,
    ) -> None:
        """As `Consumer`."""
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
        self._closed = asyncio.Event()
        self._polling: asyncio.Task[PolledRecords] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self._progress is not None:
            self._progress.complete()
        with suppress(*(() if error is None else (FlashQError,))):  # the program's own error is the one to see
            await self._auto_commit_completed()

    def close(self) -> None:
        """The iteration ends when the next record is asked for, and commits."""
        self._closed.set()
        if self._polling is not None:
            self._polling.cancel()

    async def commit(self) -> None:
        """Commit everything handed out so far, the latest record too."""
        if self._progress is not None:
            self._progress.complete()
            await self._commit_completed()

    def __aiter__(self) -> AsyncIterator[RecordWithOffset]:
        return self

    async def __anext__(self) -> RecordWithOffset:
        progress = self._progress
        if progress is None:
            progress = self._progress = await self._begin()
        progress.complete()
        while not self._closed.is_set():
            record = progress.take()
            if record is not None:
                return record
            await self._auto_commit_completed()
            if not await self._poll(progress):
                break
        await self._auto_commit_completed()
        raise StopAsyncIteration

    async def run(
        self, handler: AsyncHandler, *, retries: int = 3, backoff_s: float = 0.1, dead_letter: bool = True
    ) -> None:
        """`Consumer.run`, with a handler that is awaited."""
        if dead_letter:
            dead_letters.topic_for(self.topic)
        try:
            async for record in self:
                error = await self._try(handler, record, retries, backoff_s)
                if error is not None and not dead_letter:
                    raise error
                if error is not None:
                    await self._post_dead_letter(record, error, retries + 1)
        except Stopped:
            await self._auto_commit_completed()
        except BaseException:
            if self._progress is not None:
                self._progress.give_back()  # also if the program goes on
            with suppress(FlashQError):  # the error on its way is the one to see
                await self._auto_commit_completed()
            raise

    async def _try(
        self, handler: AsyncHandler, record: RecordWithOffset, retries: int, backoff_s: float
    ) -> Exception | None:
        """The last error of the handler. Raises `Stopped` if the consumer is closed between attempts."""
        for attempt in range(retries + 1):
            try:
                await handler(record)
                return None
            except Exception as error:
                failed = error
            if attempt < retries and await self._closes_within(backoff_s * 2.0**attempt):
                assert self._progress is not None
                self._progress.give_back()
                raise Stopped
        return failed

    async def _closes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closed.wait()
        except TimeoutError:
            return False

    async def _post_dead_letter(self, record: RecordWithOffset, error: Exception, attempts: int) -> None:
        key = dead_letters.key_of(record, self.topic, self.group)
        letter = dead_letters.letter_of(record, self.topic, self.group, error, attempts)
        try:
            await self._client.post_record(dead_letters.topic_for(self.topic), letter, idempotency_key=key)
        except IdempotencyKeyReused:
            pass  # it is there from before a crash, with the error of that time

    async def _begin(self) -> Progress:
        client, group, topic = self._client, self.group, self.topic
        await client.create_consumer_group(group)
        stands = await client.describe_consumer_group_offset(group, topic)
        if stands.last_commit_time is not UNSET:
            return Progress(stands.committed_offset, stands.committed_offset)
        if self._from == "earliest":
            start = (await client.describe_topic(topic)).log_start_offset
            return Progress(start, start)
        # Without a commit, a restart would skip what comes meanwhile.
        await client.commit_offset(group, topic, stands.high_water_mark)
        return Progress(stands.high_water_mark, stands.high_water_mark)

    async def _poll(self, progress: Progress) -> bool:
        """More records, if there are any; False at the end of a log that is not followed, and once closed."""
        poll = self._client.poll_records(
            self.topic, from_offset=progress.position, count=self._max_records, timeout_s=self._wait_s
        )
        self._polling = asyncio.create_task(poll)
        try:
            polled = await self._polling
        except asyncio.CancelledError:
            if not self._closed.is_set() or self._is_cancelled():
                raise
            return False
        if polled.high_water_mark < progress.position:
            check_end(await self._client.describe_topic(self.topic), progress.position)
        progress.fill(polled)
        return bool(polled) or self._follow

    @staticmethod
    def _is_cancelled() -> bool:
        """Whether it is the program that cancels, not `close`."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _auto_commit_completed(self) -> None:
        if self._auto_commit:
            await self._commit_completed()

    async def _commit_completed(self) -> None:
        progress = self._progress
        if progress is not None and (offset := progress.to_commit) is not None:
            await self._client.commit_offset(self.group, self.topic, offset)
            progress.committed = offset
