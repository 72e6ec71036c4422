"""Each bit flipped, each byte the last, sectors zeroed, pages swapped: what is read is right, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from flashq.errors import DataCorruption, UnsupportedFormat
from flashq.storage.file import index as index_file
from flashq.storage.file.disk import Disk
from flashq.storage.file.index import SparseIndex
from flashq.storage.file.opening import read_topic_file
from flashq.storage.file.recovery import SECTOR_BYTES
from flashq.storage.file.root_file import ROOT_FILE, RootFile, read_root, save_root
from tests.storage.test_recovery import Segments, Written, open_at, segment_of, snapshot

PAGE_BYTES = 4096


def flips(data: bytes) -> Iterator[bytes]:
    """`data` with each of its bits flipped, one at a time."""
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def cuts(data: bytes) -> Iterator[bytes]:
    """`data` cut at each of its bytes."""
    return (data[:length] for length in range(len(data)))


def test_an_index_with_any_bit_flipped_or_cut_anywhere_is_not_used() -> None:
    index = SparseIndex()
    for number in range(5):
        index.add(7 + number, 5000 * number, 1000 + number)
    data = index.encode(25_000, 12, 1004)
    assert index_file.decode(data, 7, 25_000) is not None
    assert [changed for changed in (*flips(data), *cuts(data)) if index_file.decode(changed, 7, 25_000)] == []


def test_a_version_file_with_any_bit_flipped_or_cut_anywhere_refuses_to_open(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["one"], ["two", "three"]])
    root = it.directory / ROOT_FILE
    good = root.read_bytes()
    for changed in (*flips(good), *cuts(good)):
        root.write_bytes(changed)
        with pytest.raises(UnsupportedFormat, match="Nothing was touched"):
            read_root(Disk(), str(it.directory))
    with pytest.raises(UnsupportedFormat), open_at(it.directory):
        pass
    root.write_bytes(good)
    with open_at(it.directory) as flashq:
        assert [record.value for record in flashq.poll_records("t")] == it.values


def test_a_version_file_without_a_checksum_is_believed(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["one"]])
    (it.directory / ROOT_FILE).write_text('{"format": 1, "epoch": 3, "clean": true}')
    with open_at(it.directory) as flashq:
        assert [record.value for record in flashq.poll_records("t")] == it.values


def test_a_version_file_is_read_as_it_was_saved(tmp_path: Path) -> None:
    root = RootFile(format=1, epoch=7, clean=True, sync_mode="never")
    save_root(Disk(), str(tmp_path), root)
    assert read_root(Disk(), str(tmp_path)) == root


@pytest.fixture
def segments(tmp_path: Path) -> Segments:
    return Segments(tmp_path / "data")


def zeroed_sectors(data: bytes) -> Iterator[bytes]:
    """`data` with each of its sectors all zeros."""
    for start in range(0, len(data), SECTOR_BYTES):
        sector = data[start : start + SECTOR_BYTES]
        yield data[:start] + bytes(len(sector)) + data[start + len(sector) :]


def swapped_pages(data: bytes) -> Iterator[bytes]:
    """`data` with each two of its whole pages in each other's place."""
    pages = [data[start : start + PAGE_BYTES] for start in range(0, len(data), PAGE_BYTES)]
    for one, other in combinations(range(len(data) // PAGE_BYTES), 2):
        swapped = list(pages)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        yield b"".join(swapped)


@pytest.mark.parametrize("which", [1, -1], ids=["sealed", "active"])
def test_zeroed_sectors_and_swapped_pages_never_show_a_wrong_record(segments: Segments, which: int) -> None:
    """Up to the change all records are read; from there on an error, or the end of a log whose tail was kept aside."""
    base = segments.bases[which]
    path = segment_of(segments.directory, base=base)
    good = path.read_bytes()
    assert len(good) >= 2 * PAGE_BYTES
    for changed in (*zeroed_sectors(good), *swapped_pages(good)):
        path.write_bytes(changed)
        before = snapshot(segments.directory)
        with open_at(segments.directory) as flashq:
            records = flashq.poll_records("t")
            assert [record.value for record in records] == segments.values[: records.next_offset]
            assert records.next_offset >= base
            if records.next_offset < flashq.high_water_mark("t"):
                with pytest.raises(DataCorruption):
                    flashq.poll_records("t", from_offset=records.next_offset)
        kept = b"".join(aside.read_bytes() for aside in path.parent.glob("*.torn-*"))
        assert (path.read_bytes() + kept).ljust(len(changed), b"\0") == changed
        assert kept == b"" or which == -1
        for aside in path.parent.glob("*.torn-*"):
            aside.unlink()
        path.write_bytes(changed)
        assert snapshot(segments.directory) == before


def test_what_describes_a_topic_with_any_bit_flipped_or_cut_anywhere_is_not_believed(tmp_path: Path) -> None:
    """Else a topic had another id, say, and every group's offset in it were 0."""
    it = Written(tmp_path / "data", [["one"], ["two", "three"]])
    path = it.directory / "topics" / "t" / "topic.json"
    good = path.read_bytes()
    for changed in (*flips(good), *cuts(good)):
        path.write_bytes(changed)
        with pytest.raises(DataCorruption):
            read_topic_file(Disk(), str(path.parent))
    with open_at(it.directory) as flashq:
        assert [record.value for record in flashq.poll_records("other")] == [b"works"]
        with pytest.raises(DataCorruption):
            flashq.poll_records("t")
