"""A server that dies, or whose disk fails, at the nth system call that changes a file, for every n there is.

strace counts calls by thread. An error meets the nth call of each thread, of whatever it is for. A kill ends the
server at the first nth call of any: threads that make few calls, as retention's, are hardly ever the ones it meets.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from flashq.cli.exit_codes import STORAGE
from flashq.storage.file.verify import verify_directory
from tests.crash.server_process import ServerFailedError, ServerProcess, flashq_command, in_a_hurry
from tests.crash.story import Story
from tests.crash.strace import CHANGES, injected, injecting, why_no_strace
from tests.crash.wire import ConnectionLostError

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(bool(why_no_strace()), reason=f"no faults at system calls: {why_no_strace()}"),
]

_CLASSES = {
    "segment": re.compile(r"/data/topics/[^/]+/0/[0-9]{20}\.log"),
    "groups log": re.compile(r"/data/groups/[^/]+\.log(\.new)?"),
    "directory": re.compile(r"/data(/groups|/topics(/[^/]+(/0)?)?)?"),
}
HIT = {
    "pwrite64": {"segment", "groups log"},
    "io_submit": {"segment", "groups log"},
    "fdatasync": {"segment", "groups log"},
    "fsync": {"directory"},
    "ftruncate": {"segment", "groups log"},
    "rename": {"directory", "groups log"},
    "unlink": {"segment"},
    "mkdir": {"directory"},
    "rmdir": {"directory"},
}
"""What an error of each call must have met, over all stories; files of topics' settings and indexes come beside it."""
AT_ONCE = 2
"""Stories told at the same time: most of one is the start of its two servers."""


@dataclass(slots=True)
class Told:
    """How a story with a fault in it went."""

    has_started: bool = False
    was_told: bool = False
    status: int | None = None
    hit: list[str] = field(default_factory=list)
    """The path in each call that failed."""
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
        told.hit = injected(trace)
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


def class_of(path: str, directory: Path) -> str:
    """Of what a call was for: its path in the directory of a story."""
    in_story = path.removeprefix(str(directory))
    return next((kind for kind, paths in _CLASSES.items() if paths.fullmatch(in_story)), "other")


def test_errors_are_to_meet_every_class_of_file() -> None:
    assert HIT.keys() == set(CHANGES)
    assert set.union(*HIT.values()) == _CLASSES.keys()


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
    hit: Counter[str] = Counter()
    for nth, told in enumerate(stories(tmp_path, f"error={error}", call), 1):
        assert "Traceback" not in told.output, f"{call} {nth}: {told.output}"
        if not told.hit:
            break
        if told.has_started:
            assert told.was_told, f"{call} {nth}: the server ended: {told.output}"
            assert told.status in (0, STORAGE), f"{call} {nth}: status {told.status}: {told.output}"
        else:
            assert told.status == STORAGE, f"{call} {nth}: status {told.status}: {told.output}"
        starts += not told.has_started
        refused += told.refused
        hit.update(class_of(path, tmp_path / str(nth)) for path in told.hit)
    met = ", ".join(f"{number} x {kind}" for kind, number in sorted(hit.items()))
    what = f"{met}: {starts} starts and {refused} requests refused"
    tell(f"failed at each of the first {nth - 1} calls of every thread, {what}")
    assert HIT[call] <= hit.keys()
    assert nth > 2
    assert told.refused == 0
    assert told.has_swept
