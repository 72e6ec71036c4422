"""Holds a history and a full read-back against what FlashQ promises; returns what was broken, by name.

Pure functions: no clock, no file, no socket. When a server process is killed, in every sync mode, and when the power
is cut under `always`: nothing acknowledged is lost and nothing that was read is taken back. What a power cut may take
in the other modes is the business of `cuts.py`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from tests.crash.cuts import check_cuts, kept_end, settle
from tests.crash.history import Change, History, Post, PostId, Read, Sight
from tests.crash.records import Identity, StoredRecord, read_identity
from tests.crash.violations import Broken, Violation

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one record of a post was found: its position in the post and what is stored."""

    position: int
    stored: StoredRecord


Placement = dict[PostId, list[Place]]


def check(
    history: History, stored: Sequence[StoredRecord], *, log_start: int = 0, window_s: float = inf
) -> list[Violation]:
    """Every violation, most basic first; `stored` is a read-back of the whole topic with no post in flight.

    `log_start`: up to where retention has removed records. `window_s`: how long before a power cut a post may have been
    acknowledged that it takes, in a sync mode where it may take any.
    """
    history = settle(history)
    placement, misfits = place(history, stored)
    return [
        *check_offsets(stored, log_start),
        *check_timestamps(stored),
        *misfits,
        *check_cuts(history, window_s),
        *check_answers(history),
        *check_posts(history, placement, log_start),
        *check_conditions(history, placement),
        *check_real_time_order(history, placement),
        *check_reads(history, stored, log_start),
        *check_things(history),
    ]


def check_offsets(stored: Sequence[StoredRecord], log_start: int) -> Iterator[Violation]:
    """Offsets go up by one from the log start, in the order of the read."""
    expected = log_start
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
    """Each acknowledgement names one dense offset a record; each refusal says an outcome; repetitions say the same."""
    for post in history.posts.values():
        if post.fate in ("acknowledged", "taken back"):
            offsets = [record.offset for record in post.acknowledged]
            first = offsets[0] if offsets else 0
            if offsets != list(range(first, first + len(post.digests))):
                yield Violation(
                    Broken.MALFORMED, f"{_name(post)} of {len(post.digests)} records was acknowledged as {offsets}"
                )
            for repeat in post.repeats:
                if repeat.offsets != post.acknowledged:
                    yield Violation(Broken.REPEATED, f"{_name(post)}: {post.acknowledged}, then {repeat.offsets}")
        elif post.status is not None and post.outcome not in ("not_applied", "unknown"):
            yield Violation(
                Broken.MALFORMED, f"{_name(post)} was refused with {post.status} and outcome {post.outcome!r}"
            )


def check_posts(history: History, placement: Placement, log_start: int) -> Iterator[Violation]:
    """Acknowledged: all there, once, as acknowledged. Unknown: all there once, or nothing. Others: nothing."""
    for post in history.posts.values():
        places = placement.get(post.id, [])
        if post.fate in ("refused", "taken back"):
            if places:
                yield Violation(Broken.REFUSED_PRESENT, f"{_name(post)} at {_offsets(places)}")
            continue
        times = Counter(found.position for found in places)
        if any(count > 1 for count in times.values()):
            yield Violation(Broken.DOUBLED, f"{_name(post)} at {_offsets(places)}")
        elif [(p.position, p.stored.offset) for p in places] != _contiguous(places):
            yield Violation(Broken.TORN, f"{_name(post)} is not contiguous: {_offsets(places)}")
        missing = [position for position in range(len(post.digests)) if position not in times]
        if _is_removed(post, places, missing, log_start):
            continue
        if missing and places:
            yield Violation(Broken.TORN, f"{_name(post)} lacks {missing} of {len(post.digests)} records")
        if post.fate == "acknowledged":
            if missing:
                yield Violation(Broken.LOST, f"{_name(post)} lacks {missing} of {len(post.digests)} records")
            yield from _check_acknowledged_places(post, places)


