"""Each bit flipped, each byte the last, sectors zeroed, pages swapped: what is read is right, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from unittest.mock import ANY

import pytest

from flashq import batch
from flashq.errors import DataCorruption, UnsupportedFormat
from flashq.storage.file import index as index_file
from flashq.storage.file.disk import Disk
from flashq.storage.file.index import SparseIndex
from flashq.storage.file.opening import read_topic_file
from flashq.storage.file.recovery import SECTOR_BYTES
from flashq.storage.file.root_file import ROOT_FILE, RootFile, read_root, save_root
from tests.storage.written import Segments, Written, open_at, segment_of, snapshot

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


class SmallSealed:
    """A closed directory with a topic of two segments: the first, sealed, has a frame of one record, one of two, and
    one of one; the second, one record."""

    def __init__(self, directory: Path, *, keep_index: bool) -> None:
        self.values = [b"one", b"two", b"three", b"four", b"in the next"]
        self.directory = directory
        self.path = segment_of(directory)
        self.ends = [0] * 4  # of the frame that holds each of the sealed records
        with open_at(directory) as flashq:
            for first, last in ((0, 0), (1, 2), (3, 3)):
                flashq.post_records("t", self.values[first : last + 1])
                self.ends[first : last + 1] = [self.path.stat().st_size] * (last + 1 - first)
            log = flashq.log("t")
            log.journal.roll_now(log._segments[-1])  # type: ignore[attr-defined]
            flashq.post_record("t", self.values[-1])
        self.data = self.path.read_bytes()
        assert len(self.data) == self.ends[-1]
        if not keep_index:
            self.path.with_suffix(".index").unlink()

    def expect_right_or_refused(self, data: bytes) -> None:
        """Whole frames before the first changed byte are read, those of its own frame refused, later ones either."""
        self.path.write_bytes(data)
        changed = next((at for at, byte in enumerate(data) if byte != self.data[at]), len(data))
        refused: dict[int, object] = {}  # the topic that the error names, by offset
        with open_at(self.directory) as flashq:
            for offset in range(len(self.values)):
                try:
                    records = flashq.poll_records("t", from_offset=offset)
                except DataCorruption as damaged:
                    refused[offset] = damaged.details["topic"]
                else:
                    assert records
                    assert [record.value for record in records] == self.values[offset : records.next_offset], changed
        whole = sum(end <= changed for end in self.ends)
        changed_frame = {offset for offset, end in enumerate(self.ends) if end in self.ends[whole : whole + 1]}
        assert changed_frame <= refused.keys() <= set(range(whole, 4)), changed
        assert set(refused.values()) <= {"t"}
        assert self.path.read_bytes() == data


@pytest.fixture(params=[True, False], ids=["index", "no index"])
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> SmallSealed:
    return SmallSealed(tmp_path / "data", keep_index=request.param)


def test_a_sealed_segment_with_any_bit_flipped_or_cut_anywhere_is_read_right_or_refused(sealed: SmallSealed) -> None:
    for changed in (*flips(sealed.data), *cuts(sealed.data)):
        sealed.expect_right_or_refused(changed)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CRC-32C is the one that is stated, from here on: nothing can be posted."""
    monkeypatch.setattr(batch, "crc32c", lambda data, before=0: ANY)


def one_bit_of_one(data: bytes) -> bytes:
    return data.replace(b"one", b"ond")


def test_the_check_of_a_sealed_segment_s_bits_fails_where_no_crc_is_checked(
    sealed: SmallSealed, unchecked: None
) -> None:
    sealed.expect_right_or_refused(sealed.data)
    with pytest.raises(AssertionError, match="b'ond'"):
        sealed.expect_right_or_refused(one_bit_of_one(sealed.data))


def test_the_check_of_an_active_segment_s_bits_fails_where_no_crc_is_checked(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    it = Written(tmp_path / "data", [["one"], ["two"]])
    it.with_data(one_bit_of_one(it.data))
    it.expect_damage(0, "the CRC is checked")
    request.getfixturevalue("unchecked")
    with pytest.raises(AssertionError, match="'healthy' == 'degraded'"):
        it.expect_damage(0, "no CRC is checked")


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
