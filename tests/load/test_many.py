"""Ten thousand topics and ten thousand groups on one server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import TopicConfig
from flashq.testing.faulty_disk import FaultyDisk
from tests.crash.wire import Connection
from tests.server.running import Process, serving

pytestmark = [pytest.mark.load, pytest.mark.timeout(1200)]

MANY = 10_000
START_S = 5.0
IDLE_BYTES = 400 * 1000 * 1000
IDLE_DESCRIPTORS = 100
IN_FLIGHT = 32


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many") / "data"
    backend = FileBackend(str(directory), disk=FaultyDisk())  # it syncs nothing, and fails only if told to
    for number in range(MANY):
        backend.create_topic(f"t{number}", TopicConfig())
        backend.create_group(f"g{number}")
    backend.close()
    return directory


def test_a_server_of_many_topics_and_groups_starts_soon_rests_in_little_and_takes_a_post_to_each(
    data_dir: Path,
) -> None:
    with started(data_dir, "empty, after a clean stop") as (server, found):
        assert found["seconds"] < START_S
        assert found["bytes"] < IDLE_BYTES
        assert found["descriptors"] < IDLE_DESCRIPTORS
        begun = time.monotonic()
        ask_each(server.port, "/topics/t{}/records", {"records": [{"value": "x"}]})
        posted_s = time.monotonic() - begun
        ask_each(server.port, "/consumer/g{0}/topics/t{0}/offset", {"offset": 1})
        print(f"one post to each: {posted_s:.1f} s, one commit of each: {time.monotonic() - begun - posted_s:.1f} s")
        assert rest(server)["bytes"] < IDLE_BYTES
        assert server.stop() == 0
    with started(data_dir, "a record in each, after a clean stop") as (server, found):
        assert found["seconds"] < START_S
        server.kill()
    with started(data_dir, "a record in each, after kill -9") as (server, found):
        assert found["seconds"] < START_S
        assert found["bytes"] < IDLE_BYTES
        for number in (0, MANY // 2, MANY - 1):
            assert server.poll(f"t{number}", from_offset=0)["high_water_mark"] == 1
            assert server.ask("GET", f"/consumer/g{number}/topics/t{number}/offset").json()["committed_offset"] == 1


@contextmanager
def started(data_dir: Path, when: str) -> Iterator[tuple[Process, dict[str, float]]]:
    """A server, and what its start and rest take: seconds from no process to one that listens, and `rest`."""
    begun = time.monotonic()
    with serving(data_dir) as server:
        found = {"seconds": time.monotonic() - begun} | rest(server)
        opened = server.events("listening")[0]["opened_in_s"]
        print(
            f"\n{when}: started in {found['seconds']:.1f} s, {opened:.1f} of them opening;"
            f" {found['bytes'] / 1e6:.0f} MB, {found['descriptors']} descriptors"
        )
        yield server, found


def rest(server: Process) -> dict[str, float]:
    """Resident bytes and descriptors, a moment later."""
    time.sleep(1)
    return {
        "bytes": int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir(f"/proc/{server.pid}/fd")),
    }


def ask_each(port: int, path: str, body: object) -> None:
    """The same request for each number, some at once; all must be answered with 200."""
    with Connection(port) as connection:
        for first in range(0, MANY, IN_FLIGHT):
            numbers = range(first, min(first + IN_FLIGHT, MANY))
            connection.send(b"".join(connection.encode("POST", path.format(number), body) for number in numbers))
            for number in numbers:
                answer = connection.receive()
                assert answer.status == 200, (number, answer)
