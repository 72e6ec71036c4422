"""A server that dies, or whose disk fails, at the nth system call that changes a file, for every n there is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from flashq.cli.exit_codes import STORAGE
from flashq.storage.file.verify import verify_directory
from tests.crash.server_process import ServerFailedError, ServerProcess, flashq_command, in_a_hurry
from tests.crash.story import Story
from tests.crash.strace import CHANGES, injecting, was_injected, why_no_strace
from tests.crash.wire import ConnectionLostError

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(bool(why_no_strace()), reason=f"no faults at system calls: {why_no_strace()}"),
]

AT_ONCE = 2
"""Stories told at the same time: most of one is the start of its two servers."""


@dataclass(slots=True)
class Told:
    """How a story with a fault in it went."""

    has_started: bool = False
    was_told: bool = False
    status: int | None = None
    was_injected: bool = False
    output: str = ""
    refused: int = 0
    has_swept: bool = False


def tell_story(directory: Path, fault: str, call: str) -> Told:
    """A story with a fault, and the check of what it left with a server that has none."""
    directory.mkdir()
    data_dir, told, trace = directory / "data", Told(), directory / "trace"
    command = flashq_command(data_dir, sync_mode="always", segment_bytes=1024)
    failing = injecting(in_a_hurry(command), fault, call, trace=trace)
    with Story(directory) as story:
        with ServerProcess(failing, directory / "server.log") as server:
            try:
                server.start()
                told.has_started = True
                story.tell(server.port)
                told.was_told = True
                server.stop()
            except (ServerFailedError, ConnectionLostError):
                pass
        told.status, told.output = server.status, server.output_tail()
        told.refused, told.has_swept = story.refused, story.has_swept
        told.was_injected = was_injected(trace)
        story.server_is_gone()
        if (data_dir / "flashq.json").exists():
            assert verify_directory(data_dir).damage == []
        with ServerProcess(command, directory / "server-after.log") as server:
            violations = story.check(server)
        assert not violations, f"{call} {fault}: {told}\n" + "\n".join(map(str, violations[:20]))
        assert verify_directory(data_dir).damage == []
    return told


def stories(directory: Path, fault: str, call: str) -> Iterator[Told]:
    """How stories went with the fault at the first such call of a thread, at the second, and so on without end."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun: deque[Future[Told]] = deque()
        for nth in count(1):
            begun.append(pool.submit(tell_story, directory / str(nth), f"{fault}:when={nth}", call))
            if len(begun) > AT_ONCE:
                yield begun.popleft().result()


@pytest.mark.parametrize("call", CHANGES)
def test_a_kill_at_any_system_call_loses_nothing_acknowledged(
    call: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    for nth, told in enumerate(stories(tmp_path, "signal=KILL", call), 1):  # noqa: B007  # told of below
        if told.was_told and told.status == 0:
            break
    tell(f"killed at each of the first {nth - 1} calls of a thread")
    assert nth > 2
    assert told.refused == 0
    assert told.has_swept


@pytest.mark.parametrize(
    ("error", "call"),
    [
        *[("EIO", call) for call in CHANGES],
        *[("ENOSPC", call) for call in ("pwrite64", "fdatasync", "fsync", "rename", "mkdir")],
    ],
)
def test_a_disk_that_fails_at_any_system_call_is_told_and_loses_nothing_acknowledged(
    error: str, call: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    starts = refused = 0
    for nth, told in enumerate(stories(tmp_path, f"error={error}", call), 1):
        assert "Traceback" not in told.output, f"{call} {nth}: {told.output}"
        if not told.was_injected:
            break
        if told.has_started:
            assert told.was_told, f"{call} {nth}: the server ended: {told.output}"
            assert told.status in (0, STORAGE), f"{call} {nth}: status {told.status}: {told.output}"
        else:
            assert told.status == STORAGE, f"{call} {nth}: status {told.status}: {told.output}"
        starts += not told.has_started
        refused += told.refused
    tell(f"failed at each of the first {nth - 1} calls of a thread: {starts} starts and {refused} requests refused")
    assert nth > 2
    assert told.refused == 0
    assert told.has_swept