def _is_removed(post: Post, places: Sequence[Place], missing: Sequence[int], log_start: int) -> bool:
    """Whether what is missing of a post has gone with retention: whole batches from the start of the log."""
    if not missing or not log_start:
        return False
    if not places:
        return bool(post.acknowledged) and post.acknowledged[-1].offset < log_start
    return places[0].stored.offset == log_start and missing == list(range(places[0].position))


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


def check_conditions(history: History, placement: Placement) -> Iterator[Violation]:
    """A post that asked to be stored at an offset is there, or nowhere."""
    for post in history.posts.values():
        found = [seen.offset for seen in post.acknowledged[:1]]
        found += [each.stored.offset for each in placement.get(post.id, []) if each.position == 0]
        if post.at is not None and any(offset != post.at for offset in found):
            yield Violation(Broken.CONDITION, f"{_name(post)} asked for {post.at}, found at {found}")


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
    following = bisect_left(kills_ns, post.last_sent_ns)
    return kills_ns[following] if following < len(kills_ns) else inf


def check_reads(history: History, stored: Sequence[StoredRecord], log_start: int) -> Iterator[Violation]:
    """Each read is dense from the offset asked for, saw all that was known before it began, and is still true."""
    final = {record.offset: (record.timestamp, record.digest) for record in stored}
    end = log_start + len(stored)
    known = _KnownEnd(history)
    for read in history.reads:
        name = f"read by {read.reader} from {read.from_offset}"
        due = known.at(read.begun_ns)
        if read.status != 200:
            if read.status == 410 and read.from_offset < log_start:
                continue
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
        kept = kept_end(read.ended_ns, history.cuts)
        if min(read.high_water_mark, kept) > end:
            yield Violation(Broken.TAKEN_BACK, f"{name}: high water mark {read.high_water_mark}, now {end}")
        for record in read.records:
            now = final.get(record.offset)
            if log_start <= record.offset < kept and now != (record.timestamp, record.digest):
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
        taken = {cut.begun_ns: max(cut.survived, 0) for cut in history.cuts if cut.survived is not None}
        ends += taken.items()
        ends.sort()
        self._times_ns: list[int] = []
        self._ends: list[int] = []
        furthest = 0
        for at_ns, end in ends:
            furthest = min(furthest, end) if at_ns in taken else max(furthest, end)
            self._times_ns.append(at_ns)
            self._ends.append(furthest)

    def at(self, time_ns: int) -> int:
        before = bisect_left(self._times_ns, time_ns)
        return self._ends[before - 1] if before else 0


def check_things(history: History) -> Iterator[Violation]:
    """A group or topic is as its only owner left it: by the last acknowledged change, or one of those after it."""
    for name, life in history.things.items():
        allowed: set[int | None] = {None}
        undoable: set[int | None] = set()  # what a power cut may bring back
        for event, cut in _with_cuts(life, history):
            if cut:
                allowed |= undoable
            if isinstance(event, Change):
                if event.fate == "refused":
                    continue
                if event.fate == "acknowledged":
                    allowed.clear()
                    if event.is_durable:
                        undoable.clear()
                allowed.add(event.value)
                undoable.add(event.value)
                continue
            if event.value not in allowed:
                is_presence = event.value is None or allowed == {None}
                broken = Broken.PRESENCE if is_presence else Broken.COMMIT_LOST
                yield Violation(broken, f"{name}: {event.value}, allowed {sorted(allowed, key=str)}")
            allowed, undoable = {event.value}, {event.value}


def _with_cuts(life: Sequence[Change | Sight], history: History) -> Iterator[tuple[Change | Sight, bool]]:
    """Each event, and whether it is the first after a power cut that may take something back."""
    cuts_ns = [cut.begun_ns for cut in history.cuts if cut.survived is not None]
    passed = 0
    for event in life:
        at_ns = event.begun_ns if isinstance(event, Change) else event.at_ns
        before, passed = passed, bisect_left(cuts_ns, at_ns)
        yield event, passed > before


def _name(post: Post) -> str:
    return f"{post.fate} post {post.client}#{post.sequence}"


def _offsets(places: Sequence[Place]) -> list[int]:
    return [found.stored.offset for found in places]
