"""`Producer` for asyncio: records are sent one by one and posted in batches, by a task in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flashq.client.lines import encode_record
from flashq.client.pending import Bounds, Pending, PendingBatch
from flashq.errors import Closed
from flashq.record import Postable

if TYPE_CHECKING:
    from flashq.client.aio import AsyncClient


class AsyncProducer:
    """Posts to one topic in the order of `send`, a batch at a time; as `Producer`, for one event loop."""

    def __init__(
        self, client: AsyncClient, topic: str, bounds: Bounds, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._topic = topic
        self._clock = clock
        self._pending: Pending[asyncio.Future[int]] = Pending(bounds)
        self._changed = asyncio.Condition()
        self._closing = False
        self._error: Exception | None = None
        self._in_flight: PendingBatch[asyncio.Future[int]] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except Exception:
            if error is None:  # else the program's own error is the one to see
                raise

    async def send(self, record: Postable) -> asyncio.Future[int]:
        """A future of the record's offset. Waits while too much is on its way; raises as `Producer.send`."""
        line = encode_record(record)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with self._changed:
            await self._changed.wait_for(lambda: self._closing or self._pending.has_room(line))
            if self._closing:
                raise Closed("this producer is closed; the record was not sent")
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name=f"flashq-producer-{self._topic}")
            if self._pending.add(line, future, self._clock()):
                self._changed.notify_all()
        return future

    async def flush(self) -> None:
        """Return when all that was sent before is stored. Raises the first error of a batch since the last `flush`."""
        async with self._changed:
            target = self._pending.hurry()
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._pending.settled >= target)
            error, self._error = self._error, None
        if error is not None:
            raise error

    async def close(self) -> None:
        """Take no more records, flush, and end the task. Raises as `flush`. Calling it again does nothing.

        Cancelled, it gives up what is not stored yet.
        """
        self._closing = True
        try:
            await self.flush()
        except asyncio.CancelledError:
            if self._task is not None:
                self._task.cancel()
            raise
        finally:
            async with self._changed:
                self._changed.notify_all()
            if self._task is not None:
                await asyncio.wait([self._task])  # which raises nothing of the task's

    async def _run(self) -> None:
        try:
            while (batch := await self._next_batch()) is not None:
                self._in_flight = batch
                error = await self._post(batch) if batch.futures else None
                await self._settle(batch, error)
        except asyncio.CancelledError:  # by `close`, or by a program that cancels all its tasks
            await self._give_up()
            raise

    async def _settle(self, batch: PendingBatch[asyncio.Future[int]], error: Exception | None) -> None:
        async with self._changed:
            self._in_flight = None
            self._pending.settle(batch)
            self._error = self._error or error
            self._changed.notify_all()

    async def _give_up(self) -> None:
        """Nobody posts any more: whoever waits is told, of the batch under way that it may have been stored."""
        self._closing = True
        if self._in_flight is not None:
            lost = Closed("this producer was cancelled; whether these were stored is not known", outcome="unknown")
            await self._settle(_refused(self._in_flight, lost), lost)
        unsent = Closed("this producer was cancelled; the records were not sent")
        while self._pending.due_in(self._clock()) is not None:
            batch = self._pending.take(lambda future: not future.cancelled())
            await self._settle(_refused(batch, unsent), unsent)

    async def _next_batch(self) -> PendingBatch[asyncio.Future[int]] | None:
        async with self._changed:
            while True:
                due_in = self._pending.due_in(self._clock())
                if due_in is not None and due_in <= 0:
                    return self._pending.take(lambda future: not future.cancelled())
                if due_in is None and self._closing:
                    return None
                try:
                    async with asyncio.timeout(due_in):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    async def _post(self, batch: PendingBatch[asyncio.Future[int]]) -> Exception | None:
        """Post and resolve the futures; the error, if it failed."""
        try:
            first_offset = (await self._client.post_lines(self._topic, batch.body)).first_offset
        except Exception as error:
            _refused(batch, error)
            return error
        for offset, future in enumerate(batch.futures, first_offset):
            if not future.done():  # cancelled while its batch was on its way
                future.set_result(offset)
        return None


def _refused(batch: PendingBatch[asyncio.Future[int]], error: Exception) -> PendingBatch[asyncio.Future[int]]:
    """The batch, each of its futures with the error."""
    for future in batch.futures:
        if not future.done():
            future.set_exception(error)
            future.exception()  # `flush` raises it: asyncio need not complain of a future nobody asks
    return batch
