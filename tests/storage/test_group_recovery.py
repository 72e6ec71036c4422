"""A group's file cut, zeroed or flipped: its last whole commit, or an error for that group alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from flashq.errors import DataCorruption
from flashq.storage.file.consumer_group import FileConsumerGroup
from flashq.storage.file.flush import Flusher
from flashq.storage.file.opening import Recovered
from flashq.storage.interface import TopicConfig
from flashq.storage.memory import InMemoryTopicLog
from flashq.testing.faulty_disk import FaultyDisk
from tests.storage.written import open_at


class Group:
    """A closed directory with a group that has committed 1, 2, 3 in one topic and 7 in another."""

    committed = (1, 2, 3)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "groups" / "g.log"
        self.ends = []
        with open_at(directory) as flashq:
            flashq.create_consumer_group("g")
            flashq.create_consumer_group("other")
            for topic in ("t", "u"):
                flashq.post_records(topic, ["x"] * 9)
            self.topic_id = flashq.log("t").topic_id
            self.ends.append(self.path.stat().st_size)
            for offset in self.committed:
                flashq.commit_offset("g", "t", offset)
                self.ends.append(self.path.stat().st_size)
        self.data = self.path.read_bytes()

    def offset_with(self, data: bytes) -> int | None:
        """The offset read back by the group alone; None for an error."""
        self.path.write_bytes(data)
        for torn in self.path.parent.glob("*.torn-*"):
            torn.unlink()
        log = InMemoryTopicLog("t", TopicConfig())
        log.topic_id = self.topic_id
        flusher = Flusher("always", 10, 1.0)
        try:
            *_, group = FileConsumerGroup.open(FaultyDisk(), str(self.path), flusher, Recovered())
            assert group is not None
            committed = group.committed(log)
        except DataCorruption:
            return None
        return committed.offset if committed is not None else 0


def test_a_group_that_cannot_be_read_is_an_error_for_that_group_alone_until_it_is_deleted(tmp_path: Path) -> None:
    group = Group(tmp_path / "data")
    middle = group.ends[2] - 10
    for data in (b"", group.data[:20], group.data[:middle] + b"#" + group.data[middle + 1 :]):
        group.path.write_bytes(data)
        with open_at(group.directory) as flashq:
            assert flashq.consumer_groups() == ["g", "other"]
            assert flashq.consumer_group_offset("other", "t") == 0
            assert flashq.health().status == "degraded"
            for use in (
                lambda: flashq.consumer_group_offset("g", "t"),
                lambda: flashq.commit_offset("g", "t", 1),
                lambda: flashq.poll_records_for_consumer_group("g", "t"),
            ):
                with pytest.raises(DataCorruption):
                    use()
            assert len(flashq.poll_records("t")) == 9
    with open_at(group.directory) as flashq:
        flashq.delete_consumer_group("g")
        flashq.create_consumer_group("g")
        assert flashq.consumer_group_offset("g", "t") == 0
        assert flashq.health().status == "healthy"


def test_a_group_file_cut_anywhere_gives_the_last_whole_commit_or_an_error(tmp_path: Path) -> None:
    group = Group(tmp_path / "data")
    for cut in range(len(group.data)):
        whole = sum(end <= cut for end in group.ends)
        assert group.offset_with(group.data[:cut]) == ((0, *group.committed)[whole - 1] if whole else None), cut
        assert group.path.read_bytes() == group.data[: group.ends[whole - 1] if whole else cut]


def test_a_commit_whose_last_sector_was_never_written_is_torn_however_little_of_it_is_there(tmp_path: Path) -> None:
    group = Group(tmp_path / "data")
    ends, offsets = [group.ends[-1]], [3]
    with open_at(group.directory) as flashq:
        for number in range(300):
            flashq.commit_offset("g", "t", number % 9, metadata="x" * (number % 97))
            ends.append(group.path.stat().st_size)
            offsets.append(number % 9)
    data = group.path.read_bytes()
    shares = set()
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        share = end % 512
        if 2 <= share < end - start:
            shares.add(share)
            assert group.offset_with(data[: end - share] + bytes(share)) == offsets[number], share
            assert group.path.stat().st_size == start
    assert min(shares) < 8
    assert len(shares) > 30


def test_a_group_file_with_any_bit_flipped_gives_its_last_commit_or_an_error(tmp_path: Path) -> None:
    group = Group(tmp_path / "data")
    for bit in range(8 * len(group.data)):
        data = bytearray(group.data)
        data[bit // 8] ^= 1 << bit % 8
        assert group.offset_with(bytes(data)) in (3, None), (bit // 8, bit % 8)


def test_a_compacted_group_file_flipped_or_cut_anywhere_gives_its_commit_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashq.storage.file.consumer_group._COMPACT_BYTES", 200)
    group = Group(tmp_path / "data")
    with open_at(group.directory) as flashq:
        for _ in range(30):
            flashq.commit_offset("g", "t", 3)
    group.data = group.path.read_bytes()
    for cut in range(len(group.data)):
        assert group.offset_with(group.data[:cut]) in (3, None), cut
    for bit in range(8 * len(group.data)):
        data = bytearray(group.data)
        data[bit // 8] ^= 1 << bit % 8
        assert group.offset_with(bytes(data)) in (3, None), (bit // 8, bit % 8)
