"""`verify` finds whatever was changed, blames nothing that is sound, and changes nothing itself."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crc32c import crc32c

from flashq import FlashQ, UnsupportedFormat
from flashq.batch import HEADER, encode
from flashq.errors import TopicNotFound
from flashq.record import NO_HEADERS
from flashq.storage.file import index as index_file
from flashq.storage.file import keys as keys_file
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.verify import Finding, LogReport, size_to_read, verify, verify_directory
from flashq.storage.interface import TopicConfig
from flashq.testing.faulty_disk import FaultyDisk
from tests.storage.crashing_disk import abandon

CRC_POSITION = 17  # of the frame: after length, base offset, epoch and magic
SEED = int(os.environ.get("FLASHQ_TEST_SEED", random.SystemRandom().getrandbits(32)))


def open_at(directory: Path) -> FlashQ:
    config = TopicConfig(segment_bytes=1024)
    return FlashQ(FileBackend(str(directory), disk=FaultyDisk()), topic_defaults=config, clock_ms=lambda: 1_700_000)


class Directory:
    """A closed data directory: topic `t` of some segments, topic `u`, and a group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_at(path) as flashq:
            for number in range(30):
                key = f"key-{number}" if number % 4 == 0 else None
                flashq.post_records("t", [f"{number} " * 30] * 2, idempotency_key=key)
            flashq.post_record("u", "one")
            flashq.create_consumer_group("readers")
            flashq.commit_offset("readers", "t", 7)
        self.partition = path / "topics" / "t" / "0"
        self.segments = sorted(self.partition.glob("*.log"))
        assert len(self.segments) > 4

    @property
    def group(self) -> Path:
        return self.path / "groups" / "readers.log"

    def reports(self) -> dict[str, LogReport]:
        return {report.name: report for report in verify_directory(self.path).logs}

    def findings(self) -> list[Finding]:
        return [finding for report in verify_directory(self.path).logs for finding in report.findings]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "data")


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every entry with its time of change."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    }


def flipped(path: Path) -> Iterator[int]:
    """The file with each of its bytes changed in turn; as it was at the end."""
    good = path.read_bytes()
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        yield at
    path.write_bytes(good)


def test_a_sound_directory_is_counted_and_nothing_is_found(directory: Directory) -> None:
    report = verify_directory(directory.path)
    assert report.damage == []
    assert [(log.kind, log.name, log.state) for log in report.logs] == [
        ("topic", "t", "ok"),
        ("topic", "u", "ok"),
        ("group", "readers", "ok"),
    ]
    log = report.logs[0]
    assert (log.batches, log.records, log.first_offset, log.next_offset) == (30, 60, 0, 60)
    assert log.segments == len(directory.segments)
    assert log.size_bytes == sum(path.stat().st_size for path in directory.segments)


def test_verifying_changes_and_makes_nothing_whatever_it_finds(directory: Directory) -> None:
    (directory.path / ".flashq.lock").unlink()
    (directory.partition / directory.segments[0].with_suffix(".index").name).unlink()
    with directory.segments[-1].open("ab") as file:
        file.write(b"\0" * 100)
    directory.segments[1].write_bytes(b"")
    before = snapshot(directory.path)
    assert verify_directory(directory.path).damage
    assert snapshot(directory.path) == before


def test_every_changed_byte_of_a_sealed_segment_is_damage_at_its_frame(directory: Directory) -> None:
    path = directory.segments[1]
    for at in flipped(path):
        (finding, *more) = directory.findings()
        assert (finding.kind, finding.path, more) == ("damage", str(path), []), at
        assert finding.position is not None
        assert finding.position <= at
        report = directory.reports()["t"]
        assert (report.state, report.records, report.next_offset) == ("damaged", 58, 60), (at, finding)


def test_every_changed_byte_of_the_active_segment_is_damage(directory: Directory) -> None:
    for at in flipped(directory.segments[-1]):
        assert [finding.kind for finding in directory.findings()] == ["damage"], at


def test_every_changed_byte_of_a_group_file_is_damage(directory: Directory) -> None:
    for at in flipped(directory.group):
        assert "damage" in {finding.kind for finding in directory.reports()["readers"].findings}, at
        assert directory.reports()["t"].state == "ok"


