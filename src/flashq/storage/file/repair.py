"""Mending a data directory: what can be read stays, at its offsets; what cannot is moved aside, never deleted.

Damage inside a segment splits it. The good frames before the damage stay in their file, those after it become a
segment of their own, and the bytes between are kept beside them (kept.py). Offsets of the records that are lost stay
lost: a read of one is refused, and never answered with another record. Only where nothing good follows does the log
go on at the first lost offset; readers may have seen other records there, so the epoch rises.

A crash at any point leaves a directory that opens, holds what it held, and can be repaired again: later files are
made before earlier ones are cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Literal

from flashq.batch import Batch
from flashq.errors import DataCorruption
from flashq.storage.file.consumer_group import GROUP_SUFFIX, compacted, read_commits
from flashq.storage.file.disk import Disk, OpenFile, on_disk
from flashq.storage.file.dump import frames
from flashq.storage.file.kept import damaged_path, is_known_lost
from flashq.storage.file.names import MARK, file_name
from flashq.storage.file.opening import Recovered, fetch_file, read_topic_file, recover_file, segment_bases
from flashq.storage.file.recovery import EpochAt, scan
from flashq.storage.file.root_file import read_root, save_root
from flashq.storage.file.runs import Run, runs
from flashq.storage.file.segment import INDEX_SUFFIX, LOG_SUFFIX, Segment, segment_path
from flashq.storage.file.topic_log import PARTITION, TopicFile
from flashq.storage.file.verify import check_root, is_torn, judge_beside, log_paths, was_sealed

_EPOCH_RISES = "raise the epoch, since offsets will be given again"


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that cannot be read, from `first_offset` on. The log goes on at `goes_on_at`.

    Where both are the same, how many there were is not known, and later records get their offsets.
    """

    first_offset: int
    goes_on_at: int


@dataclass(slots=True)
class Repair:
    """What one log needs: `actions` say it, `apply` does it. `remains` is what only a copy can bring back.

    `before` and `after`, of a topic: its first offset and the one after the last that a reader gets to.
    """

    kind: Literal["topic", "group"]
    name: str
    path: str
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    lost: list[Lost] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    is_damage: bool = False
    _steps: list[Callable[[], object]] = field(default_factory=list)

    def add(self, step: Callable[[], object], *actions: str) -> None:
        self._steps.append(step)
        self.actions += actions

    def apply(self) -> None:
        """Durable on return. Raises `StorageFull` or `StorageFailed`; then it can be planned and applied again."""
        with on_disk(f"the repair of {self.kind} {self.name}"):
            for step in self._steps:
                step()


def plan(data_dir: str, *, disk: Disk | None = None) -> Iterator[Repair]:
    """What each log needs that is not as it should be. Reads only.

    The directory must be kept closed until all of it is applied. Raises `UnsupportedFormat`.
    """
    disk = disk or Disk()
    check_root(disk, data_dir)
    for path in log_paths(data_dir):
        repair = _of_topic(disk, data_dir, path) if os.path.isdir(path) else _of_group(disk, path)
        if repair.actions or repair.remains:
            yield repair


# -- a topic


def _of_topic(disk: Disk, data_dir: str, path: str) -> Repair:
    repair = Repair("topic", os.path.basename(path), path)
    try:
        about = read_topic_file(disk, path)
        bases = segment_bases(path, about.name)
    except (OSError, DataCorruption) as error:
        repair.remains.append(f"{error}. Restore it from a copy")
        return repair
    repair.name = about.name
    pieces: list[Run] = []
    for base, limit in zip_longest(bases, bases[1:]):
        try:
            segment = _Mending(disk, segment_path(os.path.join(path, PARTITION), base), base, limit, about.epoch_at)
        except (OSError, DataCorruption) as error:
            repair.remains.append(f"{error}. Restore it from a copy")
            continue
        segment.plan(repair, lambda: _raise_epoch(disk, data_dir, about))
        repair.before = (bases[0], segment.found[0].next_offset)
        pieces += segment.pieces
    if pieces:
        repair.after = (pieces[0].base_offset, pieces[-1].next_offset)
    return repair


