"""Checking a data directory that nobody has open, down to every record. Reads only: makes, changes and locks nothing.

What opening would refuse, or a read would answer with `data_corruption`, is damage. What the next start mends by
itself, or `repair` has dealt with, is a note.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Literal

from flashq.batch import Batch
from flashq.errors import DataCorruption, TopicNotFound, UnsupportedFormat
from flashq.storage.file import index as index_file
from flashq.storage.file import keys as keys_file
from flashq.storage.file.consumer_group import GROUP_SUFFIX, read_commits
from flashq.storage.file.disk import Disk
from flashq.storage.file.kept import is_known_lost
from flashq.storage.file.names import file_name, is_temporary
from flashq.storage.file.opening import is_topic, read_topic_file, segment_bases
from flashq.storage.file.recovery import EpochAt
from flashq.storage.file.root_file import ROOT_FILE, read_root
from flashq.storage.file.runs import Run, runs
from flashq.storage.file.segment import INDEX_SUFFIX, KEYS_SUFFIX, LOG_SUFFIX, segment_path
from flashq.storage.file.topic_log import PARTITION, TOPIC_FILE, TopicFile

OnProgress = Callable[[int], None]
"""Told how many bytes have been read since it was told last."""
FindingKind = Literal["damage", "torn", "note"]
State = Literal["ok", "torn", "damaged"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a file: what, and where if that is known (`position` in bytes, `offset` of a record)."""

    kind: FindingKind
    path: str
    why: str
    position: int | None = None
    offset: int | None = None


@dataclass(slots=True)
class LogReport:
    """What a topic or a group holds that can be read, and what was found.

    `[first_offset, next_offset)`: from the first good record to the last.
    """

    kind: Literal["topic", "group"]
    name: str
    path: str
    segments: int = 0
    batches: int = 0
    records: int = 0
    first_offset: int = 0
    next_offset: int = 0
    size_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    def find(
        self, kind: FindingKind, path: str, why: str, *, position: int | None = None, offset: int | None = None
    ) -> None:
        self.findings.append(Finding(kind, path, why, position, offset))

    @property
    def state(self) -> State:
        kinds = {finding.kind for finding in self.findings}
        return "damaged" if "damage" in kinds else "torn" if "torn" in kinds else "ok"


@dataclass(frozen=True, slots=True)
class Report:
    """Every log of a directory."""

    data_dir: str
    logs: list[LogReport]

    @property
    def damage(self) -> list[Finding]:
        return [finding for log in self.logs for finding in log.findings if finding.kind == "damage"]


def verify_directory(data_dir: str | os.PathLike[str]) -> Report:
    """Everything in the directory, checked. Raises as `verify` does."""
    path = os.path.abspath(data_dir)
    return Report(path, list(verify(path)))


def verify(
    data_dir: str,
    topics: Collection[str] = (),
    *,
    disk: Disk | None = None,
    on_progress: OnProgress = lambda size: None,
) -> Iterator[LogReport]:
    """Each topic, or those named, and without names each group: as soon as it has been checked, by name.

    Raises `UnsupportedFormat` for a newer directory and for what is none, `TopicNotFound` for a name. A file that
    cannot be read at all is damage of its log.
    """
    disk = disk or Disk()
    check_root(disk, data_dir)
    ends: dict[str, int] = {}
    for path in log_paths(data_dir, topics):
        if not os.path.isdir(path):
            yield _check_group(disk, path, ends, on_progress)
        else:
            yield _check_topic(disk, path, ends, on_progress)


def check_root(disk: Disk, data_dir: str) -> None:
    """Raises `UnsupportedFormat` unless the directory says that it is one this FlashQ knows."""
    try:
        read_root(disk, data_dir)
    except FileNotFoundError as error:
        raise UnsupportedFormat(
            f"{data_dir} is no data directory: it has no {ROOT_FILE}. Nothing was touched"
        ) from error


def log_paths(data_dir: str, topics: Collection[str] = ()) -> list[str]:
    """The directories of the topics, or of those named, and the files of the groups if none is."""
    topics_dir, groups_dir = (os.path.join(data_dir, name) for name in ("topics", "groups"))
    if topics:
        return [_topic_path(topics_dir, topic) for topic in sorted(set(topics))]
    found = [entry.path for entry in _entries(topics_dir) if is_topic(entry) and not is_temporary(entry.name)]
    return found + [entry.path for entry in _entries(groups_dir) if entry.name.endswith(GROUP_SUFFIX)]


