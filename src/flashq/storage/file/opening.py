"""Opening what is on disk after anything: sync it, read it with distrust, cut torn tails, leave damage alone.

Also creating and deleting topics, in an order that leaves something that opens whichever system call is the last.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from flashq.errors import DataCorruption, InvalidParameter
from flashq.logging import get_logger
from flashq.names import is_name
from flashq.storage.file import checked_json
from flashq.storage.file.disk import Disk, OpenFile, refused
from flashq.storage.file.flush import Flusher
from flashq.storage.file.names import DELETED_PREFIX, NEW_PREFIX, file_name
from flashq.storage.file.recovery import READ_BYTES, Broken, EpochAt, OnBatch, Scan, scan
from flashq.storage.file.segment import MOST_ROOM_BYTES, Segment, segment_path
from flashq.storage.file.topic_log import (
    PARTITION,
    TOPIC_FILE,
    EpochStart,
    FileTopicLog,
    TopicFile,
    corruption,
    save,
)
from flashq.storage.interface import TopicConfig

log = get_logger(__name__)
T = TypeVar("T")
_SEGMENT_NAME = re.compile(r"([0-9]{20})\.log", re.ASCII)
_MAX_TOPIC_FILE_BYTES = 16 * 1024 * 1024
_LOGS_AHEAD = 32
"""A disk reads many places at once in little more time than one: measured with 20,000 files not in memory."""


@dataclass(slots=True)
class Recovered:
    """What opening found, for the start-up line."""

    topics: int = 0
    groups: int = 0
    torn_tails: int = 0
    torn_bytes: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Beforehand:
    """What is known of all files before any is read."""

    synced: bool = False
    """By one call: with thousands of logs, an fsync for each takes longer than everything else."""
    as_on_medium: bool = False
    """What reads find in memory is what is on the disk: nothing has failed since it was written."""


UNKNOWN = Beforehand()


def overlapped(openings: Iterable[Iterator[T | None]]) -> Iterator[T]:
    """The logs these open, in their order. An opening gives None where it waits for the disk, so that others begin
    meanwhile, and then its log."""
    begun: deque[tuple[Iterator[T | None], T | None]] = deque()
    for opening in openings:
        begun.append((opening, next(opening)))
        if len(begun) > _LOGS_AHEAD:
            yield _opened(*begun.popleft())
    while begun:
        yield _opened(*begun.popleft())


def _opened(opening: Iterator[T | None], log: T | None) -> T:
    while log is None:
        log = next(opening)
    return log


def open_topic(
    directory: str, *, disk: Disk, flusher: Flusher, epoch: int, recovered: Recovered, known: Beforehand = UNKNOWN
) -> Iterator[FileTopicLog | None]:
    """The topic in this directory, `overlapped`. Raises `DataCorruption` when there is nothing that can be read."""
    about = read_topic_file(disk, directory)
    partition = os.path.join(directory, PARTITION)
    if not known.synced:
        for path in (directory, partition):
            disk.sync_directory(path)  # a kill may have come between a file and its durable name
    bases = segment_bases(directory, about.name)
    sealed = [_sealed_segment(disk, segment_path(partition, base), base) for base in bases[:-1]]
    path = segment_path(partition, bases[-1])
    file = fetch_file(disk, path, known)
    yield None
    found = recover_file(disk, file, bases[-1], about.epoch_at, what=about.name, recovered=recovered)
    damage = None
    if found.verdict == "damage":
        damage = corruption(about.name, path, Broken(found.end, found.next_offset, found.why, cut=False))
    active = Segment.recovered(disk, path, bases[-1], found)
    if not found.frames:  # so that time does not go back
        active.max_timestamp_ms = about.not_before_ms
        with contextlib.suppress(Broken, OSError, IndexError):
            active.max_timestamp_ms = sealed[-1].latest_timestamp(about.epoch_at)
    yield FileTopicLog(
        directory,
        about,
        sealed,
        active,
        found.next_offset,
        disk=disk,
        flusher=flusher,
        epoch=max(epoch, about.epochs[-1].epoch),
        keys=found.keys,
        damage=damage,
    )


def is_topic(entry: os.DirEntry[str]) -> bool:
    """Whether a directory has anything that only a topic has: one that lost its topic.json is still a topic."""
    return entry.is_dir() and any(os.path.lexists(os.path.join(entry.path, name)) for name in (TOPIC_FILE, PARTITION))


def segment_bases(directory: str, topic: str) -> list[int]:
    """The base offsets of a topic's segments, in order. Raises `DataCorruption` if there are none."""
    partition = os.path.join(directory, PARTITION)
    bases = sorted(int(match[1]) for name in _entries(partition) if (match := _SEGMENT_NAME.fullmatch(name)))
    if not bases:
        raise DataCorruption(f"topic {topic} has no segments in {partition}", topic=topic, path=partition)
    return bases


