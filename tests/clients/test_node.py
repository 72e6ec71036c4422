"""Node's fetch, and EventSource as browsers have it (the npm package `eventsource`)."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.clients.conftest import NODE
from tests.server.running import Process


def test_fetch_posts_polls_and_commits(node: str, server: Process) -> None:
    done = subprocess.run(
        [node, "fetch.mjs", f"http://localhost:{server.port}"], cwd=NODE, capture_output=True, timeout=30, check=True
    )
    told: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert {name: each["status"] for name, each in told.items()} == dict.fromkeys(told, 200) | {"refused": 400}
    assert [each["offset"] for each in json.loads(told["posted"]["text"])["offsets"]] == [0, 1]
    assert told["posted"]["durability"] in ("fsynced", "memory")
    assert json.loads(told["lines"]["text"]) == {"first_offset": 2, "last_offset": 3, "count": 2}
    records = json.loads(told["polled"]["text"])["records"]
    assert [record["value"] for record in records] == ["grüße 🙂", "", "a", "b"]
    assert [json.loads(line) for line in told["exported"]["text"].splitlines()] == records
    assert told["exported"]["type"] == "application/x-ndjson"
    assert [record["offset"] for record in json.loads(told["resumed"]["text"])["records"]] == [3]


class Follower:
    """`follow.mjs` on a stream, line by line."""

    def __init__(self, node: str, server: Process, path: str, count: int) -> None:
        target = f"http://localhost:{server.port}{path}"
        self._process = subprocess.Popen(
            [node, "follow.mjs", target, str(count)], cwd=NODE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it has ended"
        told: dict[str, Any] = json.loads(line)
        return told

    def ended(self) -> int:
        return self._process.wait(10)


def test_an_event_source_gets_what_is_there_and_what_comes(node: str, server: Process) -> None:
    server.post("events", "a", {"value": "line\nbreak\r🙂", "key": "k"})
    with Follower(node, server, "/topics/events/stream", 4) as follower:
        assert follower.next() == {"open": True}
        assert [follower.next() for _ in range(2)] == [
            {"id": str(record["offset"]), "record": record} for record in server.poll("events")["records"]
        ]
        server.post("events", "c")
        assert follower.next()["record"]["value"] == "c"
        server.post("events", "d")
        assert follower.next()["id"] == "3"
        assert follower.ended() == 0


def test_an_event_source_goes_on_where_it_was_after_the_connection_broke(node: str, server: Process) -> None:
    server.post("broken", *[str(at) for at in range(10)])
    with Follower(node, server, "/topics/broken/stream?from_offset=7", 4) as follower:
        assert follower.next() == {"open": True}
        assert [follower.next()["id"] for _ in range(3)] == ["7", "8", "9"]
        assert server.ask("DELETE", "/topics/broken").status == 204  # ends the stream; the client comes again
        server.post("broken", *[str(at) for at in range(11)])
        while (told := follower.next()) == {"open": True}:
            pass
        assert told["id"] == "10"


def test_an_event_source_follows_a_group_from_its_commit(node: str, server: Process) -> None:
    server.post("grouped", "a", "b", "c")
    server.ask("POST", "/consumer/follower")
    body = json.dumps({"offset": 1}).encode()
    headers = {"Content-Type": "application/json"}
    assert server.ask("POST", "/consumer/follower/topics/grouped/offset", body, headers).status == 200
    with Follower(node, server, "/consumer/follower/topics/grouped/stream", 2) as follower:
        assert follower.next() == {"open": True}
        assert [follower.next()["id"] for _ in range(2)] == ["1", "2"]
