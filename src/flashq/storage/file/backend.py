"""`FileBackend`: a data directory, held by one process.

.flashq.lock        who holds it
flashq.json         format version, epoch, whether the last stop was clean
topics/<name>/      see topic_log.py
groups/<name>.log   see consumer_group.py
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from flashq.errors import DataCorruption, FlashQError, InvalidParameter, StorageFailed, StorageFull, UnsupportedFormat
from flashq.logging import get_logger
from flashq.names import is_name
from flashq.storage.backend import Health, StorageBackend, SyncObserver
from flashq.storage.file.consumer_group import GROUP_SUFFIX, FileConsumerGroup
from flashq.storage.file.directory_lock import DirectoryLock
from flashq.storage.file.disk import Disk, on_disk
from flashq.storage.file.flush import Flusher
from flashq.storage.file.names import file_name, is_temporary
from flashq.storage.file.opening import (
    Beforehand,
    Recovered,
    clean_temporaries,
    create_topic,
    delete_group_file,
    delete_topic,
    is_topic,
    open_topic,
    overlapped,
)
from flashq.storage.file.root_file import FORMAT, ROOT_FILE, RootFile, read_root, save_root
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.file.unreadable import UnreadableGroup, UnreadableTopicLog
from flashq.storage.interface import SYNC_MODES, ConsumerGroup, SyncMode, TopicConfig, TopicLog

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_LOGS_SYNCED_SINGLY = 256
"""Up to so many topics and groups are synced one by one: the one call for all also waits for what is not ours."""
log = get_logger(__name__)


class FileBackend(StorageBackend):
    """Opens, or makes, the data directory; everything found is durable before the constructor returns.

    Raises `DirectoryLocked`, `UnsupportedFormat`, `InvalidParameter`, or OSError when the directory cannot be used:
    `StorageFailed` or `StorageFull` when the disk does not do what it is asked.
    What is wrong with one topic or group is that one's error, later.
    """

    kind = "file"

    def __init__(
        self,
        data_dir: str,
        *,
        sync_mode: SyncMode = "always",
        commit_threshold: int = 10,
        sync_interval_s: float = 1.0,
        disk: Disk | None = None,
    ) -> None:
        _check_options(sync_mode, commit_threshold, sync_interval_s)
        self.data_dir = os.path.abspath(data_dir)
        self.sync_mode = sync_mode
        self.recovered = Recovered()
        self._disk = disk = disk or Disk()
        self._changing = threading.Lock()  # held while a topic or group is made or removed
        self.topics: dict[str, TopicLog] = {}
        self.groups: dict[str, ConsumerGroup] = {}
        self._topics_dir = os.path.join(self.data_dir, "topics")
        self._groups_dir = os.path.join(self.data_dir, "groups")
        with _opening(self.data_dir):
            _make_directory(disk, self.data_dir)
            self._directory_lock = DirectoryLock(self.data_dir, disk)
            self._flusher = Flusher(sync_mode, commit_threshold, sync_interval_s)
            try:
                self._open()
            except BaseException:
                disk.release_descriptors()
                self._flusher.close()
                self._directory_lock.release()
                raise

    def create_topic(self, name: str, config: TopicConfig) -> tuple[TopicLog, bool]:
        with self._changing:
            is_new = name not in self.topics
            if is_new:
                self._check_descriptors(f"topic {name}")
                with on_disk(f"topic {name}"):
                    self.topics[name] = create_topic(
                        self._topics_dir, name, config, disk=self._disk, flusher=self._flusher, epoch=self._root.epoch
                    )
            return self.topics[name], is_new

    def delete_topic(self, name: str) -> None:
        with self._changing:
            topic = self.topics.pop(name)
            assert isinstance(topic, FileTopicLog | UnreadableTopicLog)
            try:
                with contextlib.suppress(StorageFailed):
                    _close(topic)
                with on_disk(f"the deletion of topic {name}"):
                    delete_topic(self._topics_dir, topic.directory, disk=self._disk)
            except Exception:
                self.topics[name] = topic  # closed, and still to be deleted
                raise

    def create_group(self, name: str) -> ConsumerGroup:
        with self._changing:
            if name not in self.groups:
                self._check_descriptors(f"group {name}")
                path = os.path.join(self._groups_dir, file_name(name) + GROUP_SUFFIX)
                with on_disk(f"group {name}"):
                    self.groups[name] = FileConsumerGroup.create(self._disk, path, name, self._flusher)
            return self.groups[name]

    def delete_group(self, name: str) -> None:
        with self._changing:
            group = self.groups.pop(name)
            assert isinstance(group, FileConsumerGroup | UnreadableGroup)
            try:
                with contextlib.suppress(StorageFailed):
                    _close(group)
                with on_disk(f"the deletion of group {name}"):
                    delete_group_file(self._groups_dir, group.path, disk=self._disk)
            except Exception:
                self.groups[name] = group
                raise

    def drive_from_loop(self, loop: AbstractEventLoop) -> None:
        self._disk.sync_from_loop(loop)
        self._flusher.drive_from_loop(loop)

    def together(self) -> AbstractContextManager[object]:
        return self._flusher.together

    def leave_loop(self) -> None:
        self._disk.leave_loop()

    def observe_syncs(self, observer: SyncObserver) -> None:
        self._flusher.on_sync = observer

    def health(self) -> Health:
        logs = [*self.topics.values(), *self.groups.values()]
        journals = [each.journal for each in logs if isinstance(each, FileTopicLog | FileConsumerGroup)]
        failed = [journal.failure.message for journal in journals if journal.failure is not None]
        damages = [getattr(each, name, None) for each in logs for name in ("damage", "damage_read")]
        damaged = [damage.message for damage in damages if damage is not None]
        status: Health = Health("failed" if failed else "degraded" if damaged else "healthy", failed + damaged)
        return status

    def close(self) -> None:
        """Raises the first failure, after everything has been closed; the stop then does not count as clean."""
        first: FlashQError | None = None
        for each in [*self.topics.values(), *self.groups.values()]:
            try:
                _close(each)
            except FlashQError as error:
                first = first or error
        self._flusher.close()
        self._disk.release_descriptors()
        if first is None:
            self._root.clean = True
            try:
                self._save_root()
            except OSError as error:  # all records are safe; the next start only takes this stop for a crash
                log.warning("clean_stop_not_noted", data_dir=self.data_dir, why=str(error))
        self._directory_lock.release()
        if first is not None:
            raise first

    def _check_descriptors(self, what: str) -> None:
        """A new topic or group takes a descriptor: the last ones are for the work of those that are there."""
        if not self._disk.reserve_descriptors():
            raise StorageFull(
                f"no file descriptors are left for {what}. Nothing was made; "
                "close some connections, or raise the limit on open files"
            )

    # -- opening

    def _open(self) -> None:
        disk = self._disk
        self._root = self._open_root()
        for directory in (self._topics_dir, self._groups_dir):
            _make_directory(disk, directory)
            clean_temporaries(disk, directory, is_temporary)
            disk.sync_directory(directory)
        known = self._beforehand()
        self._open_topics(known)
        self._open_groups(known)
        if known.synced and not known.as_on_medium:
            disk.sync_file_system(self.data_dir)  # what opening has cleared, before anything is written there
        disk.reserve_descriptors()

    def _open_root(self) -> RootFile:
        try:
            root = read_root(self._disk, self.data_dir)
        except FileNotFoundError:
            if os.path.exists(self._topics_dir):
                raise UnsupportedFormat(
                    f"{self.data_dir} has topics but no {ROOT_FILE}. Nothing was touched; restore that file"
                ) from None
            root = RootFile(format=FORMAT)
        else:
            if not root.clean and root.sync_mode != "always":
                root.epoch += 1  # readers may have seen what a power cut has taken back
        self._was_clean = root.clean
        root.clean, root.sync_mode = False, self.sync_mode
        self._root = root
        self._save_root()
        return root

    def _save_root(self) -> None:
        save_root(self._disk, self.data_dir, self._root)

    def _beforehand(self) -> Beforehand:
        logs = len(os.listdir(self._topics_dir)) + len(os.listdir(self._groups_dir))
        synced = logs > _LOGS_SYNCED_SINGLY and self._disk.sync_file_system(self.data_dir)
        return Beforehand(synced=synced, as_on_medium=self._was_clean)

    def _open_topics(self, known: Beforehand) -> None:
        entries = sorted(os.scandir(self._topics_dir), key=lambda entry: entry.name)
        ours = filter(is_topic, entries)  # what is not ours is ignored, never deleted
        for topic in overlapped(self._open_topic(entry, known) for entry in ours):
            self.topics[topic.name] = topic
        self.recovered.topics = len(self.topics)

    def _open_topic(self, entry: os.DirEntry[str], known: Beforehand) -> Iterator[TopicLog | None]:
        try:
            yield from open_topic(
                entry.path,
                disk=self._disk,
                flusher=self._flusher,
                epoch=self._root.epoch,
                recovered=self.recovered,
                known=known,
            )
        except (OSError, DataCorruption) as error:
            yield UnreadableTopicLog(entry.name, entry.path, self._unreadable(entry.path, error))

    def _open_groups(self, known: Beforehand) -> None:
        entries = sorted(os.scandir(self._groups_dir), key=lambda entry: entry.name)
        ours = (entry for entry in entries if entry.name.endswith(GROUP_SUFFIX))
        for group in overlapped(self._open_group(entry, known) for entry in ours):
            self.groups[group.name] = group
        self.recovered.groups = len(self.groups)

    def _open_group(self, entry: os.DirEntry[str], known: Beforehand) -> Iterator[ConsumerGroup | None]:
        try:
            for group in FileConsumerGroup.open(self._disk, entry.path, self._flusher, self.recovered, known):
                if group and (not is_name(group.name) or file_name(group.name) + GROUP_SUFFIX != entry.name):
                    raise DataCorruption(f"{entry.path} is not where group {group.name!r} belongs", path=entry.path)
                yield group
        except (OSError, DataCorruption) as error:
            name = entry.name.removesuffix(GROUP_SUFFIX)
            yield UnreadableGroup(name, entry.path, self._unreadable(entry.path, error))

    def _unreadable(self, path: str, error: Exception) -> DataCorruption:
        log.error("unreadable", path=path, why=str(error))
        self.recovered.problems.append(str(error))
        if isinstance(error, DataCorruption):
            return error
        return DataCorruption(f"{path} cannot be opened: {error}. Nothing was changed", path=path)


def _check_options(sync_mode: str, commit_threshold: int, sync_interval_s: float) -> None:
    if sync_mode not in SYNC_MODES:
        raise InvalidParameter(f"sync_mode is {sync_mode!r}; it must be one of {', '.join(SYNC_MODES)}")
    if type(commit_threshold) is not int or commit_threshold < 1:
        raise InvalidParameter(f"commit_threshold is {commit_threshold!r}; it must be a number of records, 1 or more")
    if not sync_interval_s > 0:
        raise InvalidParameter(f"sync_interval_s is {sync_interval_s!r}; it must be more than 0 seconds")


@contextlib.contextmanager
def _opening(data_dir: str) -> Iterator[None]:
    """A failed call on an open file does not say which one: name the directory. Other errors say enough."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FlashQError) or error.filename is not None:
            raise
        with on_disk(f"the opening of {data_dir}"):
            raise


def _make_directory(disk: Disk, path: str) -> None:
    """Make a directory and its parents, 0700, each one durable."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_directory(disk, parent)
    with contextlib.suppress(FileExistsError):  # another starter was faster; the lock decides who goes on
        disk.mkdir(path)
    disk.sync_directory(parent)


def _close(each: object) -> None:
    if isinstance(each, FileTopicLog):
        each.close()
    elif isinstance(each, FileConsumerGroup):
        each.journal.close()
