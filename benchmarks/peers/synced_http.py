"""The simplest server over HTTP that keeps what it gets, to compare with: the bare one of `http_limit`, which appends
the bodies of one turn of its loop to a file with one write and one fdatasync, and answers them. No limit: its loop
stands still meanwhile, and each sync has to make the file longer.

Arguments: the port, the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator

import uvloop

from benchmarks.machine import scratch
from benchmarks.peers import Durability, http_limit
from benchmarks.processes import Server, free_port, running


class SyncedHTTP(http_limit.HTTPLimit):
    name = "bare httptools, synced"

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        assert durability == "always"
        port = free_port()
        with scratch() as directory:
            command = [sys.executable, "-m", "benchmarks.peers.synced_http", str(port), str(directory / "bodies")]
            with running(command, port) as server:
                yield server


class Connection(http_limit.Connection):
    def __init__(self, syncer: Syncer) -> None:
        self.syncer = syncer

    def on_message_complete(self) -> None:
        self.syncer.add(self, self.body)


class Syncer:
    """The requests of one turn of the loop."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.waiting: list[tuple[Connection, bytes]] = []

    def add(self, connection: Connection, body: bytes) -> None:
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.end)
        self.waiting.append((connection, body))

    def end(self) -> None:
        waiting, self.waiting = self.waiting, []
        data = b"".join([body for _, body in waiting])
        assert os.write(self.descriptor, data) == len(data)
        os.fdatasync(self.descriptor)
        for connection, body in waiting:
            connection.answer(body)


async def main(port: int, path: str) -> None:
    syncer = Syncer(path)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(syncer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
