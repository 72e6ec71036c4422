"""A producer: records are sent one by one and posted in batches, by a thread in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flashq.client.lines import encode_record
from flashq.client.pending import Bounds, Pending, PendingBatch
from flashq.errors import Closed
from flashq.record import Postable

if TYPE_CHECKING:
    from flashq.client.client import Client


class Producer:
    """Posts to one topic in the order of `send`, a batch at a time. Safe to use from any thread.

    A batch goes when it is full, `linger_ms` after its first record, or at `flush`. It is retried as the client
    retries, under one key, so none of it is stored twice. A batch that fails for good fails the futures of its
    records; those after it are posted all the same.
    """

    def __init__(self, client: Client, topic: str, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._topic = topic
        self._clock = clock
        self._pending: Pending[Future[int]] = Pending(bounds)
        self._changed = threading.Condition()
        self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"flashq-producer-{topic}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # else the program's own error is the one to see
                raise

    def send(self, record: Postable) -> Future[int]:
        """The record's offset, once it is stored. Blocks while too much is on its way.

        Raises `ValidationError` for a record that no post could carry, `Closed` after `close`. A future that is
        cancelled before its batch goes keeps the record from being stored.
        """
        line = encode_record(record)
        future: Future[int] = Future()
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._pending.has_room(line))
            if self._closing:
                raise Closed("this producer is closed; the record was not sent")
            if self._pending.add(line, future, self._clock()):
                self._changed.notify_all()
        return future

    def flush(self) -> None:
        """Return when all that was sent before is stored. Raises the first error of a batch since the last `flush`."""
        with self._changed:
            target = self._pending.hurry()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending.settled >= target)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Take no more records, flush, and end the thread. Raises as `flush`. Calling it again does nothing."""
        with self._changed:
            self._closing = True
        try:
            self.flush()
        finally:
            with self._changed:
                self._changed.notify_all()
            self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            error = self._post(batch) if batch.futures else None
            with self._changed:
                self._pending.settle(batch)
                self._error = self._error or error
                self._changed.notify_all()

    def _next_batch(self) -> PendingBatch[Future[int]] | None:
        with self._changed:
            while True:
                due_in = self._pending.due_in(self._clock())
                if due_in is not None and due_in <= 0:
                    return self._pending.take(Future.set_running_or_notify_cancel)
                if due_in is None and self._closing:
                    return None
                self._changed.wait(due_in)

    def _post(self, batch: PendingBatch[Future[int]]) -> Exception | None:
        """Post and resolve the futures; the error, if it failed."""
        try:
            first_offset = self._client.post_lines(self._topic, batch.body).first_offset
        except Exception as error:
            for future in batch.futures:
                future.set_exception(error)
            return error
        for offset, future in enumerate(batch.futures, first_offset):
            future.set_result(offset)
        return None
