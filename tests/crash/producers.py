"""Producers that write down what they send and hear, and send again, with its key, what was left unanswered."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.history import History, HistoryFile, Post
from tests.crash.records import Identity, SentRecord, digest, make_record
from tests.crash.wire import Connection, ConnectionLostError, Message, NotHTTPError

MAX_POST_RECORDS = 48
REFUSED_KEY = "k" * 1025
"""One byte over the limit: the record that makes a server refuse its whole post."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one run of clients talks to and writes to. `is_plain`: posts have no keys, conditions or wishes."""

    port: int
    topic: str
    run: str
    history: HistoryFile
    is_plain: bool = False

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


@dataclass(frozen=True, slots=True)
class PostToSend:
    """One post: the same client and sequence make the same records, in any process."""

    client: str
    sequence: int
    records: list[SentRecord]
    is_keyed: bool = False
    is_durable: bool = False
    is_conditional: bool = False

    def digests(self) -> list[str]:
        return [digest(record.key, record.value, record.headers) for record in self.records]

    def encode(self, connection: Connection, target: Target, at: int | None) -> bytes:
        """The request; `at` is the offset it must be stored at, if any."""
        headers: dict[str, str] = {}
        if self.is_keyed:
            headers["Idempotency-Key"] = f"{target.run}-{self.client}-{self.sequence}"
        if at is not None:
            headers["If-Next-Offset"] = str(at)
        path = target.path + ("?sync=always" if self.is_durable else "")
        return connection.encode("POST", path, {"records": [record.as_json() for record in self.records]}, headers)


def make_post(target: Target, client: str, sequence: int) -> PostToSend:
    """One to `MAX_POST_RECORDS` records of a hundred bytes to some tens of KiB; about one post in thirty is invalid.

    Of posts that are not plain, a third has a key, and some ask for an offset or for their fsync.
    """
    choices = random.Random(f"{target.run}-{client}-{sequence}")
    count = choices.choice((1, 1, 1, 2, 3, choices.randint(4, 12), choices.randint(4, MAX_POST_RECORDS)))
    longest = choices.choice((60, 60, 60, 400, 400, 2_000, 2_000, 24_000 // count))
    records = [
        make_record(Identity(target.run, client, sequence, position, count), choices.randint(0, longest))
        for position in range(count)
    ]
    if choices.random() < 1 / 30:
        position = choices.randrange(count)
        records[position] = SentRecord(REFUSED_KEY, records[position].value, None)
    if target.is_plain:
        return PostToSend(client, sequence, records)
    kind = choices.randrange(12)
    return PostToSend(
        client, sequence, records, is_keyed=kind < 4, is_conditional=kind in (3, 4, 5), is_durable=kind == 6
    )


@dataclass(slots=True)
class Producer:
    """One producer and its connection; `end` is where the log ended when it last heard of it."""

    target: Target
    client: str
    seed: str
    signals: Signals
    end: int = 0
    unanswered: list[int] = field(default_factory=list)

    def produce(self, posts: int) -> None:
        """Post until the connection is lost, one at a time or, now and then, a few pipelined."""
        choices = random.Random(self.seed)
        sequence = 0
        try:
            with Connection(self.target.port) as connection:
                while sequence < posts and not self.signals.stop.is_set():
                    depth = min(choices.choice((1, 1, 1, 1, 2, 6)), posts - sequence)
                    made = [make_post(self.target, self.client, n) for n in range(sequence, sequence + depth)]
                    sequence += depth
                    connection.send(b"".join([self._begin(connection, post) for post in made]))
                    is_stored = self._hear(connection)
                    if is_stored and made[-1].is_keyed and not made[-1].is_conditional and choices.random() < 0.2:
                        self._send_again(connection, made[-1], at=None)
        except ConnectionLostError:
            self.lose()

    def post(self, connection: Connection, post: PostToSend) -> bool:
        """One post and its answer; whether it was an acknowledgement."""
        connection.send(self._begin(connection, post))
        return self._hear(connection)

    def retry(self, unknown: list[Post]) -> None:
        """Send again what earlier clients of this run do not know the fate of."""
        try:
            with Connection(self.target.port) as connection:
                for post in unknown:
                    self.client = post.client
                    self._send_again(connection, make_post(self.target, post.client, post.sequence), post.at)
        except ConnectionLostError:
            self.lose()

    def _begin(self, connection: Connection, post: PostToSend) -> bytes:
        at = self.end if post.is_conditional else None
        self.target.history.post_begins(
            self.client,
            post.sequence,
            self.target.run,
            post.digests(),
            at=at,
            is_keyed=post.is_keyed,
            is_durable=post.is_durable,
        )
        self.unanswered.append(post.sequence)
        return post.encode(connection, self.target, at)

    def _send_again(self, connection: Connection, post: PostToSend, at: int | None) -> None:
        self.target.history.post_again(self.client, post.sequence)
        self.unanswered.append(post.sequence)
        connection.send(post.encode(connection, self.target, at))
        self._hear(connection)

    def _hear(self, connection: Connection) -> bool:
        """Write down every answer that is due; whether the last one was an acknowledgement."""
        is_stored = False
        while self.unanswered:
            is_stored = self._record(self.unanswered[0], connection.receive())
            del self.unanswered[0]
        return is_stored

    def _record(self, sequence: int, answer: Message) -> bool:
        body = answer.json()
        if answer.status == 200:
            try:
                offsets = [(stamped["offset"], stamped["timestamp"]) for stamped in body["offsets"]]
            except (KeyError, TypeError) as error:
                raise NotHTTPError(f"acknowledgement {str(body)[:200]}") from error
            self.target.history.post_acknowledged(self.client, sequence, offsets)
            self.end = max([self.end, *(offset + 1 for offset, _ in offsets)])
            self.signals.acknowledged()
            return True
        details = body.get("details", {}) if isinstance(body, dict) else {}
        self.target.history.post_refused(self.client, sequence, answer.status, details.get("outcome"))
        self.end = max(self.end, details.get("next_offset", 0))
        return False

    def lose(self) -> None:
        """The connection is gone: nobody knows what became of what was under way."""
        for sequence in self.unanswered:
            self.target.history.post_lost(self.client, sequence)
        self.unanswered.clear()


def unknown_keyed(history: History) -> list[Post]:
    """What may be sent again."""
    return [post for post in history.posts.values() if post.is_keyed and post.fate == "unknown"]
