"""A mixed load for a long time, with kills: nothing acknowledged is lost, and memory and descriptors stay flat.

FLASHQ_SOAK_SECONDS changes the length (1,200), FLASHQ_SOAK_SEED the choices.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from flashq import Client
from flashq.client.errors import ConnectionFailed
from flashq.errors import FlashQError
from flashq.storage.file.verify import verify_directory
from tests.load.judging import Life, growth, losses
from tests.server.running import JSON, Process, serving

pytestmark = [pytest.mark.load, pytest.mark.timeout(7200)]

SOAK_S = float(os.environ.get("FLASHQ_SOAK_SECONDS", "1200"))
LIVES = (0.1, 0.1, 0.1, 0.1, 0.1, 0.5)  # of the time: a leak shows in a long one
PRODUCERS = 4
PAUSE_S = 0.02
SETTINGS = ("--sync-mode", "periodic", "--segment-bytes", "262144", "--retention-bytes", "2097152")


@dataclass
class Sent:
    """What one producer knows of its topic: values are numbers in order, one post at a time."""

    topic: str
    acknowledged: int = 0  # all numbers below
    unknown: int = 0  # all numbers below, and from `acknowledged` on, were sent and never answered


class Load:
    """Everybody who uses the server during one life; all end once it is gone."""

    def __init__(self, port: int, sent: list[Sent], choices: random.Random) -> None:
        self._port, self._url = port, f"http://127.0.0.1:{port}"
        self._over = threading.Event()
        self.mistakes: list[BaseException] = []
        self.is_killed = False  # from before it is: the only excuse for an error
        self.done = dict.fromkeys(("posts", "polls", "commits", "topics made and deleted", "waits", "streamed"), 0)
        users: list[Callable[[Client], None]] = [partial(self._post, sent=each) for each in sent]
        users += [partial(self._consume, topic=each.topic) for each in sent[:2]]
        users += [partial(self._churn, choices=random.Random(choices.random())), self._look]
        users += [partial(self._wait, topic=sent[2].topic), partial(self._stream, topic=sent[3].topic)]
        self._threads = [threading.Thread(target=self._use, args=(user,)) for user in users]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Have everybody finish what is under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert not self.mistakes, self.mistakes

    def _use(self, user: Callable[[Client], None]) -> None:
        try:
            with Client(self._url, retries=0, timeout_s=30) as client:
                while not self._over.wait(PAUSE_S):
                    user(client)
        except FlashQError as error:
            if not self.is_killed:
                self.mistakes.append(error)
        except BaseException as mistake:
            self.mistakes.append(mistake)

    def _post(self, client: Client, sent: Sent) -> None:
        count = 10
        first = sent.unknown
        sent.unknown += count
        client.post_records(sent.topic, [f"{number} {'x' * 100}" for number in range(first, first + count)])
        sent.acknowledged = sent.unknown
        self.done["posts"] += 1

    def _consume(self, client: Client, topic: str) -> None:
        group = f"readers-of-{topic}"
        client.create_consumer_group(group)
        polled = client.poll_records_for_consumer_group(group, topic, count=500)
        numbers = [int(record.text.split()[0]) for record in polled]
        assert numbers == sorted(set(numbers)), f"read out of order: {numbers}"
        self.done["polls"] += 1
        if numbers:
            client.commit_offset(group, topic, polled.next_offset)
            self.done["commits"] += 1

    def _churn(self, client: Client, choices: random.Random) -> None:
        name = f"passing-{choices.randrange(1 << 30)}"
        client.post_record(name, "x" * choices.randrange(100_000))
        client.create_consumer_group(name)
        client.commit_offset(name, name, 1)
        client.delete_consumer_group(name)
        client.delete_topic(name)
        self.done["topics made and deleted"] += 1

    def _wait(self, client: Client, topic: str) -> None:
        client.poll_records(topic, from_offset=client.high_water_mark(topic), timeout_s=5)
        self.done["waits"] += 1

    def _stream(self, client: Client, topic: str) -> None:
        """Read events until some records have come, then go away in the middle."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", f"/topics/{topic}/stream?from_offset={client.high_water_mark(topic)}")
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            left = 20
            while left and (line := answer.readline()):
                left -= line.startswith(b"data:")
            self.done["streamed"] += 20 - left
        except (OSError, HTTPException) as error:
            raise ConnectionFailed(str(error)) from error
        finally:
            connection.close()

    def _look(self, client: Client) -> None:
        client.topics()
        client.health()
        with Client(self._url, retries=0) as passing:
            passing.consumer_groups()


def test_memory_and_descriptors_stay_flat_and_nothing_is_lost(tmp_path: Path) -> None:
    seed = int(os.environ.get("FLASHQ_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
    choices = random.Random(seed)
    sent = [Sent(f"kept-{number}") for number in range(PRODUCERS)]
    lives: list[Life] = []
    done: dict[str, int] = {}
    for number, share in enumerate(LIVES):
        with serving(tmp_path / "data", *SETTINGS) as server:
            for each in sent:
                server.ask("PUT", f"/topics/{each.topic}", b"{}", JSON)
                check_kept(server, each)
            load, life = Load(server.port, sent, choices), Life()
            watch(server, life, SOAK_S * share)
            if number < len(LIVES) - 1:
                load.is_killed = True
                server.kill()
            load.end()
            if server.is_running:
                for each in sent:
                    check_kept(server, each)
        assert life.growth() == [], life.resident
        lives.append(life)
        done = {what: done.get(what, 0) + count for what, count in load.done.items()}
    first, last = lives[0].quarter(3), lives[-1].quarter(3)
    report = verify_directory(tmp_path / "data")
    print(
        f"\nsoak: {SOAK_S:.0f} s, {len(LIVES) - 1} kills, {done},"
        f" {sum(each.acknowledged for each in sent)} records acknowledged;"
        f" resident {first.resident >> 20} MiB at the end of the first life, {last.resident >> 20} of the last;"
        f" descriptors {first.descriptors} and {last.descriptors} (seed {seed})"
    )
    assert not report.damage
    assert growth(first, last) == []


def watch(server: Process, life: Life, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.is_running, server.log()
        sample(server.pid, life)
        time.sleep(min(1.0, seconds / 40))


def sample(pid: int, life: Life) -> None:
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        life.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        life.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))


def check_kept(server: Process, sent: Sent) -> None:
    """The records retention has left are numbered in order up to the last acknowledged; unknown ones once or not."""
    if not sent.unknown:
        return
    about = server.ask("GET", f"/topics/{sent.topic}").json()
    offset, numbers = about["log_start_offset"], []
    while (polled := server.poll(sent.topic, from_offset=offset, max_records=10_000))["records"]:
        numbers += [int(record["value"].split()[0]) for record in polled["records"]]
        offset = polled["next_offset"]
    assert losses(numbers, sent.acknowledged) == [], sent
    sent.acknowledged = sent.unknown = numbers[-1] + 1
