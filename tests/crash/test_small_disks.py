"""Disks that are really full, of bytes or of inodes, under a real server: filled and freed again and again."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.storage.file.verify import verify_directory
from tests.crash.machine import power_cut_machine, why_no_power_cut
from tests.server.running import JSON, Answer, Process, serving

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(bool(why_no_power_cut()), reason=f"no small disks: {why_no_power_cut()}"),
]
CYCLES = 100
ROOM_LEFT = 64 * 1024
RECOVERY_S = 1.0
"""Within this time of space returning, posts are taken again without a restart."""


def fill(path: Path, leaving: int) -> None:
    """Take all the room there is but for `leaving` bytes."""
    with path.open("wb", buffering=0) as ballast:
        size = 64 * 1024
        while size >= 512:
            try:
                ballast.write(bytes(size))
            except OSError:
                size //= 2
        ballast.truncate(max(ballast.tell() - leaving, 0))


def assert_full(answer: Answer) -> None:
    assert answer.status == 507, answer
    told = answer.json()
    assert (told["error"], told["details"]["outcome"]) == ("storage_full", "not_applied"), told


def post_once_there_is_room(server: Process, topic: str, value: str) -> None:
    deadline_s = time.monotonic() + RECOVERY_S
    while (answer := server.try_post(topic, value)).status == 507:
        assert time.monotonic() < deadline_s, answer
    assert answer.status == 200, answer


def commit(server: Process, offset: int) -> Answer:
    return server.ask("POST", "/consumer/g/topics/t/offset", b'{"offset": %d}' % offset, JSON)


@pytest.mark.parametrize("sync_mode", ["always", "periodic"])
def test_a_disk_filled_and_freed_a_hundred_times_keeps_every_acknowledged_record_and_no_refused_one(
    sync_mode: str, seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    choices = random.Random(seed)
    stored: list[str] = []
    committed = refused = 0
    with power_cut_machine(tmp_path / "small", size_mb=32) as machine:
        ballast = machine.data_dir.parent / "ballast"
        arguments = ("--sync-mode", sync_mode, "--segment-bytes", "65536")
        with serving(machine.data_dir, *arguments) as server:
            server.ask("POST", "/consumer/g")
            server.post("t", "first")
            stored.append("first")
            for cycle in range(CYCLES):
                fill(ballast, choices.randrange(ROOM_LEFT))
                for number in range(100):
                    value = f"{cycle} {number} ".ljust(choices.choice((10, 900, 5_000, 20_000)), "x")
                    answer = server.try_post("t", value)
                    if answer.status == 200:
                        stored.append(value)
                    else:
                        assert_full(answer)
                        refused += 1
                        if len(value) < 1000:
                            break  # not even this one has room
                if (answer := commit(server, len(stored))).status == 200:
                    committed = len(stored)
                else:
                    assert_full(answer)
                polled = server.poll("t", from_offset=len(stored) - 1)
                assert [record["value"] for record in polled["records"]] == stored[-1:]
                assert server.ask("GET", "/health").json()["status"] == "healthy"
                ballast.unlink()
                post_once_there_is_room(server, "t", f"{cycle} freed")
                stored.append(f"{cycle} freed")
            offset = server.ask("GET", "/consumer/g/topics/t/offset").json()["committed_offset"]
            assert offset == committed
            server.kill()
        assert verify_directory(machine.data_dir).damage == []
        with FlashQ.open(machine.data_dir) as flashq:
            assert [record.text for record in flashq.poll_records("t")] == stored
            assert flashq.consumer_group_offset("g", "t") == committed
    tell(f"{CYCLES} cycles, {len(stored)} records stored, {refused} posts refused, none lost, none too many")
    assert refused >= CYCLES / 2


@contextmanager
def few_inodes(mount: Path) -> Iterator[Path]:
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=64", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def take_all_inodes(directory: Path) -> None:
    for number in range(100):
        try:
            (directory / str(number)).touch()
        except OSError:
            return
    raise AssertionError("there are more inodes than that")


def test_without_inodes_new_files_are_refused_what_is_there_goes_on_and_with_inodes_all_works(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    stored: list[str] = []
    with few_inodes(tmp_path / "small") as mount:
        taken = mount / "taken"
        taken.mkdir()
        with serving(mount / "data", "--segment-bytes", "1024") as server:
            server.post("t", "first")
            stored.append("first")
            for cycle in range(10):
                take_all_inodes(taken)
                assert_full(server.try_post(f"new-{cycle}", "refused"))
                assert server.ask("POST", f"/consumer/new-{cycle}").status == 507
                for number in range(5):  # until the segment is full, and the next one cannot be made
                    value = f"{cycle} {number} ".ljust(400, "x")
                    answer = server.try_post("t", value)
                    if answer.status == 200:
                        stored.append(value)
                    else:
                        assert_full(answer)
                assert [record["value"] for record in server.read_all("t")] == stored
                for path in taken.iterdir():
                    path.unlink()
                post_once_there_is_room(server, "t", f"{cycle} freed")
                stored.append(f"{cycle} freed")
                assert server.ask("PUT", f"/topics/new-{cycle}", b"{}", JSON).status == 201
                assert server.ask("DELETE", f"/topics/new-{cycle}").status == 204
                if cycle % 3 == 2:  # segments take inodes too
                    assert server.ask("DELETE", "/topics/t").status == 204
                    server.post("t", "first")
                    stored = ["first"]
        assert verify_directory(mount / "data").damage == []
    tell("10 cycles")
