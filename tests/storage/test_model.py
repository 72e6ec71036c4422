"""Any sequence of uses, stops and crashes against a model of two dictionaries."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flashq import FlashQ
from flashq.errors import InvalidOffset, OffsetOutOfRange, TopicNotFound
from flashq.storage.file import consumer_group
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import SyncMode, TopicConfig
from flashq.testing.faulty_disk import FaultyDisk
from tests.storage.conftest import MEMORY
from tests.storage.crashing_disk import abandon

TOPICS = st.sampled_from(["a", "A", "b"])
VALUES = st.lists(st.binary(max_size=400), min_size=1, max_size=4)


@dataclasses.dataclass
class Topic:
    values: list[bytes] = dataclasses.field(default_factory=list)
    committed: int = 0


class Model(RuleBasedStateMachine):
    """Nothing acknowledged is ever lost here: a killed process leaves what the operating system was given."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="flashq-model-", dir=MEMORY)
        self.topics: dict[str, Topic] = {}
        self.now_ms = 1_000

    @initialize(mode=st.sampled_from(["always", "periodic", "never"]))
    def begin(self, mode: SyncMode) -> None:
        self.mode = mode
        self.open()
        self.flashq.create_consumer_group("g")

    def open(self) -> None:
        self.backend = FileBackend(
            self.directory, sync_mode=self.mode, commit_threshold=3, sync_interval_s=60, disk=FaultyDisk()
        )
        self.flashq = FlashQ(self.backend, topic_defaults=TopicConfig(segment_bytes=1024), clock_ms=lambda: self.now_ms)
        assert self.flashq.health().problems == []
        assert self.backend.recovered.torn_tails == 0

    @rule(topic=TOPICS, values=VALUES)
    def post(self, topic: str, values: list[bytes]) -> None:
        known = self.topics.setdefault(topic, Topic())
        start = len(known.values)
        assert self.flashq.post_records(topic, values) == list(range(start, start + len(values)))
        known.values += values

    @rule(topic=TOPICS, at=st.floats(0, 1), count=st.none() | st.integers(0, 9))
    def poll(self, topic: str, at: float, count: int | None) -> None:
        if topic not in self.topics:
            with pytest.raises(TopicNotFound):
                self.flashq.poll_records(topic)
            return
        values = self.topics[topic].values
        start = self.flashq.log(topic).log_start_offset
        offset = round(at * (len(values) + 2))
        try:
            found = self.flashq.poll_records(topic, from_offset=offset, count=count)
        except OffsetOutOfRange:
            assert offset < start
            return
        stop = None if count is None else offset + count
        assert [record.value for record in found] == values[offset:stop]

    @rule(topic=TOPICS, at=st.floats(0, 1.2))
    def commit(self, topic: str, at: float) -> None:
        if topic in self.topics:
            end = len(self.topics[topic].values)
            offset = round(at * end)
            if offset > end:
                with pytest.raises(InvalidOffset):
                    self.flashq.commit_offset("g", topic, offset)
            else:
                self.flashq.commit_offset("g", topic, offset)
                self.topics[topic].committed = offset

    @rule(topic=TOPICS, keep_bytes=st.none() | st.integers(0, 3000), keep_ms=st.none() | st.integers(0, 500))
    def retain(self, topic: str, keep_bytes: int | None, keep_ms: int | None) -> None:
        if topic in self.topics:
            config = TopicConfig(retention_bytes=keep_bytes, retention_ms=keep_ms, segment_bytes=1024)
            self.flashq.log(topic).configure(config)
            self.flashq.apply_retention()

    @rule(topic=TOPICS)
    def roll(self, topic: str) -> None:
        if topic in self.topics:
            log = self.flashq.log(topic)
            assert isinstance(log, FileTopicLog)
            if log._segments[-1].size:
                log.journal.roll_now(log._segments[-1])

    @rule(topic=TOPICS)
    def delete(self, topic: str) -> None:
        if self.topics.pop(topic, None) is not None:
            self.flashq.delete_topic(topic)

    @rule(change=st.integers(-300, 300))
    def move_the_clock(self, change: int) -> None:
        self.now_ms += change

    @rule()
    def stop_and_start(self) -> None:
        self.flashq.close()
        self.open()

    @rule()
    def crash_and_start(self) -> None:
        abandon(self.backend)
        self.open()

    @precondition(lambda self: hasattr(self, "flashq"))
    @invariant()
    def everything_is_there(self) -> None:
        assert self.flashq.topics() == sorted(self.topics)
        for name, topic in self.topics.items():
            log = self.flashq.log(name)
            start = log.log_start_offset
            assert log.high_water_mark == log.next_offset == len(topic.values)
            records = self.flashq.poll_records(name, from_offset=start)
            assert [record.value for record in records] == topic.values[start:]
            times = [record.timestamp_ms for record in records]
            assert times == sorted(times)
            assert self.flashq.consumer_group_offset("g", name) == topic.committed

    def teardown(self) -> None:
        if hasattr(self, "flashq"):
            self.flashq.close()
            assert verify_directory(self.directory).damage == []
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def compact_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 600)


def test_any_sequence_of_uses_stops_and_crashes_keeps_everything() -> None:
    few = settings(max_examples=150, stateful_step_count=30, deadline=None, print_blob=True)
    run_state_machine_as_test(Model, settings=few)
