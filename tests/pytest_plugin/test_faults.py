"""`flashq_faults`: the errors a program meets are the engine's own, and a crash takes what the sync mode says."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from flashq import Closed, FlashQ, FlashQError, StorageFailed, StorageFull
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import SYNC_MODES, SyncMode
from flashq.testing.clock import Clock
from flashq.testing.faults import Faults

THREADS = 3
ROUNDS = 8


def texts(flashq: FlashQ, topic: str = "t") -> list[str]:
    return [record.text for record in flashq.poll_records(topic)]


class Posters:
    """Threads that post until the FlashQ is gone, and note what they were told."""

    def __init__(self, flashq: FlashQ, enough: int) -> None:
        self.told: dict[int, str] = {}
        self.enough = enough
        self.posted_enough = threading.Event()
        self.ended: list[FlashQError] = []
        self.threads = [threading.Thread(target=self._post, args=(flashq, name)) for name in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def _post(self, flashq: FlashQ, name: int) -> None:
        for number in range(1_000_000):
            value = f"{name}-{number}"
            try:
                self.told[flashq.post_record("t", value)] = value
            except (StorageFailed, Closed) as error:
                self.ended.append(error)
                return
            if len(self.told) >= self.enough:
                self.posted_enough.set()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)
        assert len(self.ended) == THREADS


@pytest.mark.parametrize(
    ("mode", "power_lost"), [("always", True), ("always", False), ("periodic", False), ("never", False)]
)
def test_what_was_acknowledged_is_there_after_a_crash_in_the_middle_of_posts(
    flashq_faults: Faults, mode: SyncMode, power_lost: bool
) -> None:
    flashq = flashq_faults.open(sync_mode=mode, segment_bytes=4096)
    flashq.create_topic("t")
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    told: dict[int, str] = {}
    for number in range(ROUNDS):
        posters = Posters(flashq, rng.randrange(1, 60))
        assert posters.posted_enough.wait(30)
        flashq = flashq_faults.crash(power_lost=power_lost)
        posters.join()
        told |= posters.told
        records = flashq.poll_records("t")
        assert [record.offset for record in records] == list(range(len(records)))
        found = {record.offset: record.text for record in records}
        assert {offset: found.get(offset) for offset in told} == told, f"round {number}, seed {seed}"
    assert flashq.health().problems == []
    flashq.close()
    assert verify_directory(Path(flashq_faults.data_dir)).damage == []


def test_under_never_a_power_cut_takes_what_was_acknowledged(flashq_faults: Faults) -> None:
    flashq = flashq_faults.open(sync_mode="never")
    flashq.create_topic("t")
    flashq.post_record("t", "durable", durable=True)
    flashq.post_record("t", "written")
    assert texts(flashq_faults.crash()) == ["durable"]


@pytest.mark.parametrize("power_lost", [True, False])
def test_topics_groups_and_commits_survive_a_crash(flashq_faults: Faults, power_lost: bool) -> None:
    flashq = flashq_faults.flashq
    flashq.post_records("t", ["a", "b"])
    flashq.post_record("gone", "x")
    flashq.create_consumer_group("g")
    flashq.commit_offset("g", "t", 1)
    flashq.delete_topic("gone")
    flashq = flashq_faults.crash(power_lost=power_lost)
    assert flashq.topics() == ["t"]
    assert flashq.consumer_group_offset("g", "t") == 1


@pytest.mark.parametrize("mode", SYNC_MODES)
@pytest.mark.parametrize("power_lost", [True, False])
def test_crashes_one_after_another_each_keep_what_the_last_one_left(
    flashq_faults: Faults, mode: SyncMode, power_lost: bool
) -> None:
    flashq = flashq_faults.open(sync_mode=mode, commit_threshold=1000, sync_interval_s=3600)
    told: list[str] = []
    for number in range(5):
        flashq.post_record("t", str(number))
        if mode == "always" or not power_lost:
            told.append(str(number))
        flashq = flashq_faults.crash(power_lost=power_lost)
        assert texts(flashq) == told
        assert flashq is flashq_faults.flashq
        assert flashq.backend.sync_mode == mode


def test_the_flashq_of_before_the_crash_is_closed_and_leaves_no_trace(flashq_faults: Faults) -> None:
    old = flashq_faults.flashq
    old.post_record("t", "before")
    new = flashq_faults.crash()
    with pytest.raises(Closed):
        old.post_record("t", "never")
    assert new.post_record("t", "after") == 1
    assert texts(flashq_faults.crash()) == ["before", "after"]


def test_a_failed_fsync_hits_the_next_one_alone(flashq_faults: Faults) -> None:
    flashq = flashq_faults.flashq
    flashq.create_topic("t")
    flashq.create_topic("other")
    flashq_faults.fail_next_fsync()
    with pytest.raises(StorageFailed) as failed:
        flashq.post_record("t", "unknown")
    assert failed.value.outcome == "unknown"
    assert flashq.post_record("other", "x") == 0
    with pytest.raises(StorageFailed) as refused:
        flashq.post_record("t", "refused")
    assert refused.value.outcome == "not_applied"
    assert flashq.health().status == "failed"
    assert texts(flashq) == []


def test_two_fsyncs_asked_to_fail_fail_both(flashq_faults: Faults) -> None:
    flashq = flashq_faults.flashq
    flashq.create_topic("a")
    flashq.create_topic("b")
    flashq_faults.fail_next_fsync()
    flashq_faults.fail_next_fsync()
    for topic in ("a", "b"):
        with pytest.raises(StorageFailed):
            flashq.post_record(topic, "x")
    flashq.post_record("c", "x")


@pytest.mark.parametrize(("power_lost", "kept"), [(True, ["told"]), (False, ["told", "unknown"])])
def test_after_a_failed_fsync_a_crash_decides_what_is_there(
    flashq_faults: Faults, power_lost: bool, kept: list[str]
) -> None:
    flashq = flashq_faults.flashq
    flashq.post_record("t", "told")
    flashq_faults.fail_next_fsync()
    with pytest.raises(StorageFailed):
        flashq.post_record("t", "unknown")
    flashq = flashq_faults.crash(power_lost=power_lost)
    assert texts(flashq) == kept
    assert flashq.post_record("t", "goes on") == len(kept)


def test_a_full_disk_refuses_posts_commits_topics_and_groups_but_not_reads(flashq_faults: Faults) -> None:
    flashq = flashq_faults.flashq
    flashq.post_record("t", "x")
    flashq.create_consumer_group("g")
    flashq_faults.disk_full()
    for refused in (
        lambda: flashq.post_record("t", "y"),
        lambda: flashq.commit_offset("g", "t", 1),
        lambda: flashq.create_topic("u"),
        lambda: flashq.create_consumer_group("h"),
    ):
        with pytest.raises(StorageFull) as full:
            refused()
        assert full.value.outcome == "not_applied"
    assert texts(flashq) == ["x"]
    assert flashq.consumer_group_offset("g", "t") == 0
    flashq_faults.make_room()
    assert flashq.post_record("t", "y") == 1
    flashq.commit_offset("g", "t", 2)


def test_a_crash_ends_the_faults_before_it(flashq_faults: Faults) -> None:
    flashq_faults.disk_full()
    flashq_faults.fail_next_fsync()
    assert flashq_faults.crash().post_record("t", "x") == 0


def test_opening_again_keeps_the_records_and_takes_other_parameters(flashq_faults: Faults) -> None:
    flashq_faults.flashq.post_record("t", "x")
    flashq = flashq_faults.open(sync_mode="never", retention_ms=5)
    assert texts(flashq) == ["x"]
    flashq.create_topic("u")
    assert (flashq.backend.sync_mode, flashq.log("u").config.retention_ms) == ("never", 5)


def test_records_on_the_faulty_disk_are_stamped_and_expire_by_the_clock(
    flashq_faults: Faults, flashq_clock: Clock
) -> None:
    flashq = flashq_faults.open(retention_ms=60_000)
    flashq.post_record("t", "old")
    flashq_clock.advance(61)
    assert [record.timestamp_ms for record in flashq.poll_records("t")] == [flashq_clock.now_ms - 61_000]
    flashq.apply_retention()
    assert flashq.log("t").log_start_offset == 1
