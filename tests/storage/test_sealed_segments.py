"""Sealed segments and their indexes: what is damaged is found by the read that meets it; an index decides nothing."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.errors import DataCorruption
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import TopicConfig
from flashq.testing.faulty_disk import Fault, FaultyDisk
from tests.storage.written import Segments, open_at, segment_of


def test_reads_are_the_same_whatever_became_of_an_index(segments: Segments) -> None:
    index = segment_of(segments.directory, base=segments.bases[1]).with_suffix(".index")
    good = index.read_bytes()
    other = index.with_name(f"{segments.bases[0]:020}.index").read_bytes()
    flips = [good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :] for at in range(len(good))]
    cuts = [good[:at] for at in range(0, len(good), 5)]
    for data in (*flips, *cuts, other, good + b"x", b""):
        index.write_bytes(data)
        with open_at(segments.directory) as flashq:
            records = flashq.poll_records("t", from_offset=segments.bases[1] + 3, count=30)
            assert [record.value for record in records] == segments.values[segments.bases[1] + 3 :][:30]
    index.unlink()
    assert segments.read_all() == segments.values
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)):
        make(index)
        assert segments.read_all() == segments.values
        shutil.rmtree(index) if index.is_dir() else index.unlink()


def test_damage_in_a_sealed_segment_is_found_by_the_read_that_meets_it(segments: Segments) -> None:
    path = segment_of(segments.directory, base=segments.bases[1])
    good = path.read_bytes()
    for at, has_index in itertools.product((0, 5, 70, len(good) // 2, len(good) - 3), (True, False)):
        data = bytearray(good)
        data[at] ^= 0x40
        path.write_bytes(bytes(data))
        if not has_index:
            path.with_suffix(".index").unlink(missing_ok=True)
        with open_at(segments.directory) as flashq:
            records = flashq.poll_records("t")
            bad = records.next_offset
            assert segments.bases[1] <= bad < segments.bases[2]
            assert [record.value for record in records] == segments.values[:bad]
            with pytest.raises(DataCorruption) as damaged:
                flashq.poll_records("t", from_offset=bad)
            assert (damaged.value.details["topic"], damaged.value.details["offset"]) == ("t", bad)
            after = flashq.poll_records("t", from_offset=segments.bases[2])
            assert [record.value for record in after] == segments.values[segments.bases[2] :]
            flashq.log("t").configure(TopicConfig(retention_ms=1 << 40))
            assert flashq.apply_retention() == 0
        assert path.read_bytes() == bytes(data)


@pytest.mark.parametrize("keep_index", [True, False])
def test_a_sealed_segment_that_is_gone_empty_or_shorter_is_damage_and_never_other_records(
    segments: Segments, keep_index: bool
) -> None:
    base, following = segments.bases[1], segments.bases[2]
    path = segment_of(segments.directory, base=base)
    good = path.read_bytes()
    if not keep_index:
        path.with_suffix(".index").unlink()
    for change in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_bytes(good[:5000])):
        change()
        with open_at(segments.directory) as flashq:
            for at in (following - 1, base + 4):
                with pytest.raises(DataCorruption):
                    flashq.poll_records("t", from_offset=at)
            assert flashq.poll_records("t", from_offset=following, count=1)[0].value == segments.values[following]


def test_health_is_degraded_once_a_read_has_met_damage_in_a_sealed_segment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FlashQ.open(tmp_path, segment_bytes=1024) as flashq:
        for _ in range(4):
            flashq.post_record("news", b"x" * 900)
    first = tmp_path / "topics" / "news" / "0" / f"{0:020d}.log"
    data = bytearray(first.read_bytes())
    data[200] ^= 1
    first.write_bytes(data)
    with FlashQ.open(tmp_path) as flashq:
        assert flashq.health().status == "healthy"
        with pytest.raises(DataCorruption) as damaged:
            flashq.poll_records("news")
        assert flashq.health().status == "degraded"
    assert damaged.value.details == {"topic": "news", "offset": 0, "path": str(first), "position": 0}
    assert any("data_corruption" in record.message and str(first) in record.message for record in caplog.records)


def test_time_does_not_go_back_when_the_active_segment_is_empty(tmp_path: Path) -> None:
    for keep_index in (True, False):
        directory = tmp_path / str(keep_index)
        flashq = FlashQ(FileBackend(str(directory), disk=FaultyDisk()), clock_ms=lambda: 5_000_000)
        flashq.post_record("t", "first")
        log = flashq.log("t")
        log.journal.roll_now(log._segments[-1])  # type: ignore[attr-defined]
        flashq.close()
        if not keep_index:
            segment_of(directory).with_suffix(".index").unlink()
        flashq = FlashQ(FileBackend(str(directory), disk=FaultyDisk()), clock_ms=lambda: 1_000)
        flashq.post_record("t", "second")
        assert [record.timestamp_ms for record in flashq.poll_records("t")] == [5_000_000, 5_000_000]
        flashq.close()


def test_time_does_not_go_back_when_retention_has_removed_everything(tmp_path: Path) -> None:
    with FlashQ(FileBackend(str(tmp_path)), clock_ms=lambda: 5_000_000) as flashq:
        flashq.post_record("t", "first")
        log = flashq.log("t")
        log.journal.roll_now(log._segments[-1])  # type: ignore[attr-defined]
        flashq.configure_topic("t", retention_bytes=0)
        assert flashq.apply_retention() > 0
    with FlashQ(FileBackend(str(tmp_path)), clock_ms=lambda: 1_000) as flashq:
        assert flashq.post_record("t", "second") == 1
        assert [record.timestamp_ms for record in flashq.poll_records("t", from_offset=1)] == [5_000_000]


def test_retention_makes_room_on_a_full_disk_though_it_cannot_note_the_time(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with FlashQ(FileBackend(str(tmp_path), disk=disk)) as flashq:
        flashq.post_record("t", "first")
        log = flashq.log("t")
        log.journal.roll_now(log._segments[-1])  # type: ignore[attr-defined]
        flashq.configure_topic("t", retention_bytes=0)
        disk.decide = lambda operation, path: Fault(errno.ENOSPC) if operation in ("create", "write") else None
        assert flashq.apply_retention() > 0
        assert flashq.log("t").log_start_offset == 1
