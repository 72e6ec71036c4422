"""A history and a read-back that agree, small enough to break by hand."""

from __future__ import annotations

from dataclasses import replace

from tests.crash.checker import check
from tests.crash.history import Change, Cut, History, Post, Read
from tests.crash.records import Identity, Seen, SentRecord, StoredRecord, digest, make_record
from tests.crash.violations import Broken

RUN = "run"
KILLED_NS = 450
"""Between the fourth post, which it leaves unknown, and the fifth."""


class Case:
    """A history and a read-back that agree, for a test to break.

    Posts of three records each: a#0, a#1 and a#2 acknowledged, b#0 unknown and there, a#3 acknowledged, b#1 refused,
    b#2 unknown and absent. Post n begins at 100n and is answered at 100n + 50; a reader saw offsets 3 to 8 meanwhile.
    """

    def __init__(self) -> None:
        self.history = History(kills_ns=[KILLED_NS])
        self.stored: list[StoredRecord] = []
        for n, (client, sequence) in enumerate([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("a", 3)]):
            post = self.send(client, sequence, begun_ns=100 * (n + 1))
            acknowledged = self.store(post)
            if client == "a":
                post.fate, post.ended_ns, post.acknowledged = "acknowledged", post.begun_ns + 50, acknowledged
                post.status = 200
        refused = self.send("b", 1, begun_ns=600)
        refused.fate, refused.ended_ns, refused.status, refused.outcome = "refused", 650, 400, "not_applied"
        self.send("b", 2, begun_ns=700)
        self.history.reads.append(self.read(from_offset=3, count=6, begun_ns=355, high_water_mark=9))

    def send(self, client: str, sequence: int, begun_ns: int) -> Post:
        records = [make_record(Identity(RUN, client, sequence, position, 3), 40) for position in range(3)]
        digests = tuple(digest(record.key, record.value, record.headers) for record in records)
        post = Post(client, sequence, RUN, digests, begun_ns)
        self.history.posts[post.id] = post
        return post

    def store(self, post: Post) -> tuple[Seen, ...]:
        """Append the post's records to the read-back; returns their acknowledgement."""
        first = len(self.stored)
        for position in range(len(post.digests)):
            record = make_record(Identity(RUN, post.client, post.sequence, position, 3), 40)
            self.stored.append(stored_record(first + position, f"2026-05-01T00:00:00.{first:03}Z", record))
        return tuple(Seen(record.offset, record.timestamp) for record in self.stored[first:])

    def read(self, from_offset: int, count: int, begun_ns: int, high_water_mark: int) -> Read:
        seen = tuple(Seen(r.offset, r.timestamp, r.digest) for r in self.stored[from_offset : from_offset + count])
        return Read("c", begun_ns, begun_ns + 5, from_offset, 200, seen, from_offset + len(seen), high_water_mark)

    def renumber(self) -> None:
        """Make the read-back dense again, whatever order its records are in."""
        self.stored = [replace(record, offset=offset) for offset, record in enumerate(self.stored)]

    def broken(self) -> set[Broken]:
        return {violation.broken for violation in check(self.history, self.stored, window_s=1.0)}


def stored_record(offset: int, timestamp: str, record: SentRecord) -> StoredRecord:
    parts = record.key, record.value, record.headers
    return StoredRecord(offset, timestamp, *parts, digest(*parts))


def changed(value: int | None, begun_ns: int) -> Change:
    is_durable = value is None or value == 0
    return Change(value, begun_ns, is_durable, ended_ns=begun_ns + 1, fate="acknowledged")


def lose_power(case: Case, survived: int, *, begun_ns: int = 800, epoch: int = 1) -> None:
    """Everything from this offset on went with a power cut that may take it."""
    case.history.cuts.append(Cut(begun_ns, survived, epoch))
    del case.stored[survived:]