def create_topic(
    topics_dir: str, name: str, config: TopicConfig, *, disk: Disk, flusher: Flusher, epoch: int
) -> FileTopicLog:
    """A new topic, built aside and moved into place: a crash leaves all of it or none. Durable on return."""
    about = TopicFile(
        name=name,
        topic_id=uuid.uuid4().hex,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        segment_bytes=config.segment_bytes,
        epochs=[EpochStart(epoch, 0)],
    )
    aside = os.path.join(topics_dir, NEW_PREFIX + file_name(name))
    final = os.path.join(topics_dir, file_name(name))
    remove_tree(disk, aside)
    partition = os.path.join(aside, PARTITION)
    disk.mkdir(aside)
    disk.mkdir(partition)
    save(disk, aside, about)
    segment = Segment.create(disk, segment_path(partition, 0), 0)
    segment.sync()
    _move_durably(disk, aside, final)
    segment.path = segment_path(os.path.join(final, PARTITION), 0)
    return FileTopicLog(final, about, [], segment, 0, disk=disk, flusher=flusher, epoch=epoch)


def create_group_file(path: str, data: bytes, *, disk: Disk) -> None:
    """As a topic: written aside and moved into place, and back if that cannot be made durable."""
    groups_dir, name = os.path.split(path)
    aside = os.path.join(
        groups_dir, f"{NEW_PREFIX}{name}.new"
    )  # no name of a group's file, so that it is taken for none
    disk.write_file(aside, data)
    _move_durably(disk, aside, path)


def delete_topic(topics_dir: str, directory: str, *, disk: Disk) -> None:
    """Renamed first: from then on, durably, there is no such topic; the next start removes what a crash leaves."""
    aside = os.path.join(topics_dir, DELETED_PREFIX + uuid.uuid4().hex)
    _move_durably(disk, directory, aside)
    try:
        remove_tree(disk, aside)
    except OSError as error:  # the topic is gone all the same; the next start tries again
        log.warning("removal_failed", path=aside, why=str(error))


def delete_group_file(groups_dir: str, path: str, *, disk: Disk) -> None:
    """As a topic: renamed first, and back if that cannot be made durable. Does nothing where there is no file."""
    aside = os.path.join(groups_dir, DELETED_PREFIX + uuid.uuid4().hex)
    try:
        _move_durably(disk, path, aside)
    except FileNotFoundError:
        disk.sync_directory(groups_dir)  # raises where the file is not gone but the directory is elsewhere
        return
    try:
        disk.unlink(aside)
    except OSError as error:  # the group is gone all the same; the next start tries again
        log.warning("removal_failed", path=aside, why=str(error))


def fetch_file(disk: Disk, path: str, known: Beforehand = UNKNOWN) -> OpenFile:
    """A file on its way from the medium, to be recovered.

    First everything is synced and its pages dropped: after a failed write the page cache can hold bytes that the
    medium does not, and a second fdatasync reports success. What was written past the end goes for good: it would be
    a record that had been lost, and comes back.
    """
    file = disk.open(path, write=True)
    if not known.as_on_medium:
        disk.clear_beyond_end(file)
    if not known.synced:
        disk.sync(file)
    if not known.as_on_medium:
        disk.forget_pages(file)
    disk.read_ahead(file, READ_BYTES)
    return file


