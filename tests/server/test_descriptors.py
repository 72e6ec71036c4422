"""More connections than descriptors: who is connected goes on, logs roll, nothing spins, and it passes by itself."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.running import SCRIPT, Process, serving

if sys.platform != "linux":
    pytest.skip("limits of another process are Linux's", allow_module_level=True)

CONNECTIONS = 200
SPARE = 40
WITH_FEW = ("sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", *SCRIPT)
"""By its soft limit: the hard one stays."""


def cpu_s(server: Process) -> float:
    """Processor time it has used so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_server_raises_its_soft_limit_to_the_hard_one(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with serving(tmp_path / "data", command=WITH_FEW) as server:
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_two_hundred_connections_without_descriptors_harm_nobody_who_is_connected(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--segment-bytes", "1024") as server, server.connect() as good:
        server.post("t", "first")
        held = len(os.listdir(f"/proc/{server.pid}/fd"))
        hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (held + SPARE, hard))
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            time.sleep(0.2)
            before_s, lines = cpu_s(server), len(server.events())
            time.sleep(1.0)
            assert cpu_s(server) - before_s < 0.3, "it spins"
            for number in range(20):  # each one rolls the log
                answer = good.request("POST", "/topics/t/records", {"records": [{"value": f"{number} ".ljust(1200)}]})
                assert answer.status == 200, answer
            assert good.request("GET", "/topics/t/records?from_offset=0").status == 200
            assert len(server.events()) - lines < 20, server.log()[-2000:]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert [record["offset"] for record in server.read_all("t")] == list(range(21))
        assert server.ask("GET", "/health").json()["status"] == "healthy"
