"""A crash, or a power cut, before every call by which opening changes a torn directory: the next opening mends it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.batch import encode
from flashq.errors import FlashQError
from flashq.record import NO_HEADERS
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk
from flashq.storage.file.recovery import SECTOR_BYTES
from flashq.storage.file.root_file import RootFile, save_root
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import SYNC_MODES, SyncMode, TopicConfig
from flashq.testing.faulty_disk import FaultyDisk
from flashq.testing.power_cut import PowerCutDisk
from tests.storage.crashing_disk import Crash, CrashingDisk, CrashingPowerCutDisk, abandon

MakeDisk = Callable[[int, Path], CrashingDisk]


def open_flashq(directory: Path, disk: FaultyDisk, mode: SyncMode) -> FlashQ:
    backend = FileBackend(str(directory), sync_mode=mode, disk=disk)
    return FlashQ(backend, topic_defaults=TopicConfig(segment_bytes=1024), clock_ms=lambda: 1_000_000)


def frame(offset: int, key: bytes | None, value: bytes) -> bytes:
    batch = encode([(key, value, NO_HEADERS)], 1_000_000)
    batch.place(offset, 0, 0)
    return bytes(batch.frame)


class LeftTorn:
    """A directory after a crash under `periodic`: an epoch to raise, three torn tails, and room in two topics."""

    topics = ("cut", "room", "both")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.values = [b"%d " % number * 150 for number in range(7)]
        with open_flashq(directory, FaultyDisk(), "periodic") as flashq:
            flashq.create_consumer_group("g")
            for topic in self.topics:
                for value in self.values:
                    flashq.post_record(topic, value)
                flashq.commit_offset("g", topic, 5)
        save_root(Disk(), str(directory), RootFile(format=1, clean=False, sync_mode="periodic"))
        unacknowledged = frame(len(self.values), None, random.Random(1).randbytes(3000))
        both = directory / self.active("both")
        self.torn = {
            self.active("cut"): unacknowledged[:-7],
            self.active("both"): unacknowledged[: 2 * SECTOR_BYTES - both.stat().st_size % SECTOR_BYTES],
            Path("groups", "g.log"): frame(4, b"0" * 32, b"{}")[:-3],
        }
        for path, more in (*self.torn.items(), (self.active("both"), bytes(5000)), (self.active("room"), bytes(600))):
            with (directory / path).open("ab") as file:
                file.write(more)

    def active(self, topic: str) -> Path:
        return Path("topics", topic, "0", f"{6:020}.log")

    def check(self, directory: Path, mode: SyncMode) -> None:
        """The next opening finds what was acknowledged and the epoch raised, each torn tail is kept, and all goes on.
        The one after that finds nothing to mend."""
        for values, torn_tails in ((self.values, range(4)), ([*self.values, b"goes on"], range(1))):
            with open_flashq(directory, FaultyDisk(), mode) as flashq:
                assert isinstance(flashq.backend, FileBackend)
                assert flashq.health().problems == []
                assert flashq.backend.recovered.torn_tails in torn_tails
                for topic in self.topics:
                    assert [record.value for record in flashq.poll_records(topic)] == values
                    assert flashq.log(topic).epoch >= 1
                    assert flashq.consumer_group_offset("g", topic) == len(values) - 2
                    assert flashq.post_record(topic, "goes on") == len(values)
                    flashq.commit_offset("g", topic, len(values) - 1)
            for path, tail in self.torn.items():
                kept = (directory / path).parent.glob(f"{path.name}.torn-*")
                assert tail in [each.read_bytes() for each in kept]
        assert verify_directory(directory).damage == []


@pytest.fixture(scope="module")
def left(module_path: Path) -> LeftTorn:
    return LeftTorn(module_path / "data")


def crash_at_every_call(
    left: LeftTorn, tmp_path: Path, mode: SyncMode, make_disk: MakeDisk, rng: random.Random | None = None
) -> int:
    for crash_at in count(1):
        top = tmp_path / str(crash_at)
        directory = top / "data"
        shutil.copytree(left.directory, directory)
        disk = make_disk(crash_at, top)
        try:
            flashq = open_flashq(directory, disk, mode)
        except Crash:
            pass
        else:
            assert isinstance(flashq.backend, FileBackend)
            abandon(flashq.backend)
        if isinstance(disk, PowerCutDisk):
            disk.cut_power(str(directory), rng)
        try:
            left.check(directory, mode)
        except BaseException as error:
            error.add_note(f"crash at call {crash_at}, {disk.died_at}")
            raise
        if not disk.crashed:
            return crash_at
    raise AssertionError


def power_cut_disk(crash_at: int, top: Path) -> CrashingPowerCutDisk:
    return CrashingPowerCutDisk(crash_at, attic=str(top / "attic"))


@pytest.mark.parametrize("half", [False, True], ids=["before", "in the middle"])
@pytest.mark.parametrize("mode", SYNC_MODES)
def test_a_kill_while_opening_loses_nothing(left: LeftTorn, tmp_path: Path, mode: SyncMode, half: bool) -> None:
    assert crash_at_every_call(left, tmp_path, mode, lambda crash_at, _: CrashingDisk(crash_at, half=half)) > 30


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize("mode", SYNC_MODES)
def test_a_power_cut_while_opening_loses_nothing(
    left: LeftTorn, tmp_path: Path, mode: SyncMode, seed: int | None
) -> None:
    """With a seed, some of what was not synced has happened all the same."""
    rng = None if seed is None else random.Random(seed)
    assert crash_at_every_call(left, tmp_path, mode, power_cut_disk, rng) > 30


def test_a_disk_that_only_pretends_to_sync_is_found_out(
    left: LeftTorn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PowerCutDisk, "sync", FaultyDisk.sync)
    with pytest.raises((AssertionError, FlashQError)):
        crash_at_every_call(left, tmp_path, "always", power_cut_disk)