def _raise_epoch(disk: Disk, data_dir: str, about: TopicFile) -> None:
    root = read_root(disk, data_dir)
    root.epoch = max(root.epoch, about.epochs[-1].epoch) + 1
    save_root(disk, data_dir, root)


class _Mending:
    """A segment and what it takes to mend it. `limit` is the offset the next one begins at; None: it is active."""

    def __init__(self, disk: Disk, path: str, base_offset: int, limit: int | None, epoch_at: EpochAt) -> None:
        self._disk, self._path, self._base, self._limit, self._epoch_at = disk, path, base_offset, limit, epoch_at
        self._name = os.path.basename(path)
        file = disk.open(path)
        self._size = disk.size(file)
        self.found: list[Run] = []
        self._is_torn = False
        for run in runs(disk, file, base_offset, epoch_at, limit=limit):
            self.found.append(run)
            self._is_torn = not self.found[1:] and is_torn(run, base_offset, limit)
            if self._is_torn:
                break
        good = [run for run in self.found if run.scan.frames]
        self.pieces = good or ([self.found[0]] if limit is None else [])
        """What stays, each as a segment."""
        self._between = list(self._parts_lost())

    def plan(self, repair: Repair, raise_epoch: Callable[[], object]) -> None:
        first = self.found[0]
        if self._is_torn:
            cut = f"cut what follows position {first.end}, where a write was cut short"
            repair.add(self._cut_torn_tail, f"{self._name}: {cut}; keep it beside the file")
        elif len(self.found) > 1 or not first.is_whole or self._has_new_hole():
            repair.is_damage = True
            repair.lost += [lost for lost, _, _ in self._between if lost.first_offset != self._limit]
            if self._limit is None and not self.found[-1].is_whole:
                repair.add(raise_epoch, _EPOCH_RISES)
            repair.add(self._split, *self._told())
        elif self._limit is None and was_sealed(self._disk, self._path, first):
            repair.is_damage = True
            repair.lost.append(Lost(first.next_offset, first.next_offset))
            repair.add(raise_epoch, _EPOCH_RISES)
            repair.add(self._forget_seal, f"{self._name}: remove its index, since the log goes on in it")
        elif self._limit is not None and first.end > 0 and any(judge_beside(self._disk, self._path, first)):
            repair.add(lambda: self._seal(self._path, first), f"{self._name}: make the files beside it again")

    def _has_new_hole(self) -> bool:
        end, limit = self.found[-1].next_offset, self._limit
        return limit is not None and end < limit and not is_known_lost(os.path.dirname(self._path), end, limit)

    def _parts_lost(self) -> Iterator[tuple[Lost, int, int]]:
        """The offsets between the runs, and from where to where (bytes) what is left of them lies."""
        for run, follower in zip_longest(self.found, self.found[1:]):
            if follower is not None:
                yield Lost(run.next_offset, follower.base_offset), run.end, follower.start
            elif not run.is_whole or self._has_new_hole():
                goes_on_at = run.next_offset if self._limit is None else self._limit
                yield Lost(run.next_offset, goes_on_at), run.end, self._size

    def _told(self) -> Iterator[str]:
        for _, start, stop in self._between:
            yield f"{self._name}: move {stop - start} bytes at position {start} aside"
        for piece in self.pieces:
            if piece.start > 0:
                into = os.path.basename(self._place(piece))
                yield f"{self._name}: move {piece.end - piece.start} good bytes at position {piece.start} to {into}"

    def _place(self, piece: Run) -> str:
        return segment_path(os.path.dirname(self._path), piece.base_offset)

    def _cut_torn_tail(self) -> None:
        _cut_torn_tail(self._disk, self._path, self._base, self._epoch_at)

    def _split(self) -> None:
        """Later pieces are made before anything is cut: whatever a crash leaves has all that can be read.

        The last one is made first, so that the log never seems to end before it.
        """
        disk, file = self._disk, self._disk.open(self._path, write=True)
        for piece in reversed(self.pieces):
            if piece.start > 0:
                disk.replace_file(self._place(piece), disk.read(file, piece.end - piece.start, piece.start))
        for lost, start, stop in self._between:
            kept = damaged_path(self._path, lost.first_offset, lost.goes_on_at)
            disk.replace_file(kept, disk.read(file, stop - start, start))
        if self.pieces and self.pieces[0].start == 0:
            disk.truncate(file, self.pieces[0].end)
            disk.sync(file)
        else:
            Segment(disk, self._path, self._base, 0).remove()
            disk.sync_directory(os.path.dirname(self._path))
        for piece in self.pieces if self._limit is not None else self.pieces[:-1]:
            self._seal(self._place(piece), piece)

    def _forget_seal(self) -> None:
        self._disk.unlink(self._path.removesuffix(LOG_SUFFIX) + INDEX_SUFFIX)
        self._disk.sync_directory(os.path.dirname(self._path))

    def _seal(self, path: str, piece: Run) -> None:
        file = self._disk.open(path)
        found = scan(self._disk, file, piece.base_offset, self._epoch_at)
        segment = Segment.recovered(self._disk, path, piece.base_offset, found)
        segment.seal(found.next_offset)
        segment.keep_keys(found.keys)


