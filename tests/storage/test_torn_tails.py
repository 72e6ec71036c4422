"""A tail cut, zeroed or flipped: what is torn is cut and kept beside, what is damaged left alone, nothing made up."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashq.batch import HEADER, MAGIC, PREFIX, Batch, check, encode
from flashq.errors import FlashQError
from flashq.record import NO_HEADERS
from flashq.storage.file import recovery
from flashq.storage.file.disk import Disk
from flashq.storage.file.recovery import scan
from tests.storage.written import EPOCH_POSITION, POSTS, SEED, Written, backend_of, open_at, segment_of, snapshot

ROOMS = [0, 5000]
"""Zeros after the last frame."""


def test_a_segment_cut_at_any_byte_opens_at_the_last_whole_frame(written: Written) -> None:
    """At byte 0 an empty file is left: a topic without records."""
    for cut in range(len(written.data)):
        written.with_data(written.data[:cut])
        last = max(at for at, end in enumerate(written.ends) if end <= cut)
        if not any(written.data[written.ends[last] : cut]):
            with open_at(written.directory) as flashq:
                assert backend_of(flashq).recovered.torn_tails == 0
                assert flashq.high_water_mark("t") == written.offsets[last]
        else:
            written.expect_torn(written.ends[last], written.offsets[last], cut)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("frame", range(len(POSTS)))
def test_every_single_flipped_bit_of_a_frame_is_damage(written: Written, frame: int, room: int) -> None:
    start, end = written.ends[frame : frame + 2]
    offset = written.offsets[frame]
    for bit in range(8 * start, 8 * end):
        data = bytearray(written.data)
        data[bit // 8] ^= 1 << bit % 8
        written.with_data(bytes(data) + bytes(room))
        written.expect_damage(offset, (bit // 8 - start, bit % 8))


def test_a_sector_that_was_never_written_makes_the_tail_torn(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["small"], [random.Random(1).randbytes(3000)]])
    for sector in range(1, len(it.data) // 512):
        data = bytearray(it.data)
        data[sector * 512 : (sector + 1) * 512] = bytes(512)
        for room in ROOMS:
            it.with_data(bytes(data) + bytes(room))
            it.expect_torn(it.ends[1], 1, (sector, room))


def test_a_write_into_room_that_ended_at_a_sector_is_torn(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["small"], [random.Random(1).randbytes(3000)]])
    for sector in range(1, len(it.data) // 512):
        it.with_data(it.data[: sector * 512] + bytes(5000))
        it.expect_torn(it.ends[1], 1, sector)


def test_a_small_part_of_a_sector_that_was_never_written_makes_the_tail_torn(tmp_path: Path) -> None:
    choices = random.Random(2)
    it = Written(tmp_path / "data", [[choices.randbytes(choices.randint(200, 400))] for _ in range(150)])
    shares = set()
    for number, (start, end) in enumerate(itertools.pairwise(it.ends)):
        share = end % 512
        if 16 <= share < 64 and share < end - start:
            shares.add(share)
            it.with_data(it.data[: end - share] + bytes(share))
            it.expect_torn(start, number, share)
    assert len(shares) > 5


@pytest.mark.parametrize("zeros", [1, 3, 4, 11, 12, 13, 60, 61, 62, 511, 512, 513, 5000])
def test_zeros_after_the_last_frame_are_room(written: Written, zeros: int) -> None:
    written.with_data(written.data + bytes(zeros))
    written.expect_whole(zeros)


@pytest.mark.parametrize("unit", [512, 4096])
@pytest.mark.parametrize("longest", [30, 150, 450, 1500])
def test_many_small_frames_in_one_write_into_room_are_torn_where_sectors_are_missing(
    tmp_path: Path, longest: int, unit: int
) -> None:
    """Whichever: all from one on, as a kill leaves pages, or a single one, as a power cut may."""
    choices = random.Random(f"{longest} {unit}")
    path, verdicts = tmp_path / "log", Counter[str]()
    for _ in range(8):
        frames = b""
        for offset in range(40 if longest > 100 else 120):
            value = bytes(choices.choices(b"abcdefgh", k=choices.randint(longest // 3, longest)))
            batch = encode([(None, value, [])], 1000)
            batch.place(offset, 0, 0)
            frames += batch.frame
        written = frames + bytes(5000)
        for start in range(unit, len(frames), unit):
            for stop in (len(written), start + unit):
                path.write_bytes(written[:start] + bytes(stop - start) + written[stop:])
                verdicts[scan(Disk(), Disk().open(str(path)), 0, lambda offset: 0).verdict] += 1
    assert verdicts["damage"] == 0
    assert verdicts["torn"] > 10


def test_a_write_that_reached_the_disk_after_one_that_did_not_is_torn_with_it(tmp_path: Path) -> None:
    choices = random.Random(3)
    it = Written(tmp_path / "data", [["small"], [choices.randbytes(3000)], [choices.randbytes(3000)]])
    _, start, stop, _ = it.ends
    for room in ROOMS:
        it.with_data(it.data[:start] + bytes(stop - start) + it.data[stop:] + bytes(room))
        it.expect_torn(start, 1, room)


def test_a_frame_that_ends_in_zeros_is_whole_before_room(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["one"], [bytes(3000)]])
    it.with_data(it.data + bytes(5000))
    it.expect_whole("good")
    start = it.ends[1]
    for bit in range(8 * 4):
        data = bytearray(it.data)
        data[start + bit // 8] ^= 1 << bit % 8  # of its length
        it.with_data(bytes(data) + bytes(5000))
        it.expect_damage(1, bit)


def test_a_tail_of_garbage_never_costs_a_record_nor_invents_one(written: Written) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    for _ in range(60):
        garbage = rng.randbytes(rng.choice([1, 5, 12, 40, 61, 200, 2000]))
        written.with_data(written.data + garbage)
        before = snapshot(written.directory)
        flashq = open_at(written.directory)
        assert [record.value for record in flashq.poll_records("t", count=7)] == written.values
        if flashq.health().status == "degraded":
            flashq.close()
            assert snapshot(written.directory) == before
        else:
            assert flashq.post_record("t", "goes on") == len(written.values)
            flashq.close()


def test_opening_again_changes_nothing(written: Written) -> None:
    for data in (written.data, written.data[:-1], written.data[:-1] + b"\xff"):
        written.with_data(data)
        open_at(written.directory).close()
        once = snapshot(written.directory)
        open_at(written.directory).close()
        assert snapshot(written.directory) == once


def test_two_tails_torn_at_one_position_in_one_second_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashq.storage.file.opening.time.gmtime", lambda: time.struct_time([2026, 1, 1] + [0] * 6))
    it = Written(tmp_path / "data", [["x"]])
    tails = [frames_for_later(1)[:-3], frames_for_later(1)[:-2]]
    for tail in tails:
        segment_of(it.directory).write_bytes(it.data + tail)
        open_at(it.directory).close()
    kept = sorted(segment_of(it.directory).parent.glob("*.torn-*"))
    assert [path.read_bytes() for path in kept] == tails
    name = f"{0:020}.log.torn-20260101T000000Z-{len(it.data)}"
    assert [path.name for path in kept] == [name, f"{name}-2"]


@pytest.mark.parametrize("size", [1, 63, 64, 511, 512, 513, 2048, 100_000])
def test_values_full_of_zeros_are_values(tmp_path: Path, size: int) -> None:
    it = Written(tmp_path / "data", [[bytes(size)], ["x"], [bytes(size), bytes(size)], [bytes(size)]])
    for data in (it.data, it.data + bytes(1000)):
        it.with_data(data)
        with open_at(it.directory) as flashq:
            assert flashq.health().status == "healthy"
            assert [record.value for record in flashq.poll_records("t")] == it.values


def test_a_frame_of_zeros_whose_numbering_is_damaged_is_damage_and_not_torn(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["x"], [bytes(2000)], ["y"]])
    for at in (*range(4, 12), *range(EPOCH_POSITION, EPOCH_POSITION + 5)):
        data = bytearray(it.data)
        data[it.ends[1] + at] ^= 1
        it.with_data(bytes(data))
        it.expect_damage(1, at)


def frames_for_later(count: int) -> bytes:
    """Good frames of this topic's epoch, with offsets that are still to come."""
    frames = b""
    for number in range(count):
        batch = encode([(None, b"inside", NO_HEADERS)], 1_700_000_000_000)
        batch.place(3 + number, 0, 0)
        frames += bytes(batch.frame)
    return frames


