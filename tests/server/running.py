"""A real server as a subprocess, and plain ways to talk to it and to end it.

Only the process started here is ever signalled, by its own pid, and none outlives its context. What it says on
standard error is kept: unless a test expects otherwise, a traceback or an internal error in it fails the test.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.crash.wire import Connection

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
SCRIPT = (str(Path(sys.executable).with_name("flashq")),)
WITHOUT_UVLOOP = (
    sys.executable,
    "-c",
    "import sys; sys.modules['uvloop'] = None; from flashq.cli.main import main; sys.exit(main())",
)
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    until: re.Pattern[str] | None = None,
) -> Answer:
    """One request on a connection of its own; the answer is read to its end, or `until` something has come."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        read = answer.read() if until is None else b""
        while until is not None and not until.search(read.decode()) and (more := answer.read1()):
            read += more
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, read)
    finally:
        connection.close()


class Process:
    """A `flashq serve` that may be starting, serving or gone. Its standard error is in `log_path`."""

    def __init__(self, arguments: Sequence[str], log_path: Path, environ: Mapping[str, str], command: Sequence[str]):
        self.log_path = log_path
        self.port = 0
        # No setting is left to the environment of the tests.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHQ_")}
        with log_path.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "serve", "--port", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, **environ},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """What it has logged so far: every whole line, or those of one event."""
        lines = [line for line in self.log().splitlines(keepends=True) if line.endswith("}\n")]
        found = [json.loads(line) for line in lines]
        return found if event is None else [each for each in found if each["event"] == event]

    def wait_until_listening(self) -> dict[str, Any]:
        """The facts of the line that says it listens."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (said := self.events("listening")):
            assert self.is_running, f"ended by itself with {self._process.returncode}\n{self.log()}"
            assert time.monotonic() < deadline, f"does not listen after {START_TIMEOUT_S} s\n{self.log()}"
            time.sleep(0.01)
        self.port = int(said[0]["address"].split()[0].rpartition(":")[2])
        return said[0]

    # -- talking to it

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        until: re.Pattern[str] | None = None,
    ) -> Answer:
        return ask(self.port, method, target, body, headers, until=until)

    def connect(self) -> Connection:
        """A keep-alive connection that can have several requests in flight."""
        return Connection(self.port)

    def post(self, topic: str, *records: object) -> list[dict[str, Any]]:
        """Offset and timestamp of each record; a text stands for a record with that value. It must succeed."""
        answer = self.try_post(topic, *records)
        assert answer.status == 200, answer
        offsets: list[dict[str, Any]] = answer.json()["offsets"]
        return offsets

    def try_post(self, topic: str, *records: object) -> Answer:
        body = [{"value": each} if isinstance(each, str) else each for each in records]
        return self.ask("POST", f"/topics/{topic}/records", json.dumps({"records": body}).encode(), JSON)

    def poll(self, topic: str, **parameters: object) -> dict[str, Any]:
        """The answer to a read, which must succeed."""
        answer = self.ask("GET", f"/topics/{topic}/records?{urlencode(parameters)}".removesuffix("?"))
        assert answer.status == 200, answer
        polled: dict[str, Any] = answer.json()
        return polled

    def read_all(self, topic: str) -> list[dict[str, Any]]:
        """Every record of a topic, in order."""
        records: list[dict[str, Any]] = []
        while (polled := self.poll(topic, from_offset=len(records), max_records=10_000))["records"]:
            records += polled["records"]
        return records

    # -- ending it

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit code, within the time."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


@contextmanager
def flashq(
    *arguments: str, log: Path, environ: Mapping[str, str] | None = None, command: Sequence[str] = SCRIPT
) -> Iterator[Process]:
    """`flashq serve` with these arguments, perhaps one that will not start; killed at the end if still there."""
    process = Process(arguments, log, environ or {}, command)
    try:
        yield process
    finally:
        if process.is_running:
            process.kill()


@contextmanager
def serving(
    data_dir: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] = SCRIPT,
) -> Iterator[Process]:
    """A server that listens. Unless the test has ended it, it must stop on SIGTERM with 0; its log must be clean."""
    log = data_dir.with_name(f"{data_dir.name}-{time.monotonic_ns()}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with flashq("--data-dir", str(data_dir), *arguments, log=log, environ=environ, command=command) as server:
        server.wait_until_listening()
        yield server
        if server.is_running:
            assert server.stop() == 0, server.log()
        assert_clean(server)


@contextmanager
def descriptors(needed: int) -> Iterator[None]:
    """The tests may open so many inside; where that is forbidden, the test is skipped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this process may open {hard} descriptors, and {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_clean(server: Process) -> None:
    """It has logged whole lines of JSON, and no mistake of its own."""
    said = server.log()
    assert "Traceback" not in said, said
    assert "internal_error" not in said, said
    assert len(server.events()) == len(said.splitlines()), said
