"""A disk without room, made by limiting the size of files of the running server: 507, reads go on, posts come back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flashq.broker.flashq import FlashQ
from tests.server.running import Answer, Process, serving

if sys.platform != "linux":
    pytest.skip("limits of another process are Linux's", allow_module_level=True)

import resource

RECORD = "x" * 2000


@contextmanager
def no_room(server: Process, beyond_bytes: int) -> Iterator[None]:
    """No file of the server grows past this size; its log of messages must be smaller."""
    hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (beyond_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))


def size_of(data_dir: Path, topic: str) -> int:
    return sum(os.path.getsize(path) for path in data_dir.glob(f"topics/{topic}/0/*.log"))


def assert_storage_full(answer: Answer) -> None:
    assert answer.status == 507, answer
    told: dict[str, Any] = answer.json()
    assert set(told) == {"error", "message", "details"}
    assert (told["error"], told["details"]["outcome"]) == ("storage_full", "not_applied")


@pytest.mark.parametrize("sync_mode", ["always", "periodic"])
def test_without_room_posts_are_507_and_reads_go_on_and_with_room_posts_are_taken_again(
    sync_mode: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--sync-mode", sync_mode) as server:
        posted = [server.post("t", f"{number} {RECORD}")[0] for number in range(3)]
        size = size_of(data_dir, "t")
        with no_room(server, size + 500):
            for _ in range(3):
                assert_storage_full(server.try_post("t", RECORD))
                assert_storage_full(server.try_post("t", *[RECORD] * 1000))
            assert size_of(data_dir, "t") == size, "what was written of it has been cut off"
            assert [record["offset"] for record in server.read_all("t")] == [0, 1, 2]
            assert server.ask("GET", "/health").json()["status"] == "healthy"
            posted += server.post("t", "small")  # there is room for this one
        posted += server.post("t", RECORD, RECORD)
        assert [each["offset"] for each in posted] == list(range(6))
        assert server.stop() == 0
        assert not server.events("storage_failed")
    with FlashQ.open(data_dir) as log:
        read = log.poll_records("t")
        assert [record.offset for record in read] == list(range(6))
        assert [record.text.split(" ")[0][:5] for record in read] == ["0", "1", "2", "small", "xxxxx", "xxxxx"]
    assert not list(data_dir.rglob("*torn*"))


def test_posts_in_flight_when_the_room_ends_are_each_stored_whole_or_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.post("t", RECORD)
        # More than a tick takes in, many times over, so that the first posts find room and the last ones do not.
        with no_room(server, 1_000_000), server.connect() as connection:
            posts = [
                connection.encode("POST", "/topics/t/records", {"records": [{"value": f"{number} {RECORD * 50}"}]})
                for number in range(40)
            ]
            for post in posts:
                connection.send(post)
            answers = [connection.receive() for _ in posts]
        assert {answer.status for answer in answers} == {200, 507}
        stored = {
            answer.json()["offsets"][0]["offset"]: str(number)
            for number, answer in enumerate(answers)
            if answer.status == 200
        }
        read = {record["offset"]: record["value"].split(" ")[0] for record in server.read_all("t")}
        assert read == {0: RECORD, **stored}
        assert server.post("t", "after")[0]["offset"] == len(read)


def test_a_topic_without_room_to_create_it_is_507_and_is_created_once_there_is_room(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.post("other", *[RECORD] * 10)
        with no_room(server, 0):
            for _ in range(2):
                assert_storage_full(server.try_post("t", "v"))
            assert server.ask("GET", "/topics/t/records").status == 404
            assert len(server.read_all("other")) == 10
        assert server.post("t", "v")[0]["offset"] == 0
        assert [record["value"] for record in server.read_all("t")] == ["v"]
