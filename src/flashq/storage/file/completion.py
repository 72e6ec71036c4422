"""How appends end: what one sync completes, and what those are told that the disk refused."""

from __future__ import annotations

import msgspec

from flashq.errors import FlashQError, StorageFailed, StorageFull
from flashq.logging import get_logger
from flashq.storage.file.disk import NO_DESCRIPTORS
from flashq.storage.file.segment import Segment
from flashq.storage.interface import Append

log = get_logger(__name__)


class Sync(msgspec.Struct):
    """One sync of the active segment: what it makes durable, and what was so when it was prepared."""

    segment: Segment
    waiting: list[Append]
    target: int  # the offset up to which everything is written
    records: int  # written and not yet durable
    rolling: bool
    unsynced_since: float | None
    readable: int
    begun: float  # the flusher's clock

    @property
    def is_needed(self) -> bool:
        return bool(self.records or self.rolling or self.segment.new_entry or self.segment.new_end)


def fail(appends: list[Append], error: FlashQError) -> list[Append]:
    """The same appends, refused. Not done before the journal says so."""
    for append in appends:
        append.error = error
    return appends


def call_back(done: list[Append]) -> None:
    """Tell whoever asked to be called back."""
    for append in done:
        if append.callback is not None:
            try:
                append.callback(append)
            except Exception:  # a caller's mistake: the others still wait for their answer
                log.exception("callback_failed")


def no_room(what: str, error: OSError) -> StorageFull:
    """A write was refused and has left nothing."""
    out_of_descriptors = error.errno in NO_DESCRIPTORS
    remedy = "close some connections, or raise the limit on open files," if out_of_descriptors else "free some space"
    return StorageFull(
        f"no room to store records of {what}: {error.strerror}. Nothing was stored; {remedy} and post again",
        outcome="not_applied",
    )


def stopped(what: str, cause: str) -> StorageFailed:
    """What was on its way when the disk failed."""
    return StorageFailed(
        f"the disk failed under {what}: {cause}. Whether these records are stored is not known; "
        "no more are taken until a restart has read back what is",
        outcome="unknown",
        cause=cause,
    )


def refused_since(failure: StorageFailed) -> StorageFailed:
    """What came after the disk had failed."""
    return StorageFailed(
        f"{failure.message.split('. ')[0]}. Nothing was stored; restart FlashQ to read back what is on the disk",
        outcome="not_applied",
        **failure.details,
    )
