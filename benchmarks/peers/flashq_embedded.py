"""FlashQ inside this program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import Durability
from flashq import FlashQ

TOPIC = "news"


class FlashQEmbedded:
    name = "FlashQ"

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def opened(self, directory: Path, durability: Durability) -> Iterator[FlashQLog]:
        assert durability != "memory"
        with FlashQ.open(directory, sync_mode=durability) as flashq:
            yield FlashQLog(flashq)


class FlashQLog:
    def __init__(self, flashq: FlashQ) -> None:
        self._flashq = flashq

    def append(self, values: list[bytes]) -> None:
        self._flashq.post_records(TOPIC, values)

    def read(self, offset: int, count: int) -> int:
        return len(self._flashq.poll_records(TOPIC, from_offset=offset, count=count))