def recover_file(
    disk: Disk,
    file: OpenFile,
    base_offset: int | None,
    epoch_at: EpochAt,
    *,
    what: str,
    recovered: Recovered,
    on_batch: OnBatch | None = None,
) -> Scan:
    """What a fetched file of frames holds. A torn tail is kept beside it and cut, and room given back; for `on_batch`
    see `scan`."""
    path = file.path
    found = scan(disk, file, base_offset, epoch_at, is_text=base_offset is None, on_batch=on_batch)
    if found.verdict == "torn" and base_offset is None and not found.frames:
        found.verdict = "damage"  # a group is there once its first frame is durable
    if found.verdict == "torn":
        _cut_torn_tail(disk, file, found, what=what, recovered=recovered)
    elif found.verdict == "clean":
        _cut_room(disk, file, found, what=what)
    else:
        recovered.problems.append(f"{what}: {found.why} at position {found.end} of {path}")
        log.error("damage", what=what, offset=found.next_offset, path=path, position=found.end, why=found.why)
    return found


def _cut_room(disk: Disk, file: OpenFile, found: Scan, *, what: str) -> None:
    size = disk.size(file) - found.end
    if size > MOST_ROOM_BYTES:  # no room of ours
        log.warning("zeros_cut", what=what, offset=found.next_offset, position=found.end, bytes=size, path=file.path)
    if size:
        disk.truncate(file, found.end)
        disk.sync(file)  # it may be sealed without another write


def _cut_torn_tail(disk: Disk, file: OpenFile, found: Scan, *, what: str, recovered: Recovered) -> None:
    """A crash before the cut is durable finds the same tail again, and keeps it twice. Zeros at its end are not kept:
    they are room, or hold no less for being gone."""
    tail = disk.read(file, disk.size(file) - found.end, found.end)
    tail = tail.rstrip(b"\0") or tail
    kept = _unused(f"{file.path}.torn-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{found.end}")
    disk.replace_file(kept, tail)
    disk.truncate(file, found.end)
    disk.sync(file)
    recovered.torn_tails += 1
    recovered.torn_bytes += len(tail)
    log.warning(
        "torn_tail_cut",
        what=what,
        offset=found.next_offset,
        position=found.end,
        bytes=len(tail),
        kept=kept,
        why=found.why,
    )


def _unused(path: str) -> str:
    """This path, or with a number behind it: two starts in one second may cut at one position, and both tails stay."""
    paths = itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2)))
    return next(each for each in paths if not os.path.lexists(each))


def _move_durably(disk: Disk, old: str, new: str) -> None:
    """Both in one directory. Moved back if that cannot be made durable, so that it may be tried again."""
    disk.rename(old, new)
    try:
        disk.sync_directory(os.path.dirname(new))
    except OSError:
        disk.rename(new, old)
        raise


def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory of ours and all in it. Links are removed, never followed, also in its own place."""
    if os.path.islink(path):
        disk.unlink(path)
        return
    try:
        entries = disk.entries(path)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(disk, entry.path)
        else:
            disk.unlink(entry.path)
    disk.rmdir(path)


def clean_temporaries(disk: Disk, directory: str, is_temporary: Callable[[str], bool]) -> None:
    """Remove what a crash left of creating or deleting."""
    for name in _entries(directory):
        if is_temporary(name):
            path = os.path.join(directory, name)
            if os.path.isdir(path) and not os.path.islink(path):
                remove_tree(disk, path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    disk.unlink(path)


def _check_directory(path: str) -> None:
    about = os.lstat(path)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise refused(path, "it is not a directory of this user")


def _sealed_segment(disk: Disk, path: str, base_offset: int) -> Segment:
    about = os.lstat(path)
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
        raise refused(path, "it is not a regular file of this user")
    return Segment(disk, path, base_offset, about.st_size)


def read_topic_file(disk: Disk, directory: str) -> TopicFile:
    """What the topic in this directory is. Raises `DataCorruption`."""
    for each in (directory, os.path.join(directory, PARTITION)):
        _check_directory(each)
    path = os.path.join(directory, TOPIC_FILE)
    try:
        file = disk.open(path)
        size = min(disk.size(file), _MAX_TOPIC_FILE_BYTES)  # room for the most there may be costs more than the read
        about = checked_json.decode(disk.read(file, size, 0), TopicFile)
        about.config()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidParameter) as error:
        raise DataCorruption(f"{path} cannot be read: {error}. Nothing was changed", path=path) from error
    if not about.epochs:
        raise DataCorruption(f"{path} names no epoch. Nothing was changed", path=path)
    if not is_name(about.name) or file_name(about.name) != os.path.basename(directory):
        raise DataCorruption(f"{directory} is not where topic {about.name!r} belongs", path=directory)
    return about


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
