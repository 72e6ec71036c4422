"""Bytes that a power cut has left past the end of a file do not come back when the file grows there again.

ext4 writes a block when it likes, and commits the new size of the file later. The cut between the two leaves a record
that nobody can read; a second cut, with the size committed and the block not written again, would bring it back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.machine import PowerCut, power_cut_machine, why_no_power_cut
from tests.server.running import JSON, Process, flashq

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(bool(why_no_power_cut()), reason=f"no power cut: {why_no_power_cut()}"),
]
OFFSET = "/consumer/g/topics/t/offset"
_WRITE_AND_WAIT = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER: pages, and nothing about the file


@contextmanager
def until_the_power_goes(machine: PowerCut, log: Path) -> Iterator[Process]:
    with flashq("--data-dir", str(machine.data_dir), "--sync-mode", "never", log=log) as server:
        server.wait_until_listening()
        yield server
        machine.cut()
        server.kill()
        machine.come_back()


def write_blocks(data_dir: Path) -> None:
    """Have the bytes of all logs on the disk, not their sizes."""
    sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
    for path in data_dir.rglob("*.log"):
        descriptor = os.open(path, os.O_RDONLY)
        assert sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT) == 0
        os.close(descriptor)


def write_sizes(machine: PowerCut) -> None:
    """Commit the journal of the file system, which has the sizes of all files."""
    descriptor = os.open(machine.data_dir.parent / "other", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"x")
    os.fsync(descriptor)
    os.close(descriptor)


def test_what_one_power_cut_has_taken_the_next_does_not_bring_back(tmp_path: Path) -> None:
    with power_cut_machine(tmp_path / "machine") as machine:
        with until_the_power_goes(machine, tmp_path / "first") as server:
            assert server.ask("POST", "/consumer/g").status == 200
            body = b'{"records": [{"value": "kept"}]}'
            assert server.ask("POST", "/topics/t/records?sync=always", body, JSON).status == 200
            server.post("t", "lost")
            assert server.ask("POST", OFFSET, b'{"offset": 2}', JSON).status == 200
            write_blocks(machine.data_dir)
        with until_the_power_goes(machine, tmp_path / "second") as server:
            assert [record["value"] for record in server.read_all("t")] == ["kept"]
            assert server.ask("GET", OFFSET).json()["committed_offset"] == 0
            server.post("t", "next")
            assert server.ask("POST", OFFSET, b'{"offset": 1}', JSON).status == 200
            write_sizes(machine)
        with until_the_power_goes(machine, tmp_path / "third") as server:
            assert [record["value"] for record in server.read_all("t")] in (["kept"], ["kept", "next"])
            assert server.ask("GET", OFFSET).json()["committed_offset"] in (0, 1)
            assert server.ask("GET", "/health").json()["status"] == "healthy"
