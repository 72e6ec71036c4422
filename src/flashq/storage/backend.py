"""`StorageBackend`: makes, finds and deletes topic logs and consumer groups of one kind of storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from flashq.storage.interface import ConsumerGroup, SyncMode, TopicConfig, TopicLog

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Condition = Literal["durable", "if_next_offset"]
Deliver = Callable[[Callable[[], None]], object]
SyncObserver = Callable[[float, int], None]
"""Told of each fsync that went well: seconds it took, records it made durable. On the thread that made it."""


def deliver_here(run: Callable[[], None]) -> None:
    """Runs callbacks at once, where there is no loop to run them on."""
    run()


def deliver_on(loop: AbstractEventLoop) -> Deliver:
    """Has callbacks run on the loop in one of its next turns, from whatever thread; none once it has closed."""
    call_soon_threadsafe = loop.call_soon_threadsafe

    def deliver(run: Callable[[], None]) -> None:
        try:
            call_soon_threadsafe(run)
        except RuntimeError:  # the loop is gone, and with it whoever waited
            pass

    return deliver


@dataclass(frozen=True, slots=True)
class Health:
    """`failed`: some log takes no more posts; `degraded`: some records cannot be read, the rest works."""

    status: Literal["healthy", "degraded", "failed"] = "healthy"
    problems: list[str] = field(default_factory=list)


class StorageBackend(ABC):
    """A set of topics and groups. Creating and deleting block until durable.

    Where storage is at hand, finding and reading do not wait. Where it `is_remote`, every method of it, its logs and
    its groups may wait for the network, but `append`: attributes and properties tell what was last heard.
    """

    kind: str
    sync_mode: SyncMode
    is_remote = False
    conditions: frozenset[Condition] = frozenset({"durable", "if_next_offset"})
    """What a post can ask for beyond being stored."""
    topics: Mapping[str, TopicLog]
    """By name. The backend's to change and to replace: ask for it anew each time. (Properties would cost each post.)"""
    groups: Mapping[str, ConsumerGroup]
    """By name, as `topics` are."""

    def refresh(self) -> None:  # noqa: B027
        """Have topics and groups, and the offsets of all topics, as they are now. At hand, they are."""

    def find_topic(self, name: str) -> TopicLog | None:
        """The topic as it is now; None if there is none."""
        return self.topics.get(name)

    def find_group(self, name: str) -> ConsumerGroup | None:
        """The group as it is now; None if there is none."""
        return self.groups.get(name)

    @abstractmethod
    def create_topic(self, name: str, config: TopicConfig) -> tuple[TopicLog, bool]:
        """A new topic, durable on return, or the one there is; and whether it is new. The name is valid."""

    @abstractmethod
    def delete_topic(self, name: str) -> None:
        """Remove a topic for good, durable on return. KeyError if there is none."""

    @abstractmethod
    def create_group(self, name: str) -> ConsumerGroup:
        """A new group, durable on return, or the one there is. The name is valid: the caller has checked."""

    @abstractmethod
    def delete_group(self, name: str) -> None:
        """Remove a group and its offsets for good, durable on return. KeyError if there is none."""

    def drive_from_loop(self, loop: AbstractEventLoop) -> None:  # noqa: B027
        """From now on write once per event-loop tick, and complete appends on the loop. Call on the loop's thread,
        which must not block for an append from then on."""

    def together(self) -> AbstractContextManager[object]:
        """`with`, on the loop's thread: what is appended inside is written together at the end of the block, not at the
        end of the turn. May be entered again, not twice at once."""
        return nullcontext()

    def leave_loop(self) -> None:  # noqa: B027
        """The loop is about to end: whatever it began for this backend has ended on return. Call on its thread."""

    def observe_syncs(self, observer: SyncObserver) -> None:  # noqa: B027
        """Tell `observer` of every fsync of a log from now on. Never called where nothing is fsynced."""

    @abstractmethod
    def health(self) -> Health:
        """Whether every log takes posts and can be read."""

    @abstractmethod
    def close(self) -> None:
        """Write and sync what is pending, and let go of everything. Further use raises `Closed`."""
