"""The cluster as FlashQ asks about it: what there is, where topics begin and end, and an administrator's changes.

Everything here blocks for a network round trip, `TIMEOUT_S` at most, and raises `StorageUnavailable` then.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from flashq.errors import ConfigurationError, InvalidParameter, StorageUnavailable, TopicNotFound
from flashq.storage.interface import DEFAULT_SEGMENT_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, TopicConfig
from flashq.storage.kafka.config import MAX_BATCH_BYTES, KafkaConfig
from flashq.storage.kafka.errors import COORDINATOR_CHANGES, LEADER_CHANGES, NO_SUCH_TOPIC, refusal
from flashq.storage.kafka.group_deletion import GroupDeletion
from flashq.storage.kafka.group_offsets import GroupOffsets

T = TypeVar("T")
TIMEOUT_S = 8.0
GROUPS_TOPIC = "__flashq_groups"
"""A group that has been made and has committed nowhere yet has an offset in this topic, which stays empty."""
INTERNAL = frozenset({GROUPS_TOPIC, "__consumer_offsets", "__transaction_state", "__share_group_state"})
PROPAGATION_S = 5.0
"""In which every broker has heard of a new topic, and of a change to one."""
_ASK_AGAIN_S = 2.0  # a broker that is gone does not answer; the next one may
_LEAST_S = 0.2  # librdkafka needs some time to find out even that nobody answers
_END = OffsetSpec.latest()
_FOR_EVER = str((1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as the cluster describes it."""

    name: str
    topic_id: str
    config: TopicConfig
    max_batch_bytes: int
    only_deletes: bool  # records go from the start only, not by compaction
    has_append_time: bool  # brokers give records the time, not who posts them
    asked_at: float  # when the cluster was asked (`time.monotonic`)


