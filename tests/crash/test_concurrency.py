"""Eight producers, eight readers and sixteen topics at once: threads on one FlashQ, and clients of one server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from flashq import FlashQ, Record, RecordWithOffset
from flashq.api.times import iso_timestamp
from flashq.errors import FlashQError, TopicNotFound
from flashq.storage.interface import SyncMode
from tests.crash.checker import check
from tests.crash.history import HistoryFile, Read, read_history
from tests.crash.load import read_page
from tests.crash.producers import PostToSend, Producer, Signals, Target, make_post
from tests.crash.records import Seen, StoredRecord, digest
from tests.crash.rounds import read_back
from tests.server.running import serving

PRODUCERS = READERS = 8
TOPICS = [f"t{number}" for number in range(16)]
POSTS = 40
"""Of each producer, over all topics."""

Targets = dict[str, Target]


@contextmanager
def histories(directory: Path, port: int) -> Iterator[Targets]:
    """A history for each topic, checked by nobody yet."""
    with ExitStack() as stack:
        files = {topic: stack.enter_context(HistoryFile(directory / f"{topic}.jsonl")) for topic in TOPICS}
        yield {topic: Target(port, topic, "crowd", file) for topic, file in files.items()}


def all_at_once(produce: Callable[[int], None], read: Callable[[int, Signals], None]) -> None:
    """Run the producers and readers, a thread each; the readers stop when the producers have done their posts."""
    signals = Signals(lambda: None)

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            signals.failures.append(failure)

    producers = [Thread(target=guarded, args=(partial(produce, number),)) for number in range(PRODUCERS)]
    readers = [Thread(target=guarded, args=(partial(read, number, signals),)) for number in range(READERS)]
    for thread in producers + readers:
        thread.start()
    for thread in producers:
        thread.join()
    signals.stop.set()
    for thread in readers:
        thread.join()
    assert signals.failures == []


def assert_kept(directory: Path, read: Callable[[str], list[StoredRecord]]) -> None:
    for topic in TOPICS:
        stored = read(topic)
        history = read_history(directory / f"{topic}.jsonl")
        assert check(history, stored) == []
        assert any(post.fate == "acknowledged" for post in history.posts.values())
        assert any(each.records for each in history.reads)


# -- threads


def post_embedded(flashq: FlashQ, target: Target, client: str, post: PostToSend, at: int | None) -> int:
    """One post, written down; where the log ended when it was answered."""
    target.history.post_begins(client, post.sequence, target.run, post.digests(), at=at, is_keyed=post.is_keyed)
    records = [Record(record.value, key=record.key, headers=record.headers) for record in post.records]
    key = f"{client}-{post.sequence}" if post.is_keyed else None
    try:
        offsets = flashq.post_records(target.topic, records, idempotency_key=key, if_next_offset=at)
    except FlashQError as error:
        target.history.post_refused(client, post.sequence, 400, error.outcome)
        return int(str(error.details.get("next_offset", 0)))
    target.history.post_acknowledged(client, post.sequence, [(offset, None) for offset in offsets])
    return offsets[-1] + 1


def produce_embedded(flashq: FlashQ, targets: Targets, number: int) -> None:
    choices, client, ends = random.Random(number), f"p{number}", dict.fromkeys(TOPICS, 0)
    for sequence in range(POSTS):
        topic = choices.choice(TOPICS)
        post = make_post(targets[topic], client, sequence)
        at = ends[topic] if post.is_conditional else None
        ends[topic] = max(ends[topic], post_embedded(flashq, targets[topic], client, post, at))


def stored_record(record: RecordWithOffset) -> StoredRecord:
    headers = {name: value.decode() for name, value in (record.headers or {}).items()} or None
    parts = record.key_text, record.text, headers
    return StoredRecord(record.offset, iso_timestamp(record.timestamp_ms), *parts, digest(*parts))


def read_embedded(flashq: FlashQ, target: Target, reader: str, from_offset: int, count: int) -> list[StoredRecord]:
    """One poll, written down."""
    begun_ns = time.monotonic_ns()
    try:
        polled = flashq.poll_records(target.topic, from_offset=from_offset, count=count)
    except TopicNotFound:
        target.history.read_answered(Read(reader, begun_ns, time.monotonic_ns(), from_offset, 404, (), 0, 0))
        return []
    ended_ns = time.monotonic_ns()
    records = [stored_record(record) for record in polled]
    seen = tuple(Seen(record.offset, record.timestamp, record.digest) for record in records)
    marks = polled.next_offset, polled.high_water_mark
    target.history.read_answered(Read(reader, begun_ns, ended_ns, from_offset, 200, seen, *marks))
    return records


def follow_embedded(flashq: FlashQ, targets: Targets, number: int, signals: Signals) -> None:
    choices = random.Random(number)
    while not signals.stop.wait(0.002):
        topic = choices.choice(TOPICS)
        read_embedded(flashq, targets[topic], f"c{number}", choices.randint(0, 60), choices.randint(1, 200))


@pytest.mark.parametrize("sync_mode", ["always", "periodic", None], ids=["always", "periodic", "memory"])
def test_threads_on_one_flashq_see_every_promise_kept(sync_mode: SyncMode | None, tmp_path: Path) -> None:
    options = {"sync_mode": sync_mode, "segment_bytes": 8192}
    flashq = FlashQ() if sync_mode is None else FlashQ.open(tmp_path / "data", **options)  # type: ignore[arg-type]
    with flashq, histories(tmp_path, 0) as targets:
        all_at_once(partial(produce_embedded, flashq, targets), partial(follow_embedded, flashq, targets))
        assert_kept(tmp_path, lambda topic: read_embedded(flashq, targets[topic], "read-back", 0, 1 << 30))
    if sync_mode is not None:
        with FlashQ.open(tmp_path / "data") as again, histories(tmp_path, 0) as targets:
            assert_kept(tmp_path, lambda topic: read_embedded(again, targets[topic], "again", 0, 1 << 30))


# -- clients


def test_clients_of_one_server_see_every_promise_kept(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--segment-bytes", "8192") as server, histories(tmp_path, server.port) as targets:

        def produce(number: int) -> None:
            choices, client = random.Random(number), f"p{number}"
            producers = {t: Producer(targets[t], client, "", Signals(lambda: None)) for t in TOPICS}
            with server.connect() as connection:
                for sequence in range(POSTS):
                    topic = choices.choice(TOPICS)
                    producers[topic].post(connection, make_post(targets[topic], client, sequence))

        def follow(number: int, signals: Signals) -> None:
            choices = random.Random(number)
            with server.connect() as connection:
                while not signals.stop.wait(0.005):
                    topic, most = choices.choice(TOPICS), choices.randint(1, 200)
                    from_offset = choices.randint(0, 60)
                    read_page(connection, topic, targets[topic].history, f"c{number}", from_offset, most)

        all_at_once(produce, follow)
        choices = random.Random(0)
        assert_kept(tmp_path, lambda topic: read_back(server.port, topic, targets[topic].history, choices))
