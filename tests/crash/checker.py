"""Holds a history and a full read-back against what FlashQ promises; returns what was broken, by name.

Pure functions: no clock, no file, no socket. The promises are those that hold when a server process is killed, in
every sync mode: nothing acknowledged is lost and nothing that was read is taken back. A power cut promises less
outside the mode `always`; that is not judged here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from tests.crash.history import History, Identity, Post, PostId, Read, StoredRecord, read_identity

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


class Broken(StrEnum):
    """The promises, each by what breaks it."""

    LOST = "an acknowledged record is missing"
    MOVED = "a record is not at its acknowledged offset"
    RETIMED = "a timestamp is not the acknowledged one"
    DOUBLED = "a record is there more than once"
    TORN = "a post is there in part, or not contiguous"
    DAMAGED = "a record has other bytes than were sent"
    REFUSED_PRESENT = "a post refused as not applied is there"
    UNSENT = "a record that nobody sent"
    HOLE = "offsets are not dense"
    ORDER = "a post answered before another began has the larger offset"
    CLOCK = "a timestamp went back"
    TAKEN_BACK = "what was read earlier is no longer so"
    STALE = "a read did not see what was acknowledged or shown before it began"
    MALFORMED = "an answer is not what the contract says"
    TOPIC = "a created topic is gone, or a deleted one is back"
    COMMIT_LOST = "a committed offset is neither the acknowledged one nor a later one"


@dataclass(frozen=True, slots=True)
class Violation:
    broken: Broken
    detail: str

    def __str__(self) -> str:
        return f"{self.broken.name}: {self.broken.value}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one record of a post was found: its position in the post and what is stored."""

    position: int
    stored: StoredRecord


Placement = dict[PostId, list[Place]]


def check(history: History, stored: Sequence[StoredRecord]) -> list[Violation]:
    """Every violation, most basic first; `stored` is a read-back of the whole topic with no post in flight."""
    placement, misfits = place(history, stored)
    return [
        *check_offsets(stored),
        *check_timestamps(stored),
        *misfits,
        *check_answers(history),
        *check_posts(history, placement),
        *check_real_time_order(history, placement),
        *check_reads(history, stored),
        *check_topics(history),
        *check_commits(history),
    ]


def check_offsets(stored: Sequence[StoredRecord]) -> Iterator[Violation]:
    """Offsets are 0, 1, 2 and so on in the order of the read."""
    expected = 0
    for record in stored:
        if record.offset != expected:
            yield Violation(Broken.HOLE, f"offset {record.offset} where {expected} was expected")
        expected = record.offset + 1


def check_timestamps(stored: Sequence[StoredRecord]) -> Iterator[Violation]:
    """Timestamps are UTC with milliseconds and never go back from one offset to the next."""
    latest = ""
    for record in stored:
        if not _TIMESTAMP.fullmatch(record.timestamp):
            yield Violation(Broken.MALFORMED, f"timestamp {record.timestamp!r} at offset {record.offset}")
        elif record.timestamp < latest:
            yield Violation(Broken.CLOCK, f"{record.timestamp} at offset {record.offset} follows {latest}")
        else:
            latest = record.timestamp


def place(history: History, stored: Sequence[StoredRecord]) -> tuple[Placement, list[Violation]]:
    """Which post each stored record belongs to, and a violation for each that belongs to none or was changed."""
    placement: Placement = defaultdict(list)
    misfits: list[Violation] = []
    for record in stored:
        identity = read_identity(record.value)
        if identity is None:
            misfits.append(Violation(Broken.DAMAGED, f"offset {record.offset}: the value's own checksum is wrong"))
            continue
        post = history.posts.get((identity.client, identity.sequence))
        if post is None or not _may_hold(post, identity):
            misfits.append(Violation(Broken.UNSENT, f"offset {record.offset}: {identity}"))
            continue
        if post.digests[identity.position] != record.digest:
            misfits.append(Violation(Broken.DAMAGED, f"offset {record.offset}: not what was sent as {identity}"))
        placement[post.id].append(Place(identity.position, record))
    return placement, misfits