def test_a_torn_value_of_what_thousands_of_frames_begin_with_is_judged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compare each to its end with a CRC takes a time that grows with the square of the size: 2 s for 1 MiB."""
    size = 1 << 20
    beginnings = b"".join(
        HEADER.pack(size - at - PREFIX.size, 1000 + at, 0, MAGIC, 0, 0, 0, 0, 0, 0, 0, 0, 1)
        for at in range(0, size - HEADER.size, HEADER.size)
    )
    with open_at(tmp_path) as flashq:
        flashq.post_record("t", "good")
        flashq.post_record("t", beginnings.ljust(size + HEADER.size, b"x"))
    os.truncate(segment_of(tmp_path), segment_of(tmp_path).stat().st_size - 1)
    compared = 0

    def checking(frame: memoryview, *expected: Any) -> Batch:
        nonlocal compared
        compared += len(frame)
        return check(frame, *expected)

    monkeypatch.setattr(recovery, "check", checking)
    monkeypatch.setattr(recovery, "_MOST_COMPARED_BYTES", 32 * size)
    with open_at(tmp_path) as flashq:
        assert len(flashq.poll_records("t")) == 1
        assert flashq.health().status == "degraded"
    assert 32 * size < compared < 40 * size


def test_a_value_that_holds_good_frames_is_one_value_and_costs_no_record_when_torn(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["x"], [frames_for_later(5)]])
    with open_at(it.directory) as flashq:
        assert [record.value for record in flashq.poll_records("t")] == it.values
    for cut in range(it.ends[1] + 1, len(it.data), 7):
        it.with_data(it.data[:cut])
        with open_at(it.directory) as flashq:
            assert [record.value for record in flashq.poll_records("t", count=1)] == [b"x"]
            assert flashq.high_water_mark("t") == 1


def test_a_bad_frame_under_any_guess_never_escapes_as_another_error(written: Written) -> None:
    """Random damage anywhere: opening works, what reads back is a prefix, and errors are of the family."""
    print("seed", SEED)
    rng = random.Random(SEED)
    for _ in range(80):
        data = bytearray(written.data)
        at = rng.randrange(len(data))
        chunk: Callable[[int], bytes] = rng.choice([rng.randbytes, bytes, lambda size: b"\xff" * size])
        data[at : at + rng.choice([1, 4, 30])] = chunk(rng.choice([0, 1, 4, 30]))
        written.with_data(bytes(data))
        flashq = open_at(written.directory)
        read: list[bytes] = []
        try:
            while records := flashq.poll_records("t", from_offset=len(read), count=1):
                read.append(records[0].value)
        except FlashQError:
            pass
        flashq.close()
        assert read == written.values[: len(read)]
