"""Producers, readers and owners of groups as threads on one FlashQ: what `at_once.py` has clients do over HTTP."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

from flashq import FlashQ, Record, RecordWithOffset
from flashq.api.times import iso_timestamp
from flashq.errors import FlashQError, GroupNotFound, InvalidOffset, TopicNotFound
from tests.crash.at_once import GROUPS, POSTS, PRODUCERS, READERS, TOPICS, Targets, Work, all_at_once, violations
from tests.crash.history import Read
from tests.crash.producers import PostToSend, Signals, Target, make_post
from tests.crash.records import Seen, StoredRecord, digest
from tests.crash.things import Group
from tests.crash.violations import Violation


def threads_at_once(flashq: FlashQ, targets: Targets) -> None:
    producers: list[Work] = [partial(_produce, flashq, targets, f"p{number}") for number in range(PRODUCERS)]
    readers: list[Work] = [partial(_follow, flashq, targets, f"c{number}") for number in range(READERS)]
    owners: list[Work] = [partial(_own_group, flashq, targets[topic]) for topic in GROUPS]
    all_at_once([*producers, *owners], readers)


def violations_of_flashq(directory: Path, flashq: FlashQ, targets: Targets) -> list[Violation]:
    """Of one that rests: its topics and groups are read, and held against the histories."""

    def read(topic: str) -> list[StoredRecord]:
        if topic in GROUPS:
            targets[topic].history.thing_seen(_group(topic).name, _look(flashq, topic))
        return _poll(flashq, targets[topic], "read-back", 0, 1 << 30)

    return violations(directory, read)


# -- records


def _produce(flashq: FlashQ, targets: Targets, client: str, signals: Signals) -> None:
    choices, ends = random.Random(client), dict.fromkeys(TOPICS, 0)
    for sequence in range(POSTS):
        topic = choices.choice(TOPICS)
        post = make_post(targets[topic], client, sequence)
        at = ends[topic] if post.is_conditional else None
        ends[topic] = max(ends[topic], _post(flashq, targets[topic], post, at))


def _post(flashq: FlashQ, target: Target, post: PostToSend, at: int | None) -> int:
    """One post, written down; where the log ended when it was answered."""
    target.history.post_begins(post.client, post.sequence, target.run, post.digests(), at=at, is_keyed=post.is_keyed)
    records = [Record(record.value, key=record.key, headers=record.headers) for record in post.records]
    key = f"{post.client}-{post.sequence}" if post.is_keyed else None
    try:
        offsets = flashq.post_records(target.topic, records, idempotency_key=key, if_next_offset=at)
    except FlashQError as error:
        target.history.post_refused(post.client, post.sequence, 400, error.outcome)
        return int(str(error.details.get("next_offset", 0)))
    target.history.post_acknowledged(post.client, post.sequence, [(offset, None) for offset in offsets])
    return offsets[-1] + 1


def _follow(flashq: FlashQ, targets: Targets, reader: str, signals: Signals) -> None:
    choices = random.Random(reader)
    while not signals.stop.wait(0.002):
        topic = choices.choice(TOPICS)
        _poll(flashq, targets[topic], reader, choices.randint(0, 60), choices.randint(1, 200))


def _poll(flashq: FlashQ, target: Target, reader: str, from_offset: int, count: int) -> list[StoredRecord]:
    """One poll, written down."""
    begun_ns = time.monotonic_ns()
    try:
        polled = flashq.poll_records(target.topic, from_offset=from_offset, count=count)
    except TopicNotFound:
        target.history.read_answered(Read(reader, begun_ns, time.monotonic_ns(), from_offset, 404, (), 0, 0))
        return []
    ended_ns = time.monotonic_ns()
    records = [_stored(record) for record in polled]
    seen = tuple(Seen(record.offset, record.timestamp, record.digest) for record in records)
    marks = polled.next_offset, polled.high_water_mark
    target.history.read_answered(Read(reader, begun_ns, ended_ns, from_offset, 200, seen, *marks))
    return records


def _stored(record: RecordWithOffset) -> StoredRecord:
    headers = {name: value.decode() for name, value in (record.headers or {}).items()} or None
    parts = record.key_text, record.text, headers
    return StoredRecord(record.offset, iso_timestamp(record.timestamp_ms), *parts, digest(*parts))


# -- groups


def _group(topic: str) -> Group:
    return Group(GROUPS[topic], topic)


def _own_group(flashq: FlashQ, target: Target, signals: Signals) -> None:
    """Change a group, one change after the other. Nobody else may."""
    group, choices, value = _group(target.topic), random.Random(target.topic), None
    for _ in range(POSTS):
        time.sleep(0.001)
        wanted = group.next_value(value, choices)
        target.history.change_begins(group.name, wanted, is_durable=not wanted)
        is_done = _change(flashq, target.topic, wanted)
        target.history.change_answered(group.name, is_done=is_done)
        value = wanted if is_done else value


def _change(flashq: FlashQ, topic: str, value: int | None) -> bool:
    """Delete, create or commit; False when it was refused and not applied."""
    if value is None:
        flashq.delete_consumer_group(GROUPS[topic])
    elif value == 0:
        flashq.create_consumer_group(GROUPS[topic])
    else:
        try:
            flashq.commit_offset(GROUPS[topic], topic, value)
        except (InvalidOffset, TopicNotFound):
            return False
    return True


def _look(flashq: FlashQ, topic: str) -> int | None:
    try:
        return flashq.consumer_group_offset(GROUPS[topic], topic)
    except GroupNotFound:
        return None
