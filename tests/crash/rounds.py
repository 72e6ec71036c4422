"""Rounds of start, load, a fault, start again, read everything back and check the whole history so far."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from flashq.storage.file.verify import verify_directory
from tests.crash.checker import check
from tests.crash.history import HistoryFile, read_history
from tests.crash.load import read_page
from tests.crash.machine import Killed, Machine
from tests.crash.proxy import Tamper, TamperingProxy
from tests.crash.records import StoredRecord
from tests.crash.server_process import ServerFailedError, ServerProcess, program_environment
from tests.crash.things import look, things_beside
from tests.crash.torn_tail import tear
from tests.crash.violations import Violation
from tests.crash.wire import Connection

TOPIC = "kills"
ROUNDS_PER_DATA_SET = 10
LONGEST_FIRST_POST_S = 0.3
"""A fault around the first post of a topic comes at most this long after the load's process was made."""
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
    sent_again: int = 0
    records: int = 0
    reads: int = 0
    changes: int = 0
    past_window: int = 0
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
            f"{self.sent_again} sent again",
            f"{self.records} records",
            f"{self.segments} segments",
            f"{self.reads} reads",
            f"{self.changes} commits, creations and deletions",
            *([f"{self.past_window} loads past the window"] if self.past_window else []),
            f"{self.restarts} restarts",
            f"{self.torn_tails} torn tails found ({self.tails_torn} made)",
            f"{len(self.violations)} violations",
        ]
        return f"{self.name}: {', '.join(parts)} ({self.duration_s:.0f} s, seed {self.seed})"

    def add(self, rounds: Rounds) -> None:
        """Count what the rounds on one data directory came to, once its server is gone."""
        data_dir = rounds.machine.data_dir
        finished = read_history(rounds.path)
        self.rounds += rounds.done
        self.restarts += rounds.server.starts - 1
        self.posts.update(post.fate for post in finished.posts.values())
        self.sent_again += sum(post.last_sent_ns > post.begun_ns for post in finished.posts.values())
        self.records += len(rounds.stored)
        self.reads += len(finished.reads)
        self.changes += sum(map(len, finished.things.values()))
        self.segments += sum(1 for _ in data_dir.rglob("*.log"))
        self.past_window += rounds.past_window
        self.tails_torn += rounds.tails_torn
        self.torn_tails += sum(1 for _ in data_dir.rglob("*.torn-*"))

    def report(self) -> str:
        """The line, and the first violations below it."""
        return "\n  ".join([str(self), *map(str, self.violations[:20])])


@contextmanager
def load_process(options: Mapping[str, object]) -> Iterator[subprocess.Popen[str]]:
    """`python -m tests.crash.load` with these options (True: a flag); killed on the way out if it has not ended."""
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.load", *given],
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


