"""What a storage backend promises, in the words of the log: `TopicLog`, `ConsumerGroup` and the `Append` handle.

Deliberately absent: HTTP, JSON, records one at a time (a backend handles batches), and any policy of when to delete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import msgspec

from flashq.errors import FlashQError, InvalidParameter, PreconditionFailed

if TYPE_CHECKING:
    from flashq.batch import Batch

SyncMode = Literal["always", "periodic", "never"]
SYNC_MODES: tuple[SyncMode, ...] = ("always", "periodic", "never")

DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024
MIN_SEGMENT_BYTES = 1024
MAX_SEGMENT_BYTES = 2 * 1024**3
SMALL_READ_BYTES = 16 * 1024
"""As much as a log reads at least, where it reads from a disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """How a topic is kept. None keeps everything. Raises `InvalidParameter` for values outside their range."""

    retention_ms: int | None = None
    retention_bytes: int | None = None
    segment_bytes: int = DEFAULT_SEGMENT_BYTES

    def __post_init__(self) -> None:
        for name in ("retention_ms", "retention_bytes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise InvalidParameter(f"{name} is {value!r}; it must be 0 or more, or absent", parameter=name)
        if type(self.segment_bytes) is not int or not MIN_SEGMENT_BYTES <= self.segment_bytes <= MAX_SEGMENT_BYTES:
            raise InvalidParameter(
                f"segment_bytes is {self.segment_bytes!r}; it must be {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}",
                parameter="segment_bytes",
            )

    def with_changes(self, changes: Mapping[str, int | None]) -> Self:
        return replace(self, **changes)  # type: ignore[arg-type]


class Append(msgspec.Struct, eq=False):
    """A numbered batch on its way into a log. Done when the sync mode's promise holds, or when it was refused.

    The batch's offsets and timestamp mean something only once done without `error`.
    """

    batch: Batch
    owner: Settler | None = None
    done: bool = False
    durable: bool = False  # waits for a sync, whatever the mode
    error: FlashQError | None = None
    callback: Callable[[Append], None] | None = None

    def result(self) -> Append:
        """Block until done; itself, or the error that refused it. The caller's thread does the work if nobody has."""
        if not self.done:
            assert self.owner is not None
            self.owner.settle(self)
        if self.error is not None:
            raise self.error
        return self

    def add_done_callback(self, callback: Callable[[Append], None]) -> None:
        """Call `callback(self)` once, when done: at once if it is, else on the thread (or loop) that completes it."""
        if self.done:
            callback(self)
        else:
            assert self.owner is not None
            self.owner.notify(self, callback)


class Settler(ABC):
    """Who completes appends: blocks for one, or calls back for it."""

    @abstractmethod
    def settle(self, append: Append) -> None:
        """Return once `append.done`."""

    @abstractmethod
    def notify(self, append: Append, callback: Callable[[Append], None]) -> None:
        """Have `callback(append)` called once it is done."""


class TopicLog(ABC):
    """One topic's log: dense offsets from 0, batches whole, in order of append. All methods: from any thread."""

    name: str
    topic_id: str  # never the same for two topics, also when the name is used again after a delete
    config: TopicConfig
    durability: Literal["fsynced", "written", "memory", "replicated"]  # what a done append has become
    on_advance: Callable[[], None] | None = None  # called after the high water mark has moved, on the loop if any
    unreadable: FlashQError | None = None  # why nothing is known of it: its offsets say nothing, deleting it works

    @property
    @abstractmethod
    def log_start_offset(self) -> int:
        """The first offset there is; retention moves it up."""

    @property
    @abstractmethod
    def high_water_mark(self) -> int:
        """The first offset readers may not yet see."""

    @property
    @abstractmethod
    def next_offset(self) -> int:
        """The offset the next record gets."""

    @property
    @abstractmethod
    def durable_offset(self) -> int:
        """The first offset a power cut may still take."""

    @property
    @abstractmethod
    def size_bytes(self) -> int | None:
        """Bytes stored in batches; None where that is not told."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """Rises when records that were readable may have been taken back and their offsets used again."""

    def refresh(self) -> None:  # noqa: B027
        """Have the offsets as they are now. At hand, they are. Raises `TopicNotFound` once the topic is gone."""

    @abstractmethod
    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        """Number the batch and take it in; returns at once. Done when the sync mode's promise holds.

        `durable` asks for the promise of `always`, whatever the mode. `if_next_offset`: only if the log ends there,
        posts under way included, else `PreconditionFailed`; only where the backend has that condition.

        The batch's timestamp is moved up to that of the batch before it if the clock went back. Raises
        `StorageFailed` or `DataCorruption` (nothing written) when this log takes no more; everything else comes
        as the append's error.
        """

    @abstractmethod
    def append_once(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        """`append` of a batch with a key's hash, unless the log holds a batch of that key: then an append of that one.

        It is done when the promise holds for the first one; `durable` waits for the sync of it. Of a first one still
        under way it tells the same end. A first one that was not applied does not count. The key decides before
        `if_next_offset` does. Raises as `append`, and `IdempotencyKeyReused` if the records are not the same.
        Blocks on the disk unless `keys_loaded`, and where `holds_key`.
        """

    @property
    @abstractmethod
    def keys_loaded(self) -> bool:
        """Whether it is known which keys the log holds."""

    @abstractmethod
    def load_keys(self) -> None:
        """Have the keys known; the first time since opening it reads the disk. Raises `DataCorruption`, `OSError`."""

    @abstractmethod
    def holds_key(self, key_hash: bytes) -> bool:
        """Whether a batch of this key is stored, as far as keys are loaded."""

    @abstractmethod
    def read(self, from_offset: int, *, max_records: int | None = None, max_bytes: int | None = None) -> list[Batch]:
        """Whole batches in order, from the one that holds `from_offset`, up to the high water mark; [] at or past it.

        Another writer's log may have holes between batches. [] below the high water mark: no records up to there.

        Stops after the batch that reaches `max_records` (counted from `from_offset`) or `max_bytes` (of frames).
        Every batch has been checked. Raises `OffsetOutOfRange` below the log start, `DataCorruption` if the first
        batch cannot be read.
        """

    def is_at_hand(self, from_offset: int, max_bytes: int = SMALL_READ_BYTES) -> bool:
        """Whether a read of so much from there most likely returns without waiting for a disk or a network. Itself, it
        never waits."""
        return True

    @abstractmethod
    def offset_at(self, timestamp_ms: int) -> int:
        """The first offset whose record was appended at or after this time; the high water mark if there is none."""

    @abstractmethod
    def configure(self, config: TopicConfig) -> None:
        """Change how the topic is kept; durable on return. May block on the disk."""

    @abstractmethod
    def retain(self, now_ms: int) -> int:
        """Remove what the configuration no longer keeps, oldest first; bytes freed. May block on the disk."""


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """Where a group stands in a topic: the offset it reads next, when that was committed (None where another program
    did, and did not say), a note of the client's."""

    offset: int
    timestamp_ms: int | None
    metadata: str | None = None


class ConsumerGroup(ABC):
    """One group's committed offsets by topic. Every method may be called from any thread."""

    name: str

    @abstractmethod
    def committed(self, log: TopicLog) -> CommittedOffset | None:
        """The last commit whose promise holds; None before the first. Raises `DataCorruption`, never a silent 0."""

    @abstractmethod
    def stands(self, logs: Mapping[str, TopicLog]) -> Iterator[tuple[TopicLog, CommittedOffset]]:
        """Those of these topics (by id) that the group has committed in, in any order, and where it stands in each.

        Costs what the group has committed in, not what there is. Raises `DataCorruption`.
        """

    @abstractmethod
    def commit(self, log: TopicLog, committed: CommittedOffset) -> Append:
        """Replace the group's offset in a topic. Done, as durable as the sync mode says, like an append."""

    @abstractmethod
    def forget(self, log: TopicLog) -> None:
        """Drop the offset of a deleted topic."""


def by_id(logs: Iterable[TopicLog]) -> dict[str, TopicLog]:
    return {log.topic_id: log for log in logs}


def not_at_end(topic: str, next_offset: int, wanted: int) -> PreconditionFailed:
    return PreconditionFailed(
        f"topic {topic} ends at offset {next_offset}, not at {wanted}; nothing was stored",
        topic=topic,
        next_offset=next_offset,
    )
