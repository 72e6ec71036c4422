"""What FlashQ is measured against, a file each: servers, and logs inside a program."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.load import Load
from benchmarks.processes import Server

Durability = Literal["memory", "periodic", "always"]
"""What an acknowledgement means: held in the process, written and synced later, or synced."""


class Peer(Protocol):
    """A server that takes records and gives them back."""

    name: str

    def missing(self) -> str:
        """Why it cannot run here, or ""."""

    def serving(self, durability: Durability) -> AbstractContextManager[Server]:
        """A server of its own on an empty directory, with a log ready to post to."""

    def post(self, records: int, size: int) -> Load:
        """Requests that each append so many records of `size` bytes, and are answered as `durability` says."""

    def poll(self, offsets: list[int], records: int) -> Load:
        """Requests that each read so many records, from each of these offsets in turn."""

    def stored(self, server: Server) -> int | None:
        """How many records the log has; None from one that keeps nothing."""


class EmbeddedPeer(Protocol):
    """A log in this process, in files."""

    name: str

    def missing(self) -> str:
        """Why it cannot run here, or ""."""

    def opened(self, directory: Path, durability: Durability) -> AbstractContextManager[EmbeddedLog]:
        """An empty log in the directory."""


class EmbeddedLog(Protocol):
    def append(self, values: list[bytes]) -> None:
        """One batch, all or nothing."""

    def read(self, offset: int, count: int) -> int:
        """Records read from the offset on: at most `count`."""


def value(size: int) -> bytes:
    """The content of every record measured: text, the same for all."""
    return (b"The quick brown fox jumps over the lazy dog 0123456789. " * (size // 56 + 1))[:size]
