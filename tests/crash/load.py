"""Producers, readers and owners of groups and topics: a process of its own, so that no server kill touches it.

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
from pathlib import Path
from typing import Any

from tests.crash.history import HistoryFile, Read, read_history
from tests.crash.producers import Producer, Signals, Target, unknown_keyed
from tests.crash.records import Seen, StoredRecord
from tests.crash.things import own, things_beside
from tests.crash.wire import Connection, ConnectionLostError, NotHTTPError

READ_PAUSE_S = 0.005


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


def run(arguments: argparse.Namespace, announce: Callable[[], None], stop_requested: Callable[[], object]) -> int:
    """All clients of one run, a thread each; returns the exit status."""
    signals = Signals(announce)
    prefix, seed = arguments.prefix, arguments.seed
    unknown = unknown_keyed(read_history(arguments.history)) if arguments.retry else []
    with HistoryFile(arguments.history) as history:
        target = Target(arguments.port, arguments.topic, arguments.run, history, arguments.plain)
        producers = [
            _client(signals, Producer(target, f"{prefix}p{n}", f"{seed}p{n}", signals).produce, arguments.posts)
            for n in range(arguments.producers)
        ]
        producers.append(_client(signals, Producer(target, f"{prefix}again", seed, signals).retry, unknown))
        others = [
            _client(signals, follow, target, f"{prefix}c{n}", f"{seed}c{n}", signals) for n in range(arguments.readers)
        ]
        if not target.is_plain:
            others += [
                _client(signals, own, target.port, history, thing, f"{seed}{thing.name}", signals)
                for thing in things_beside(target.topic)
            ]

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
    parser.add_argument("--plain", action="store_true", help="posts have no keys, conditions or wishes; nothing else")
    parser.add_argument("--retry", action="store_true", help="send again what the history does not know the fate of")
    return run(parser.parse_args(arguments), lambda: print("loading", flush=True), lambda: os.read(0, 1))


if __name__ == "__main__":
    sys.exit(main())
