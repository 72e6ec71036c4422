"""One client that has a server do everything that changes files once, and goes on whatever is refused.

Creating topics and groups, posting and rolling, commits and a compaction, retention, deleting, creating again.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.crash.checker import check
from tests.crash.history import HistoryFile, read_history
from tests.crash.producers import PostToSend, Producer, Signals, Target
from tests.crash.records import Identity, make_record
from tests.crash.rounds import read_back
from tests.crash.server_process import ServerFailedError, ServerProcess
from tests.crash.things import Group, Thing, Topic, change, look
from tests.crash.violations import Violation
from tests.crash.wire import Connection, ConnectionLostError

KEPT, SWEPT = "kept", "swept"
RUN = "story"
_METADATA = "m" * 4000
_COMMITS_TO_COMPACTION = 4  # of 4,000 bytes, where a group's file is compacted at 8 KiB
_RETENTION = {"retention_bytes": 500, "segment_bytes": 1024}
_SEALED_POSTS = 4  # two segments of two posts: more than retention keeps
_RETENTION_TIMEOUT_S = 1.0


class Story:
    """The story of one data directory: told to a server that fails, checked with one that does not."""

    def __init__(self, directory: Path) -> None:
        self._paths = {topic: directory / f"{topic}.jsonl" for topic in (KEPT, SWEPT)}
        self._histories = {topic: HistoryFile(path) for topic, path in self._paths.items()}
        self._things: list[Thing] = [Group("readers", KEPT, _METADATA), Group("gone", KEPT), Topic("gone")]
        self._sequences = dict.fromkeys(self._paths, 0)
        self.refused = 0
        self.has_swept = False
        """Whether retention has removed all that it may."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for history in self._histories.values():
            history.close()

    def tell(self, port: int) -> None:
        """Raises ConnectionLostError when the server is gone."""
        readers, gone_group, gone_topic = self._things
        with Connection(port) as connection:
            self._change(connection, gone_topic, 0)
            for group in (readers, gone_group):
                self._change(connection, group, 0)
            for number in range(1, 7):
                self._post(connection, KEPT, records=1 + number % 3, is_keyed=number % 2 == 0)
            for number in range(_COMMITS_TO_COMPACTION):
                self._change(connection, readers, 1 + number)
                self._change(connection, gone_group, 6 - number)
            self._change(connection, gone_topic, None)
            self._change(connection, gone_group, None)
            for _ in range(_SEALED_POSTS + 1):
                self._post(connection, SWEPT, records=2)
            self._sweep(connection)
            for thing in (gone_topic, gone_group):
                if look(connection, self._histories[KEPT], thing) is None:  # not so if the fault hit its deletion
                    self._change(connection, thing, 0)
            self._post(connection, KEPT, records=2)
            self._post(connection, SWEPT, records=1)

    def server_is_gone(self) -> None:
        """What it has not done by now, it never will."""
        for history in self._histories.values():
            history.server_killed()

    def check(self, server: ServerProcess) -> list[Violation]:
        """Everything against what was told. Raises ServerFailedError when the server does not start in good health."""
        health = server.start()
        if health.get("status") != "healthy":
            raise ServerFailedError(f"not healthy after a start: {health}\n{server.output_tail()}")
        violations: list[Violation] = []
        with Connection(server.port) as connection:
            for thing in self._things:
                look(connection, self._histories[KEPT], thing)
            for topic, history in self._histories.items():
                about = connection.request("GET", f"/topics/{topic}").json()
                start = about.get("log_start_offset", 0) if topic == SWEPT else 0
                stored = read_back(server.port, topic, history, random.Random(0), start)
                violations += check(read_history(self._paths[topic]), stored, log_start=start)
                self._post(connection, topic, records=1)
        server.stop()
        return violations

    def _post(self, connection: Connection, topic: str, *, records: int, is_keyed: bool = False) -> None:
        sequence = self._sequences[topic] = self._sequences[topic] + 1
        made = [make_record(Identity(RUN, topic, sequence, at, records), 300) for at in range(records)]
        target = Target(0, topic, RUN, self._histories[topic])
        producer = Producer(target, topic, RUN, Signals(lambda: None))
        try:
            self.refused += not producer.post(connection, PostToSend(topic, sequence, made, is_keyed=is_keyed))
        except ConnectionLostError:
            producer.lose()
            raise

    def _change(self, connection: Connection, thing: Thing, value: int | None) -> None:
        self.refused += not change(connection, self._histories[KEPT], thing, value)

    def _sweep(self, connection: Connection) -> None:
        """Have retention remove the sealed segments; the fault may keep it from that."""
        path = f"/topics/{SWEPT}"
        if connection.request("PUT", path, _RETENTION).status != 200:
            return
        deadline_s = time.monotonic() + _RETENTION_TIMEOUT_S
        while not self.has_swept and time.monotonic() < deadline_s:
            time.sleep(0.01)
            about = connection.request("GET", path).json()
            self.has_swept = about.get("log_start_offset") == 2 * _SEALED_POSTS
