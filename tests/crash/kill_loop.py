"""Rounds of start, load, `kill -9`, start again, read everything back and check the whole history so far."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flashq.storage.file.verify import verify_directory
from tests.crash.checker import Violation, check
from tests.crash.history import HistoryFile, StoredRecord, read_history
from tests.crash.load import read_page
from tests.crash.server_process import ServerFailedError, ServerProcess, program_environment
from tests.crash.torn_tail import tear
from tests.crash.wire import Connection, Message

TOPIC = "kills"
GROUP = "watchers"
ROUNDS_PER_DATA_SET = 10
LONGEST_FIRST_POST_S = 0.3
"""A kill around the first post of a topic comes at most this long after the load's process was made."""
_LOAD_TIMEOUT_S = 30.0
_ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Summary:
    """What a number of rounds came to; `str` gives the one line for people."""

    name: str
    seed: int
    rounds: int = 0
    restarts: int = 0
    posts: Counter[str] = field(default_factory=Counter)
    records: int = 0
    reads: int = 0
    segments: int = 0
    tails_torn: int = 0
    torn_tails: int = 0
    duration_s: float = 0.0
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            f"{self.rounds} rounds",
            f"{self.posts['acknowledged']} posts acknowledged",
            f"{self.posts['unknown']} unknown",
            f"{self.posts['refused']} refused",
            f"{self.records} records",
            f"{self.segments} segments",
            f"{self.reads} reads",
            f"{self.restarts} restarts",
            f"{self.torn_tails} torn tails found ({self.tails_torn} made)",
            f"{len(self.violations)} violations",
        ]
        return f"{self.name}: {', '.join(parts)} ({self.duration_s:.0f} s, seed {self.seed})"

    def add(self, rounds: Rounds) -> None:
        """Count what the rounds on one data directory came to, once its server is gone."""
        data_dir = rounds.data_dir
        finished = read_history(rounds.path)
        self.rounds += rounds.done
        self.restarts += rounds.server.starts - 1
        self.posts.update(post.fate for post in finished.posts.values())
        self.records += len(rounds.stored)
        self.reads += len(finished.reads)
        self.segments += sum(1 for _ in data_dir.rglob("*.log"))
        self.tails_torn += rounds.tails_torn
        self.torn_tails += sum(1 for _ in data_dir.rglob("*.torn-*"))

    def report(self) -> str:
        """The line, and the first violations below it."""
        return "\n  ".join([str(self), *map(str, self.violations[:20])])


@contextmanager
def load_process(options: Mapping[str, object]) -> Iterator[subprocess.Popen[str]]:
    """`python -m tests.crash.load` with these options; killed on the way out if it has not ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.load", *(f"--{name}={value}" for name, value in options.items())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=program_environment(),
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_loading(process: subprocess.Popen[str]) -> None:
    """Return once a post has been acknowledged."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "loading\n":
        raise AssertionError(f"the load ended before any acknowledgement: {line!r}, status {process.wait()}")


def wait_until_ended(process: subprocess.Popen[str]) -> None:
    """Return once every client has ended in order; the reason for any other end is on standard error."""
    status = process.wait(_LOAD_TIMEOUT_S)
    if status != 0:
        raise AssertionError(f"the load ended with status {status}")


def read_back(port: int, topic: str, history: HistoryFile, choices: random.Random) -> list[StoredRecord]:
    """The whole topic from offset 0, every page written down as a read."""
    stored: list[StoredRecord] = []
    with Connection(port) as connection:
        while True:
            most = choices.choice((97, 1_000, 10_000))
            _, records = read_page(connection, topic, history, "read-back", len(stored), most)
            if not records:
                return stored
            stored += records


def _committed_offset(answer: Message) -> int:
    """0 without a topic to commit for; -1 without a group, which no commit explains."""
    body = answer.json()
    if answer.status == 404:
        return -1 if body["error"] == "group_not_found" else 0
    offset: int = body["committed_offset"]
    return offset


class Nobody:
    """Beside a server that knows nothing but records."""

    def load_options(self) -> dict[str, object]:
        """What makes the load commit offsets as well."""
        return {}

    def change(self, port: int) -> None:
        """Just before a kill: change what is there."""

    def look(self, port: int) -> None:
        """After a restart: write down what is there."""


class Bystanders(Nobody):
    """A group and some topics beside the one under load. Each request must be answered as the contract says."""

    def __init__(self, port: int, history: HistoryFile) -> None:
        self._history = history
        self._committed = -1
        self._created: list[str] = []
        with Connection(port) as connection:
            _expect(200, connection.request("POST", f"/consumer/{GROUP}"))
            self._create(connection)

    def load_options(self) -> dict[str, object]:
        """Commits for the group, larger than any before."""
        return {"group": GROUP, "first-commit": self._committed + 1}

    def change(self, port: int) -> None:
        """Create a topic and delete the one before it."""
        with Connection(port) as connection:
            oldest = self._created[-1]
            _expect(204, connection.request("DELETE", f"/topics/{oldest}"))
            self._history.topic_exists(oldest, False, seen=False)
            self._create(connection)

    def look(self, port: int) -> None:
        with Connection(port) as connection:
            for topic in self._created:
                status = _expect((200, 404), connection.request("GET", f"/topics/{topic}")).status
                self._history.topic_exists(topic, status == 200, seen=True)
            begun_ns = time.monotonic_ns()
            answer = _expect((200, 404), connection.request("GET", f"/consumer/{GROUP}/topics/{TOPIC}/offset"))
            self._committed = _committed_offset(answer)
            self._history.committed_offset_read(GROUP, begun_ns, self._committed)

    def _create(self, connection: Connection) -> None:
        topic = f"aside-{len(self._created)}"
        _expect(201, connection.request("PUT", f"/topics/{topic}", {}))
        self._history.topic_exists(topic, True, seen=False)
        self._created.append(topic)


