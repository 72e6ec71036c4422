"""`flashq produce --file` and `flashq consume --output json`, against a bare client on one connection to that server.

The bare client sends bodies of 1,000 records that are made before, and throws pages of 10,000 away as they come: what
the server itself does with batches. Times are of whole processes, start of the interpreter included.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.measure import Row, Series, interleave, median_ratio
from benchmarks.over_http import flashq_server

WANTED = 0.4
BATCH = 1000
PAGE = 10_000
RECORD_BYTES = 100
_LINE = b'{"key":"user%06d","value":"%s"}\n'
_NDJSON = "application/x-ndjson"


def rows(rounds: int, records: int) -> list[Row]:
    """Posts and reads of `records` in each round, every one of them to a topic of its own."""
    with tempfile.TemporaryDirectory() as directory, flashq_server("always") as url:
        whole, tenth = Path(directory, "records.ndjson"), Path(directory, "tenth.ndjson")
        _write(whole, records)
        _write(tenth, records // 10)
        with whole.open("rb") as file:
            bench = _Bench(url, records, b"".join(islice(file, BATCH)))
        posts = interleave({"bare": bench.post_bare, "ours": partial(bench.produce, whole)}, rounds)
        reads = interleave({"bare": bench.read_bare, "ours": bench.consume}, rounds)
        large = bench.peak_bytes
        bench.peak_bytes = {}
        bench.records = records // 10
        bench.produce(tenth)
        bench.consume()
        small = bench.peak_bytes
    found = [_row(f"flashq produce --file, {records:,} records", posts, records)]
    found.append(_row(f"flashq consume --output json, {records:,} records", reads, records))
    for name, peak in large.items():
        if not peak:
            continue
        text = f"{peak / 1e6:.0f} MB, ten times fewer {small[name] / 1e6:.0f} MB"
        found.append(Row(f"memory of flashq {name}", text, "wanted flat", small[name] / peak, 0.9))
    return found


def _row(what: str, series: dict[str, Series], records: int) -> Row:
    ours, bare = series["ours"], series["bare"]
    return Row(
        what,
        f"{ours.median:,.0f} records/s, {records / ours.median:.1f} s",
        f"bare client {bare.median:,.0f}/s",
        median_ratio(ours, bare),
        WANTED,
        ours.spread,
    )


def _write(path: Path, records: int) -> None:
    value = b"x" * (RECORD_BYTES - 10)
    with path.open("wb") as file:
        file.writelines(_LINE % (number % 1_000_000, value) for number in range(records))


class _Bench:
    """Rates of one round, in records a second. `peak_bytes`: the most that a command held, by its name."""

    def __init__(self, url: str, records: int, body: bytes) -> None:
        self.records = records
        self.peak_bytes: dict[str, int] = {}
        self._url = url
        self._body = body
        self._topics = 0

    def post_bare(self) -> float:
        topic = self._new_topic()
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=60)
        began = time.perf_counter()
        for _ in range(self.records // BATCH):
            connection.request("POST", f"/topics/{topic}/records", self._body, {"Content-Type": _NDJSON})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        return self.records / (time.perf_counter() - began)

    def read_bare(self) -> float:
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=60)
        offset = 0
        began = time.perf_counter()
        while offset < self.records:
            path = f"/topics/{self._topic}/records?from_offset={offset}&max_records={PAGE}"
            connection.request("GET", path, headers={"Accept": _NDJSON})
            answer = connection.getresponse()
            answer.read()
            offset = int(answer.headers["X-Next-Offset"])
        return self.records / (time.perf_counter() - began)

    def produce(self, file: Path) -> float:
        return self._run("produce", self._new_topic(), "--file", str(file))

    def consume(self) -> float:
        return self._run("consume", self._topic, "--output", "json")

    @property
    def _topic(self) -> str:
        return f"t{self._topics}"

    def _new_topic(self) -> str:
        self._topics += 1
        return self._topic

    def _run(self, *arguments: str) -> float:
        command = [sys.executable, "-m", "flashq", *arguments, "--server", self._url]
        name = arguments[0]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), _peak_bytes(process.pid))
            time.sleep(0.01)
        took_s = time.perf_counter() - began
        assert process.returncode == 0
        return self.records / took_s


def _peak_bytes(pid: int) -> int:
    """The most that the process has held so far; 0 where there is no /proc. (`wait4` would count its parent's.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
