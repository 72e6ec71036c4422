"""`flashq serve` as a child process, on a free port of the loopback address."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flashq.client.client import Client

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
"""A server gives itself 10 s to stop."""


class Server:
    """A server with its data in a directory: it listens when the constructor returns, and is gone after `close`."""

    def __init__(self, directory: Path) -> None:
        """Raises RuntimeError, with what the server said, if it does not come up."""
        directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = directory / "data"
        self.log_path = directory / "server.log"
        self._clients = contextlib.ExitStack()
        self._process = self._start(directory)
        try:
            self.url = self._wait_until_listening()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def client(self, **options: Any) -> Client:
        """A client of this server, closed with it; `options` are those of `flashq.Client`."""
        return self._clients.enter_context(Client(self.url, **options))

    def close(self) -> None:
        """Close the clients and stop the server. Raises RuntimeError if it does not stop cleanly and in time."""
        self._clients.close()
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"the server did not stop within {STOP_TIMEOUT_S} s\n{self._said()}") from None
        if code != 0:
            raise RuntimeError(f"the server ended with {code}\n{self._said()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, directory: Path) -> subprocess.Popen[bytes]:
        # Settings of the environment are for another server than this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHQ_")}
        command = [sys.executable, "-m", "flashq", "serve", "--port", "0", "--data-dir", str(self.data_dir)]
        with self.log_path.open("wb") as output:
            return subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
                [*command, "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
            )

    def _wait_until_listening(self) -> str:
        """The URL it says it listens on."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            ended = self._process.poll() is not None
            for line in self._said().splitlines(keepends=True):
                if line[0] == "{" and line.endswith("}\n") and (said := json.loads(line))["event"] == "listening":
                    return str(said["address"])
            if ended or time.monotonic() > deadline:
                why = "ended by itself" if ended else f"does not listen after {START_TIMEOUT_S} s"
                raise RuntimeError(f"the server {why}\n{self._said()}")
            time.sleep(0.01)

    def _said(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")
