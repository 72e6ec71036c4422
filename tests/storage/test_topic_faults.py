"""A disk that refuses what is done to topics: made, configured, deleted, freed of old records, given a new epoch."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.batch import encode
from flashq.broker.retention import RetentionThread
from flashq.errors import FlashQError, StorageFailed, StorageFull
from flashq.storage.file.journal import Journal
from flashq.storage.interface import TopicConfig
from flashq.testing.faulty_disk import Fault
from tests.storage.crashing_disk import Nth, abandon
from tests.storage.rig import BROKEN, NO_SPACE, Rig, row


@pytest.mark.parametrize("fault", [NO_SPACE, BROKEN])
def test_creating_and_deleting_on_a_failing_disk_raise_of_the_family_and_can_be_tried_again(
    rig: Callable[..., Rig], fault: Fault
) -> None:
    it = rig()
    error = StorageFull if fault is NO_SPACE else StorageFailed
    for operation in ("mkdir", "create", "write", "sync", "rename", "sync_directory"):
        it.disk.decide = Nth(1, fault, operation, onwards=True)
        with pytest.raises(error):
            it.flashq.create_topic("t")
        if operation != "mkdir":
            with pytest.raises(error):
                it.flashq.create_consumer_group("g")
    for operation in ("rename", "sync_directory"):
        it.disk.decide = None
        it.flashq.create_topic("t")
        it.flashq.create_consumer_group("g")
        it.disk.decide = Nth(1, fault, operation, "unlink", onwards=True)
        with pytest.raises(error):
            it.flashq.delete_topic("t")
        with pytest.raises(error):
            it.flashq.delete_consumer_group("g")
        it.disk.decide = None
        it.flashq.delete_topic("t")
        it.flashq.delete_consumer_group("g")
    it.reopen()
    assert it.flashq.topics() == it.flashq.consumer_groups() == []


def test_what_is_in_a_directory_that_was_renamed_cannot_be_deleted_and_a_group_whose_file_is_gone_can(
    tmp_path: Path,
) -> None:
    data_dir, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    with FlashQ.open(data_dir) as flashq:
        flashq.create_topic("t")
        flashq.create_consumer_group("g")
        data_dir.rename(elsewhere)
        with pytest.raises(StorageFailed):
            flashq.delete_topic("t")
        with pytest.raises(StorageFailed):
            flashq.delete_consumer_group("g")
        elsewhere.rename(data_dir)
        assert (flashq.topics(), flashq.consumer_groups()) == (["t"], ["g"])
        (file,) = (data_dir / "groups").iterdir()
        file.unlink()
        flashq.delete_consumer_group("g")
    with FlashQ.open(data_dir) as flashq:
        assert (flashq.topics(), flashq.consumer_groups()) == (["t"], [])


def test_a_topic_whose_disk_failed_can_be_deleted_and_made_again(rig: Callable[..., Rig]) -> None:
    it = rig()
    it.flashq.post_record("t", "first")
    it.disk.decide = Nth(1, BROKEN, "sync")
    with pytest.raises(StorageFailed):
        it.flashq.post_record("t", "second")
    it.flashq.delete_topic("t")
    assert it.flashq.health().status == "healthy"
    assert it.flashq.post_record("t", "anew") == 0
    it.reopen()
    assert it.values() == [b"anew"]


def test_a_topic_with_something_foreign_in_the_place_of_its_file_can_be_deleted_with_posts_under_way(
    rig: Callable[..., Rig],
) -> None:
    it = rig()
    it.flashq.post_record("t", "first")
    it.reopen()
    append = it.log().append(encode(row(b"second"), 1))
    active = Path(it.log().directory) / "0" / f"{0:020}.log"
    active.unlink()
    active.symlink_to("elsewhere")
    it.flashq.delete_topic("t")
    with pytest.raises(StorageFailed) as refused:
        append.result()
    assert refused.value.outcome == "not_applied"
    assert it.flashq.post_record("t", "anew") == 0
    it.reopen()
    assert it.values() == [b"anew"]


def test_what_cannot_be_closed_is_still_there_to_be_deleted(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Journal) -> None:
        raise MemoryError

    it = rig()
    it.flashq.create_topic("t")
    it.flashq.create_consumer_group("g")
    monkeypatch.setattr(Journal, "close", fail)
    with pytest.raises(MemoryError):
        it.flashq.delete_topic("t")
    with pytest.raises(MemoryError):
        it.flashq.delete_consumer_group("g")
    assert (it.flashq.topics(), it.flashq.consumer_groups()) == (["t"], ["g"])
    monkeypatch.undo()
    it.flashq.delete_topic("t")
    it.flashq.delete_consumer_group("g")
    it.reopen()
    assert it.flashq.topics() == it.flashq.consumer_groups() == []


@pytest.mark.parametrize(("fault", "error"), [(NO_SPACE, StorageFull), (BROKEN, StorageFailed)])
@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_a_configuration_that_cannot_be_saved_changes_nothing_and_can_be_given_again(
    rig: Callable[..., Rig], operation: str, fault: Fault, error: type[FlashQError]
) -> None:
    it = rig()
    it.flashq.post_record("t", "kept")
    it.disk.decide = Nth(1, fault, operation, under="topic.json")
    with pytest.raises(error):
        it.flashq.configure_topic("t", retention_ms=5)
    assert it.flashq.log("t").config == it.config
    it.flashq.configure_topic("t", retention_bytes=5)
    changed = TopicConfig(retention_bytes=5, segment_bytes=it.config.segment_bytes)
    assert it.flashq.log("t").config == changed
    assert it.reopen().log("t").config == changed


@pytest.mark.parametrize("fault", [NO_SPACE, BROKEN], ids=["no space", "broken"])
def test_a_configuration_whose_directory_cannot_be_synced_may_be_kept(rig: Callable[..., Rig], fault: Fault) -> None:
    it = rig()
    it.flashq.post_record("t", "kept")
    it.disk.decide = Nth(1, fault, "sync_directory", under="topics")
    with pytest.raises(StorageFailed) as refused:
        it.flashq.configure_topic("t", retention_ms=5)
    assert refused.value.outcome == "unknown"
    it.disk.decide = None
    assert it.reopen().log("t").config.retention_ms == 5  # no power was cut


def test_a_removal_that_fails_is_tried_again_and_leaves_no_hole(rig: Callable[..., Rig]) -> None:
    it = rig(segment_bytes=1024)
    for number in range(4):
        it.flashq.post_record("t", b"%d" % number * 1100)
    it.flashq.log("t").configure(TopicConfig(retention_bytes=100, segment_bytes=1024))
    for operation in ("unlink", "sync_directory"):
        it.disk.decide = Nth(1, BROKEN, operation)
        with pytest.raises(OSError, match="Input/output"):
            it.flashq.apply_retention()
    it.flashq.post_record("other", "x")
    assert it.flashq.apply_retention() > 3000
    assert it.log().log_start_offset == 3
    it.reopen()
    assert it.values() == [b"3" * 1100]


def test_retention_of_one_topic_that_fails_does_not_keep_the_others_from_theirs(rig: Callable[..., Rig]) -> None:
    it = rig(segment_bytes=1024)
    for topic in ("a", "b"):
        for _ in range(3):
            it.flashq.post_record(topic, "x" * 1100)
        it.flashq.log(topic).configure(TopicConfig(retention_bytes=100, segment_bytes=1024))
    it.disk.decide = Nth(1, BROKEN, "unlink", under="/a/", onwards=True)
    with pytest.raises(OSError, match="Input/output"):
        it.flashq.apply_retention()
    assert it.flashq.log("b").log_start_offset == 2


def test_a_sweep_that_fails_is_tried_again() -> None:
    tries = 0
    thrice = threading.Event()

    def sweep() -> int:
        nonlocal tries
        tries += 1
        if tries == 3:
            thrice.set()
        raise OSError(errno.EIO, "broken")

    thread = RetentionThread(sweep, interval_s=0.001)
    assert thrice.wait(10)
    thread.close()


def test_a_new_epoch_that_cannot_be_noted_refuses_the_post_and_is_noted_by_the_next(rig: Callable[..., Rig]) -> None:
    it = rig("periodic")
    it.flashq.post_record("t", "before")
    abandon(it.backend)
    it.flashq = it._open(it.disk)
    assert it.log().epoch == 1
    for fault, error in ((NO_SPACE, StorageFull), (BROKEN, StorageFailed)):
        it.disk.decide = Nth(1, fault, "write", under="topic.json")
        with pytest.raises(error):
            it.flashq.post_record("t", "refused")
    assert it.flashq.post_record("t", "after") == 1
    it.reopen()
    assert it.values() == [b"before", b"after"]
    assert it.flashq.health().status == "healthy"
