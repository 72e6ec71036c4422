"""What the clients did and saw: the append-only file where every event is a line.

A producer writes a line before it sends a post and another after the answer, so that a post without an answer is
known to be unknown. Times are CLOCK_MONOTONIC nanoseconds, the same clock in every process of one machine; a
post's interval is taken outside the socket calls, so it is never narrower than the truth. Nothing here judges:
`checker.py` does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from tests.crash.records import Seen

Fate = Literal["acknowledged", "refused", "unknown", "taken back"]
"""`taken back`: acknowledged, and gone with a power cut that may take it. Only `cuts.py` says so."""
PostId = tuple[str, int]
"""A client id and that client's sequence number."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The answer to a post that was sent again with its idempotency key after it had been acknowledged."""

    ended_ns: int
    offsets: tuple[Seen, ...]


@dataclass(slots=True)
class Post:
    """One post as its producer lived it. `ended_ns` is None until an answer came or the connection was lost.

    `at`: the offset it asked to be stored at. `is_keyed`: it may be sent again, and is then still one post.
    `is_durable`: it asked for the fsync whatever the sync mode.
    """

    client: str
    sequence: int
    run: str
    digests: tuple[str, ...]
    begun_ns: int
    at: int | None = None
    is_keyed: bool = False
    is_durable: bool = False
    last_sent_ns: int = 0
    ended_ns: int | None = None
    fate: Fate = "unknown"
    acknowledged: tuple[Seen, ...] = ()
    status: int | None = None
    outcome: str | None = None
    repeats: list[Repeat] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last_sent_ns = self.last_sent_ns or self.begun_ns

    @property
    def id(self) -> PostId:
        return self.client, self.sequence


@dataclass(frozen=True, slots=True)
class Read:
    """One answered poll. `records` is empty and the marks are 0 unless the status is 200."""

    reader: str
    begun_ns: int
    ended_ns: int
    from_offset: int
    status: int
    records: tuple[Seen, ...]
    next_offset: int
    high_water_mark: int


@dataclass(slots=True)
class Change:
    """What the only owner of a group or topic asked for: None is to delete it, 0 to create it, else a commit."""

    value: int | None
    begun_ns: int
    is_durable: bool
    ended_ns: int | None = None
    fate: Literal["acknowledged", "refused", "unknown"] = "unknown"


@dataclass(frozen=True, slots=True)
class Sight:
    """What a group or topic was, asked while no change of it was under way: None is absent, else as in `Change`."""

    value: int | None
    at_ns: int


@dataclass(slots=True)
class Cut:
    """A power cut, and when the server had been seen dead. What the next start found: the end of the topic (-1: no such
    topic) and its epoch; None where nothing may be lost, and nobody asked."""

    begun_ns: int
    survived: int | None = None
    epoch: int | None = None
    ended_ns: float = inf


@dataclass(slots=True)
class History:
    """Everything the clients of one data set wrote down, in the order of its lines."""

    posts: dict[PostId, Post] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    things: dict[str, list[Change | Sight]] = field(default_factory=dict)
    """Groups and topics by name, each with what became of it, in order."""
    kills_ns: list[int] = field(default_factory=list)
    """When the death of a server process had been seen: what it had not applied by then, it never will."""
    cuts: list[Cut] = field(default_factory=list)


