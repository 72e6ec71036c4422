"""What a server holds: resident memory idle, and while a client reads a gigabyte through it."""

from __future__ import annotations

import http.client
import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.measure import Row
from benchmarks.over_http import flashq_server
from flashq import FlashQ

MIB = 1024 * 1024


def rows(read_bytes: int) -> list[Row]:
    if not Path("/proc/self/status").exists():
        return [Row("memory of the server", "not measured", "needs /proc", None, None)]
    with tempfile.TemporaryDirectory() as directory:
        with FlashQ.open(directory, sync_mode="never") as flashq:
            for _ in range(read_bytes // (1000 * 1000)):
                flashq.post_records("big", [b"x" * 1000] * 1000)
        with flashq_server("never", data_dir=directory) as url:
            idle = _resident(url)
            peak, read = _read_all(url)
    return [
        Row("idle server", f"{idle / MIB:.0f} MiB", "wanted under 60 MB", 60e6 / idle, 1.0),
        Row(
            f"server while {read / 1024**3:.2f} GiB are read",
            f"+{(peak - idle) / MIB:.0f} MiB",
            "wanted under +50 MB",
            50e6 / max(peak - idle, 1),
            1.0,
        ),
    ]


def _read_all(url: str) -> tuple[int, int]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    offset = read = peak = 0
    while True:
        connection.request("GET", f"/topics/big/records?from_offset={offset}&max_records=10000")
        body = connection.getresponse().read()
        read += len(body)
        peak = max(peak, _resident(url))
        answer = json.loads(body)
        if not answer["records"]:
            return peak, read
        offset = answer["next_offset"]


def _resident(url: str) -> int:
    """Bytes of the process that listens on the port of this URL."""
    status = Path(f"/proc/{_listener(urlsplit(url).port or 0)}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def _listener(port: int) -> int:
    wanted = f"--port\0{port}\0".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if wanted in (process / "cmdline").read_bytes():
                    return int(process.name)
            except OSError:
                continue
    raise LookupError(f"no server on port {port}")
