"""FlashQ over HTTP."""

from __future__ import annotations

import contextlib
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.load import Load
from benchmarks.machine import scratch
from benchmarks.peers import Durability, value
from benchmarks.processes import Server, free_port, running

TOPIC = "news"
PATH = f"/topics/{TOPIC}/records"


class FlashQServer:
    name = "FlashQ"

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def serving(self, durability: Durability, data_dir: Path | None = None) -> Iterator[Server]:
        port = free_port()
        with scratch() as directory:
            flags = ["--port", str(port), "--log-level", "warning"]
            if durability == "memory":
                flags += ["--storage", "memory"]
            else:
                flags += ["--data-dir", str(data_dir or directory / "data"), "--sync-mode", durability]
            with running([sys.executable, "-m", "flashq", "serve", *flags], port) as server:
                if data_dir is None:
                    call(server, "PUT", f"/topics/{TOPIC}", b"{}")
                yield server

    def post(self, records: int, size: int) -> Load:
        return Load("http", [request("POST", PATH, json_records(records, size))], records)

    def post_lines(self, records: int, size: int) -> Load:
        """The same as NDJSON."""
        lines = (b'{"value":"' + value(size) + b'"}\n') * records
        return Load("http", [request("POST", PATH, lines, "application/x-ndjson")], records)

    def poll(self, offsets: list[int], records: int) -> Load:
        asked = [f"{PATH}?from_offset={offset}&max_records={records}&max_bytes=67108864" for offset in offsets]
        return Load("http", [request("GET", path) for path in asked], records)

    def stored(self, server: Server) -> int:
        return int(call(server, "GET", f"/topics/{TOPIC}")["high_water_mark"])


def json_records(records: int, size: int) -> bytes:
    return msgspec.json.encode({"records": [{"value": value(size).decode()}] * records})


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def call(server: Server, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, method=method)
    asked.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found: dict[str, Any] = msgspec.json.decode(answer.read())
        return found
