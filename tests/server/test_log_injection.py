"""Hostile requests over a raw socket: the log has one event a line all the same, and nothing steers a terminal."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.server.running import SCRIPT, START_TIMEOUT_S, Process, flashq

TALKATIVE = (
    sys.executable,
    "-c",
    """
import sys
from urllib.parse import unquote
from flashq.cli.main import main
from flashq.http.router import Router
from flashq.logging import get_logger

log, handle = get_logger("flashq.http"), Router.handle

def tell(self, request):
    path, query = unquote(request.path), unquote(request.query)
    log.debug("asked", path=path, query=query, headers=request.headers, **{path: "as a name"})
    if query.startswith("boom"):
        raise ValueError(f"{query} {request.headers[0][1].decode('latin-1')}")
    return handle(self, request)

Router.handle = tell
sys.exit(main())
""",
)
"""A server that logs all it is asked, in events and in tracebacks: by itself it logs next to nothing of a request."""

FORGED = b"timestamp=1 level=error event=forged"
HOSTILE = {
    "line ends": b"a\r\n" + FORGED,
    "a line feed": b"a\n" + FORGED,
    "a carriage return": b"a\r" + FORGED,
    "a folded line": b"a\r\n " + FORGED,
    "colours": b"\x1b[31m" + FORGED + b"\x1b[0m",
    "the title of the window": b"\x1b]0;owned\x07",
    "a control sequence of one byte": b"\x9b31m" + FORGED,
    "next line": b"a\x85" + FORGED,
    "next line in UTF-8": "a\u0085".encode() + FORGED,
    "separators of lines and paragraphs": "a\u2028b\u2029".encode() + FORGED,
    "right to left": "\u202e\u2066".encode() + FORGED,
    "NUL, backspace and delete": b"a\0\x08\x7f",
    "quotes and backslashes": b'a" level="error" event="forged\\',
    "the end of a JSON object": b'"}\r\n{"event":"forged"}',
    "what is not UTF-8": b"\xff\xfe\xc3",
    "very long": b"x" * 7000 + b"\x1b[2J",
}
START = b"GET /topics HTTP/1.1\r\nHost: localhost\r\n"
PLACES = {
    "path": b"GET /topics/%(x)s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "query": b"GET /topics?%(x)s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "Host": b"GET /topics HTTP/1.1\r\nHost: %(x)s\r\n\r\n",
    "Host where the server fails": b"GET /topics?boom HTTP/1.1\r\nHost: %(x)s\r\n\r\n",
    "query where the server fails": b"GET /topics?boom%(x)s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "Origin": START + b"Origin: %(x)s\r\n\r\n",
    "a header": START + b"User-Agent: %(x)s\r\n\r\n",
    "a header's name": START + b"%(x)s: a\r\n\r\n",
    "the content type": START + b"Content-Type: %(x)s\r\n\r\n",
    "the token": START + b"Authorization: %(x)s\r\n\r\n",
}
STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
CONSOLE = re.compile(r'timestamp=\S+ level=\w+ event=\w+(?: [\w.-]+=(?:"(?:[^"\\]|\\.)*"|[^\s"]*))*')


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("command", [SCRIPT, TALKATIVE], ids=["as it is", "talkative"])
def test_hostile_requests_leave_one_event_a_line_and_nothing_a_terminal_acts_upon(
    command: tuple[str, ...], log_format: str, tmp_path: Path
) -> None:
    arguments = ("--storage", "memory", "--log-level", "debug", "--log-format", log_format)
    with flashq(*arguments, log=tmp_path / "log", command=command) as server:
        server.port = port_of(server)
        for place in PLACES.values():
            for hostile in HOSTILE.values():
                for sent in (hostile, percent(hostile)):
                    assert talk(server.port, place % {b"x": sent}).startswith(b"HTTP/1.1 ")
        assert server.ask("GET", "/health").status == 200
        assert server.stop() == 0
    lines = harmless_lines(server.log_path.read_bytes(), log_format)
    asked, failed = (sum(event in line[:100] for line in lines) for event in ("asked", "internal_error"))
    if command is TALKATIVE:
        assert asked > len(PLACES) * len(HOSTILE), "the percent encodings alone are as many"
        assert failed > 2 * len(HOSTILE)
        for escaped in ("forged", "\\x1b[31m" if log_format == "console" else "\\u001b[31m"):
            assert escaped in "".join(lines)
    else:
        assert (asked, failed, len(lines)) == (0, 0, 3)  # listening, stopping, stopped


def harmless_lines(said: bytes, log_format: str) -> list[str]:
    """The lines, each of them one event."""
    assert said.endswith(b"\n")
    text = said.decode("utf-8")
    lines = text.removesuffix("\n").split("\n")
    for line in lines:
        assert not STEERS.search(line), line[:500]
        assert CONSOLE.fullmatch(line) if log_format == "console" else "event" in json.loads(line), line[:500]
        assert "event=forged" not in line[:60]
    assert text.splitlines() == lines
    return lines


def percent(raw: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in raw[:1000])


def port_of(server: Process) -> int:
    """Where it listens, in either format."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while (said := re.search(r"http://127\.0\.0\.1:(\d+)", server.log())) is None:
        assert server.is_running, server.log()
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.01)
    return int(said[1])


def talk(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(raw)
        return client.recv(65536)
