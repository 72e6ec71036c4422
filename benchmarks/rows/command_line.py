"""The commands that move records, as whole processes with the start of the interpreter, against a bare client on one
connection to the same server. It sends bodies of 1,000 records made before and throws pages of 10,000 away,
which is what the server itself does with batches."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import LOAD_CORES, on_cores, scratch
from benchmarks.measure import Effort, Figures, Row, compare, interleave
from benchmarks.peers import value
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.processes import Server

RECORDS = 300_000
BATCH, PAGE = 1000, 10_000
NDJSON = "application/x-ndjson"
BARE = "a bare client"
WANTED = 0.4


def rows(effort: Effort) -> Iterator[Row]:
    """Posts and reads of all records, each to or from a topic of its own."""
    records = int(RECORDS * effort.scale) // BATCH * BATCH
    with scratch() as directory, FlashQServer().serving("always") as server:
        commands = _Commands(server, directory, records)
        pairs = {
            "produce": ("produce --file", commands.produce, commands.post_bare),
            "consume": ("consume --output json", commands.consume, commands.read_bare),
            "export": ("export", commands.export, commands.read_bare),
            "import": ("import", commands.import_again, commands.post_bare),
        }
        for name, (shown, command, bare) in pairs.items():
            yield compare(
                f"command/{name}",
                f"flashq {shown}, {records:,} records",
                "records/s",
                interleave({"FlashQ": command, BARE: bare}, effort),
                wanted={BARE: WANTED},
            )


class _Commands:
    """One round each, in records a second."""

    def __init__(self, server: Server, directory: Path, records: int) -> None:
        self._server, self._records = server, records
        self._lines, self._export = directory / "records.ndjson", directory / "export.ndjson"
        line = b'{"key":"user123","value":"' + value(100) + b'"}\n'
        self._body = line * BATCH
        self._lines.write_bytes(line * records)
        self._topics = 0
        self.produce()
        self._filled = self._topic

    def produce(self) -> Figures:
        return self._run("produce", self._new_topic(), "--file", str(self._lines))

    def consume(self) -> Figures:
        return self._run("consume", self._filled, "--output", "json")

    def export(self) -> Figures:
        return self._run("export", self._filled, "--file", str(self._export), "--overwrite")

    def import_again(self) -> Figures:
        """What `export` wrote, so it goes first."""
        return self._run("import", self._new_topic(), "--file", str(self._export))

    def post_bare(self) -> Figures:
        path = f"/topics/{self._new_topic()}/records"
        began = time.perf_counter()
        with on_cores(LOAD_CORES):
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
            for _ in range(self._records // BATCH):
                connection.request("POST", path, self._body, {"Content-Type": NDJSON})
                _read(connection)
            connection.close()
        return {"rate": self._records / (time.perf_counter() - began)}

    def read_bare(self) -> Figures:
        offset = 0
        began = time.perf_counter()
        with on_cores(LOAD_CORES):
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
            while offset < self._records:
                path = f"/topics/{self._filled}/records?from_offset={offset}&max_records={PAGE}"
                connection.request("GET", path, headers={"Accept": NDJSON})
                offset = int(_read(connection).headers["X-Next-Offset"])
            connection.close()
        return {"rate": self._records / (time.perf_counter() - began)}

    @property
    def _topic(self) -> str:
        return f"t{self._topics}"

    def _new_topic(self) -> str:
        self._topics += 1
        return self._topic

    def _run(self, *arguments: str) -> Figures:
        """Also the most memory it held."""
        command = [sys.executable, "-m", "flashq", *arguments, "--server", f"http://127.0.0.1:{self._server.port}"]
        began = time.perf_counter()
        with on_cores(LOAD_CORES):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        return {"rate": self._records / took, "peak_kib": usage.ru_maxrss}


def _read(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {answer.reason}")
    return answer