class HistoryFile:
    """Appends events, each one `write` of one whole line, so any number of threads and processes may share a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def post_begins(
        self,
        client: str,
        sequence: int,
        run: str,
        digests: Sequence[str],
        *,
        at: int | None = None,
        is_keyed: bool = False,
        is_durable: bool = False,
    ) -> None:
        """Call before the first byte is sent."""
        asked = {"at": at, "is_keyed": is_keyed, "is_durable": is_durable}
        self._append("post", client=client, sequence=sequence, run=run, digests=digests, asked=asked)

    def post_again(self, client: str, sequence: int) -> None:
        """Call before the first byte of a repetition of a keyed post is sent."""
        self._append("again", client=client, sequence=sequence)

    def post_acknowledged(self, client: str, sequence: int, offsets: Sequence[tuple[int, str | None]]) -> None:
        self._append("acknowledged", client=client, sequence=sequence, offsets=offsets)

    def post_refused(self, client: str, sequence: int, status: int, outcome: str | None) -> None:
        """An answer that is not an acknowledgement. `outcome` is `details.outcome`, None when there was none."""
        self._append("refused", client=client, sequence=sequence, status=status, outcome=outcome)

    def post_lost(self, client: str, sequence: int) -> None:
        """The connection ended before the whole answer came."""
        self._append("lost", client=client, sequence=sequence)

    def read_answered(self, read: Read) -> None:
        self._append(
            "read",
            reader=read.reader,
            begun_ns=read.begun_ns,
            ended_ns=read.ended_ns,
            from_offset=read.from_offset,
            status=read.status,
            records=[(record.offset, record.timestamp, record.digest) for record in read.records],
            next_offset=read.next_offset,
            high_water_mark=read.high_water_mark,
        )

    def change_begins(self, thing: str, value: int | None, *, is_durable: bool) -> None:
        """Before its owner creates, deletes or commits; one change of a thing at a time."""
        self._append("change", thing=thing, value=value, is_durable=is_durable)

    def change_answered(self, thing: str, *, is_done: bool) -> None:
        """Done, or refused and not applied."""
        self._append("changed", thing=thing, is_done=is_done)

    def thing_seen(self, thing: str, value: int | None) -> None:
        self._append("sight", thing=thing, value=value)

    def server_killed(self) -> None:
        """Call once the process has been reaped."""
        self._append("killed")

    def power_cut_begins(self) -> None:
        """Call before the cut: every answer from now on says nothing."""
        self._append("cut")

    def power_cut_survived(self, end: int, epoch: int) -> None:
        """After the restart, before any post: where the topic ends (-1: there is none) and its epoch."""
        self._append("survived", end=end, epoch=epoch)

    def _append(self, event: str, **facts: object) -> None:
        facts = {"event": event, **facts, "at_ns": time.monotonic_ns()}
        line = json.dumps(facts, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written != len(line):
            raise OSError(f"history: {written} of {len(line)} bytes written")


def read_history(path: Path) -> History:
    """The history in a file that nobody is appending to. Raises ValueError on a line that makes no sense."""
    history = History()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                _apply(history, msgspec.json.decode(line))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: {error!r}") from error
    return history


def _apply(history: History, event: dict[str, Any]) -> None:
    kind, at_ns = event["event"], event["at_ns"]
    if kind == "read":
        history.reads.append(_read(event))
    elif kind == "post":
        digests = tuple(event["digests"])
        post = Post(event["client"], event["sequence"], event["run"], digests, at_ns, **event["asked"])
        if post.id in history.posts:
            raise ValueError(f"post {post.id} began twice")
        history.posts[post.id] = post
    elif kind == "change":
        changes = history.things.setdefault(event["thing"], [])
        changes.append(Change(event["value"], at_ns, event["is_durable"]))
    elif kind == "changed":
        change = history.things[event["thing"]][-1]
        if not isinstance(change, Change) or change.ended_ns is not None:
            raise ValueError(f"no change of {event['thing']} was under way")
        change.ended_ns, change.fate = at_ns, "acknowledged" if event["is_done"] else "refused"
    elif kind == "sight":
        history.things.setdefault(event["thing"], []).append(Sight(event["value"], at_ns))
    elif kind == "killed":
        history.kills_ns.append(at_ns)
        if history.cuts and history.cuts[-1].ended_ns == inf:
            history.cuts[-1].ended_ns = at_ns
    elif kind == "cut":
        history.cuts.append(Cut(at_ns))
    elif kind == "survived":
        history.cuts[-1].survived, history.cuts[-1].epoch = event["end"], event["epoch"]
    else:
        _continue_post(history.posts[event["client"], event["sequence"]], event)


def _read(event: dict[str, Any]) -> Read:
    return Read(
        event["reader"],
        event["begun_ns"],
        event["ended_ns"],
        event["from_offset"],
        event["status"],
        tuple(Seen(offset, timestamp, content) for offset, timestamp, content in event["records"]),
        event["next_offset"],
        event["high_water_mark"],
    )


def _continue_post(post: Post, event: dict[str, Any]) -> None:
    kind, at_ns = event["event"], event["at_ns"]
    is_repetition = post.fate == "acknowledged" and post.last_sent_ns > (post.ended_ns or 0)
    if kind == "again":
        if not post.is_keyed:
            raise ValueError(f"post {post.id} has no key and was sent again")
        post.last_sent_ns = at_ns
        if post.fate != "acknowledged":
            post.ended_ns = None  # and what was not applied this time may have been the time before
    elif kind == "acknowledged" and is_repetition:
        post.repeats.append(Repeat(at_ns, _offsets(event)))
    elif kind == "refused" and is_repetition:
        if event["status"] < 500:
            post.repeats.append(Repeat(at_ns, ()))
    elif is_repetition and kind == "lost":
        pass
    elif post.ended_ns is not None:
        raise ValueError(f"post {post.id} ended twice")
    else:
        _end_post(post, event)


def _end_post(post: Post, event: dict[str, Any]) -> None:
    kind = event["event"]
    post.ended_ns = event["at_ns"]
    if kind == "acknowledged":
        post.fate, post.status, post.acknowledged = "acknowledged", 200, _offsets(event)
    elif kind == "refused":
        post.status, post.outcome = event["status"], event["outcome"]
        is_certain = post.outcome == "not_applied" and post.last_sent_ns == post.begun_ns
        post.fate = "refused" if is_certain else "unknown"
    elif kind != "lost":
        raise ValueError(f"no such event: {kind}")


def _offsets(event: dict[str, Any]) -> tuple[Seen, ...]:
    return tuple(Seen(offset, timestamp) for offset, timestamp in event["offsets"])