class Cluster:
    """One cluster, through an admin client. Any thread may ask."""

    def __init__(self, bootstrap: str, config: KafkaConfig, replication_factor: int) -> None:
        self.bootstrap = bootstrap
        self.config = config
        self._last_error = ""
        self._asking = threading.local()
        self._seen: dict[str, tuple[str, float]] = {}  # ids of topics, and when they were first described
        try:
            self._admin = AdminClient({**config.admin(), "error_cb": self._note})
        except KafkaException as error:
            raise ConfigurationError(f"the Kafka settings are not accepted: {error.args[0].str()}") from error
        self._group_offsets = GroupOffsets(lambda group, told: Consumer(config.group(group, told)))
        self._group_deletion = GroupDeletion(config.admin())
        self.brokers = len(self._metadata().brokers)
        self.replication_factor = min(replication_factor, self.brokers)
        self.min_insync_replicas = self.replication_factor // 2 + 1

    # -- topics

    def topic_names(self) -> list[str]:
        """Topics FlashQ serves: those of one partition that are not Kafka's own."""
        topics = self._metadata().topics.values()
        return sorted(each.topic for each in topics if len(each.partitions) == 1 and each.topic not in INTERNAL)

    def describe(self, names: Iterable[str]) -> dict[str, Found]:
        """Those of these topics that are there. Raises `InvalidParameter` for one that is not FlashQ's to serve."""
        wanted = sorted(names)
        if not wanted:
            return {}
        what = "topics cannot be described"
        ids = self._soon(lambda left_s: self._describe(wanted, min(left_s, _ASK_AGAIN_S)), what)
        return self._soon(lambda left_s: self._configurations(ids, min(left_s, _ASK_AGAIN_S)), what) if ids else {}

    def _describe(self, names: list[str], timeout_s: float) -> dict[str, str]:
        """The ids of those of these topics that are there."""
        ids: dict[str, str] = {}
        for name, told in self._admin.describe_topics(TopicCollection(names), request_timeout=timeout_s).items():
            try:
                description = told.result()
            except KafkaException as error:
                if error.args[0].code() in NO_SUCH_TOPIC:
                    continue
                raise
            if len(description.partitions) != 1:
                raise InvalidParameter(
                    f"topic {name} has {len(description.partitions)} partitions; FlashQ serves topics of one",
                    parameter="topic",
                )
            ids[name] = topic_id = str(description.topic_id)
            if self._seen.get(name, ("", 0.0))[0] != topic_id:
                self._seen[name] = topic_id, time.monotonic()
        return ids

    def _configurations(self, ids: Mapping[str, str], timeout_s: float) -> dict[str, Found]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in ids]
        found: dict[str, Found] = {}
        asked_at = time.monotonic()
        for resource, told in self._admin.describe_configs(resources, request_timeout=timeout_s).items():
            try:
                entries = told.result()
            except KafkaException as error:
                if error.args[0].code() in NO_SUCH_TOPIC:
                    continue  # deleted meanwhile
                raise
            found[resource.name] = _found(resource.name, ids[resource.name], entries, asked_at)
        return found

    def create_topic(self, name: str, config: TopicConfig) -> bool:
        """A topic of one partition; False if there is one of that name. Some brokers hear of it in a moment only."""
        if name in INTERNAL:
            raise InvalidParameter(f"{name} is a topic of Kafka's own", parameter="topic")
        kept = {
            **_settings(config),
            "max.message.bytes": str(MAX_BATCH_BYTES),
            "min.insync.replicas": str(self.min_insync_replicas),
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": _FOR_EVER,
            "cleanup.policy": "delete",
        }
        new = NewTopic(name, 1, self.replication_factor, config=kept)
        return self._create(new)

    def delete_topic(self, name: str) -> None:
        self._wait(
            self._admin.delete_topics([name], operation_timeout=TIMEOUT_S)[name],
            f"topic {name} cannot be deleted",
            name,
        )
        if name in self._seen:  # who asks about it in this moment waits no longer for brokers to hear of it
            self._seen[name] = self._seen[name][0], -math.inf

    def configure_topic(self, name: str, config: TopicConfig) -> None:
        """Change how Kafka keeps a topic."""
        changes = [
            ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
            for setting, value in _settings(config).items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=changes)
        told = self._admin.incremental_alter_configs([resource], request_timeout=TIMEOUT_S)[resource]
        self._wait(told, f"topic {name} cannot be configured", name)

    # -- offsets

    def bounds(self, topic: str) -> tuple[int, int]:
        """The log start offset and the high water mark, as the topic's leader tells them now."""
        what = f"where topic {topic} begins and ends cannot be told"

        def ask(left_s: float) -> tuple[int, int]:
            timeout_s = min(left_s, _ASK_AGAIN_S)
            return self._offset(topic, OffsetSpec.earliest(), timeout_s), self._offset(topic, _END, timeout_s)

        return self._soon(ask, what, topic)

    def all_bounds(self, topics: Iterable[str]) -> tuple[dict[str, tuple[int, int]], set[str]]:
        """`bounds` of many topics, and which have had no leader for `_ASK_AGAIN_S`; neither of one that is gone."""
        left = set(topics)
        found: dict[str, tuple[int, int]] = {}
        deadline = min(self._deadline(), time.monotonic() + _ASK_AGAIN_S)
        while left:
            told = self._ask_bounds(left, max(deadline - time.monotonic(), _LEAST_S))
            left -= told.keys()
            found.update((topic, bounds) for topic, bounds in told.items() if bounds is not None)
            if time.monotonic() > deadline:
                break
            if left:
                time.sleep(0.1)
        return found, left

    def _ask_bounds(self, topics: Iterable[str], timeout_s: float) -> dict[str, tuple[int, int] | None]:
        """Of those whose leader answers; None of one that is gone."""
        partitions = [TopicPartition(topic, 0) for topic in topics]
        starts = self._ask_offsets(dict.fromkeys(partitions, OffsetSpec.earliest()), timeout_s)
        ends = self._ask_offsets(dict.fromkeys(partitions, _END), timeout_s)
        told: dict[str, tuple[int, int] | None] = {}
        for each in partitions:
            try:
                bounds = starts[each].result().offset, ends[each].result().offset
            except KafkaException as error:
                code = error.args[0].code()
                if code in NO_SUCH_TOPIC:
                    told[each.topic] = None
                elif code not in LEADER_CHANGES:  # which a broker also says that has begun to delete it
                    raise refusal(error, f"where topic {each.topic} ends cannot be told", topic=each.topic) from error
                continue
            if min(bounds) >= 0:  # else what librdkafka leaves there if the leader it knew did not answer
                told[each.topic] = bounds
        return told

    def offset_at(self, topic: str, timestamp_ms: int) -> int | None:
        """The first offset whose record has this timestamp or a later one; None if there is none."""
        wanted = OffsetSpec.for_timestamp(min(max(timestamp_ms, 0), (1 << 63) - 1))
        what = f"topic {topic} cannot be searched by time"
        offset = self._soon(
            lambda left_s: self._offset(topic, wanted, min(left_s, _ASK_AGAIN_S), least=-1), what, topic
        )
        return offset if offset >= 0 else None

    # -- groups

    def group_names(self) -> list[str]:
        def ask(left_s: float) -> list[str]:
            told = self._admin.list_consumer_groups(request_timeout=min(left_s, _ASK_AGAIN_S)).result()
            if told.errors:
                raise KafkaException(told.errors[0])
            return sorted(each.group_id for each in told.valid)

        return self._soon(ask, "not all groups can be listed")

    def committed(self, group: str, topics: Iterable[str]) -> dict[str, tuple[int, str | None]]:
        """Offset and metadata that a group has committed, of those of these topics where it has."""
        names = list(topics)

        def ask(left_s: float) -> dict[str, tuple[int, str | None]]:
            return self._group_offsets.committed(group, names, left_s)

        return self._soon(ask, f"the offsets of group {group} cannot be read", passing=COORDINATOR_CHANGES)

    def commit(self, group: str, topic: str, offset: int, metadata: str) -> None:
        """Wait until Kafka has it."""

        def ask(left_s: float) -> None:
            self._group_offsets.commit(group, TopicPartition(topic, 0, offset, metadata), left_s)

        what = f"group {group} cannot commit"
        self._soon(ask, what, topic, passing=COORDINATOR_CHANGES, is_change=True)

    def create_group(self, name: str) -> None:
        """Have Kafka remember a group that has committed nothing yet."""
        deadline = time.monotonic() + TIMEOUT_S
        mark = uuid.uuid4().hex  # or the late answer to an earlier creation is taken for this one's
        while True:
            try:
                return self.commit(name, GROUPS_TOPIC, 0, mark)
            except TopicNotFound:
                if time.monotonic() > deadline:
                    raise
            self._create(NewTopic(GROUPS_TOPIC, 1, self.replication_factor, config={"retention.ms": "-1"}))
            time.sleep(0.02)

    def delete_group(self, name: str) -> bool:
        """False if there was none."""
        was_asked = False  # without an answer: it may be gone by that

        def ask(left_s: float) -> bool:
            nonlocal was_asked
            try:
                self._group_deletion.delete(name, min(left_s, _ASK_AGAIN_S))
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return was_asked
                was_asked = True
                raise
            return True

        return self._soon(ask, f"group {name} cannot be deleted", passing=COORDINATOR_CHANGES, is_change=True)

    def close(self) -> None:
        self._group_offsets.close()
        self._group_deletion.close()

    # -- asking

    @contextmanager
    def in_time(self) -> Iterator[Callable[[], float]]:
        """What this thread asks inside takes `TIMEOUT_S` all together; gives how many seconds are left of it."""
        before = getattr(self._asking, "deadline", None)
        self._asking.deadline = before or time.monotonic() + TIMEOUT_S
        try:
            yield lambda: max(self._deadline() - time.monotonic(), 0.0)
        finally:
            self._asking.deadline = before

    def _deadline(self) -> float:
        deadline: float | None = getattr(self._asking, "deadline", None)
        return deadline or time.monotonic() + TIMEOUT_S

    def _offset(self, topic: str, spec: Any, timeout_s: float, least: int = 0) -> int:
        partition = TopicPartition(topic, 0)
        try:
            offset: int = self._ask_offsets({partition: spec}, timeout_s)[partition].result().offset
        except KafkaException:
            if topic not in self._describe([topic], timeout_s):  # asked first, or between one topic and the next
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)) from None
            raise
        if offset < least:  # what librdkafka leaves there if the leader it knew did not answer
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return offset

    def _ask_offsets(self, specs: dict[Any, Any], timeout_s: float) -> dict[Any, Future[Any]]:
        """Not by a consumer's `get_watermark_offsets`: that one goes on asking a leader that is gone."""
        told: dict[Any, Future[Any]] = self._admin.list_offsets(
            specs, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_s
        )
        return told

    def _create(self, new: NewTopic) -> bool:
        """False if it was there."""
        was_asked = False  # without an answer: then it may be there by that

        def ask(left_s: float) -> bool:
            nonlocal was_asked
            told = self._admin.create_topics([new], operation_timeout=left_s, request_timeout=left_s)[new.topic]
            try:
                told.result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return was_asked
                was_asked = True
                raise
            return True

        return self._soon(ask, f"topic {new.topic} cannot be created", new.topic, is_change=True)

    def _metadata(self) -> Any:
        try:
            return self._admin.list_topics(timeout=TIMEOUT_S)
        except KafkaException as error:
            self._admin.poll(0)
            why = f" ({self._last_error})" if self._last_error else ""
            raise StorageUnavailable(
                f"no broker of {self.bootstrap} answers: {error.args[0].str()}{why}. Nothing was done"
            ) from error

    def _soon(
        self,
        ask: Callable[[float], T],
        what: str,
        topic: str | None = None,
        *,
        passing: Container[int] = LEADER_CHANGES,
        is_change: bool = False,
    ) -> T:
        """`ask`, again while it meets errors that are `passing`, or brokers may not have heard of a new topic.

        It is told how many seconds an answer may take.
        """
        deadline = self._deadline()
        while True:
            try:
                return ask(max(deadline - time.monotonic(), _LEAST_S))
            except KafkaException as error:
                no = refusal(error, what, topic=topic, is_change=is_change)
                now = time.monotonic()
                is_new = topic is not None and self._seen.get(topic, ("", 0.0))[1] + PROPAGATION_S > now
                passes = error.args[0].code() in passing or (is_new and isinstance(no, TopicNotFound))
                if now > deadline or not passes:
                    raise no from error
            time.sleep(0.02)

    def _wait(self, told: Future[T], what: str, topic: str | None = None) -> T:
        try:
            return told.result(TIMEOUT_S + 2)
        except KafkaException as error:
            raise refusal(error, what, topic=topic, is_change=True) from error
        except TimeoutError as error:
            raise StorageUnavailable(f"{what}: no answer within {TIMEOUT_S} s", outcome="unknown") from error

    def _note(self, error: KafkaError) -> None:
        self._last_error = error.str()


