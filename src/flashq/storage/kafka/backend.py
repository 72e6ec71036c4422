"""`KafkaBackend`: topics and groups of an Apache Kafka cluster. Replication, retention and order are Kafka's.

Servers on the same cluster know of each other's changes by asking: `find_topic`, `find_group` and `refresh` do, and a
thread looks every few seconds at what there is and whether the cluster is well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from confluent_kafka import Consumer

from flashq.errors import Closed, FlashQError, StorageUnavailable, TopicNotFound
from flashq.logging import get_logger
from flashq.storage.backend import Health, StorageBackend
from flashq.storage.interface import ConsumerGroup, SyncMode, TopicConfig, TopicLog
from flashq.storage.kafka.cache import Cache
from flashq.storage.kafka.cluster import GROUPS_TOPIC, INTERNAL, PROPAGATION_S, TIMEOUT_S, Cluster, Found
from flashq.storage.kafka.config import KafkaConfig
from flashq.storage.kafka.consumer_group import KafkaConsumerGroup
from flashq.storage.kafka.follower import Follower
from flashq.storage.kafka.lanes import Lanes
from flashq.storage.kafka.reader import Readers
from flashq.storage.kafka.settling import Completions
from flashq.storage.kafka.topic_log import KafkaTopicLog, Parts

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

logger = get_logger(__name__)
DEFAULT_REPLICATION_FACTOR = 3
LOOK_INTERVAL_S = 3.0
_FORGET_DELETED_S = 30.0
"""Some brokers take a moment to hear that a topic is gone, and would bring it back."""


class KafkaBackend(StorageBackend):
    """The cluster that `bootstrap` (host:port, separated by commas) leads to.

    `config` is of librdkafka (TLS, SASL and so on). Topics made here have `replication_factor` replicas, or as many as
    there are brokers. Raises `StorageUnavailable` if no broker answers, `ConfigurationError` for bad settings.
    """

    kind = "kafka"
    is_remote = True
    conditions = frozenset({"durable"})

    def __init__(
        self,
        bootstrap: str,
        *,
        config: Mapping[str, str] | None = None,
        sync_mode: SyncMode = "always",
        replication_factor: int = DEFAULT_REPLICATION_FACTOR,
        look_interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        self.sync_mode = sync_mode
        settings = KafkaConfig(bootstrap, config or {})
        self.cluster = Cluster(bootstrap, settings, replication_factor)
        self._completions = Completions()
        acks = "1" if sync_mode == "never" else "all"
        timeout_s = settings.delivery_timeout_ms / 1000
        lanes = Lanes(settings.producer(acks), timeout_s, self._completions.complete)
        durable_lanes = lanes
        if acks != "all":
            durable_lanes = Lanes(settings.producer("all"), timeout_s, self._completions.complete)
        self._parts = Parts(
            self.cluster,
            lanes,
            durable_lanes,
            Readers(lambda: Consumer(settings.consumer(wait_ms=10, ahead_kib=4096))),
            Follower(lambda: Consumer(settings.consumer(wait_ms=100, ahead_kib=16_384))),
            Cache(),
            self._completions,
            self._gone,
        )
        self._changing = threading.RLock()
        self.topics: dict[str, KafkaTopicLog] = {}
        self.groups: dict[str, KafkaConsumerGroup] = {}
        self._deleted: dict[str, float] = {}  # ids of topics, and when they were deleted
        self._health = Health()
        self._untold: list[str] = []  # topics without a leader
        self._stop = threading.Event()
        self.refresh()
        self._looking = threading.Thread(
            target=self._look, args=(look_interval_s,), name="flashq-kafka-look", daemon=True
        )
        self._looking.start()

    # -- what there is

    def refresh(self) -> None:
        self._check_open()
        asked = time.monotonic()
        with self.cluster.in_time():
            found = self.cluster.describe(self.cluster.topic_names())
            bounds, untold = self.cluster.all_bounds(found)
            groups = self.cluster.group_names()
        with self._changing:
            self._untold = sorted(untold)
            # A topic without a leader is there all the same, as it was heard of last.
            kept = {*bounds, *(name for name in untold if self._is_known(found[name]))}
            for log in [log for name, log in self.topics.items() if name not in kept]:
                if log.found_at + PROPAGATION_S < asked:  # else the broker asked may not have heard of it
                    self._drop(log)
            for name in bounds:
                self._take(found[name], bounds[name])
            self.groups = {name: self.groups.get(name) or KafkaConsumerGroup(name, self.cluster) for name in groups}

    def _is_known(self, found: Found) -> bool:
        log = self.topics.get(found.name)
        return log is not None and log.topic_id == found.topic_id

    def find_topic(self, name: str) -> TopicLog | None:
        self._check_open()
        if name in INTERNAL:
            return None
        with self.cluster.in_time():
            while True:
                asked = time.monotonic()
                try:
                    found = self.cluster.describe([name]).get(name)
                    bounds = None if found is None else self.cluster.bounds(name)
                except TopicNotFound:  # deleted meanwhile
                    found = bounds = None
                with self._changing:
                    log = None if found is None or bounds is None else self._take(found, bounds)
                    if log is not None or (known := self.topics.get(name)) is None:
                        return log
                    if known.found_at + PROPAGATION_S < asked:
                        self._drop(known)
                        return None
                time.sleep(0.02)  # the broker asked may not have heard of it

    def find_group(self, name: str) -> ConsumerGroup | None:
        self._check_open()
        with self.cluster.in_time():
            is_there = bool(self.cluster.committed(name, [GROUPS_TOPIC])) or name in self.cluster.group_names()
        with self._changing:
            if is_there:
                return self.groups.setdefault(name, KafkaConsumerGroup(name, self.cluster))
            self.groups.pop(name, None)
            return None

    # -- changes

    def create_topic(self, name: str, config: TopicConfig) -> tuple[TopicLog, bool]:
        with self.cluster.in_time():
            return self._create_topic(name, config)

    def _create_topic(self, name: str, config: TopicConfig) -> tuple[TopicLog, bool]:
        known = self.topics.get(name)
        if known is not None and not known.is_closed and self.find_topic(name) is known:
            return known, False
        deadline = time.monotonic() + TIMEOUT_S
        created = self.cluster.create_topic(name, config)
        while (log := self.find_topic(name)) is None:  # some brokers hear of it later than others
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"topic {name} was created and cannot be found", outcome="unknown", topic=name)
            time.sleep(0.02)
        return log, created

    def delete_topic(self, name: str) -> None:
        log = self.topics[name]
        try:
            self.cluster.delete_topic(name)
        except TopicNotFound:
            self._gone(log)
            raise KeyError(name) from None
        with self._changing:
            self._deleted[log.topic_id] = time.monotonic()
        self._gone(log)

    def create_group(self, name: str) -> ConsumerGroup:
        self._check_open()
        self.cluster.create_group(name)
        with self._changing:
            return self.groups.setdefault(name, KafkaConsumerGroup(name, self.cluster))

    def delete_group(self, name: str) -> None:
        is_there = self.cluster.delete_group(name)
        with self._changing:
            self.groups.pop(name, None)
        if not is_there:
            raise KeyError(name)

    # -- the whole

    def drive_from_loop(self, loop: AbstractEventLoop) -> None:
        self._completions.drive_from_loop(loop)

    def health(self) -> Health:
        return self._health if self._health.problems else self._told()

    def _told(self) -> Health:
        """As the last look at the topics found it."""
        untold = self._untold
        return Health("degraded", [f"topic {name} has no leader" for name in untold]) if untold else Health()

    def close(self) -> None:
        """Have every post that was taken in answered, and let go of the cluster."""
        self._stop.set()
        self._looking.join()
        self._parts.lanes.close()
        self._parts.durable_lanes.close()
        for log in self.topics.values():
            log.close("is closed")
        self._parts.follower.close()
        self._parts.readers.close()
        self.cluster.close()

    def _take(self, found: Found, bounds: tuple[int, int]) -> KafkaTopicLog | None:
        """The log of a topic that is there; a new one if it has been made anew. None if it is being deleted."""
        now = time.monotonic()
        self._deleted = {each: at for each, at in self._deleted.items() if at + _FORGET_DELETED_S > now}
        log = self.topics.get(found.name)
        if log is not None and log.topic_id == found.topic_id:
            log.described(found)
            log.heard(*bounds)
            return log
        if found.topic_id in self._deleted:
            return None
        if log is not None:
            self._drop(log)
        durability: Literal["written", "replicated"] = "written" if self.sync_mode == "never" else "replicated"
        log = KafkaTopicLog(found, bounds, self._parts, durability)
        self.topics = {**self.topics, found.name: log}
        return log

    def _gone(self, log: TopicLog) -> None:
        with self._changing:
            if self.topics.get(log.name) is log:
                self._drop(self.topics[log.name])

    def _drop(self, log: KafkaTopicLog) -> None:
        self.topics = {name: each for name, each in self.topics.items() if each is not log}
        log.close("has been deleted")

    def _look(self, interval_s: float) -> None:
        """Every few seconds: what others have made and deleted, and whether the cluster is well."""
        while not self._stop.wait(interval_s):
            try:
                health = self._look_once()
            except Exception as error:
                logger.error("internal_error", exc_info=error)
                continue
            if health.status != self._health.status:
                logger.warning("kafka_health", status=health.status, problems=health.problems)
            self._health = health

    def _look_once(self) -> Health:
        """Failed where no broker answers; degraded where some do and something cannot be told."""
        try:
            self.cluster.topic_names()
        except StorageUnavailable as error:
            return Health("failed", [error.message])
        try:
            self.refresh()
        except FlashQError as error:
            return Health("degraded", [error.message])
        return self._told()

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise Closed("this FlashQ is closed; nothing was done")
