"""What the clients did and saw: self-checking records, and the append-only file where every event is a line.

A producer writes a line before it sends a post and another after the answer, so that a post without an answer is
known to be unknown. Times are CLOCK_MONOTONIC nanoseconds, the same clock in every process of one machine; a
post's interval is taken outside the socket calls, so it is never narrower than the truth. Nothing here judges:
`checker.py` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

Fate = Literal["acknowledged", "refused", "unknown"]
PostId = tuple[str, int]
"""A client id and that client's sequence number."""

_FILLER = 'The quick brown fox; "quoted" \\ back\\slashed, tab\tnewline\n, żółć, 日本語, 😀, \u2028. '
_VALUE = re.compile(
    r"(?P<body>(?P<run>[^|]+)\|(?P<client>[^|]+)\|(?P<sequence>[0-9]+)\|(?P<position>[0-9]+)/(?P<count>[0-9]+)\|[^|]*)"
    r"\|(?P<checksum>[0-9a-f]{8})",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent a record: read from the value itself, after its checksum was found right."""

    run: str
    client: str
    sequence: int
    position: int
    count: int


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A record as it is posted; what a read returns must be equal in all three parts."""

    key: str | None
    value: str
    headers: Mapping[str, str] | None

    def as_json(self) -> dict[str, Any]:
        """The JSON of the HTTP contract, absent parts left out."""
        parts: dict[str, Any] = {"value": self.value}
        if self.key is not None:
            parts["key"] = self.key
        if self.headers is not None:
            parts["headers"] = dict(self.headers)
        return parts


def make_record(identity: Identity, filler_length: int) -> SentRecord:
    """The one record that has this identity and filler length (characters): same arguments, same bytes."""
    shift = (identity.sequence * 7 + identity.position) % len(_FILLER)
    filler = (_FILLER * (filler_length // len(_FILLER) + 2))[shift : shift + filler_length]
    head = f"{identity.run}|{identity.client}|{identity.sequence}|{identity.position}/{identity.count}"
    body = f"{head}|{filler}"
    value = f"{body}|{zlib.crc32(body.encode()):08x}"
    kind = (identity.sequence + identity.position) % 4
    key = (None, "", identity.client, "klucz-ż")[kind]
    headers = {"position": str(identity.position), "empty": ""} if kind == 2 else None
    return SentRecord(key, value, headers)


def read_identity(value: str) -> Identity | None:
    """The identity a value carries, or None when its checksum or form is wrong."""
    found = _VALUE.fullmatch(value)
    if found is None or f"{zlib.crc32(found['body'].encode(errors='replace')):08x}" != found["checksum"]:
        return None
    return Identity(found["run"], found["client"], int(found["sequence"]), int(found["position"]), int(found["count"]))


def digest(key: object, value: object, headers: object) -> str:
    """Sixteen hexadecimal digits over all three parts of a record; null, empty and absent are told apart."""
    canonical = json.dumps([key, value, headers], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as the server returned it."""

    offset: int
    timestamp: str
    key: str | None
    value: str
    headers: Mapping[str, str] | None
    digest: str

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> Self:
        key, value, headers = parts["key"], parts["value"], parts["headers"]
        return cls(parts["offset"], parts["timestamp"], key, value, headers, digest(key, value, headers))


@dataclass(frozen=True, slots=True)
class Seen:
    """One record of a read, or of an acknowledgement (which has no digest)."""

    offset: int
    timestamp: str | None
    digest: str = ""


@dataclass(slots=True)
class Post:
    """One post as its producer lived it. `ended_ns` is None until an answer came or the connection was lost."""

    client: str
    sequence: int
    run: str
    digests: tuple[str, ...]
    begun_ns: int
    ended_ns: int | None = None
    fate: Fate = "unknown"
    acknowledged: tuple[Seen, ...] = ()
    status: int | None = None
    outcome: str | None = None

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
class Commit:
    """One offset commit of a group by its only committer; `acknowledged` is False when the answer is unknown."""

    group: str
    offset: int
    begun_ns: int
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class CommittedRead:
    """What a group's committed offset was, asked while no commit was in flight."""

    group: str
    begun_ns: int
    offset: int


@dataclass(frozen=True, slots=True)
class TopicEvent:
    """A creation or deletion that was acknowledged, or (`seen`) what a later request found."""

    topic: str
    exists: bool
    seen: bool


@dataclass(slots=True)
class History:
    """Everything the clients of one data set wrote down, in the order of its lines."""

    posts: dict[PostId, Post] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    committed_reads: list[CommittedRead] = field(default_factory=list)
    topics: list[TopicEvent] = field(default_factory=list)
    kills_ns: list[int] = field(default_factory=list)
    """When the death of a server process had been seen: what it had not applied by then, it never will."""


class HistoryFile:
    """Appends events, each one `write` of one whole line, so any number of threads and processes may share a file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def post_begins(self, client: str, sequence: int, run: str, digests: Sequence[str]) -> None:
        """Call before the first byte is sent."""
        self._append("post", client=client, sequence=sequence, run=run, digests=digests, at_ns=time.monotonic_ns())

    def post_acknowledged(self, client: str, sequence: int, offsets: Sequence[tuple[int, str | None]]) -> None:
        self._append("acknowledged", client=client, sequence=sequence, offsets=offsets, at_ns=time.monotonic_ns())

    def post_refused(self, client: str, sequence: int, status: int, outcome: str | None) -> None:
        """An answer that is not an acknowledgement. `outcome` is `details.outcome`, None when there was none."""
        self._append(
            "refused", client=client, sequence=sequence, status=status, outcome=outcome, at_ns=time.monotonic_ns()
        )

    def post_lost(self, client: str, sequence: int) -> None:
        """The connection ended before the whole answer came."""
        self._append("lost", client=client, sequence=sequence, at_ns=time.monotonic_ns())

    def read_answered(self, read: Read) -> None:
        self._append(
            "read",
            reader=read.reader,
            begun_ns=read.begun_ns,
            at_ns=read.ended_ns,
            from_offset=read.from_offset,
            status=read.status,
            records=[(record.offset, record.timestamp, record.digest) for record in read.records],
            next_offset=read.next_offset,
            high_water_mark=read.high_water_mark,
        )

    def commit_begins(self, group: str, offset: int) -> None:
        self._append("commit", group=group, offset=offset, at_ns=time.monotonic_ns())

    def commit_acknowledged(self, group: str, offset: int) -> None:
        self._append("committed", group=group, offset=offset, at_ns=time.monotonic_ns())

    def committed_offset_read(self, group: str, begun_ns: int, offset: int) -> None:
        self._append("committed_offset", group=group, begun_ns=begun_ns, offset=offset, at_ns=time.monotonic_ns())

    def topic_exists(self, topic: str, exists: bool, *, seen: bool) -> None:
        """After the answer to a creation or deletion, or (`seen`) to a question."""
        self._append("topic", topic=topic, exists=exists, seen=seen, at_ns=time.monotonic_ns())

    def server_killed(self) -> None:
        """Call once the process has been reaped."""
        self._append("killed", at_ns=time.monotonic_ns())

    def _append(self, event: str, **facts: object) -> None:
        line = json.dumps({"event": event, **facts}, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written != len(line):
            raise OSError(f"history: {written} of {len(line)} bytes written")


def read_history(path: Path) -> History:
    """The history in a file that nobody is appending to. Raises ValueError on a line that makes no sense."""
    history = History()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                _apply(history, json.loads(line))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: {error!r}") from error
    return history


def _apply(history: History, event: dict[str, Any]) -> None:
    kind = event["event"]
    if kind == "post":
        post = Post(event["client"], event["sequence"], event["run"], tuple(event["digests"]), event["at_ns"])
        if post.id in history.posts:
            raise ValueError(f"post {post.id} began twice")
        history.posts[post.id] = post
    elif kind == "read":
        history.reads.append(
            Read(
                event["reader"],
                event["begun_ns"],
                event["at_ns"],
                event["from_offset"],
                event["status"],
                tuple(Seen(offset, timestamp, content) for offset, timestamp, content in event["records"]),
                event["next_offset"],
                event["high_water_mark"],
            )
        )
    elif kind == "killed":
        history.kills_ns.append(event["at_ns"])
    elif kind == "commit":
        history.commits.append(Commit(event["group"], event["offset"], event["at_ns"]))
    elif kind == "committed":
        latest = next(commit for commit in reversed(history.commits) if commit.group == event["group"])
        if latest.offset != event["offset"]:
            raise ValueError(f"commit {event['offset']} acknowledged while {latest.offset} was in flight")
        latest.acknowledged = True
    elif kind == "topic":
        history.topics.append(TopicEvent(event["topic"], event["exists"], event["seen"]))
    elif kind == "committed_offset":
        history.committed_reads.append(CommittedRead(event["group"], event["begun_ns"], event["offset"]))
    else:
        _end_post(history.posts[event["client"], event["sequence"]], event)


def _end_post(post: Post, event: dict[str, Any]) -> None:
    if post.ended_ns is not None:
        raise ValueError(f"post {post.id} ended twice")
    post.ended_ns = event["at_ns"]
    kind = event["event"]
    if kind == "acknowledged":
        post.fate, post.status = "acknowledged", 200
        post.acknowledged = tuple(Seen(offset, timestamp) for offset, timestamp in event["offsets"])
    elif kind == "refused":
        post.status, post.outcome = event["status"], event["outcome"]
        post.fate = "refused" if post.outcome == "not_applied" else "unknown"
    elif kind != "lost":
        raise ValueError(f"no such event: {kind}")