def _may_hold(post: Post, identity: Identity) -> bool:
    return post.run == identity.run and len(post.digests) == identity.count and identity.position < identity.count


def check_answers(history: History) -> Iterator[Violation]:
    """Each acknowledgement names one dense offset a record; each refusal says an outcome."""
    for post in history.posts.values():
        if post.fate == "acknowledged":
            offsets = [record.offset for record in post.acknowledged]
            first = offsets[0] if offsets else 0
            if offsets != list(range(first, first + len(post.digests))):
                yield Violation(
                    Broken.MALFORMED, f"{_name(post)} of {len(post.digests)} records was acknowledged as {offsets}"
                )
        elif post.status is not None and post.outcome not in ("not_applied", "unknown"):
            yield Violation(
                Broken.MALFORMED, f"{_name(post)} was refused with {post.status} and outcome {post.outcome!r}"
            )


def check_posts(history: History, placement: Placement) -> Iterator[Violation]:
    """Acknowledged: all there, once, as acknowledged. Unknown: all there once, or nothing. Refused: nothing."""
    for post in history.posts.values():
        places = placement.get(post.id, [])
        if post.fate == "refused":
            if places:
                yield Violation(Broken.REFUSED_PRESENT, f"{_name(post)} at {_offsets(places)}")
            continue
        times = Counter(found.position for found in places)
        if any(count > 1 for count in times.values()):
            yield Violation(Broken.DOUBLED, f"{_name(post)} at {_offsets(places)}")
        elif [(p.position, p.stored.offset) for p in places] != _contiguous(places):
            yield Violation(Broken.TORN, f"{_name(post)} is not contiguous: {_offsets(places)}")
        missing = [position for position in range(len(post.digests)) if position not in times]
        if missing and places:
            yield Violation(Broken.TORN, f"{_name(post)} lacks {missing} of {len(post.digests)} records")
        if post.fate == "acknowledged":
            if missing:
                yield Violation(Broken.LOST, f"{_name(post)} lacks {missing} of {len(post.digests)} records")
            yield from _check_acknowledged_places(post, places)


def _check_acknowledged_places(post: Post, places: Sequence[Place]) -> Iterator[Violation]:
    for found in places:
        if found.position >= len(post.acknowledged):
            continue  # a malformed acknowledgement, reported as such
        promised, stored = post.acknowledged[found.position], found.stored
        where = f"{_name(post)} record {found.position}"
        if stored.offset != promised.offset:
            yield Violation(Broken.MOVED, f"{where}: acknowledged {promised.offset}, found at {stored.offset}")
        if promised.timestamp is not None and stored.timestamp != promised.timestamp:
            yield Violation(Broken.RETIMED, f"{where}: acknowledged {promised.timestamp}, stored {stored.timestamp}")


def _contiguous(places: Sequence[Place]) -> list[tuple[int, int]]:
    """The positions and offsets these places would have if they were one unbroken run in order."""
    if not places:
        return []
    first = places[0]
    return [(first.position + n, first.stored.offset + n) for n in range(len(places))]


def check_real_time_order(history: History, placement: Placement) -> Iterator[Violation]:
    """A post answered before another began has the smaller offsets.

    A post without an answer ends when its server was seen dead: its records, if there, come before those of every
    later post. One pass by offset: among posts already passed, the one that began last must not have begun after
    this one ended.
    """
    kills_ns = sorted(history.kills_ns)
    by_offset = sorted(
        (min(found.stored.offset for found in places), history.posts[post_id]) for post_id, places in placement.items()
    )
    latest: Post | None = None
    for offset, post in by_offset:
        if latest is not None and _ended_ns(post, kills_ns) < latest.begun_ns:
            yield Violation(
                Broken.ORDER, f"{_name(post)} at offset {offset} ended before {_name(latest)}, stored before it, began"
            )
        if latest is None or post.begun_ns > latest.begun_ns:
            latest = post


def _ended_ns(post: Post, kills_ns: Sequence[int]) -> float:
    """When the post had certainly been applied or never would be."""
    if post.fate == "acknowledged" and post.ended_ns is not None:
        return post.ended_ns
    following = bisect_left(kills_ns, post.begun_ns)
    return kills_ns[following] if following < len(kills_ns) else inf


