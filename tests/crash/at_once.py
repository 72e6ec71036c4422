"""Eight producers, readers and owners of groups over sixteen topics, a thread each, and what became of all they did."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.crash.checker import check
from tests.crash.history import Change, HistoryFile, Post, read_history
from tests.crash.load import read_page
from tests.crash.producers import Producer, Signals, Target, make_post, unknown_keyed
from tests.crash.records import StoredRecord
from tests.crash.rounds import read_back
from tests.crash.things import Group, change, look
from tests.crash.violations import Violation
from tests.crash.wire import Connection, ConnectionLostError

PRODUCERS = READERS = 8
TOPICS = [f"t{number}" for number in range(16)]
GROUPS = {topic: f"group-of-{topic}" for topic in TOPICS[:8]}
"""Each reads one topic, and has one owner."""
POSTS = 40
"""Of each producer, over all topics; and so many changes of each group."""

Targets = dict[str, Target]
Work = Callable[[Signals], None]


@contextmanager
def histories(directory: Path, port: int) -> Iterator[Targets]:
    """A history for each topic and its group, checked by nobody yet; those that are there go on."""
    with ExitStack() as stack:
        files = {topic: stack.enter_context(HistoryFile(directory / f"{topic}.jsonl")) for topic in TOPICS}
        yield {topic: Target(port, topic, "crowd", file) for topic, file in files.items()}


def all_at_once(writers: Sequence[Work], readers: Sequence[Work], strike: Callable[[], None] | None = None) -> None:
    """Run them, a thread each; the readers stop when the writers are done.

    `strike` is called when the first post has been acknowledged, and leaves no server: that excuses a lost connection.
    """
    loading = threading.Event()
    signals = Signals(loading.set)

    def guarded(work: Work) -> None:
        try:
            work(signals)
        except BaseException as failure:
            if strike is None or not isinstance(failure, ConnectionLostError):
                signals.failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in [*writers, *readers]]
    for thread in threads:
        thread.start()
    if strike is not None:
        assert loading.wait(20), f"nothing was acknowledged: {signals.failures}"
        strike()
    for thread in threads[: len(writers)]:
        thread.join()
    signals.stop.set()
    for thread in threads[len(writers) :]:
        thread.join()
    assert not signals.failures, signals.failures


def violations(directory: Path, read: Callable[[str], list[StoredRecord]]) -> list[Violation]:
    """Everything that was written down against what `read` now finds in each topic."""
    found: list[Violation] = []
    commits = 0
    for topic in TOPICS:
        stored = read(topic)
        history = read_history(directory / f"{topic}.jsonl")
        found += check(history, stored)
        assert any(post.fate == "acknowledged" for post in history.posts.values())
        assert any(each.records for each in history.reads)
        changes = [each for life in history.things.values() for each in life if isinstance(each, Change)]
        commits += sum(bool(change.value) and change.fate == "acknowledged" for change in changes)
    assert commits > len(GROUPS)
    return found


# -- clients of a server


def clients_at_once(
    targets: Targets, prefix: str = "", posts: int = POSTS, strike: Callable[[], None] | None = None
) -> None:
    """All of them, on a connection each; and one that sends again what earlier ones do not know the fate of."""
    producers: list[Work] = [partial(produce, targets, f"{prefix}p{number}", posts) for number in range(PRODUCERS)]
    readers: list[Work] = [partial(follow, targets, f"{prefix}c{number}") for number in range(READERS)]
    owners: list[Work] = [partial(own_group, targets[topic], f"{prefix}{topic}", posts) for topic in GROUPS]
    unknown = {topic: unknown_keyed(read_history(target.history.path)) for topic, target in targets.items()}
    all_at_once([*producers, *owners, partial(send_again, targets, unknown)], readers, strike)


def produce(targets: Targets, client: str, posts: int, signals: Signals) -> None:
    choices = random.Random(client)
    producers = {topic: Producer(target, client, "", signals) for topic, target in targets.items()}
    try:
        with Connection(targets[TOPICS[0]].port) as connection:
            for sequence in range(posts):
                topic = choices.choice(TOPICS)
                producers[topic].post(connection, make_post(targets[topic], client, sequence))
    except ConnectionLostError:
        for producer in producers.values():
            producer.lose()
        raise


def send_again(targets: Targets, unknown: dict[str, list[Post]], signals: Signals) -> None:
    for topic, posts in unknown.items():
        Producer(targets[topic], "", "", signals).retry(posts)


def follow(targets: Targets, reader: str, signals: Signals) -> None:
    choices = random.Random(reader)
    with Connection(targets[TOPICS[0]].port) as connection:
        while not signals.stop.wait(0.005):
            topic, most = choices.choice(TOPICS), choices.randint(1, 200)
            read_page(connection, topic, targets[topic].history, reader, choices.randint(0, 60), most)


def own_group(target: Target, seed: str, changes: int, signals: Signals) -> None:
    """Change a group, one change after the other. Nobody else may."""
    group, choices = Group(GROUPS[target.topic], target.topic), random.Random(seed)
    with Connection(target.port) as connection:
        value = look(connection, target.history, group)
        for _ in range(changes):
            time.sleep(0.001)
            wanted = group.next_value(value, choices)
            if change(connection, target.history, group, wanted):
                value = wanted


def violations_of_server(directory: Path, targets: Targets) -> list[Violation]:
    """Of one that rests: its topics and groups are read, and held against the histories."""

    def read(topic: str) -> list[StoredRecord]:
        target = targets[topic]
        if topic in GROUPS:
            with Connection(target.port) as connection:
                look(connection, target.history, Group(GROUPS[topic], topic))
        return read_back(target.port, topic, target.history, random.Random(0))

    return violations(directory, read)
