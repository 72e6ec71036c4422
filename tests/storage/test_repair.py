"""`repair` keeps every record that can be read at its offset, keeps the bytes of the others, and can be interrupted."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.errors import DataCorruption, OffsetOutOfRange, StorageFull, UnsupportedFormat
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.dump import frames
from flashq.storage.file.repair import Lost, Repair, plan
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import TopicConfig
from flashq.testing.faulty_disk import Fault, FaultyDisk
from tests.storage.crashing_disk import Crash, CrashingDisk, Nth

SEED = int(os.environ.get("FLASHQ_TEST_SEED", random.SystemRandom().getrandbits(32)))
RECORDS = 40
FRAMES = 5  # a segment


def open_at(directory: Path) -> FlashQ:
    config = TopicConfig(segment_bytes=1024)
    return FlashQ(FileBackend(str(directory), disk=FaultyDisk()), topic_defaults=config, clock_ms=lambda: 1_700_000)


def value(offset: int) -> bytes:
    return b"%06d" % offset * 25


class Directory:
    """A closed data directory: topic `t`, a record a frame and five frames a segment, and two groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partition = path / "topics" / "t" / "0"
        with open_at(path) as flashq:
            for offset in range(RECORDS):
                flashq.post_record("t", value(offset), idempotency_key=f"key-{offset}" if offset % 3 == 0 else None)
            flashq.create_consumer_group("readers")
            for offset in (1, 2, 3):
                flashq.commit_offset("readers", "t", offset)
        self.segments = sorted(self.partition.glob("*.log"))
        assert [int(path.stem) for path in self.segments] == list(range(0, RECORDS, FRAMES))
        self.frame_bytes = self.segments[0].stat().st_size // FRAMES

    @property
    def group(self) -> Path:
        return self.path / "groups" / "readers.log"

    def damage(self, *offsets: int) -> None:
        """One byte of each of these records."""
        for offset in offsets:
            path = self.segments[offset // FRAMES]
            data = bytearray(path.read_bytes())
            data[offset % FRAMES * self.frame_bytes + 100] ^= 1
            path.write_bytes(data)

    def repair(self) -> list[Repair]:
        repairs = list(plan(str(self.path), disk=FaultyDisk()))
        for each in repairs:
            each.apply()
        return repairs

    def kept(self) -> list[Path]:
        return sorted(self.path.rglob("*.damaged-*"))

    def readable(self) -> dict[int, bytes]:
        """Every record there is, going on after what is lost."""
        found: dict[int, bytes] = {}
        with open_at(self.path) as flashq:
            at = flashq.log("t").log_start_offset
            while at < flashq.high_water_mark("t"):
                try:
                    records = flashq.poll_records("t", from_offset=at)
                except DataCorruption:
                    at += 1
                    continue
                found |= {record.offset: record.value for record in records}
                at = records[-1].offset + 1
        return found

    def expect_sound(self, lost: set[int], end: int = RECORDS) -> None:
        """All but the lost records are there and right, nothing is left to repair, and posts go on."""
        assert verify_directory(self.path).damage == []
        assert list(plan(str(self.path))) == []
        assert self.readable() == {offset: value(offset) for offset in range(end) if offset not in lost}
        with open_at(self.path) as flashq:
            assert flashq.health().problems == []
            assert flashq.post_record("t", "goes on") == end


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "data")


def test_a_sound_directory_needs_nothing(directory: Directory) -> None:
    assert list(plan(str(directory.path))) == []


@pytest.mark.parametrize(
    "offsets",
    [(7,), (6, 8), (5, 6), (8, 9), (9, 10), (5, 6, 7, 8, 9), (2, 17, 37), (35,), (36, 38)],
    ids=str,
)
def test_damage_inside_the_log_loses_those_records_and_no_other(directory: Directory, offsets: tuple[int, ...]) -> None:
    directory.damage(*offsets)
    (repair,) = directory.repair()
    assert {offset for lost in repair.lost for offset in range(lost.first_offset, lost.goes_on_at)} == set(offsets)
    assert repair.after == (0, RECORDS)
    directory.expect_sound(set(offsets))


def test_reading_a_lost_record_is_refused_and_says_where_the_log_goes_on(directory: Directory) -> None:
    directory.damage(7)
    directory.repair()
    with open_at(directory.path) as flashq, pytest.raises(DataCorruption, match="goes on at offset 8") as refused:
        flashq.poll_records("t", from_offset=7)
    assert refused.value.details["offset"] == 7


