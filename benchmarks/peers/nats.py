"""NATS JetStream: publish with acknowledgement, direct get; a memory store for memory, a file store else, with
sync_interval always for always and its default (2 minutes) for periodic."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import CONNECTION, Load
from benchmarks.machine import scratch
from benchmarks.peers import Durability, value
from benchmarks.processes import Server, free_port, running

STREAM, SUBJECT, INBOX = "NEWS", b"news", b"_INBOX." + CONNECTION
CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
HELLO = CONNECT + b"SUB " + INBOX + b" 1\r\n"


class NATS:
    name = "NATS JetStream"

    def missing(self) -> str:
        return "" if _program() else "nats-server is not installed (make bench-peers)"

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        port = free_port()
        with scratch() as directory:
            sync = "sync_interval: always" if durability == "always" else ""
            config = directory / "nats.conf"
            config.write_text(
                f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\njetstream {{ store_dir: "{directory}"\n {sync} }}\n'
            )
            with running([str(_program()), "-c", str(config)], port) as server:
                storage = "memory" if durability == "memory" else "file"
                asked = {"name": STREAM, "subjects": [SUBJECT.decode()], "storage": storage, "allow_direct": True}
                call(server, f"$JS.API.STREAM.CREATE.{STREAM}", asked)
                yield server

    def post(self, records: int, size: int) -> Load:
        one = publish(SUBJECT, value(size), INBOX)
        return Load("nats", [one * records], records, answers=records, hello=HELLO)

    def poll(self, offsets: list[int], records: int) -> Load:
        """A batch of direct gets: the messages, and one that says there are no more."""
        subject = f"$JS.API.DIRECT.GET.{STREAM}".encode()
        asked = [{"seq": offset + 1, "batch": records, "next_by_subj": SUBJECT.decode()} for offset in offsets]
        requests = [publish(subject, json.dumps(body).encode(), INBOX) for body in asked]
        return Load("nats", requests, records, answers=records + 1, hello=HELLO)

    def stored(self, server: Server) -> int:
        return int(call(server, f"$JS.API.STREAM.INFO.{STREAM}")["state"]["messages"])


def publish(subject: bytes, content: bytes, reply: bytes = b"") -> bytes:
    return b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(content), content)


def call(server: Server, subject: str, body: object = None) -> dict[str, Any]:
    """Ask JetStream's API. Raises RuntimeError if it refuses."""
    content = b"" if body is None else json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(CONNECT + b"SUB answer 1\r\n" + publish(subject.encode(), content, b"answer"))
        stream = connection.makefile("rb")
        for line in stream:
            if line.startswith(b"MSG"):
                answer: dict[str, Any] = json.loads(stream.read(int(line.split()[-1])))
                if "error" in answer:
                    raise RuntimeError(f"{subject}: {answer['error']}")
                return answer
    raise RuntimeError(f"{subject}: the connection ended")


def _program() -> Path | None:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    return Path(found) if found else None