def _cut_torn_tail(disk: Disk, path: str, base_offset: int | None, epoch_at: EpochAt) -> None:
    recover_file(disk, fetch_file(disk, path), base_offset, epoch_at, what=path, recovered=Recovered())


# -- a group


def _of_group(disk: Disk, path: str) -> Repair:
    entry = os.path.basename(path)
    repair = Repair("group", entry.removesuffix(GROUP_SUFFIX), path)
    batches: list[Batch] = []
    try:
        file = disk.open(path)
        found = list(runs(disk, file, None, lambda offset: 0, on_batch=lambda batch, times: batches.append(batch)))
        if is_torn(found[0], None, None):
            cut = f"cut what follows position {found[0].end}, where a write was cut short; keep it beside the file"
            repair.add(partial(_cut_torn_tail, disk, path, None, lambda offset: 0), f"{entry}: {cut}")
            return repair
        # A group's offsets are nobody's concern: batches are good also where only their numbering is damaged.
        by_length = [frame.batch for frame in frames(path) if frame.batch is not None]
        batches = max(batches, by_length, key=len)
        name, commits = read_commits(batches)
    except (OSError, DataCorruption, ValueError) as error:
        repair.remains.append(f"{path}: {error}. Restore it from a copy, or delete the group")
        return repair
    if len(found) > 1 or not found[0].is_whole or name is None:
        repair.is_damage = True
        stem, repair.name = repair.name, name or repair.name
        if file_name(name) == stem if name is not None else MARK not in stem:
            rewritten = compacted(repair.name, commits, sum(batch.count for batch in batches) + 1, _latest_ms(batches))
            _plan_rewrite(repair, disk, file, rewritten, len(commits))
        else:
            repair.remains.append(f"{path}: its group is not known. Restore it from a copy, or delete the group")
    return repair


def _latest_ms(batches: list[Batch]) -> int:
    return max((batch.timestamp_ms for batch in batches), default=0)


def _plan_rewrite(repair: Repair, disk: Disk, file: OpenFile, rewritten: Batch, commits: int) -> None:
    """The whole file is kept beside, and what could be read of it takes its place, as after a compaction."""
    entry = os.path.basename(repair.path)

    def rewrite() -> None:
        kept = damaged_path(repair.path, 0, rewritten.next_offset)
        disk.replace_file(kept, disk.read(file, disk.size(file), 0))
        disk.replace_file(repair.path, bytes(rewritten.frame))

    repair.add(
        rewrite,
        f"{entry}: keep the whole file beside it",
        f"{entry}: write the committed offsets that can be read ({commits}) again; "
        "they may be older than the last that were committed",
    )