def _topic_path(topics_dir: str, topic: str) -> str:
    path = os.path.join(topics_dir, file_name(topic))
    if not os.path.isdir(path):
        raise TopicNotFound(f"there is no topic {topic} in {topics_dir}", topic=topic)
    return path


def size_to_read(data_dir: str, topics: Collection[str] = ()) -> int:
    """The bytes that `on_progress` will have told of at the end."""
    total = 0
    for path in log_paths(data_dir, topics):
        if not os.path.isdir(path):
            total += os.lstat(path).st_size
        else:
            logs = (entry for entry in _entries(os.path.join(path, PARTITION)) if entry.name.endswith(LOG_SUFFIX))
            total += sum(entry.stat(follow_symlinks=False).st_size for entry in logs)
    return total


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


# -- one log


def _check_topic(disk: Disk, path: str, ends: dict[str, int], on_progress: OnProgress) -> LogReport:
    """Also notes in `ends`, by topic id, where the topic ends."""
    report = LogReport("topic", os.path.basename(path), path)
    try:
        about = read_topic_file(disk, path)
        report.name = about.name
        bases = segment_bases(path, about.name)
    except (OSError, DataCorruption) as error:
        report.find("damage", path, str(error))
        return report
    if not _epochs_rise(about):
        report.find("damage", os.path.join(path, TOPIC_FILE), "its epochs do not rise")
    report.segments, report.first_offset = len(bases), bases[0]
    check = _LogCheck(disk, report, about.epoch_at, on_progress)
    for base, limit in zip_longest(bases, bases[1:]):
        check.segment(segment_path(os.path.join(path, PARTITION), base), base, limit)
    ends[about.topic_id] = report.next_offset
    return report


def _epochs_rise(about: TopicFile) -> bool:
    pairs = pairwise(about.epochs)
    return about.epochs[0].offset == 0 and all(one.epoch < two.epoch and one.offset < two.offset for one, two in pairs)


def _check_group(disk: Disk, path: str, ends: Mapping[str, int], on_progress: OnProgress) -> LogReport:
    entry = os.path.basename(path)
    report = LogReport("group", entry.removesuffix(GROUP_SUFFIX), path, segments=1)
    batches: list[Batch] = []
    check = _LogCheck(disk, report, lambda offset: 0, on_progress, batches.append)
    try:
        found = check.frames(path, None, None)
        report.first_offset = found[0].base_offset
        name, commits = read_commits(batches)
    except (OSError, DataCorruption, ValueError) as error:
        report.find("damage", path, str(error))
        return report
    if name is None:
        report.find("damage", path, "it does not begin with the group's name")
    elif file_name(name) + GROUP_SUFFIX != entry:
        report.find("damage", path, f"it is not where group {name} belongs")
    else:
        report.name = name
    for topic_id, commit in commits.items():
        if commit.offset is not None and commit.offset > ends.get(topic_id, commit.offset):
            why = f"has committed offset {commit.offset} in topic {commit.topic}, which ends at {ends[topic_id]}"
            report.find("note", path, f"{why}: it will not see the records between. Reset it")
    return report


