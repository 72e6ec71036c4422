"""Any sequence of uses, stops and crashes: files, memory and a model of two dictionaries stay in step."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings
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
from flashq.batch import PREFIX
from flashq.errors import (
    GroupNotFound,
    IdempotencyKeyReused,
    InvalidOffset,
    OffsetOutOfRange,
    PreconditionFailed,
    TopicNotFound,
)
from flashq.storage.file import consumer_group, segment
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.consumer_group import FileConsumerGroup
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import SyncMode, TopicConfig
from flashq.storage.memory import InMemoryBackend
from flashq.testing.faulty_disk import FaultyDisk
from tests.storage.conftest import MEMORY
from tests.storage.crashing_disk import abandon

TOPICS = st.sampled_from(["a", "A", "b"])
KEYS = st.none() | st.sampled_from(["k1", "k2"])
DEFAULTS = TopicConfig(segment_bytes=1024)
VALUES = st.lists(st.binary(max_size=400), min_size=1, max_size=4)


@dataclasses.dataclass
class Topic:
    values: list[bytes] = dataclasses.field(default_factory=list)
    keys: dict[str, tuple[int, list[bytes]]] = dataclasses.field(default_factory=dict)
    """Where the records of a keyed post begin, and what they are."""


class Model(RuleBasedStateMachine):
    """Nothing acknowledged is ever lost here: a killed process leaves what the operating system was given.

    Memory keeps to what files do but for retention: it removes batches, files whole segments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="flashq-model-", dir=MEMORY)
        self.topics: dict[str, Topic] = {}
        self.committed: dict[str, int] | None = None
        """Of the group, by topic; None while there is no group."""
        self.now_ms = 1_000
        self.memory = FlashQ(InMemoryBackend(), topic_defaults=DEFAULTS, clock_ms=lambda: self.now_ms)

    @initialize(mode=st.sampled_from(["always", "periodic", "never"]))
    def begin(self, mode: SyncMode) -> None:
        self.mode = mode
        self.open()

    def open(self) -> None:
        self.backend = FileBackend(
            self.directory, sync_mode=self.mode, commit_threshold=3, sync_interval_s=60, disk=FaultyDisk()
        )
        self.flashq = FlashQ(self.backend, topic_defaults=DEFAULTS, clock_ms=lambda: self.now_ms)
        assert self.flashq.health().problems == []
        assert self.backend.recovered.torn_tails == 0

    @property
    def both(self) -> tuple[FlashQ, FlashQ]:
        return self.flashq, self.memory

    @rule(topic=TOPICS, values=VALUES)
    def post(self, topic: str, values: list[bytes]) -> None:
        known = self.topics.setdefault(topic, Topic())
        start = len(known.values)
        for flashq in self.both:
            assert flashq.post_records(topic, values) == list(range(start, start + len(values)))
        known.values += values

    @rule(topic=TOPICS, values=VALUES, key=KEYS, ahead=st.sampled_from([None, 0, 0, 1, -1]))
    def post_on_terms(self, topic: str, values: list[bytes], key: str | None, ahead: int | None) -> None:
        known = self.topics.get(topic) or Topic()
        end = len(known.values)
        wanted = None if ahead is None else max(end + ahead, 0)
        earlier = self.key_at(topic, key)
        for flashq in self.both:

            def post(flashq: FlashQ = flashq) -> list[int]:
                return flashq.post_records(topic, values, idempotency_key=key, if_next_offset=wanted)

            if earlier is not None and earlier[1] != values:
                with pytest.raises(IdempotencyKeyReused):
                    post()
            elif earlier is not None:
                assert post() == list(range(earlier[0], earlier[0] + len(values)))
            elif wanted not in (None, end):
                with pytest.raises(PreconditionFailed):
                    post()
            else:
                assert post() == list(range(end, end + len(values)))
        if earlier is None and wanted in (None, end):
            self.topics[topic] = known
            known.values += values
            if key is not None:
                known.keys[key] = (end, values)

    def key_at(self, topic: str, key: str | None) -> tuple[int, list[bytes]] | None:
        """The post with this key, while both logs hold it; where only one does, nobody asks again."""
        known = self.topics.get(topic)
        if known is None or key not in known.keys:
            return None
        assert key is not None
        start = max(flashq.log(topic).log_start_offset for flashq in self.both)
        if known.keys[key][0] < start:
            self.delete(topic)
            return None
        return known.keys[key]

    @rule(topic=TOPICS, at=st.floats(0, 1), count=st.none() | st.integers(0, 9))
    def poll(self, topic: str, at: float, count: int | None) -> None:
        for flashq in self.both:
            if topic not in self.topics:
                with pytest.raises(TopicNotFound):
                    flashq.poll_records(topic)
                continue
            values = self.topics[topic].values
            offset = round(at * (len(values) + 2))
            if offset < flashq.log(topic).log_start_offset:
                with pytest.raises(OffsetOutOfRange):
                    flashq.poll_records(topic, from_offset=offset, count=count)
                continue
            found = flashq.poll_records(topic, from_offset=offset, count=count)
            assert [record.value for record in found] == values[offset : None if count is None else offset + count]

    @rule(delete=st.sampled_from([False, False, True]))
    def create_or_delete_group(self, delete: bool) -> None:
        for flashq in self.both:
            if delete and self.committed is None:
                with pytest.raises(GroupNotFound):
                    flashq.delete_consumer_group("g")
            elif delete:
                flashq.delete_consumer_group("g")
            else:
                flashq.create_consumer_group("g")
        self.committed = None if delete else self.committed or {}

    @rule(topic=TOPICS, at=st.floats(0, 1.2))
    def commit(self, topic: str, at: float) -> None:
        if topic not in self.topics:
            return
        end = len(self.topics[topic].values)
        offset = round(at * end)
        for flashq in self.both:
            if self.committed is None:
                with pytest.raises(GroupNotFound):
                    flashq.commit_offset("g", topic, offset)
            elif offset > end:
                with pytest.raises(InvalidOffset):
                    flashq.commit_offset("g", topic, offset)
            else:
                flashq.commit_offset("g", topic, offset)
        if self.committed is not None and offset <= end:
            self.committed[topic] = offset

    @rule(topic=TOPICS, keep_bytes=st.none() | st.integers(0, 3000), keep_ms=st.none() | st.integers(0, 500))
    def retain(self, topic: str, keep_bytes: int | None, keep_ms: int | None) -> None:
        if topic in self.topics:
            config = TopicConfig(retention_bytes=keep_bytes, retention_ms=keep_ms, segment_bytes=1024)
            for flashq in self.both:
                flashq.log(topic).configure(config)
                flashq.apply_retention()

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
            for flashq in self.both:
                flashq.delete_topic(topic)
            if self.committed is not None:
                self.committed.pop(topic, None)

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
        for flashq in self.both:
            assert flashq.topics() == sorted(self.topics)
            assert flashq.consumer_groups() == ([] if self.committed is None else ["g"])
        for name, topic in self.topics.items():
            for flashq in self.both:
                log = flashq.log(name)
                start = log.log_start_offset
                assert log.high_water_mark == log.next_offset == len(topic.values)
                records = flashq.poll_records(name, from_offset=start)
                assert [record.value for record in records] == topic.values[start:]
                if self.committed is not None:
                    assert flashq.consumer_group_offset("g", name) == self.committed.get(name, 0)
            assert (
                self.times(self.flashq, name) == sorted(self.times(self.flashq, name)) == self.times(self.memory, name)
            )

    def times(self, flashq: FlashQ, topic: str) -> list[int]:
        """Of what both logs still hold."""
        start = max(flashq.log(topic).log_start_offset for flashq in self.both)
        return [record.timestamp_ms for record in flashq.poll_records(topic, from_offset=start)]

    def teardown(self) -> None:
        if hasattr(self, "flashq"):
            self.flashq.close()
            assert verify_directory(self.directory).damage == []
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def compact_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 600)


