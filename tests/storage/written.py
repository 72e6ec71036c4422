"""Closed data directories, for tests to cut, flip and take apart before they open them again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.errors import DataCorruption
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import SyncMode, TopicConfig
from flashq.testing.faulty_disk import FaultyDisk

EPOCH_POSITION = 12  # of the frame: after length and base offset
SEED = int(os.environ.get("FLASHQ_TEST_SEED", random.SystemRandom().getrandbits(32)))
POSTS: list[list[str | bytes]] = [["one"], ["two", "three"], ["four"], ["five", "six", "seven"]]


def open_at(directory: Path, mode: SyncMode = "always", *, segment_bytes: int = 1 << 20) -> FlashQ:
    backend = FileBackend(str(directory), sync_mode=mode, disk=FaultyDisk())
    return FlashQ(backend, topic_defaults=TopicConfig(segment_bytes=segment_bytes), clock_ms=lambda: 1_700_000_000_000)


def backend_of(flashq: FlashQ) -> FileBackend:
    assert isinstance(flashq.backend, FileBackend)
    return flashq.backend


def segment_of(directory: Path, topic: str = "t", base: int = 0) -> Path:
    return directory / "topics" / topic / "0" / f"{base:020}.log"


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file but the root's own, which notes each start."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("flashq.json", ".flashq.lock")
    }


class Written:
    """A closed data directory with a topic of one segment, and where its frames end."""

    def __init__(self, directory: Path, posts: list[list[str | bytes]]) -> None:
        self.directory = directory
        self.values: list[bytes] = []
        self.ends = [0]  # positions
        self.offsets = [0]  # at those positions
        with open_at(directory) as flashq:
            for post in posts:
                flashq.post_records("t", post)
                self.values += [value if isinstance(value, bytes) else value.encode() for value in post]
                self.ends.append(segment_of(directory).stat().st_size)
                self.offsets.append(len(self.values))
            flashq.post_record("other", "works")
        self.data = segment_of(directory).read_bytes()

    def with_data(self, data: bytes) -> None:
        for path in segment_of(self.directory).parent.glob("*.torn-*"):
            path.unlink()
        segment_of(self.directory).write_bytes(data)

    def expect_whole(self, what: object) -> None:
        """Everything is there, and nothing else; room is given back, and the log goes on."""
        with open_at(self.directory) as flashq:
            assert (flashq.health().status, backend_of(flashq).recovered.torn_tails) == ("healthy", 0), what
            assert [record.value for record in flashq.poll_records("t")] == self.values, what
            assert segment_of(self.directory).read_bytes() == self.data, what
            assert flashq.post_record("t", "goes on") == len(self.values), what

    def expect_torn(self, position: int, offset: int, what: object) -> None:
        """Cut at `position`, the rest kept beside; then it goes on at `offset`."""
        held = segment_of(self.directory).read_bytes()
        flashq = open_at(self.directory)
        assert flashq.health().status == "healthy", what
        assert backend_of(flashq).recovered.torn_tails == 1, what
        assert [record.value for record in flashq.poll_records("t")] == self.values[:offset], what
        (kept,) = segment_of(self.directory).parent.glob("*.torn-*")
        assert kept.read_bytes() == held[position:].rstrip(b"\0"), what
        assert segment_of(self.directory).read_bytes() == held[:position], what
        assert flashq.post_record("t", "goes on") == offset, what
        flashq.close()
        again = open_at(self.directory)
        assert backend_of(again).recovered.torn_tails == 0, what
        assert [record.value for record in again.poll_records("t")] == [*self.values[:offset], b"goes on"], what
        again.close()

    def expect_damage(self, offset: int, what: object) -> None:
        """Nothing changes on disk; readable up to `offset`, and an error that names it from there on."""
        before = snapshot(self.directory)
        flashq = open_at(self.directory)
        assert flashq.health().status == "degraded", what
        assert [record.value for record in flashq.poll_records("t", count=offset)] == self.values[:offset], what
        for at in (offset, offset + 1):
            with pytest.raises(DataCorruption) as damaged:
                flashq.poll_records("t", from_offset=at)
            assert (damaged.value.details["topic"], damaged.value.details["offset"]) == ("t", offset), what
        with pytest.raises(DataCorruption) as refused:
            flashq.post_record("t", "refused")
        assert refused.value.outcome == "not_applied", what
        assert [record.value for record in flashq.poll_records("other")] == [b"works"], what
        assert flashq.apply_retention() == 0
        flashq.close()
        assert snapshot(self.directory) == before, what


class Segments:
    """A closed directory with a topic of several segments, of several frames each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        rng = random.Random(7)
        self.values = [b"%d " % number + rng.randbytes(900).hex().encode() for number in range(60)]
        with open_at(directory, segment_bytes=20_000) as flashq:
            for value in self.values:
                flashq.post_record("t", value)
        self.bases = sorted(int(path.stem) for path in segment_of(directory).parent.glob("*.log"))
        assert len(self.bases) > 4

    def read_all(self) -> list[bytes]:
        with open_at(self.directory) as flashq:
            assert flashq.high_water_mark("t") == len(self.values)
            one_by_one = [flashq.poll_records("t", from_offset=at, count=1)[0] for at in range(0, 60, 7)]
            assert [record.value for record in one_by_one] == self.values[::7]
            assert flashq.log("t").offset_at(0) == 0
            assert flashq.log("t").offset_at(1 << 60) == len(self.values)
            return [record.value for record in flashq.poll_records("t")]
