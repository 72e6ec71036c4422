"""A consumer group and a topic it reads, on a running server, and plain ways to ask about the two."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

from tests.server.running import JSON, Answer, Process

_fresh = itertools.count()


class At(NamedTuple):
    """A group and a topic of five records, of a server."""

    server: Process
    group: str
    topic: str

    @property
    def path(self) -> str:
        return f"/consumer/{self.group}/topics/{self.topic}/offset"

    def commit(self, offset: object, **more: object) -> Answer:
        body = json.dumps({"offset": offset, **more}).encode()
        return self.server.ask("POST", self.path, body, JSON)

    def reset(self, **body: object) -> Answer:
        return self.server.ask("POST", f"{self.path}/reset", json.dumps(body).encode(), JSON)

    def stands(self) -> dict[str, Any]:
        answer = self.server.ask("GET", self.path)
        assert answer.status == 200, answer
        told: dict[str, Any] = answer.json()
        return told

    def committed(self) -> int:
        offset: int = self.stands()["committed_offset"]
        return offset


def fresh(server: Process) -> At:
    number = next(_fresh)
    at = At(server, f"group-{number}", f"read-{number}")
    server.ask("POST", f"/consumer/{at.group}")
    server.post(at.topic, "0", "1", "2", "3", "4")
    return at