@pytest.fixture(autouse=True)
def make_room_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "ROOM_FROM_BYTES", 200)
    monkeypatch.setattr(segment, "ROOM_BYTES", 600)


def test_any_sequence_of_uses_stops_and_crashes_keeps_everything() -> None:
    few = settings(max_examples=150, stateful_step_count=30, deadline=None, print_blob=True)
    run_state_machine_as_test(Model, settings=few)


class LosesRecords(Model):
    """A crash takes the last acknowledged frame of every topic with it."""

    @rule()
    def crash_and_start(self) -> None:
        logs, groups = self.lossy_logs(), self.backend.groups.values()
        abandon(self.backend)
        for log in logs:
            cut_last_frame(Path(log.journal.segment.path), log.journal.segment.size, keep_first=log in groups)
        self.open()

    def lossy_logs(self) -> list[FileTopicLog | FileConsumerGroup]:
        return [log for log in self.backend.topics.values() if isinstance(log, FileTopicLog)]


class LosesCommits(LosesRecords):
    """A crash takes the last acknowledged frame of every group with it, unless that holds the group's name."""

    def lossy_logs(self) -> list[FileTopicLog | FileConsumerGroup]:
        return [group for group in self.backend.groups.values() if isinstance(group, FileConsumerGroup)]


def cut_last_frame(path: Path, size: int, *, keep_first: bool) -> None:
    data, last, end = path.read_bytes(), 0, 0
    while end < size:
        last, end = end, end + PREFIX.size + PREFIX.unpack_from(data, end)[0]
    if last or not keep_first:
        os.truncate(path, last)


@pytest.mark.parametrize(("model", "found"), [(LosesRecords, "next_offset"), (LosesCommits, "consumer_group_offset")])
def test_a_crash_that_loses_an_acknowledged_frame_is_found(model: type[Model], found: str) -> None:
    until_found = settings(
        max_examples=150,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError, match=found):
        run_state_machine_as_test(model, settings=until_found)
