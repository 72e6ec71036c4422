"""What stands in for a topic or group whose files cannot be opened: every use is that error; deleting works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NoReturn

from flashq.batch import Batch
from flashq.errors import DataCorruption
from flashq.storage.interface import Append, CommittedOffset, ConsumerGroup, TopicConfig, TopicLog


class UnreadableTopicLog(TopicLog):
    """A topic that is there and cannot be used."""

    durability: Literal["written"] = "written"
    keys_loaded = True
    log_start_offset = high_water_mark = next_offset = durable_offset = size_bytes = epoch = 0

    def __init__(self, name: str, directory: str, damage: DataCorruption) -> None:
        self.name = name
        self.topic_id = ""
        self.config = TopicConfig()
        self.directory = directory
        self.damage = self.unreadable = damage

    def _refuse(self) -> NoReturn:
        raise self.damage.with_traceback(None)

    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        self._refuse()

    def append_once(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        self._refuse()

    def load_keys(self) -> None:
        self._refuse()

    def holds_key(self, key_hash: bytes) -> bool:
        self._refuse()

    def read(self, from_offset: int, *, max_records: int | None = None, max_bytes: int | None = None) -> list[Batch]:
        self._refuse()

    def offset_at(self, timestamp_ms: int) -> int:
        self._refuse()

    def configure(self, config: TopicConfig) -> None:
        self._refuse()

    def retain(self, now_ms: int) -> int:
        return 0


class UnreadableGroup(ConsumerGroup):
    """A group that is there and cannot be used."""

    def __init__(self, name: str, path: str, damage: DataCorruption) -> None:
        self.name = name
        self.path = path
        self.damage = damage

    def committed(self, log: TopicLog) -> CommittedOffset | None:
        raise self.damage.with_traceback(None)

    def stands(self, logs: Mapping[str, TopicLog]) -> Iterator[tuple[TopicLog, CommittedOffset]]:
        raise self.damage.with_traceback(None)

    def commit(self, log: TopicLog, committed: CommittedOffset) -> Append:
        raise self.damage.with_traceback(None)

    def forget(self, log: TopicLog) -> None:
        pass