def check_reads(history: History, stored: Sequence[StoredRecord]) -> Iterator[Violation]:
    """Each read is dense from the offset asked for, saw all that was known before it began, and is still true."""
    final = {record.offset: (record.timestamp, record.digest) for record in stored}
    known = _KnownEnd(history)
    for read in history.reads:
        name = f"read by {read.reader} from {read.from_offset}"
        due = known.at(read.begun_ns)
        if read.status != 200:
            if read.status != 404:
                yield Violation(Broken.MALFORMED, f"{name}: status {read.status}")
            elif due:
                yield Violation(Broken.STALE, f"{name}: no such topic, though it was known to reach {due}")
            continue
        yield from _check_page(name, read)
        if read.high_water_mark < due:
            yield Violation(Broken.STALE, f"{name}: high water mark {read.high_water_mark}, but {due} was known before")
        if not read.records and read.from_offset < max(due, read.high_water_mark):
            yield Violation(
                Broken.STALE, f"{name}: nothing returned, high water mark {read.high_water_mark}, {due} known before"
            )
        if read.high_water_mark > len(stored):
            yield Violation(
                Broken.TAKEN_BACK, f"{name}: high water mark {read.high_water_mark}, now {len(stored)} records"
            )
        for record in read.records:
            now = final.get(record.offset)
            if now != (record.timestamp, record.digest):
                yield Violation(
                    Broken.TAKEN_BACK,
                    f"{name}: offset {record.offset} was {record.timestamp} {record.digest}, is now {now}",
                )


def _check_page(name: str, read: Read) -> Iterator[Violation]:
    offsets = [record.offset for record in read.records]
    if offsets != list(range(read.from_offset, read.from_offset + len(offsets))):
        yield Violation(Broken.HOLE, f"{name}: returned offsets {offsets}")
    end = read.from_offset + len(offsets)
    if read.next_offset != end or (offsets and read.high_water_mark < end):
        yield Violation(
            Broken.MALFORMED,
            f"{name}: {len(offsets)} records, next offset {read.next_offset}, high water mark {read.high_water_mark}",
        )


class _KnownEnd:
    """Up to which offset the log was known to reach at a time, from acknowledgements and earlier reads."""

    def __init__(self, history: History) -> None:
        ends = [
            (post.ended_ns, max(record.offset for record in post.acknowledged) + 1)
            for post in history.posts.values()
            if post.acknowledged and post.ended_ns is not None
        ]
        ends += [(read.ended_ns, read.high_water_mark) for read in history.reads]
        ends.sort()
        self._times_ns: list[int] = []
        self._ends: list[int] = []
        furthest = 0
        for at_ns, end in ends:
            furthest = max(furthest, end)
            self._times_ns.append(at_ns)
            self._ends.append(furthest)

    def at(self, time_ns: int) -> int:
        before = bisect_left(self._times_ns, time_ns)
        return self._ends[before - 1] if before else 0


def check_topics(history: History) -> Iterator[Violation]:
    """Each topic exists, or does not, as its latest acknowledged creation or deletion left it."""
    exists: dict[str, bool] = {}
    for event in history.topics:
        if not event.seen:
            exists[event.topic] = event.exists
        elif event.exists != exists[event.topic]:
            yield Violation(Broken.TOPIC, f"topic {event.topic}: exists {event.exists}")


def check_commits(history: History) -> Iterator[Violation]:
    """A committed offset is that of the latest acknowledged commit of its group or of one begun later."""
    for read in history.committed_reads:
        allowed = {0}
        for commit in history.commits:
            if commit.group != read.group or commit.begun_ns > read.begun_ns:
                continue
            if commit.acknowledged:
                allowed.clear()
            allowed.add(commit.offset)
        if read.offset not in allowed:
            yield Violation(Broken.COMMIT_LOST, f"group {read.group}: {read.offset}, allowed {sorted(allowed)}")


def _name(post: Post) -> str:
    return f"{post.fate} post {post.client}#{post.sequence}"


def _offsets(places: Sequence[Place]) -> list[int]:
    return [found.stored.offset for found in places]
