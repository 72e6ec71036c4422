"""A small log server with faults on request, to prove that the harness sees what it is there to see.

    python -m tests.crash.fake_server --data-dir DIR [--fault NAME] --port 8080

Honest without a fault: a line of JSON a post, one `write`, then the answer; a line cut short is dropped at the next
start. The faults begin after `HONEST_POSTS` posts, so that a client always gets somewhere:

    answer_first   acknowledges and never writes
    show_first     shows a post to readers, and never writes or answers it
    split          writes only the first record of a post, and never answers it
    restamp        gives every record it finds at start a new timestamp
    reorder        puts the two newest posts it finds at start in the wrong order
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.crash.wire import encode_answer

FAULTS = ("answer_first", "show_first", "split", "restamp", "reorder")
HONEST_POSTS = 20
StoredPost = list[dict[str, Any]]


class FakeLog:
    """One topic's records, in memory and in a file of one post a line."""

    def __init__(self, path: Path, fault: str) -> None:
        self._fault = fault
        self._lock = threading.Lock()
        self.records: StoredPost = []
        self._latest = ""
        self._posts = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            del lines[-1]
        os.ftruncate(self._descriptor, sum(map(len, lines)))
        posts: list[StoredPost] = [json.loads(line) for line in lines]
        if fault == "reorder" and len(posts) > 1:
            posts[-2:] = posts[:-3:-1]
        for post in posts:
            self.records += self._stamp(post, again=fault in ("restamp", "reorder"))

    def append(self, sent: list[dict[str, Any]]) -> StoredPost | None:
        """The records as stored; None when a fault keeps the answer back."""
        with self._lock:
            self._posts += 1
            fault = self._fault if self._posts > HONEST_POSTS else ""
            post = self._stamp(sent[:1] if fault == "split" else sent)
            if fault not in ("answer_first", "show_first"):
                os.write(self._descriptor, json.dumps(post).encode() + b"\n")
            self.records += post
            return None if fault in ("show_first", "split") else post

    def _stamp(self, sent: list[dict[str, Any]], *, again: bool = True) -> StoredPost:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        self._latest = max(self._latest, now)
        return [
            {
                "key": record.get("key"),
                "value": record["value"],
                "headers": record.get("headers"),
                "offset": offset,
                "timestamp": self._latest if again else record["timestamp"],
            }
            for offset, record in enumerate(sent, start=len(self.records))
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    logs: dict[str, FakeLog]
    data_dir: Path
    fault: str
    lock: threading.Lock

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        if target.path == "/health":
            self._answer(200, {"status": "healthy"})
            return
        log = self._log(create=False)
        if log is None:
            self._answer(404, {"error": "topic_not_found", "message": "", "details": {}})
            return
        query = {name: int(values[0]) for name, values in parse_qs(target.query).items()}
        first, end = query.get("from_offset", 0), len(log.records)
        page = log.records[first : min(end, first + query.get("max_records", 100))]
        following = first + len(page)
        marks = {"next_offset": following, "high_water_mark": end, "lag": end - following, "log_start_offset": 0}
        self._answer(200, {"records": page, **marks})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self.path.startswith("/topics/"):
            self._answer(404, {"error": "not_found", "message": "", "details": {}})
            return
        sent = json.loads(body)["records"]
        if any(len((record.get("key") or "").encode()) > 1024 for record in sent):
            details = {"outcome": "not_applied"}
            self._answer(400, {"error": "validation_error", "message": "", "details": details})
            return
        log = self._log(create=True)
        post = log.append(sent) if log is not None else None
        if post is None:
            while True:
                time.sleep(60)  # until the kill
        self._answer(200, {"offsets": [{"offset": r["offset"], "timestamp": r["timestamp"]} for r in post]})

    def _log(self, *, create: bool) -> FakeLog | None:
        topic = urlsplit(self.path).path.split("/")[2]
        path = self.data_dir / f"{topic}.jsonl"
        with self.lock:
            if topic not in self.logs and (create or path.exists()):
                self.logs[topic] = FakeLog(path, self.fault)
            return self.logs.get(topic)

    def _answer(self, status: int, body: object) -> None:
        self.wfile.write(encode_answer(status, body))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--fault", choices=FAULTS, default="")
    arguments = parser.parse_args()
    arguments.data_dir.mkdir(parents=True, exist_ok=True)
    _Handler.logs, _Handler.lock = {}, threading.Lock()
    _Handler.data_dir, _Handler.fault = arguments.data_dir, arguments.fault
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), _Handler) as server:
        server.daemon_threads = True
        server.serve_forever()


def fake_command(data_dir: Path, *, fault: str = "") -> list[str]:
    """The command line of this server, all but the port."""
    chosen = ["--fault", fault] if fault else []
    return [sys.executable, "-m", "tests.crash.fake_server", "--data-dir", str(data_dir), *chosen]


if __name__ == "__main__":
    main()
