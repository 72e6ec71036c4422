"""`flashq migrate` between two directories, and what it refuses; tests/kafka/ has the way to a cluster and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flashq import FlashQ, Record
from flashq.cli import exit_codes
from tests.cli.commands import run


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory of two topics, and a group that stands in one of them."""
    with FlashQ.open(tmp_path / "old") as flashq:
        flashq.post_records("news", ["a", Record(b"\xff", key="k", headers={"h": "v"}), ""])
        flashq.post_record("other", "x")
        flashq.create_consumer_group("readers")
        flashq.commit_offset("readers", "news", 2, "noted")
    return tmp_path / "old"


def test_topics_and_groups_are_copied_once_and_compared(old: Path, tmp_path: Path) -> None:
    first = run(None, "migrate", "--from", old, "--to", tmp_path / "new")
    assert (first.code, first.lines) == (
        0,
        [
            "news: 3 records, 3 of them copied now",
            "other: 1 records, 1 of them copied now",
            "verified: 2 topics, 1 offsets of groups",
        ],
    )
    again = run(None, "migrate", "--from", old, "--to", tmp_path / "new", "--json")
    assert [json.loads(line) for line in again.lines] == [
        {"topic": "news", "records": 3, "copied": 0},
        {"topic": "other", "records": 1, "copied": 0},
        {"topics": 2, "group_offsets": 1, "verified": True},
    ]
    with FlashQ.open(old) as before, FlashQ.open(tmp_path / "new") as after:
        assert after.poll_records("news") == before.poll_records("news")
        assert after.consumer_group_offset("readers", "news") == 2


def test_one_topic_alone_is_copied(old: Path, tmp_path: Path) -> None:
    assert run(None, "migrate", "--from", old, "--to", tmp_path / "new", "--topic", "other").code == 0
    with FlashQ.open(tmp_path / "new") as after:
        assert after.topics() == ["other"]


def test_what_cannot_be_migrated_is_refused_and_nothing_copied(old: Path, tmp_path: Path) -> None:
    settings = tmp_path / "kafka.conf"
    settings.write_text("acks=0\n")
    refusals = {
        ("--from", tmp_path / "none", "--to", tmp_path / "new"): "there is no such directory. Nothing was copied",
        ("--from", old, "--to", old): "are the same place. Nothing was copied",
        ("--from", old, "--to", "kafka://127.0.0.1:1", "--kafka-config", settings): "acks: not to be set",
    }
    for places, why in refusals.items():
        ended = run(None, "migrate", *places)
        assert (ended.code, ended.out) == (exit_codes.USAGE, b"")
        assert why in ended.err
    missing = run(None, "migrate", "--from", old, "--to", tmp_path / "new", "--topic", "none")
    assert (missing.code, "there is no topic none" in missing.err) == (exit_codes.UNEXPECTED, True)


def test_a_server_on_kafka_says_what_is_wrong_with_its_settings(tmp_path: Path) -> None:
    settings = tmp_path / "kafka.conf"
    settings.write_text("acks=0\n")
    serve = ("serve", "--storage", "kafka", "--kafka-bootstrap", "127.0.0.1:1")
    for more, why in (
        (("--kafka-replication-factor", "0"), "a whole number, from 1 to 32767"),
        (("--kafka-replication-factor", "1", "--kafka-config", settings), "acks: not to be set"),
    ):
        ended = run(None, *serve, *more)
        assert ended.code == exit_codes.USAGE
        assert why in ended.err
    assert "--kafka-bootstrap host:9092" in run(None, "serve", "--storage", "kafka").err