def _expect(statuses: int | tuple[int, ...], answer: Message) -> Message:
    allowed = (statuses,) if isinstance(statuses, int) else statuses
    if answer.status not in allowed:
        raise ServerFailedError(f"status {answer.status}, not {statuses}: {answer.body[:300]!r}")
    return answer


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rounds, and what one of them may take.

    The load runs up to `longest_load_s` past its first acknowledgement before the kill. `ends_in_good_order` adds a
    SIGTERM, a start and a check after the last round of a data set. `tears` has some kills leave a torn tail.
    `has_bystanders`: a group and other topics change as well, and are checked.
    """

    rounds: int
    longest_load_s: float = 0.5
    ends_in_good_order: bool = True
    tears: bool = False
    has_bystanders: bool = True


def run_rounds(name: str, command_for: Callable[[Path], list[str]], plan: Plan, seed: int, directory: Path) -> Summary:
    """Kill rounds until the first violation or the last round, `ROUNDS_PER_DATA_SET` on each data directory.

    The seed fixes what is sent and when each kill comes, not how the processes are scheduled in between. Raises
    ServerFailedError when a server does not start, is not healthy after a kill, or does not stop.
    """
    summary = Summary(name, seed)
    begun_s = time.monotonic()
    while summary.rounds < plan.rounds and not summary.violations:
        data_set = directory / f"set-{summary.rounds // ROUNDS_PER_DATA_SET}"
        data_set.mkdir(parents=True)
        run = f"{name}-{seed}-{data_set.name}"
        with (
            HistoryFile(data_set / "history.jsonl") as history,
            ServerProcess(command_for(data_set / "data"), data_set / "server.log") as server,
        ):
            rounds = Rounds(run, plan, server, history, data_set)
            summary.violations = rounds.run(min(ROUNDS_PER_DATA_SET, plan.rounds - summary.rounds))
        summary.add(rounds)
    summary.duration_s = time.monotonic() - begun_s
    return summary


class Rounds:
    """The rounds on one data directory and the history they share."""

    def __init__(self, run: str, plan: Plan, server: ServerProcess, history: HistoryFile, directory: Path) -> None:
        self._run = run
        self._plan = plan
        self._choices = random.Random(run)
        self.server = server
        self._history = history
        self.path = directory / "history.jsonl"
        self.data_dir = directory / "data"
        self.done = 0
        self.tails_torn = 0
        self.stored: list[StoredRecord] = []

    def run(self, rounds: int) -> list[Violation]:
        """The violations after `rounds` rounds, or after the first that found any."""
        self._start()
        bystanders = Bystanders(self.server.port, self._history) if self._plan.has_bystanders else Nobody()
        violations: list[Violation] = []
        while self.done < rounds and not violations:
            self._kill_under_load(bystanders)
            if self._plan.tears and self._choices.random() < 0.3:
                self.tails_torn += tear(self.data_dir / "topics" / TOPIC / "0", self._choices)
            if self._choices.random() < 0.25:
                self._kill_while_starting()
            self._start()
            violations = self._check(bystanders)
            self.done += 1
        if self._plan.ends_in_good_order and not violations:
            self.server.stop()
            self._start()
            violations = self._check(bystanders)
        return violations

    def _kill_under_load(self, bystanders: Nobody) -> None:
        options: dict[str, object] = {"port": self.server.port, "topic": TOPIC, "history": self.path, "run": self._run}
        options |= {"prefix": f"r{self.done}", "seed": f"{self._run}-{self.done}"}
        options |= bystanders.load_options()
        with load_process(options) as load:
            if self.done > 0 or self._choices.random() < 0.7:
                wait_until_loading(load)
                time.sleep(self._choices.choice((0.02, 0.2, self._plan.longest_load_s)) * self._choices.random())
            else:
                time.sleep(LONGEST_FIRST_POST_S * self._choices.random())
            bystanders.change(self.server.port)
            self.server.fail_if_ended()
            self.server.kill()
            self._history.server_killed()
            wait_until_ended(load)

    def _kill_while_starting(self) -> None:
        """Late in the start, when the files are opened and repaired; most of it goes before, in loading the program."""
        after_s = self.server.start_duration_s * self._choices.uniform(0.6, 1.1)
        self.server.spawn()
        time.sleep(after_s)
        self.server.fail_if_ended()
        self.server.kill()

    def _start(self) -> None:
        if (self.data_dir / "flashq.json").exists():  # not for a server that only pretends
            damage = verify_directory(self.data_dir).damage
            if damage:
                raise ServerFailedError(f"damage on disk before a start: {damage}")
        health = self.server.start()
        if health.get("status") != "healthy":
            raise ServerFailedError(f"not healthy after a start: {health}\n{self.server.output_tail()}")

    def _check(self, bystanders: Nobody) -> list[Violation]:
        self.stored = read_back(self.server.port, TOPIC, self._history, self._choices)
        bystanders.look(self.server.port)
        return check(read_history(self.path), self.stored)
