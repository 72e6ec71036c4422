"""What describes the directory and its topics: a bad root file opens nothing, a bad topic file all but that topic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flashq import FlashQ, UnsupportedFormat
from flashq.errors import DataCorruption
from flashq.storage.interface import TopicConfig
from tests.storage.written import Written, open_at, snapshot


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"format": 2}',
        b'{"format": "1"}',
        b'{"format": 1, "epoch": "x"}',
        b'{"format": 1, "sync_mode": "sometimes"}',
        b"[" * 5000,
        None,
    ],
)
def test_a_root_file_that_is_newer_garbage_or_missing_refuses_to_open_and_touches_nothing(
    written: Written, content: bytes | None
) -> None:
    root = written.directory / "flashq.json"
    good = root.read_bytes()
    try:
        root.unlink() if content is None else root.write_bytes(content)
        written.with_data(written.data[:-1])
        before = snapshot(written.directory)
        with pytest.raises(UnsupportedFormat, match="Nothing was touched"):
            open_at(written.directory)
        assert snapshot(written.directory) == before
        assert not root.exists() if content is None else root.read_bytes() == content
    finally:
        root.write_bytes(good)
    open_at(written.directory).close()


def test_a_newer_format_is_refused_with_what_this_one_reads_and_who_can_read_it(written: Written) -> None:
    root = written.directory / "flashq.json"
    good = root.read_bytes()
    root.write_bytes(b'{"format": 2}')
    try:
        with pytest.raises(UnsupportedFormat, match=r"has format 2; this FlashQ reads format 1\..* or a newer one"):
            open_at(written.directory)
    finally:
        root.write_bytes(good)


@pytest.mark.parametrize(
    "change",
    [
        {"segment_bytes": 1},
        {"segment_bytes": "x"},
        {"retention_ms": -1},
        {"epochs": []},
        {"epochs": [[0]]},
        {"epochs": None},
        {"name": "another"},
        {"name": 7},
        {"topic_id": None},
        None,
    ],
)
def test_a_topic_file_that_makes_no_sense_makes_that_topic_unreadable_and_no_other(
    tmp_path: Path, change: dict[str, object] | None
) -> None:
    it = Written(tmp_path / "data", [["one"]])
    path = it.directory / "topics" / "t" / "topic.json"
    path.write_bytes(b"{" if change is None else json.dumps(json.loads(path.read_bytes()) | change).encode())
    before = snapshot(it.directory)
    with open_at(it.directory) as flashq:
        assert flashq.health().status == "degraded"
        assert flashq.topics() == ["other", "t"]
        for use in (
            lambda: flashq.poll_records("t"),
            lambda: flashq.post_record("t", "x"),
            lambda: flashq.log("t").offset_at(0),
            lambda: flashq.log("t").configure(TopicConfig()),
        ):
            with pytest.raises(DataCorruption):
                use()
        assert flashq.poll_records("other")[0].text == "works"
        assert flashq.post_record("other", "still") == 1
    assert {**snapshot(it.directory), **before} == snapshot(it.directory) | before
    with open_at(it.directory) as flashq:
        flashq.delete_topic("t")
        assert flashq.post_record("t", "anew") == 0


def test_a_group_knows_no_offset_in_a_topic_that_cannot_be_read(tmp_path: Path) -> None:
    it = Written(tmp_path / "data", [["one", "two"]])
    with open_at(it.directory) as flashq:
        flashq.create_consumer_group("g")
        flashq.commit_offset("g", "t", 2)
    path = it.directory / "topics" / "t" / "topic.json"
    good = path.read_bytes()
    path.write_bytes(b"")
    with open_at(it.directory) as flashq:
        for use in (lambda: flashq.consumer_group_offset("g", "t"), lambda: flashq.commit_offset("g", "t", 0)):
            with pytest.raises(DataCorruption):
                use()
    path.write_bytes(good)
    with open_at(it.directory) as flashq:
        assert flashq.consumer_group_offset("g", "t") == 2


def test_a_directory_that_is_no_topic_is_ignored_and_stays(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("news", "a")
    (tmp_path / "topics" / "lost+found").mkdir()
    (tmp_path / "topics" / "lost+found" / "note").write_text("mine")
    with FlashQ.open(tmp_path) as flashq:
        assert flashq.topics() == ["news"]
        assert flashq.health().status == "healthy"
    assert (tmp_path / "topics" / "lost+found" / "note").read_text() == "mine"
