"""A server that dies, or whose disk fails, at the nth system call that changes a file, for every n there is.

strace counts calls by thread. An error meets the nth call of each thread, of whatever it is for. A kill ends the
server at the first nth call of any, which is hardly ever that of a thread with few calls, as retention's: so the server
is also killed at each call on each path.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from flashq.cli.exit_codes import STORAGE
from flashq.storage.file.verify import verify_directory
from tests.crash.server_process import (
    ServerFailedError,
    ServerProcess,
    deaf_to_errors,
    flashq_command,
    in_a_hurry,
    writing_in_place,
)
from tests.crash.story import Story
from tests.crash.strace import CHANGES, injected, injecting, paths, tracing, why_no_strace
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
KILLED_BY_PATH = ("pwrite64", "ftruncate", "rename", "unlink", "mkdir")
"""Without the syncs, which leave a kill nothing else to find, and io_submit, which names no path."""
AT_ONCE = 2
"""Stories told at the same time: most of one is the start of its two servers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to go wrong, in strace's words."""

    call: str
    words: str
    """As `signal=KILL:when=3`."""
    path: str = ""
    """In the directory of the story: only calls on it are counted. Empty: all."""


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

    @property
    def ended_well(self) -> bool:
        """The server heard it to the end, and stopped by itself."""
        return self.was_told and self.status == 0


Server = Callable[[list[str]], list[str]]
"""The command of a server as another that does the same, but for what is in its name."""


def tell_story(directory: Path, fault: Fault, server_for: Server = in_a_hurry) -> Told:
    """A story with a fault, and the check of what it left with a server that has none."""
    told, trace = Told(), directory / "trace"
    command = command_for(directory)
    only = directory / fault.path if fault.path else None
    failing = injecting(server_for(command), fault.words, fault.call, trace=trace, only=only)
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
        if (directory / "data" / "flashq.json").exists():
            assert verify_directory(directory / "data").damage == []
        with ServerProcess(command, directory / "server-after.log") as server:
            violations = story.check(server)
        assert not violations, f"{fault}: {told}\n" + "\n".join(map(str, violations[:20]))
        assert verify_directory(directory / "data").damage == []
    return told


def command_for(directory: Path) -> list[str]:
    """The server of a story; makes the story's directory."""
    directory.mkdir()
    return flashq_command(directory / "data", sync_mode="always", segment_bytes=1024)


def stories(directory: Path, faults: Iterable[Fault]) -> Iterator[Told]:
    """How a story went with each fault, in their order; there may be faults without end."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun: deque[Future[Told]] = deque()
        for number, fault in enumerate(faults, 1):
            begun.append(pool.submit(tell_story, directory / str(number), fault))
            if len(begun) > AT_ONCE:
                yield begun.popleft().result()
        for last in begun:
            yield last.result()


def at_each_call(call: str, words: str) -> Iterator[Fault]:
    """At the first such call of a thread, at the second, and so on without end."""
    return (Fault(call, f"{words}:when={nth}") for nth in count(1))


def paths_of(call: str, directory: Path) -> Counter[str]:
    """How often a story without a fault makes the call on each path of its data directory that has a name of its own.

    What is deleted is first given a random one.
    """
    trace = directory / "trace"
    command = tracing(in_a_hurry(command_for(directory)), call, trace=trace)
    with Story(directory) as story, ServerProcess(command, directory / "server.log") as server:
        server.start()
        story.tell(server.port)
        server.stop()
    within = (path.removeprefix(f"{directory}/") for path in paths(trace) if path.startswith(f"{directory}/data"))
    return Counter(path for path in within if "/.~deleted-" not in path)


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
    for nth, told in enumerate(stories(tmp_path, at_each_call(call, "signal=KILL")), 1):  # noqa: B007  # told of below
        if told.ended_well:
            break
    tell(f"killed at each of the first {nth - 1} calls of a thread")
    assert nth > 2
    assert told.refused == 0
    assert told.has_swept


@pytest.mark.parametrize("call", KILLED_BY_PATH)
def test_a_kill_at_any_system_call_on_any_path_loses_nothing_acknowledged(
    call: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    made = paths_of(call, tmp_path / "none")
    faults = [
        Fault(call, f"signal=KILL:when={nth}", path) for path, times in made.items() for nth in range(1, times + 1)
    ]
    killed = Counter(
        fault.path for fault, told in zip(faults, stories(tmp_path, faults), strict=True) if not told.ended_well
    )
    by_two = made - killed
    tell(f"killed at {killed.total()} calls on {len(killed)} paths, of {made.total()} on {len(made)}")
    assert killed.keys() == made.keys()
    assert by_two.total() <= made.total() // 8


@pytest.mark.parametrize(
    ("server", "fault", "complaint"),
    [
        (
            writing_in_place,
            Fault("pwrite64", "signal=KILL:when=1", "data/topics/swept/topic.json"),
            "topic.json cannot be read",
        ),
        (
            deaf_to_errors,
            Fault("pwrite64", "error=EIO:when=1", f"data/topics/kept/0/{0:020}.log"),
            "the log goes on at offset",
        ),
    ],
    ids=["in place", "deaf to errors"],
)
def test_a_server_with_a_fault_of_its_own_is_found_out(
    server: Server, fault: Fault, complaint: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    with pytest.raises((AssertionError, ServerFailedError), match=complaint) as found:
        tell_story(tmp_path / "1", fault, server)
    tell(f"found: {complaint}")
    print(found.value)


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
    for nth, told in enumerate(stories(tmp_path, at_each_call(call, f"error={error}")), 1):
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
