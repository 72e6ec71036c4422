"""What a read takes from the disk: what is wanted, once, and little more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashq import FlashQ
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.index import INTERVAL_BYTES
from flashq.storage.file.recovery import READ_BYTES

BATCHES, IN_A_BATCH, SIZE = 40, 1000, 100


class Watched(Disk):
    """Notes how many bytes each read has given."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def read(self, file: OpenFile, size: int, position: int) -> bytes:
        data = super().read(file, size, position)
        self.reads.append(len(data))
        return data


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("read"))
    with FlashQ.open(directory, sync_mode="never") as flashq:
        for _ in range(BATCHES):
            flashq.post_records("t", ["x" * SIZE] * IN_A_BATCH)
        for _ in range(1000):
            flashq.post_record("t", "small")
    return directory


@pytest.fixture
def disk() -> Watched:
    return Watched()


@pytest.fixture
def flashq(directory: str, disk: Watched) -> Iterator[FlashQ]:
    with FlashQ(FileBackend(directory, sync_mode="never", disk=disk)) as flashq:
        flashq.poll_records("t", from_offset=0, count=1)  # the segment is open, and its index at hand
        disk.reads.clear()
        yield flashq


def frame_bytes(flashq: FlashQ, first: int, stop: int) -> int:
    return sum(len(batch.frame) for batch in flashq.log("t").read(first, max_records=stop - first))


@pytest.mark.parametrize(("first", "count"), [(0, 1000), (7919, 1000), (500, 1), (3000, 2500), (39_500, 600)])
def test_records_are_read_at_once_and_nothing_twice(flashq: FlashQ, disk: Watched, first: int, count: int) -> None:
    wanted = frame_bytes(flashq, first, first + count)
    disk.reads.clear()
    assert len(flashq.poll_records("t", from_offset=first, count=count)) == count
    assert len(disk.reads) == 1
    assert wanted <= disk.reads[0] <= wanted + INTERVAL_BYTES


@pytest.mark.parametrize("offset", [BATCHES * IN_A_BATCH + 7, BATCHES * IN_A_BATCH + 999])
def test_a_small_record_is_read_from_little_around_it(flashq: FlashQ, disk: Watched, offset: int) -> None:
    assert [record.text for record in flashq.poll_records("t", from_offset=offset, count=1)] == ["small"]
    assert len(disk.reads) == 1
    assert disk.reads[0] <= 2 * INTERVAL_BYTES


def test_a_limit_of_bytes_limits_what_is_read(flashq: FlashQ, disk: Watched) -> None:
    batch_bytes = frame_bytes(flashq, 0, 1)
    disk.reads.clear()
    batches = flashq.log("t").read(0, max_bytes=2 * batch_bytes)
    assert sum(len(batch.frame) for batch in batches) == 2 * batch_bytes
    assert sum(disk.reads) <= 2 * batch_bytes + INTERVAL_BYTES


def test_a_long_read_takes_pieces_and_no_more_than_twice_a_frame_at_their_ends(flashq: FlashQ, disk: Watched) -> None:
    wanted = frame_bytes(flashq, 0, BATCHES * IN_A_BATCH)
    batch_bytes = wanted // BATCHES
    disk.reads.clear()
    assert len(flashq.poll_records("t", from_offset=0, count=BATCHES * IN_A_BATCH)) == BATCHES * IN_A_BATCH
    assert max(disk.reads) <= READ_BYTES
    assert sum(disk.reads) <= wanted + len(disk.reads) * batch_bytes + INTERVAL_BYTES
