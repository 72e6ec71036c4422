"""Disks that are really full, of bytes or of inodes, under a real server: filled and freed again and again."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.storage.file.verify import verify_directory
from tests.crash.machine import power_cut_machine, why_no_power_cut
from tests.server.running import JSON, Answer, Process, serving

needs_disks = pytest.mark.skipif(bool(why_no_power_cut()), reason=f"no small disks: {why_no_power_cut()}")
CYCLES = 100
ROOM_LEFT = 64 * 1024
RECOVERY_S = 1.0
"""Within this time of space returning, posts are taken again without a restart."""

DONE = Answer(200, {}, b"{}")
FULL = Answer(507, {}, b'{"error": "storage_full", "details": {"outcome": "not_applied"}}')


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


@dataclass
class Books:
    """What a server has said: each record it stored is there, in order, and none that it refused."""

    stored: list[str] = field(default_factory=list)
    committed: int = 0
    refused: int = 0
    """Posts."""

    def post_answered(self, value: str, answer: Answer) -> None:
        if answer.status == 200:
            self.stored.append(value)
        else:
            assert_full(answer)
            self.refused += 1

    def commit_answered(self, offset: int, answer: Answer) -> None:
        if answer.status == 200:
            self.committed = offset
        else:
            assert_full(answer)

    def assert_kept(self, found: list[str], committed: int = 0) -> None:
        assert found == self.stored
        assert committed == self.committed


def assert_full(answer: Answer) -> None:
    assert answer.status == 507, answer
    told = answer.json()
    assert (told["error"], told["details"]["outcome"]) == ("storage_full", "not_applied"), told


def post_once_there_is_room(server: Process, value: str, books: Books) -> None:
    deadline_s = time.monotonic() + RECOVERY_S
    while (answer := server.try_post("t", value)).status == 507:
        assert time.monotonic() < deadline_s, answer
    assert answer.status == 200, answer
    books.post_answered(value, answer)


def commit(server: Process, offset: int) -> Answer:
    return server.ask("POST", "/consumer/g/topics/t/offset", b'{"offset": %d}' % offset, JSON)


@pytest.mark.crash
@needs_disks
@pytest.mark.parametrize("sync_mode", ["always", "periodic"])
def test_a_disk_filled_and_freed_a_hundred_times_keeps_every_acknowledged_record_and_no_refused_one(
    sync_mode: str, seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    choices, books = random.Random(seed), Books()
    with power_cut_machine(tmp_path / "small", size_mb=32) as machine:
        ballast = machine.data_dir.parent / "ballast"
        arguments = ("--sync-mode", sync_mode, "--segment-bytes", "65536")
        with serving(machine.data_dir, *arguments) as server:
            server.ask("POST", "/consumer/g")
            post_once_there_is_room(server, "first", books)
            for cycle in range(CYCLES):
                fill(ballast, choices.randrange(ROOM_LEFT))
                post_until_full(server, cycle, choices, books)
                books.commit_answered(len(books.stored), commit(server, len(books.stored)))
                polled = server.poll("t", from_offset=len(books.stored) - 1)
                assert [record["value"] for record in polled["records"]] == books.stored[-1:]
                assert server.ask("GET", "/health").json()["status"] == "healthy"
                ballast.unlink()
                post_once_there_is_room(server, f"{cycle} freed", books)
            offset = server.ask("GET", "/consumer/g/topics/t/offset").json()["committed_offset"]
            assert offset == books.committed
            server.kill()
        assert verify_directory(machine.data_dir).damage == []
        with FlashQ.open(machine.data_dir) as flashq:
            books.assert_kept(*what_is_in(flashq))
    tell(
        f"{CYCLES} cycles, {len(books.stored)} records stored, {books.refused} posts refused, none lost, none too many"
    )
    assert books.refused >= CYCLES / 2


def post_until_full(server: Process, cycle: int, choices: random.Random, books: Books) -> None:
    """Until not even a short one has room."""
    for number in range(100):
        value = f"{cycle} {number} ".ljust(choices.choice((10, 900, 5_000, 20_000)), "x")
        answer = server.try_post("t", value)
        books.post_answered(value, answer)
        if answer.status != 200 and len(value) < 1000:
            return


def what_is_in(flashq: FlashQ) -> tuple[list[str], int]:
    return [record.text for record in flashq.poll_records("t")], flashq.consumer_group_offset("g", "t")


def acknowledge_what_was_not_stored(flashq: FlashQ, books: Books) -> None:
    books.post_answered("three", DONE)


def store_what_was_refused(flashq: FlashQ, books: Books) -> None:
    books.post_answered("three", FULL)
    flashq.post_record("t", "three")


def store_twice(flashq: FlashQ, books: Books) -> None:
    books.post_answered("three", DONE)
    flashq.post_records("t", ["three", "three"])


def forget_a_commit(flashq: FlashQ, books: Books) -> None:
    books.commit_answered(2, DONE)


def take_a_refused_commit(flashq: FlashQ, books: Books) -> None:
    books.commit_answered(2, FULL)
    flashq.commit_offset("g", "t", 2)


@pytest.mark.parametrize(
    "lie",
    [acknowledge_what_was_not_stored, store_what_was_refused, store_twice, forget_a_commit, take_a_refused_commit],
)
def test_the_books_find_what_is_not_as_it_was_said(lie: Callable[[FlashQ, Books], None]) -> None:
    books = Books()
    with FlashQ() as flashq:
        flashq.create_consumer_group("g")
        for value in ("one", "two"):
            flashq.post_record("t", value)
            books.post_answered(value, DONE)
        flashq.commit_offset("g", "t", 1)
        books.commit_answered(1, DONE)
        books.post_answered("refused", FULL)
        books.assert_kept(*what_is_in(flashq))
        lie(flashq, books)
        with pytest.raises(AssertionError):
            books.assert_kept(*what_is_in(flashq))


@pytest.mark.parametrize(
    "answer", [Answer(500, {}, b"{}"), Answer(507, {}, FULL.body.replace(b"not_applied", b"unknown"))]
)
def test_the_books_take_no_other_answer_for_a_full_disk(answer: Answer) -> None:
    with pytest.raises(AssertionError):
        Books().post_answered("one", answer)


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


@pytest.mark.crash
@needs_disks
def test_without_inodes_new_files_are_refused_what_is_there_goes_on_and_with_inodes_all_works(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    books = Books()
    with few_inodes(tmp_path / "small") as mount:
        taken = mount / "taken"
        taken.mkdir()
        with serving(mount / "data", "--segment-bytes", "1024") as server:
            post_once_there_is_room(server, "first", books)
            for cycle in range(10):
                take_all_inodes(taken)
                assert_full(server.try_post(f"new-{cycle}", "refused"))
                assert server.ask("POST", f"/consumer/new-{cycle}").status == 507
                for number in range(5):  # until the segment is full, and the next one cannot be made
                    value = f"{cycle} {number} ".ljust(400, "x")
                    books.post_answered(value, server.try_post("t", value))
                books.assert_kept([record["value"] for record in server.read_all("t")])
                for path in taken.iterdir():
                    path.unlink()
                post_once_there_is_room(server, f"{cycle} freed", books)
                assert server.ask("PUT", f"/topics/new-{cycle}", b"{}", JSON).status == 201
                assert server.ask("DELETE", f"/topics/new-{cycle}").status == 204
                if cycle % 3 == 2:  # segments take inodes too
                    assert server.ask("DELETE", "/topics/t").status == 204
                    books = Books()
                    post_once_there_is_room(server, "first", books)
        assert verify_directory(mount / "data").damage == []
    tell("10 cycles")
