"""Producers and readers that write down what they do: a process of its own, so that no server kill touches it.

    python -m tests.crash.load --port 8080 --topic t --history FILE --run RUN --prefix r0 --seed 1

Prints `loading` when the first post has been acknowledged. Ends with status 0 when every client has lost its
connection, when each producer has sent `--posts` posts, or, after the answers in flight, when standard input
closes or has a byte. Any other end (a server that hangs, bytes that are not HTTP) is a traceback and status 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.history import HistoryFile, Identity, Read, Seen, SentRecord, StoredRecord, digest, make_record
from tests.crash.wire import Connection, ConnectionLostError, Message, NotHTTPError

MAX_POST_RECORDS = 48
REFUSED_KEY = "k" * 1025
"""One byte over the limit: the record that makes a server refuse its whole post."""
READ_PAUSE_S = 0.005
COMMIT_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Target:
    """What one run of clients talks to and writes to."""

    port: int
    topic: str
    run: str
    history: HistoryFile

    @property
    def path(self) -> str:
        return f"/topics/{self.topic}/records"


class Signals:
    """How the clients of this process and the one who started it tell each other where they are."""

    def __init__(self, announce: Callable[[], None]) -> None:
        self.stop = threading.Event()
        self._announce = announce
        self._announced = False
        self._lock = threading.Lock()
        self.failures: list[BaseException] = []

    def acknowledged(self) -> None:
        with self._lock:
            if not self._announced:
                self._announced = True
                self._announce()


def make_post(target: Target, client: str, sequence: int, choices: random.Random) -> list[SentRecord]:
    """One to `MAX_POST_RECORDS` records of a hundred bytes to some tens of KiB; about one post in thirty is invalid."""
    count = choices.choice((1, 1, 1, 2, 3, choices.randint(4, 12), choices.randint(4, MAX_POST_RECORDS)))
    longest = choices.choice((60, 60, 60, 400, 400, 2_000, 2_000, 24_000 // count))
    records = [
        make_record(Identity(target.run, client, sequence, position, count), choices.randint(0, longest))
        for position in range(count)
    ]
    if choices.random() < 1 / 30:
        position = choices.randrange(count)
        records[position] = SentRecord(REFUSED_KEY, records[position].value, None)
    return records


def produce(target: Target, client: str, seed: str, posts: int, signals: Signals) -> None:
    """Post until the connection is lost, one at a time or, now and then, a few pipelined."""
    choices = random.Random(seed)
    unanswered: list[int] = []
    sequence = 0
    try:
        with Connection(target.port) as connection:
            while sequence < posts and not signals.stop.is_set():
                depth = min(choices.choice((1, 1, 1, 1, 2, 6)), posts - sequence)
                requests = []
                for number in range(sequence, sequence + depth):
                    records = make_post(target, client, number, choices)
                    target.history.post_begins(
                        client, number, target.run, [digest(r.key, r.value, r.headers) for r in records]
                    )
                    unanswered.append(number)
                    body = {"records": [record.as_json() for record in records]}
                    requests.append(connection.encode("POST", target.path, body))
                sequence += depth
                connection.send(b"".join(requests))
                while unanswered:
                    record_answer(target, client, unanswered[0], connection.receive(), signals)
                    del unanswered[0]
    except ConnectionLostError:
        for number in unanswered:
            target.history.post_lost(client, number)


def record_answer(target: Target, client: str, sequence: int, answer: Message, signals: Signals) -> None:
    body = answer.json()
    if answer.status == 200:
        try:
            offsets = [(stamped["offset"], stamped["timestamp"]) for stamped in body["offsets"]]
        except (KeyError, TypeError) as error:
            raise NotHTTPError(f"acknowledgement {str(body)[:200]}") from error
        target.history.post_acknowledged(client, sequence, offsets)
        signals.acknowledged()
    else:
        outcome = body.get("details", {}).get("outcome") if isinstance(body, dict) else None
        target.history.post_refused(client, sequence, answer.status, outcome)


def read_page(
    connection: Connection, topic: str, history: HistoryFile, reader: str, from_offset: int, max_records: int
) -> tuple[Read, list[StoredRecord]]:
    """One poll, written down: what the history keeps of it and, for a 200, the records themselves."""
    begun_ns = time.monotonic_ns()
    answer = connection.request("GET", f"/topics/{topic}/records?from_offset={from_offset}&max_records={max_records}")
    ended_ns = time.monotonic_ns()
    records: list[StoredRecord] = []
    body: dict[str, Any] = {"next_offset": 0, "high_water_mark": 0}
    if answer.status == 200:
        body = answer.json()
        try:
            records = [StoredRecord.from_json(record) for record in body["records"]]
        except (KeyError, TypeError) as error:
            raise NotHTTPError(f"records {str(body)[:200]}") from error
    read = Read(
        reader,
        begun_ns,
        ended_ns,
        from_offset,
        answer.status,
        tuple(Seen(record.offset, record.timestamp, record.digest) for record in records),
        body["next_offset"],
        body["high_water_mark"],
    )
    history.read_answered(read)
    return read, records


def follow(target: Target, reader: str, seed: str, signals: Signals) -> None:
    """Poll the end of the topic and, every other time, some place before it, until the connection is lost."""
    choices = random.Random(seed)
    end = 0
    try:
        with Connection(target.port) as connection:
            while not signals.stop.wait(READ_PAUSE_S):
                read, _ = read_page(connection, target.topic, target.history, reader, end, 500)
                end = max(end, read.next_offset)
                earlier, most = choices.randint(0, end), choices.randint(1, 60)
                read_page(connection, target.topic, target.history, reader, earlier, most)
    except ConnectionLostError:
        pass


def commit(target: Target, group: str, first: int, signals: Signals) -> None:
    """Commit ever larger offsets for one group, beginning with `first`, as far as the topic reaches."""
    path = f"/consumer/{group}/topics/{target.topic}/offset"
    offset = first
    try:
        with Connection(target.port) as connection:
            while not signals.stop.wait(COMMIT_PAUSE_S):
                target.history.commit_begins(group, offset)
                answer = connection.request("POST", path, {"offset": offset})
                if answer.status == 200:
                    target.history.commit_acknowledged(group, offset)
                    offset += 1
                elif answer.status not in (400, 404):  # beyond the end, or no topic yet
                    raise NotHTTPError(f"commit answered with {answer.status}: {answer.body[:200]!r}")
    except ConnectionLostError:
        pass


def run(arguments: argparse.Namespace, announce: Callable[[], None], stop_requested: Callable[[], object]) -> int:
    """All clients of one run, a thread each; returns the exit status."""
    signals = Signals(announce)
    with HistoryFile(arguments.history) as history:
        target = Target(arguments.port, arguments.topic, arguments.run, history)
        producers = [
            _client(
                signals, produce, target, f"{arguments.prefix}p{n}", f"{arguments.seed}p{n}", arguments.posts, signals
            )
            for n in range(arguments.producers)
        ]
        others = [
            _client(signals, follow, target, f"{arguments.prefix}c{n}", f"{arguments.seed}c{n}", signals)
            for n in range(arguments.readers)
        ]
        if arguments.group:
            others.append(_client(signals, commit, target, arguments.group, arguments.first_commit, signals))

        def stop_when_requested() -> None:
            stop_requested()
            signals.stop.set()

        threading.Thread(target=stop_when_requested, daemon=True).start()
        for producer in producers:
            producer.join()
        signals.stop.set()
        for other in others:
            other.join()
    for failure in signals.failures:
        print(f"client failed: {failure!r}", file=sys.stderr)
    return 1 if signals.failures else 0


def _client(signals: Signals, work: Callable[..., None], *arguments: object) -> threading.Thread:
    def guarded() -> None:
        try:
            work(*arguments)
        except BaseException as failure:
            signals.failures.append(failure)
            signals.stop.set()
            raise

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--posts", type=int, default=sys.maxsize)
    parser.add_argument("--group", default="", help="also commit offsets for this group")
    parser.add_argument("--first-commit", type=int, default=0)
    return run(parser.parse_args(arguments), lambda: print("loading", flush=True), lambda: os.read(0, 1))


if __name__ == "__main__":
    sys.exit(main())
