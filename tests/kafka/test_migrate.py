"""`flashq migrate` from files to Kafka and back."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flashq import FlashQ, Record
from flashq.broker.migrate import migrate_topic
from flashq.errors import NotMigrated
from flashq.storage.interface import by_id
from tests.kafka.clean import emptied
from tests.kafka.cluster import Cluster
from tests.server.running import SCRIPT

pytestmark = pytest.mark.kafka
NAMES = ["letters", "numbers", "nothing"]


def migrate(source: object, target: object, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*SCRIPT, "migrate", "--from", str(source), "--to", str(target), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def fill(directory: Path) -> None:
    with FlashQ.open(directory, sync_mode="never", segment_bytes=64 * 1024) as flashq:
        for number in range(300):
            flashq.post_record("numbers", Record(str(number) * 2000, key=str(number % 7), headers={"n": str(number)}))
        flashq.post_records("letters", ["", b"\x00\xff", Record("k", key="")], idempotency_key="first")
        flashq.create_topic("nothing", retention_ms=7_000_000)
        for group, offset in (("slow", 5), ("fast", 299)):
            flashq.create_consumer_group(group)
            flashq.commit_offset(group, "numbers", offset, f"note of {group}")


def content(flashq: FlashQ) -> dict[str, Any]:
    topics = {
        log.name: [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in flashq.poll_records(log.name)]
        for log in flashq.logs()
    }
    groups: dict[str, Any] = {}
    for name in flashq.consumer_groups():
        stands = flashq.group(name).stands(by_id(flashq.logs()))
        groups[name] = {log.name: (at.offset, at.timestamp_ms, at.metadata) for log, at in stands}
    return {"topics": topics, "groups": groups}


def test_topics_and_groups_go_to_kafka_and_come_back_the_same(cluster: Cluster, tmp_path: Path) -> None:
    emptied(cluster).close()
    there = f"kafka://{cluster.bootstrap}"
    fill(tmp_path / "old")
    with FlashQ.open(tmp_path / "old") as flashq:
        before = content(flashq)
    done = migrate(tmp_path / "old", there)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "letters: 3 records, 3 of them copied now",
        "nothing: 0 records, 0 of them copied now",
        "numbers: 300 records, 300 of them copied now",
        "verified: 3 topics, 2 offsets of groups",
    ]
    with FlashQ.open(there) as flashq:
        assert content(flashq) == before
        assert flashq.log("nothing").config.retention_ms == 7_000_000
        assert flashq.post_records("letters", ["", b"\x00\xff", Record("k", key="")], idempotency_key="first") == [
            0,
            1,
            2,
        ]
    done = migrate(there, tmp_path / "new")
    assert (done.returncode, done.stderr) == (0, "")
    with FlashQ.open(tmp_path / "new") as flashq:
        assert content(flashq) == before


class Interrupted(Exception):
    pass


def test_a_migration_goes_on_where_it_was_interrupted(cluster: Cluster, tmp_path: Path) -> None:
    emptied(cluster).close()
    fill(tmp_path / "old")

    def interrupt(size: int) -> None:
        raise Interrupted

    with FlashQ.open(tmp_path / "old") as old, FlashQ.open(f"kafka://{cluster.bootstrap}") as new:
        with pytest.raises(Interrupted):
            migrate_topic(old.log("numbers"), new, interrupt)
        copied = new.high_water_mark("numbers")
        assert 0 < copied < 300
        before = content(old)
    done = migrate(tmp_path / "old", f"kafka://{cluster.bootstrap}")
    assert done.returncode == 0, done.stderr
    assert f"numbers: 300 records, {300 - copied} of them copied now" in done.stdout
    with FlashQ.open(f"kafka://{cluster.bootstrap}") as new:
        assert content(new) == before


def test_a_topic_that_is_another_one_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    emptied(cluster).close()
    fill(tmp_path / "old")
    with FlashQ.open(f"kafka://{cluster.bootstrap}") as new:
        new.post_record("numbers", "somebody else's")
    done = migrate(tmp_path / "old", f"kafka://{cluster.bootstrap}", "--topic", "numbers")
    assert done.returncode == 4
    assert "topic numbers of the target has another record at offset 0" in done.stderr


def test_a_topic_whose_offsets_cannot_be_kept_is_not_copied(cluster: Cluster, tmp_path: Path) -> None:
    backend = emptied(cluster)
    with FlashQ(backend) as new, FlashQ() as old:
        for number in range(10):
            old.post_record("t", str(number))
        old.configure_topic("t", retention_bytes=100)
        old.apply_retention()
        assert old.log("t").log_start_offset > 0
        with pytest.raises(NotMigrated, match="offsets cannot be kept"):
            migrate_topic(old.log("t"), new, lambda _: None)
        assert new.topics() == []
