"""From one storage to another: topics with their records as they are, then where groups stand.

The target tells how far a migration has come: what it holds of a topic must be the beginning of what the source holds,
and the copy goes on behind it. So an interrupted migration is begun again, and nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flashq.batch import BadFrame, Batch, Stored, decode, encode_stored
from flashq.broker.decoding import undecodable
from flashq.broker.flashq import FlashQ
from flashq.errors import NotMigrated
from flashq.storage.interface import CommittedOffset, TopicLog, by_id

READ_BYTES = 1024 * 1024
POST_BYTES = 512 * 1024
MIN_REMOTE_SEGMENT_BYTES = 1024 * 1024

Advance = Callable[[int], object]
"""Told of bytes that are done."""


@dataclass(frozen=True, slots=True)
class MigratedTopic:
    """`copied`: records this time, the others had been before."""

    name: str
    records: int
    copied: int


def migrate_topic(source: TopicLog, target: FlashQ, advance: Advance) -> MigratedTopic:
    """Copy what the target does not have, each record at its offset. Raises `NotMigrated` where that cannot be."""
    source.refresh()
    if source.log_start_offset > 0:
        raise NotMigrated(
            f"topic {source.name} begins at offset {source.log_start_offset}, a new topic at 0: its offsets cannot be "
            "kept. Nothing of it was copied",
            topic=source.name,
            offset=source.log_start_offset,
        )
    log = _target_of(source, target)
    begin = log.high_water_mark
    _check_resumes(source, log, begin)
    end = source.high_water_mark
    for batch in _posts(source, begin, end):
        stored = log.append(batch, durable="durable" in target.backend.conditions).result().batch
        advance(len(stored.frame))
    return MigratedTopic(source.name, end, end - begin)


def migrate_groups(source: FlashQ, target: FlashQ, topics: list[TopicLog]) -> int:
    """Have every group stand where it stands, in these topics; how many offsets that were."""
    count = 0
    for name in source.consumer_groups():
        stands = list(source.group(name).stands(by_id(topics)))
        if stands or not topics:
            target.create_consumer_group(name)
        for log, committed in stands:
            kept = committed
            if committed.timestamp_ms is None:
                kept = CommittedOffset(committed.offset, target.clock_ms(), committed.metadata)
            target.group(name).commit(target.log(log.name), kept).result()
            count += 1
    return count


def verify_topic(source: TopicLog, target: TopicLog, advance: Advance) -> None:
    """Read both and compare every record. Raises `NotMigrated` at the first that is not the same."""
    target.refresh()
    ours, theirs = _records(source, source.high_water_mark, advance), _records(target, source.high_water_mark, advance)
    for offset in range(source.high_water_mark):
        if next(ours, None) != next(theirs, None):
            raise NotMigrated(
                f"topic {source.name} is not the same at offset {offset}", topic=source.name, offset=offset
            )


def verify_groups(source: FlashQ, target: FlashQ, topics: list[TopicLog]) -> None:
    """Compare where groups stand. Raises `NotMigrated`."""
    for name in source.consumer_groups():
        for log, committed in source.group(name).stands(by_id(topics)):
            there = target.group(name).committed(target.log(log.name))
            if there is None or (there.offset, there.metadata) != (committed.offset, committed.metadata):
                raise NotMigrated(
                    f"group {name} does not stand at {committed.offset} of topic {log.name}", topic=log.name
                )


def _target_of(source: TopicLog, target: FlashQ) -> TopicLog:
    config = source.config
    if target.backend.is_remote and config.segment_bytes < MIN_REMOTE_SEGMENT_BYTES:
        config = config.with_changes({"segment_bytes": MIN_REMOTE_SEGMENT_BYTES})
    log, _ = target.backend.create_topic(source.name, config)
    log.refresh()
    return log


def _check_resumes(source: TopicLog, log: TopicLog, begin: int) -> None:
    """What the target holds ends as the source does at that offset: it is what an earlier migration has copied."""
    if begin > source.high_water_mark or log.log_start_offset > 0:
        raise NotMigrated(
            f"topic {log.name} of the target holds offsets {log.log_start_offset} to {begin}, the source ends at "
            f"{source.high_water_mark}: it is another topic",
            topic=log.name,
            offset=begin,
        )
    if begin and _record_at(source, begin - 1) != _record_at(log, begin - 1):
        raise NotMigrated(
            f"topic {log.name} of the target has another record at offset {begin - 1}: it is another topic",
            topic=log.name,
            offset=begin - 1,
        )


def _record_at(log: TopicLog, offset: int) -> tuple[int, Stored] | None:
    return next(_records(log, offset + 1, lambda _: None, offset), None)


def _posts(log: TopicLog, begin: int, end: int) -> Iterator[Batch]:
    """Batches to append: those with an idempotency key as they are, others gathered into larger ones."""
    gathered: list[Stored] = []
    size = at = 0
    for batch in _batches(log, begin, end):
        records = _decoded(log, batch, begin, end)
        first = max(batch.base_offset, begin)
        keyed = batch.key_hash is not None and len(records) == batch.count
        if gathered and (keyed or size >= POST_BYTES):
            yield encode_stored(at, gathered)
            gathered, size = [], 0
        if keyed:
            yield encode_stored(first, [stored for _, stored in records], batch.key_hash)
            continue
        at = first if not gathered else at
        gathered += [stored for _, stored in records]
        size += len(batch.frame)
    if gathered:
        yield encode_stored(at, gathered)


def _batches(log: TopicLog, begin: int, end: int) -> Iterator[Batch]:
    """Raises `NotMigrated` at a hole: what comes behind it would not keep its offset."""
    at = begin
    while at < end:
        batches = log.read(at, max_bytes=READ_BYTES)
        if not batches or batches[0].base_offset > at:
            raise _hole(log, at)
        for batch in batches:
            if batch.base_offset > at:
                raise _hole(log, at)
            yield batch
            at = batch.next_offset


def _hole(log: TopicLog, offset: int) -> NotMigrated:
    return NotMigrated(
        f"topic {log.name} has no record at offset {offset}, and some behind it (transactions leave such holes): "
        "their offsets cannot be kept",
        topic=log.name,
        offset=offset,
    )


def _records(log: TopicLog, end: int, advance: Advance, begin: int = 0) -> Iterator[tuple[int, Stored]]:
    for batch in _batches(log, begin, end):
        yield from _decoded(log, batch, begin, end)
        advance(len(batch.frame))


def _decoded(log: TopicLog, batch: Batch, begin: int, end: int) -> list[tuple[int, Stored]]:
    try:
        return decode(batch, _stored, max(begin - batch.base_offset, 0), end - batch.base_offset)
    except BadFrame as error:
        raise undecodable(log, batch.base_offset, error) from error


def _stored(
    offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: dict[str, bytes] | None
) -> tuple[int, Stored]:
    return offset, (timestamp_ms, key, value, list(headers.items()) if headers else [])