def _settings(config: TopicConfig) -> dict[str, str]:
    """How Kafka is told to keep a topic."""
    return {
        "retention.ms": str(-1 if config.retention_ms is None else config.retention_ms),
        "retention.bytes": str(-1 if config.retention_bytes is None else config.retention_bytes),
        "segment.bytes": str(min(config.segment_bytes, (1 << 31) - 1)),
    }


def _found(name: str, topic_id: str, entries: Mapping[str, ConfigEntry], asked_at: float) -> Found:
    def number(setting: str, default: int) -> int:
        entry = entries.get(setting)
        return default if entry is None or entry.value is None else int(entry.value)

    retention_ms, retention_bytes = number("retention.ms", -1), number("retention.bytes", -1)
    segment_bytes = number("segment.bytes", DEFAULT_SEGMENT_BYTES)
    config = TopicConfig(
        retention_ms=None if retention_ms < 0 else retention_ms,
        retention_bytes=None if retention_bytes < 0 else retention_bytes,
        segment_bytes=min(max(segment_bytes, MIN_SEGMENT_BYTES), MAX_SEGMENT_BYTES),
    )
    policy, stamp = entries.get("cleanup.policy"), entries.get("message.timestamp.type")
    return Found(
        name,
        topic_id,
        config,
        max_batch_bytes=min(number("max.message.bytes", 1_048_588), segment_bytes),
        only_deletes=policy is None or policy.value == "delete",
        has_append_time=stamp is not None and stamp.value == "LogAppendTime",
        asked_at=asked_at,
    )
