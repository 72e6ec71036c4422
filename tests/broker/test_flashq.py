"""FlashQ on files from end to end, and what the background does for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flashq import FlashQ, InvalidParameter, Record
from flashq.broker.retention import RetentionThread
from flashq.broker.waiters import Waiters
from flashq.errors import FlashQError
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import SYNC_MODES, SyncMode, TopicConfig
from flashq.storage.memory import InMemoryTopicLog


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_everything_is_there_after_closing_and_opening_again(tmp_path: Path, mode: SyncMode) -> None:
    with FlashQ.open(tmp_path / "new" / "data", mode, segment_bytes=1024) as flashq:
        for number in range(40):
            flashq.post_records("t", [Record(f"{number} " * 30, key=str(number), headers={"n": str(number)})] * 2)
        flashq.create_consumer_group("g")
        flashq.commit_offset("g", "t", 33, "a note")
        flashq.create_topic("empty", retention_ms=5)
        before = flashq.poll_records("t")
        topic_id = flashq.log("t").topic_id
    with FlashQ.open(tmp_path / "new" / "data", mode) as flashq:
        assert flashq.topics() == ["empty", "t"]
        assert flashq.log("empty").config == TopicConfig(retention_ms=5, segment_bytes=1024)
        assert flashq.poll_records("t") == before
        assert flashq.log("t").topic_id == topic_id
        committed = flashq.group("g").committed(flashq.log("t"))
        assert committed is not None
        assert (committed.offset, committed.metadata) == (33, "a note")
        assert flashq.post_record("t", "next") == 80
        assert flashq.poll_records_for_consumer_group("g", "t")[0].offset == 33


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sync_mode", "sometimes"),
        ("commit_threshold", 0),
        ("commit_threshold", True),
        ("sync_interval_s", 0),
        ("sync_interval_s", float("nan")),
        ("segment_bytes", 5),
        ("retention_ms", -1),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_made(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(InvalidParameter):
        FlashQ.open(tmp_path / "data", **{name: value})  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()


def test_retention_runs_by_itself_and_stops_with_its_flashq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetentionThread.__init__, "__defaults__", (0.005,))
    others = set(threading.enumerate())
    swept = threading.Event()
    now_ms = 1000
    flashq = FlashQ(FileBackend(str(tmp_path)), topic_defaults=TopicConfig(retention_ms=0), clock_ms=lambda: now_ms)
    flashq.post_record("t", "x")
    log = flashq.log("t")
    retain = log.retain

    def watched(at_ms: int) -> int:
        freed = retain(at_ms)
        if freed:
            swept.set()
        return freed

    monkeypatch.setattr(log, "retain", watched)
    now_ms += 1
    assert swept.wait(10)
    assert log.log_start_offset == 1
    flashq.close()
    assert set(threading.enumerate()) <= others


def test_a_close_that_fails_lets_go_of_the_directory_and_happens_once(tmp_path: Path) -> None:
    flashq = FlashQ.open(tmp_path)
    flashq.post_record("t", "x")

    def broken(file: object) -> None:
        raise OSError(5, "Input/output error")

    flashq.backend._disk.sync = broken  # type: ignore[attr-defined]
    with pytest.raises(FlashQError):
        flashq.post_record("t", "y")
    with pytest.raises(FlashQError):
        flashq.close()
    flashq.close()
    FlashQ.open(tmp_path).close()


class TestWaiters:
    def setup_method(self) -> None:
        self.waiters = Waiters()
        self.log = InMemoryTopicLog("t", TopicConfig())
        self.called: list[str] = []

    def test_everyone_is_called_once_first_come_first(self) -> None:
        for name in ("first", "second"):
            self.waiters.wait(self.log, lambda name=name: self.called.append(name))  # type: ignore[misc]
        for _ in range(2):
            self.waiters.notify(self.log)
        assert self.called == ["first", "second"]

    def test_one_whose_callback_fails_does_not_cost_the_others_their_call(self) -> None:
        def fail() -> None:
            raise RuntimeError("in a bad way")

        self.waiters.wait(self.log, fail)
        self.waiters.wait(self.log, lambda: self.called.append("second"))
        self.waiters.notify(self.log)
        assert self.called == ["second"]
        assert self.log.on_advance is None

    def test_who_took_it_back_is_not_called_and_may_do_so_twice(self) -> None:
        cancel = self.waiters.wait(self.log, lambda: self.called.append("cancelled"))
        self.waiters.wait(self.log, lambda: self.called.append("stays"))
        cancel()
        cancel()
        self.waiters.notify(self.log)
        cancel()
        assert self.called == ["stays"]

    def test_who_waits_again_when_called_hears_of_the_next_move(self) -> None:
        def again() -> None:
            self.called.append("moved")
            self.waiters.wait(self.log, again)

        self.waiters.wait(self.log, again)
        for _ in range(3):
            self.waiters.notify(self.log)
        assert self.called == ["moved"] * 3

    def test_a_log_nobody_waits_for_is_not_asked_to_tell(self) -> None:
        cancel = self.waiters.wait(self.log, lambda: None)
        assert self.log.on_advance is not None
        cancel()
        assert self.log.on_advance is None