def test_every_changed_byte_of_an_index_or_keys_file_is_noted(directory: Directory) -> None:
    for suffix in (".index", ".keys"):
        for at in flipped(directory.segments[0].with_suffix(suffix)):
            assert [finding.kind for finding in directory.findings()] == ["note"], (suffix, at)


def test_an_active_segment_cut_inside_a_frame_is_torn_and_cut_between_frames_is_sound(directory: Directory) -> None:
    path = directory.segments[-1]
    good = path.read_bytes()
    torn = 0
    for cut in range(len(good)):
        path.write_bytes(good[:cut])
        report = directory.reports()["t"]
        assert report.state in ("ok", "torn"), cut
        assert report.state == "ok" or [finding.kind for finding in report.findings] == ["torn"]
        torn += report.state == "torn"
    assert torn > len(good) * 0.9


def test_a_sealed_segment_cut_anywhere_is_damage(directory: Directory) -> None:
    path = directory.segments[1]
    good = path.read_bytes()
    for cut in range(0, len(good), 3):
        path.write_bytes(good[:cut])
        assert directory.reports()["t"].state == "damaged", cut


def test_random_changes_are_never_taken_for_sound_and_never_escape_as_an_error(directory: Directory) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    for _ in range(100):
        path = rng.choice(directory.segments[:-1])
        good = path.read_bytes()
        data = bytearray(good)
        at = rng.randrange(len(data))
        data[at : at + rng.choice([1, 5, 40])] = rng.randbytes(rng.choice([0, 1, 4, 30]))
        path.write_bytes(data)
        assert (directory.reports()["t"].state == "damaged") == (data != good)
        path.write_bytes(good)


def test_damage_in_two_places_is_found_in_both_and_the_records_between_are_counted(directory: Directory) -> None:
    path = directory.segments[2]
    frame = path.stat().st_size // 4
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    data[-10] ^= 1
    path.write_bytes(data)
    report = directory.reports()["t"]
    assert [finding.kind for finding in report.findings] == ["damage", "damage"]
    assert report.records == 56
    assert report.findings[0].position == 0
    assert (report.findings[1].position or 0) > frame


def test_a_segment_that_is_gone_is_a_hole(directory: Directory) -> None:
    gone = directory.segments[2]
    gone.unlink()
    (finding,) = directory.reports()["t"].findings
    assert (finding.kind, finding.offset) == ("damage", int(gone.stem))
    assert f"goes on at offset {int(directory.segments[3].stem)}" in finding.why


def test_a_last_segment_that_is_gone_is_told_by_the_index_of_the_one_before_it(directory: Directory) -> None:
    directory.segments[-1].unlink()
    (finding,) = directory.reports()["t"].findings
    assert (finding.kind, finding.offset) == ("damage", int(directory.segments[-1].stem))


def test_frames_that_a_later_segment_has_too_are_damage(directory: Directory) -> None:
    first, second = directory.segments[:2]
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert any("belongs into a later segment" in finding.why for finding in directory.findings())


def test_a_value_that_holds_good_frames_is_not_taken_for_the_log_when_its_length_is_damaged(tmp_path: Path) -> None:
    inside = bytearray()
    for offset in range(1, 4):
        batch = encode([(None, b"made up", NO_HEADERS)], 1_700_000)
        batch.place(offset, 0, 0)
        inside += batch.frame
    with open_at(tmp_path) as flashq:
        flashq.post_record("t", bytes(inside))
        flashq.post_records("t", ["next", "next"])
    path = tmp_path / "topics/t/0" / f"{0:020}.log"
    data = bytearray(path.read_bytes())
    data[3] ^= 1  # the length of the first frame
    path.write_bytes(data)
    (report,) = verify_directory(tmp_path).logs
    (finding,) = report.findings
    assert finding.kind == "damage"
    assert (report.records, report.next_offset) == (2, 3)


def test_an_index_or_keys_file_that_is_whole_and_wrong_is_damage(directory: Directory) -> None:
    segment = directory.segments[0]
    size = segment.stat().st_size
    index_path, keys_path = segment.with_suffix(".index"), segment.with_suffix(".keys")
    decoded = index_file.decode(index_path.read_bytes(), 0, size)
    assert decoded is not None
    index, next_offset, latest_ms = decoded
    index_path.write_bytes(index.encode(size, next_offset + 1, latest_ms))
    keys = keys_file.decode(keys_path.read_bytes(), size)
    assert keys
    keys_path.write_bytes(keys_file.encode(size, {key: offset + 1 for key, offset in keys.items()}))
    found = [(finding.kind, finding.path) for finding in directory.findings()]
    assert found == [("damage", str(index_path)), ("damage", str(keys_path))]


