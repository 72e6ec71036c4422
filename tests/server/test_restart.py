"""After `kill -9`: the same bytes, offsets and timestamps. What recovery found is told; what is gone is 410."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

import flashq
from flashq.broker.flashq import FlashQ
from flashq.cli.exit_codes import STORAGE
from flashq.record import Record
from tests.server.running import JSON, Process, serving

ROOT = Path(__file__).parents[2]
MAX_BYTES = 8 * 1024 * 1024
ODD_LINES = [b"", b"\r", bytes(range(10)), bytes(range(11, 256)), "naïve".encode("latin-1"), "naïve".encode(), b"\x00"]


# -- the main job


def history() -> bytes:
    """The history of this repository with every change, or where there is none its source; and some odd lines."""
    try:
        told = subprocess.run(
            ["git", "-C", str(ROOT), "log", "-p", "--no-color", "--no-ext-diff"], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        told = b""
    if not told:
        told = b"".join(path.read_bytes() for path in sorted(Path(str(flashq.__file__)).parent.rglob("*.py")))
    return b"\n".join([told[:MAX_BYTES], *ODD_LINES])


def as_record(line: bytes) -> dict[str, str]:
    try:
        return {"value": line.decode()}
    except UnicodeDecodeError:
        return {"value": b64encode(line).decode(), "encoding": "base64"}


def as_bytes(record: dict[str, Any]) -> bytes:
    value: str = record["value"]
    return b64decode(value) if record.get("encoding") == "base64" else value.encode()


def test_a_long_history_comes_back_byte_for_byte_also_after_a_kill(tmp_path: Path) -> None:
    document = history()
    lines = document.split(b"\n")
    small_segments = ("--segment-bytes", "256KiB")
    posted: list[dict[str, Any]] = []

    def assert_all_there(server: Process) -> None:
        read = server.read_all("history")
        assert b"\n".join(map(as_bytes, read)) == document
        assert [{name: record[name] for name in ("offset", "timestamp")} for record in read] == posted

    with serving(tmp_path / "data", *small_segments) as server:
        for start in range(0, len(lines), 1000):
            posted += server.post("history", *map(as_record, lines[start : start + 1000]))
        assert [each["offset"] for each in posted] == list(range(len(lines)))
        assert_all_there(server)
        server.kill()
    with serving(tmp_path / "data", *small_segments) as server:
        told = server.events()[0]
        assert [told[fact] for fact in ("topics", "torn_tails", "damaged")] == [1, 0, 0]
        assert_all_there(server)
        assert server.post("history", "one more")[0]["offset"] == len(lines)


# -- what else a restart keeps, and tells


def test_keys_headers_and_what_is_empty_or_absent_are_the_same_after_a_kill(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"value": "", "key": None, "headers": None},
        {"value": "", "key": "", "headers": {"": ""}},
        {"value": "🙂", "key": "ключ", "headers": {"b": "2", "a": "1"}},
    ]
    with serving(tmp_path / "data") as server:
        posted = [server.post(topic, *records) for topic in ("one", "Two", "Two", "...")]
        before = {topic: server.read_all(topic) for topic in ("one", "Two", "...")}
        server.kill()
    with serving(tmp_path / "data") as server:
        assert server.events()[0]["topics"] == 3
        assert {topic: server.read_all(topic) for topic in before} == before
        assert [{name: record[name] for name in records[0]} for record in before["Two"]] == records * 2
        assert [record["timestamp"] for record in before["Two"]] == [
            each["timestamp"] for post in posted[1:3] for each in post
        ]
        again = server.post("Two", "later")[0]
        assert again["offset"] == 6
        assert again["timestamp"] >= before["Two"][-1]["timestamp"]


@pytest.mark.parametrize(("sync_mode", "raised"), [("always", 0), ("periodic", 1)])
def test_a_topic_shows_an_epoch_that_rises_with_a_kill_where_records_may_be_taken_back(
    sync_mode: str, raised: int, tmp_path: Path
) -> None:
    for epoch in (0, raised):
        with serving(tmp_path / "data", "--sync-mode", sync_mode) as server:
            server.post("t", "v")
            assert server.ask("GET", "/topics/t").json()["epoch"] == epoch
            server.kill()


def test_a_torn_tail_is_cut_and_told(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir) as server:
        posted = [server.post("t", f"record {number}")[0] for number in range(3)]
        server.kill()
    (segment,) = data_dir.glob("topics/t/0/*.log")
    os.truncate(segment, segment.stat().st_size - 5)
    with serving(data_dir) as server:
        listening = server.events("listening")[0]
        assert [listening[fact] for fact in ("topics", "torn_tails", "damaged")] == [1, 1, 0]
        (warning,) = [each for each in server.events() if each["level"] == "warning"]
        assert (warning["event"], warning["what"].split()[-1], warning["offset"]) == ("torn_tail_cut", "t", 2)
        assert (warning["position"], warning["bytes"]) == (
            segment.stat().st_size,
            len(Path(warning["kept"]).read_bytes()),
        )
        assert [record["timestamp"] for record in server.read_all("t")] == [each["timestamp"] for each in posted[:2]]
        assert server.post("t", "again")[0]["offset"] == 2


def test_damage_is_told_health_is_degraded_and_the_rest_works(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir) as server:
        server.post("good", "v")
        for number in range(3):
            server.post("bad", f"record {number} {'x' * 1000}")
        server.kill()
    (segment,) = data_dir.glob("topics/bad/0/*.log")
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    segment.write_bytes(damaged)
    with serving(data_dir) as server:
        listening = server.events("listening")[0]
        assert [listening[fact] for fact in ("topics", "torn_tails", "damaged")] == [2, 0, 1]
        health = server.ask("GET", "/health")
        assert (health.status, health.json()["status"]) == (200, "degraded")
        assert "bad" in health.json()["problems"][0]
        assert [record["offset"] for record in server.poll("bad")["records"]] == [0]
        answer = server.ask("GET", "/topics/bad/records?from_offset=1")
        assert (answer.status, answer.json()["error"]) == (500, "data_corruption")
        assert (answer.json()["details"]["topic"], answer.json()["details"]["offset"]) == ("bad", 1)
        refused = server.try_post("bad", "v")
        assert (refused.status, refused.json()["error"]) == (500, "data_corruption")
        assert refused.json()["details"]["outcome"] == "not_applied"
        assert server.post("good", "v")[0]["offset"] == 1
        assert server.stop() == 0
    assert segment.read_bytes() == damaged, "nothing is cut"


def test_a_log_that_fails_is_told_with_its_cause_the_rest_works_and_a_restart_mends_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    in_the_way = data_dir / "topics" / "bad" / "0" / f"{1:020}.log"
    with serving(data_dir, "--segment-bytes", "1024") as server:
        server.post("bad", "kept ".ljust(1200))
        server.post("good", "v")
        in_the_way.symlink_to(tmp_path / "elsewhere")
        answers = [server.try_post("bad", "refused") for _ in range(3)]
        assert {(answer.status, answer.json()["error"]) for answer in answers} == {(503, "storage_failed")}
        assert [answer.json()["details"]["outcome"] for answer in answers[1:]] == ["not_applied"] * 2
        health = server.ask("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, "unhealthy")
        assert str(in_the_way) in health.json()["problems"][0]
        (line,) = server.events("storage_failed")
        assert str(in_the_way) in line["cause"]
        assert [record["offset"] for record in server.poll("bad")["records"]] == [0]
        assert server.post("good", "v")[0]["offset"] == 1
        assert server.stop() == STORAGE
    in_the_way.unlink()
    with serving(data_dir) as server:
        assert server.ask("GET", "/health").json()["status"] == "healthy"
        assert server.post("bad", "goes on")[0]["offset"] == 1


def test_a_topic_that_cannot_be_read_is_named_as_such_and_never_shown_with_zeros(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    commit = json.dumps({"offset": 1}).encode()
    with serving(data_dir) as server:
        for topic in ("bad", "good"):
            server.post(topic, "v")
        server.ask("POST", "/consumer/g")
        assert server.ask("POST", "/consumer/g/topics/good/offset", commit, JSON).status == 200
    (data_dir / "topics" / "bad" / "topic.json").write_bytes(b"{")
    with serving(data_dir) as server:
        listed = server.ask("GET", "/topics").json()
        assert [topic["name"] for topic in listed["topics"]] == ["good"]
        assert listed["unreadable"] == ["bad"]
        for line in (
            "GET /topics/bad",
            "PUT /topics/bad",
            "GET /topics/bad/records",
            "GET /consumer/g/topics/bad/offset",
        ):
            refused = server.ask(*line.split())  # type: ignore[arg-type]
            assert (refused.status, refused.json()["error"]) == (500, "data_corruption"), line
        assert [topic["topic"] for topic in server.ask("GET", "/consumer/g").json()["topics"]] == ["good"]
        assert server.ask("GET", "/health").json()["status"] == "degraded"
        assert server.ask("DELETE", "/topics/bad").status == 204
        assert server.ask("GET", "/topics").json().keys() == {"topics"}


def test_bytes_stored_by_an_embedding_program_are_served_in_base64_and_marked(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path / "data") as log:
        log.post_records(
            "t", [b"\xff\x00", "text", Record("é".encode("latin-1"), key=b"\x80"), Record("v", key=b"\x80")]
        )
    with serving(tmp_path / "data") as server:
        read = server.read_all("t")
    assert [(each["value"], each.get("encoding")) for each in read] == [
        ("/wA=", "base64"), ("text", None), ("6Q==", "base64"), ("v", None),
    ]  # fmt: skip
    assert [(each["key"], each.get("key_encoding")) for each in read] == [
        (None, None), (None, None), ("gA==", "base64"), ("gA==", "base64"),
    ]  # fmt: skip


def test_below_the_log_start_is_410_with_where_it_starts(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path / "data", segment_bytes=1024, retention_bytes=4096) as log:
        for number in range(50):
            log.post_record("t", f"{number} {'x' * 500}")
        assert log.apply_retention() > 0
        start = log.log("t").log_start_offset
    assert 0 < start < 50
    with serving(tmp_path / "data") as server:
        for query in ("", "?from_offset=0", f"?from_offset={start - 1}", "?from_offset=0&timeout_ms=20000"):
            answer = server.ask("GET", f"/topics/t/records{query}")
            assert answer.status == 410, query
            assert answer.json()["error"] == "offset_out_of_range"
            assert answer.json()["details"]["log_start_offset"] == start
        polled = server.poll("t", from_offset=start)
        assert [record["offset"] for record in polled["records"]] == list(range(start, 50))
        assert (polled["log_start_offset"], polled["high_water_mark"], polled["lag"]) == (start, 50, 0)
        assert server.post("t", "v")[0]["offset"] == 50
