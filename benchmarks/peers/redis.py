"""Redis Streams: XADD, XREAD; appendfsync everysec for periodic, always for always, no file for memory."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

from benchmarks.load import Load
from benchmarks.machine import scratch
from benchmarks.peers import Durability, value
from benchmarks.processes import Server, free_port, running

STREAM = b"news"
PERSISTENCE = {
    "memory": ["--appendonly", "no"],
    "periodic": ["--appendonly", "yes", "--appendfsync", "everysec"],
    "always": ["--appendonly", "yes", "--appendfsync", "always"],
}


class Redis:
    name = "Redis Streams"

    def missing(self) -> str:
        return "" if shutil.which("redis-server") else "redis-server is not installed (make bench-peers)"

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        port = free_port()
        with scratch() as directory:
            # no rewriting of its file while it is measured
            flags = ["--save", "", "--auto-aof-rewrite-percentage", "0", *PERSISTENCE[durability]]
            command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), *flags]
            with running(command, port) as server:
                yield server

    def post(self, records: int, size: int) -> Load:
        return Load("resp", [command(b"XADD", STREAM, b"*", b"value", value(size)) * records], records, answers=records)

    def poll(self, offsets: list[int], records: int) -> Load:
        """Of a stream that `fill` made, whose ids are the offsets plus one."""
        count = b"%d" % records
        asked = [command(b"XREAD", b"COUNT", count, b"STREAMS", STREAM, b"0-%d" % offset) for offset in offsets]
        return Load("resp", asked, records)

    def fill(self, server: Server, records: int, size: int) -> None:
        adds = (command(b"XADD", STREAM, b"0-%d" % (offset + 1), b"value", value(size)) for offset in range(records))
        piped = ["redis-cli", "-p", str(server.port), "--pipe"]
        subprocess.run(piped, input=b"".join(adds), stdout=subprocess.DEVNULL, check=True)

    def stored(self, server: Server) -> int:
        asked = ["redis-cli", "-p", str(server.port), "XLEN", STREAM.decode()]
        return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