def test_index_and_keys_files_that_are_gone_are_no_matter(directory: Directory) -> None:
    for path in [*directory.partition.glob("*.index"), *directory.partition.glob("*.keys")]:
        path.unlink()
    assert directory.findings() == []


def test_times_that_go_back_are_damage_though_every_frame_is_good(directory: Directory) -> None:
    batch = encode([(None, b"earlier", NO_HEADERS)], 5)
    batch.place(60, 0, 0)
    with directory.segments[-1].open("ab") as file:
        file.write(batch.frame)
    (finding,) = directory.findings()
    assert (finding.kind, finding.offset) == ("damage", 60)


def test_a_batch_whose_records_do_not_decode_is_damage_though_its_crc_is_right(directory: Directory) -> None:
    batch = encode([(None, b"x" * 20, NO_HEADERS)], 1_700_000)
    batch.place(60, 0, 0)
    frame = bytearray(batch.frame)
    frame[HEADER.size] ^= 0xFF  # the length of the record
    frame[CRC_POSITION : CRC_POSITION + 4] = crc32c(bytes(frame[CRC_POSITION + 4 :])).to_bytes(4, "big")
    with directory.segments[-1].open("ab") as file:
        file.write(frame)
    (finding,) = directory.findings()
    assert (finding.kind, finding.offset) == ("damage", 60)
    assert "decode" in finding.why


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "other"})),
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": [[1, 0], [0, 5]]})),
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": [[0, 3]]})),
    ],
    ids=["empty", "cut", "gone", "another name", "falling epochs", "late epoch"],
)
def test_a_topic_file_that_makes_no_sense_is_damage_of_its_topic_alone(
    directory: Directory, change: Callable[[Path], object]
) -> None:
    change(directory.path / "topics" / "t" / "topic.json")
    states = [(log.name, log.state) for log in verify_directory(directory.path).logs]
    assert states == [("t", "damaged"), ("u", "ok"), ("readers", "ok")]


def test_a_link_in_the_place_of_a_segment_is_damage(directory: Directory, tmp_path: Path) -> None:
    segment = directory.segments[1]
    segment.rename(tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    assert any("not a regular file" in finding.why for finding in directory.findings())


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"format": 2}', b"[]", None])
def test_a_newer_or_unreadable_root_file_is_refused(directory: Directory, content: bytes | None) -> None:
    root = directory.path / "flashq.json"
    root.unlink() if content is None else root.write_bytes(content)
    with pytest.raises(UnsupportedFormat, match="Nothing was touched"):
        verify_directory(directory.path)


def test_an_empty_directory_is_no_data_directory_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match=r"no flashq\.json"):
        verify_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_topics_named_are_checked(directory: Directory) -> None:
    directory.segments[0].write_bytes(b"#")
    assert [(log.name, log.state) for log in verify(str(directory.path), ["u"])] == [("u", "ok")]
    with pytest.raises(TopicNotFound, match="nowhere"):
        list(verify(str(directory.path), ["u", "nowhere"]))


def test_progress_tells_of_every_byte_also_of_those_that_cannot_be_read(directory: Directory) -> None:
    directory.segments[1].write_bytes(b"#" * 5000)
    told: list[int] = []
    list(verify(str(directory.path), on_progress=told.append))
    assert sum(told) == size_to_read(str(directory.path))
    assert len(told) > 20


def test_a_commit_beyond_the_end_of_its_topic_is_noted(directory: Directory) -> None:
    with open_at(directory.path) as flashq:
        flashq.commit_offset("readers", "t", 60)
    directory.segments[-1].write_bytes(b"")
    (finding,) = directory.reports()["readers"].findings
    assert finding.kind == "note"
    assert "committed offset 60 in topic t" in finding.why


def test_a_directory_left_by_a_killed_process_is_sound(tmp_path: Path) -> None:
    flashq = open_at(tmp_path)
    flashq.post_records("t", ["x"] * 20)
    backend = flashq.backend
    assert isinstance(backend, FileBackend)
    abandon(backend)
    assert verify_directory(tmp_path).damage == []