def read_back(
    port: int, topic: str, history: HistoryFile, choices: random.Random, log_start: int = 0
) -> list[StoredRecord]:
    """The whole topic from its start, every page written down as a read."""
    stored: list[StoredRecord] = []
    with Connection(port) as connection:
        while True:
            most = choices.choice((97, 1_000, 10_000))
            _, records = read_page(connection, topic, history, "read-back", log_start + len(stored), most)
            if not records:
                return stored
            stored += records


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rounds, and what one of them may take.

    The load runs up to `longest_load_s` past its first acknowledgement before the fault. `ends_in_good_order` adds a
    SIGTERM, a start and a check after the last round of a data set. `tears` has some faults leave a torn tail.
    `is_plain`: the server knows nothing but records. `may_lose`: the fault may take the end of the log, as far back as
    `window_s`; if that is a time, the load of every other round goes on well past it, so that there is much the fault
    must leave. `tamper`: what a proxy between load and server does, in a control.
    """

    rounds: int
    longest_load_s: float = 0.5
    ends_in_good_order: bool = True
    tears: bool = False
    is_plain: bool = False
    may_lose: bool = False
    window_s: float = inf
    tamper: Tamper | None = None


@contextmanager
def killed_machine(directory: Path) -> Iterator[Machine]:
    yield Killed(directory / "data")


def run_rounds(
    name: str,
    command_for: Callable[[Path], list[str]],
    plan: Plan,
    seed: int,
    directory: Path,
    machine_in: Callable[[Path], AbstractContextManager[Machine]] = killed_machine,
) -> Summary:
    """Rounds until the first violation or the last round, `ROUNDS_PER_DATA_SET` on each data directory.

    The seed fixes what is sent and when each fault comes, not how the processes are scheduled in between. Raises
    ServerFailedError when a server does not start, is not healthy after a fault, or does not stop.
    """
    summary = Summary(name, seed)
    begun_s = time.monotonic()
    while summary.rounds < plan.rounds and not summary.violations:
        data_set = directory / f"set-{summary.rounds // ROUNDS_PER_DATA_SET}"
        data_set.mkdir(parents=True)
        run = f"{name}-{seed}-{data_set.name}"
        with machine_in(data_set) as machine:
            with (
                HistoryFile(data_set / "history.jsonl") as history,
                ServerProcess(command_for(machine.data_dir), data_set / "server.log") as server,
            ):
                rounds = Rounds(run, plan, server, history, data_set, machine)
                summary.violations = rounds.run(min(ROUNDS_PER_DATA_SET, plan.rounds - summary.rounds))
            summary.add(rounds)
    summary.duration_s = time.monotonic() - begun_s
    return summary


class Rounds:
    """The rounds on one data directory and the history they share."""

    def __init__(
        self, run: str, plan: Plan, server: ServerProcess, history: HistoryFile, directory: Path, machine: Machine
    ) -> None:
        self._run = run
        self._plan = plan
        self._choices = random.Random(run)
        self.server = server
        self._history = history
        self.path = directory / "history.jsonl"
        self.machine = machine
        self.done = 0
        self.past_window = 0
        self.tails_torn = 0
        self.stored: list[StoredRecord] = []

    def run(self, rounds: int) -> list[Violation]:
        """The violations after `rounds` rounds, or after the first that found any."""
        self._start()
        violations: list[Violation] = []
        while self.done < rounds and not violations:
            self._strike_under_load()
            if self._plan.tears and self._choices.random() < 0.3:
                self.tails_torn += tear(self.machine.data_dir / "topics" / TOPIC / "0", self._choices)
            if self._choices.random() < 0.25:
                self._kill_while_starting()
            self._start()
            if self._plan.may_lose:
                self._note_what_survived()
            violations = self._check()
            self.done += 1
        if self._plan.ends_in_good_order and not violations:
            self.server.stop()
            self._start()
            violations = self._check()
        return violations

    def _strike_under_load(self) -> None:
        with self._way_to_server() as port:
            options: dict[str, object] = {"port": port, "topic": TOPIC, "history": self.path, "run": self._run}
            options |= {"prefix": f"r{self.done}", "seed": f"{self._run}-{self.done}"}
            options |= {"plain": True} if self._plan.is_plain else {"retry": True}
            with load_process(options) as load:
                if self.done > 0 or self._choices.random() < 0.7:
                    wait_until_loading(load)
                    time.sleep(self._load_s())
                else:
                    time.sleep(LONGEST_FIRST_POST_S * self._choices.random())
                self.server.fail_if_ended()
                self.machine.strike(self.server, self._history)
                wait_until_ended(load)

    def _load_s(self) -> float:
        """How long the load goes on after its first acknowledgement."""
        window_s = self._plan.window_s
        if 0 < window_s < inf and self.done % 2 == 1:
            self.past_window += 1
            return window_s * self._choices.uniform(1.5, 3)
        return self._choices.choice((0.02, 0.2, self._plan.longest_load_s)) * self._choices.random()

    @contextmanager
    def _way_to_server(self) -> Iterator[int]:
        """The port for the load."""
        tamper = self._plan.tamper
        with TamperingProxy(self.server.port, tamper) if tamper else nullcontext() as proxy:
            yield proxy.port if proxy else self.server.port

    def _kill_while_starting(self) -> None:
        """Late in the start, when the files are opened and repaired; most of it goes before, in loading the program."""
        after_s = self.server.start_duration_s * self._choices.uniform(0.6, 1.1)
        self.server.spawn()
        time.sleep(after_s)
        self.server.fail_if_ended()
        self.server.kill()

    def _start(self) -> None:
        if (self.machine.data_dir / "flashq.json").exists():  # not for a server that only pretends
            damage = verify_directory(self.machine.data_dir).damage
            if damage:
                raise ServerFailedError(f"damage on disk before a start: {damage}")
        health = self.server.start()
        if health.get("status") != "healthy":
            raise ServerFailedError(f"not healthy after a start: {health}\n{self.server.output_tail()}")

    def _note_what_survived(self) -> None:
        with Connection(self.server.port) as connection:
            answer = connection.request("GET", f"/topics/{TOPIC}")
            about = answer.json() if answer.status == 200 else {"high_water_mark": -1, "epoch": -1}
            self._history.power_cut_survived(about["high_water_mark"], about["epoch"])

    def _check(self) -> list[Violation]:
        self.stored = read_back(self.server.port, TOPIC, self._history, self._choices)
        if not self._plan.is_plain:
            with Connection(self.server.port) as connection:
                for thing in things_beside(TOPIC):
                    look(connection, self._history, thing)
        return check(read_history(self.path), self.stored, window_s=self._plan.window_s)