def test_damage_at_the_start_of_the_log_moves_its_start(directory: Directory) -> None:
    directory.damage(0, 1)
    (repair,) = directory.repair()
    assert (repair.before, repair.after) == ((0, RECORDS), (2, RECORDS))
    directory.expect_sound({0, 1})
    with open_at(directory.path) as flashq, pytest.raises(OffsetOutOfRange):
        flashq.poll_records("t", from_offset=1)


def test_damage_at_the_end_gives_offsets_again_in_a_new_epoch(directory: Directory) -> None:
    directory.damage(38, 39)
    (repair,) = directory.repair()
    assert repair.lost == [Lost(38, 38)]
    assert (repair.before, repair.after) == ((0, 38), (0, 38))
    with open_at(directory.path) as flashq:
        assert flashq.log("t").epoch == 1
    directory.expect_sound(set(), end=38)
    with open_at(directory.path) as flashq:
        assert flashq.poll_records("t", from_offset=38)[0].text == "goes on"


def test_damage_inside_the_log_keeps_the_epoch(directory: Directory) -> None:
    directory.damage(7, 37)
    directory.repair()
    with open_at(directory.path) as flashq:
        assert flashq.log("t").epoch == 0


def test_an_active_segment_of_nothing_good_becomes_empty(directory: Directory) -> None:
    directory.segments[-1].write_bytes(b"#" * 5000)
    directory.repair()
    assert directory.segments[-1].read_bytes() == b""
    directory.expect_sound(set(), end=35)


def test_the_bytes_that_were_moved_aside_and_those_that_stay_are_all_bytes_there_were(directory: Directory) -> None:
    directory.damage(6, 8)
    damaged = directory.segments[1].read_bytes()
    directory.repair()
    size = directory.frame_bytes
    first, second = directory.kept()
    assert [path.name.rpartition("Z-")[2] for path in (first, second)] == ["6-7", "8-9"]
    assert first.read_bytes() == damaged[size : 2 * size]
    assert second.read_bytes() == damaged[3 * size : 4 * size]
    stay = [directory.partition / f"{base:020}.log" for base in (5, 7, 9)]
    assert (
        b"".join(path.read_bytes() for path in stay) == damaged[:size] + damaged[2 * size : 3 * size] + damaged[-size:]
    )


def test_planning_changes_nothing(directory: Directory) -> None:
    directory.damage(3, 17, 39)
    with directory.group.open("ab") as file:
        file.write(b"\0" * 40)
    before = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    assert len(list(plan(str(directory.path)))) == 2
    assert {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()} == before


def test_a_torn_tail_is_cut_as_the_next_start_would(directory: Directory) -> None:
    good = directory.segments[-1].read_bytes()
    directory.segments[-1].write_bytes(good + good[:50])
    (repair,) = directory.repair()
    assert (repair.is_damage, repair.lost) == (False, [])
    (kept,) = directory.partition.glob("*.torn-*")
    assert kept.read_bytes() == good[:50]
    directory.expect_sound(set())


def test_a_segment_that_is_gone_becomes_a_hole_that_is_known(directory: Directory) -> None:
    directory.segments[2].unlink()
    directory.segments[3].write_bytes(b"")
    directory.repair()
    directory.expect_sound(set(range(10, 20)))
    for path in directory.kept():
        path.unlink()
    assert verify_directory(directory.path).damage


def test_without_its_last_segment_the_log_goes_on_in_a_new_epoch(directory: Directory) -> None:
    directory.segments[-1].unlink()
    (repair,) = directory.repair()
    assert repair.lost == [Lost(35, 35)]
    with open_at(directory.path) as flashq:
        assert flashq.log("t").epoch == 1
    directory.expect_sound(set(), end=35)


def test_a_hole_grows_with_later_damage_beside_it(directory: Directory) -> None:
    directory.damage(9)
    directory.repair()
    directory.damage(8)
    directory.repair()
    directory.expect_sound({8, 9})


def test_an_index_and_keys_that_are_wrong_are_made_again(directory: Directory) -> None:
    index, keys = (directory.segments[1].with_suffix(suffix) for suffix in (".index", ".keys"))
    good = index.read_bytes(), keys.read_bytes()
    index.write_bytes(directory.segments[0].with_suffix(".index").read_bytes())
    keys.write_bytes(b"")
    (repair,) = directory.repair()
    assert (repair.is_damage, len(repair.actions)) == (False, 1)
    assert (index.read_bytes(), keys.read_bytes()) == good


def test_a_repeated_post_is_still_known_after_a_repair(directory: Directory) -> None:
    directory.damage(7)
    directory.repair()
    with open_at(directory.path) as flashq:
        for offset in range(0, RECORDS, 3):
            assert flashq.post_record("t", value(offset), idempotency_key=f"key-{offset}") == offset