class _LogCheck:
    """The files of one log, first to last; findings go to its report."""

    def __init__(
        self,
        disk: Disk,
        report: LogReport,
        epoch_at: EpochAt,
        on_progress: OnProgress,
        keep: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._disk = disk
        self._report = report
        self._epoch_at = epoch_at
        self._on_progress = on_progress
        self._keep = keep
        self._latest_ms = 0
        self._read = 0  # bytes of this file that progress was told of
        self._path = ""

    def segment(self, path: str, base_offset: int, limit: int | None) -> None:
        """A segment that ends at the offset `limit`, with what lies beside it; None: the active one."""
        try:
            found = self.frames(path, base_offset, limit)
            if limit is None:
                if was_sealed(self._disk, path, found[0]):
                    why = "it was sealed, so the segment after it is gone"
                    self._report.find("damage", path, why, offset=found[0].next_offset)
                return
            if len(found) == 1 and found[0].is_whole and found[0].end > 0:
                self._report.findings += judge_beside(self._disk, path, found[0])
            if found[-1].is_whole and found[-1].next_offset < limit:
                self._judge_hole(path, found[-1].next_offset, limit)
        except (OSError, DataCorruption) as error:
            self._report.find("damage", path, str(error), offset=base_offset)

    def frames(self, path: str, base_offset: int | None, limit: int | None) -> list[Run]:
        """The runs of a file, counted. Raises `DataCorruption` or OSError if it cannot be read."""
        file = self._disk.open(path)
        size = self._disk.size(file)
        self._path, self._read = path, 0
        found: list[Run] = []
        for run in runs(self._disk, file, base_offset, self._epoch_at, limit=limit, on_batch=self._count):
            if found:
                self._find_damage(found[-1], f"the log goes on at offset {run.base_offset}, position {run.start}")
            found.append(run)
            if not found[1:] and is_torn(run, base_offset, limit):
                break
        self._judge_end(found, base_offset, limit)
        self._report.next_offset = found[-1].next_offset
        self._report.size_bytes += found[-1].end if found[-1].is_whole else size  # not room
        self._on_progress(size - self._read)
        return found

    def _count(self, batch: Batch, times: list[int]) -> None:
        self._report.batches += 1
        self._report.records += len(times)
        if times[0] < self._latest_ms or times != sorted(times) or times[-1] != batch.timestamp_ms:
            self._report.find("damage", self._path, "the times of its records go back", offset=batch.base_offset)
        self._latest_ms = max(self._latest_ms, batch.timestamp_ms)
        self._keep(batch)
        self._read += len(batch.frame)
        self._on_progress(len(batch.frame))

    def _judge_end(self, found: list[Run], base_offset: int | None, limit: int | None) -> None:
        last = found[-1]
        if not found[1:] and is_torn(last, base_offset, limit):
            why = f"{last.scan.why}: a write was cut short. The next start cuts it off and keeps it beside the file"
            self._report.find("torn", self._path, why, position=last.end, offset=last.next_offset)
        elif not last.is_whole:
            self._find_damage(last, "no good frame follows in this file")

    def _find_damage(self, run: Run, following: str) -> None:
        why = f"{run.scan.why}; {following}"
        self._report.find("damage", self._path, why, position=run.end, offset=run.next_offset)

    def _judge_hole(self, path: str, lost_from: int, limit: int) -> None:
        if is_known_lost(os.path.dirname(path), lost_from, limit):
            why = "the records from here on are lost, which repair has dealt with"
            self._report.find("note", path, f"{why}; the log goes on at offset {limit}", offset=lost_from)
        else:
            why = "it ends too early, or a segment after it is gone"
            self._report.find("damage", path, f"{why}; the log goes on at offset {limit}", offset=lost_from)


def judge_beside(disk: Disk, path: str, run: Run) -> Iterator[Finding]:
    """The index and the keys of the sealed segment that is all of this run. That one is missing is no matter."""
    index, data = _beside(disk, path, INDEX_SUFFIX)
    if data is not None:
        if index_file.decode(data, run.base_offset, run.end) is None:
            yield Finding("note", index, "it is not whole, or of another segment: the next read does without")
        elif data != run.scan.index.encode(run.end, run.next_offset, run.scan.max_timestamp_ms):
            yield Finding("damage", index, "it does not agree with its segment")
    keys, data = _beside(disk, path, KEYS_SUFFIX)
    if data is not None:
        held = keys_file.decode(data, run.end)
        if held is None:
            yield Finding("note", keys, "it is not whole, or of another segment: the next read makes it again")
        elif held != run.scan.keys:
            yield Finding("damage", keys, "it does not agree with its segment")


def _beside(disk: Disk, path: str, suffix: str) -> tuple[str, bytes | None]:
    """The path and the content of a file beside a segment; None if there is none, empty if it cannot be read."""
    beside = path.removesuffix(LOG_SUFFIX) + suffix
    try:
        file = disk.open(beside)
        return beside, disk.read(file, disk.size(file), 0)
    except FileNotFoundError:
        return beside, None
    except (OSError, DataCorruption):
        return beside, b""


def was_sealed(disk: Disk, path: str, run: Run) -> bool:
    """Whether the last segment has the index of a sealed one: that is written once the next segment is durable."""
    _, data = _beside(disk, path, INDEX_SUFFIX)
    return run.is_whole and data is not None and index_file.decode(data, run.base_offset, run.end) is not None


def is_torn(first: Run, base_offset: int | None, limit: int | None) -> bool:
    """Whether opening cuts what follows the first run of an active file; a group is there with its first frame."""
    return limit is None and first.scan.verdict == "torn" and (base_offset is not None or first.scan.frames > 0)