def test_a_topic_file_that_cannot_be_read_is_left_for_a_copy(directory: Directory) -> None:
    path = directory.path / "topics" / "t" / "topic.json"
    path.write_bytes(b"{")
    directory.damage(7)
    (repair,) = directory.repair()
    assert repair.actions == []
    assert "Restore it from a copy" in repair.remains[0]
    assert path.read_bytes() == b"{"


def test_a_group_keeps_every_commit_that_can_be_read(directory: Directory) -> None:
    good = directory.group.read_bytes()
    (*_, last) = (frame.position for frame in frames(str(directory.group)))
    for at in range(0, len(good), 5):
        data = bytearray(good)
        data[at] ^= 0x10
        directory.group.write_bytes(data)
        directory.repair()
        (kept,) = directory.kept()
        assert kept.read_bytes() == data
        kept.unlink()
        with open_at(directory.path) as flashq:
            may_be_lost = at >= last
            assert flashq.consumer_group_offset("readers", "t") in ((2, 3) if may_be_lost else (3,)), at
            flashq.commit_offset("readers", "t", 9)


def test_a_group_whose_name_is_nowhere_is_left_for_a_copy(directory: Directory) -> None:
    with open_at(directory.path) as flashq:
        flashq.create_consumer_group("Readers")
    (path,) = directory.path.glob("groups/readers%*.log")
    path.write_bytes(b"#" * 100)
    (repair,) = directory.repair()
    assert "delete the group" in repair.remains[0]
    assert path.read_bytes() == b"#" * 100


@pytest.mark.parametrize("content", [b'{"format": 2}', None])
def test_a_directory_of_another_format_is_refused(directory: Directory, content: bytes | None) -> None:
    root = directory.path / "flashq.json"
    root.unlink() if content is None else root.write_bytes(content)
    directory.damage(7)
    with pytest.raises(UnsupportedFormat):
        directory.repair()
    assert directory.kept() == []


def test_a_full_disk_stops_the_repair_and_it_can_be_done_again(directory: Directory) -> None:
    directory.damage(6, 8)
    full = FaultyDisk(Nth(2, Fault(28, written=10), "write"))
    (repair,) = plan(str(directory.path), disk=full)
    with pytest.raises(StorageFull, match="repair of topic t"):
        repair.apply()
    directory.repair()
    directory.expect_sound({6, 8})


@pytest.mark.parametrize("half", [False, True], ids=["before", "half way"])
@pytest.mark.parametrize("opened_between", [False, True], ids=["repaired again", "opened in between"])
def test_a_crash_at_any_call_loses_nothing_more(tmp_path: Path, half: bool, opened_between: bool) -> None:
    lost = {6, 8, 36}
    template = Directory(tmp_path / "template")
    template.damage(*lost)
    directory = Directory.__new__(Directory)
    directory.__dict__ |= template.__dict__
    for crash_at in itertools.count(1):
        directory.path = tmp_path / str(crash_at)
        shutil.copytree(template.path, directory.path)
        disk = CrashingDisk(crash_at, half=half)
        try:
            for each in plan(str(directory.path), disk=disk):
                each.apply()
        except Crash:
            pass
        if opened_between:
            readable = directory.readable()
            assert readable == {at: value(at) for at in readable}, crash_at
            assert verify_directory(directory.path).logs[0].next_offset == RECORDS, crash_at
        directory.repair()
        directory.expect_sound(lost)
        shutil.rmtree(directory.path)
        if not disk.crashed:
            assert crash_at > 20
            return


def test_random_damage_never_makes_up_a_record_and_leaves_a_sound_directory(tmp_path: Path) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    for number in range(25):
        directory = Directory(tmp_path / str(number))
        for _ in range(rng.randint(1, 6)):
            path = rng.choice(directory.segments)
            data = bytearray(path.read_bytes())
            at = rng.randrange(len(data))
            data[at : at + rng.choice([1, 5, 300])] = rng.randbytes(rng.choice([0, 1, 4, 30]))
            path.write_bytes(data)
        could_be_read = directory_records(directory)
        directory.repair()
        assert verify_directory(directory.path).damage == [], number
        assert list(plan(str(directory.path))) == []
        found = directory.readable()
        assert found == {offset: value(offset) for offset in found}
        assert len(found) == could_be_read, number


def directory_records(directory: Directory) -> int:
    """The records that `verify` counts, without those that it says the next start cuts off."""
    return next(log.records for log in verify_directory(directory.path).logs if log.kind == "topic")
