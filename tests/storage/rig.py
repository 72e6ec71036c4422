"""A FlashQ on a disk that is told what to refuse, and the faults that tests tell it."""

from __future__ import annotations

import errno
from pathlib import Path

from flashq import FlashQ
from flashq.errors import StorageFailed
from flashq.record import NO_HEADERS, Row
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.interface import SyncMode, TopicConfig
from flashq.testing.faulty_disk import Fault, FaultyDisk

NO_SPACE = Fault(errno.ENOSPC)
BROKEN = Fault(errno.EIO)
FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
"""The disk, what its user may have of it, and what a file may be: each is no room, and no broken disk."""


class Rig:
    """A FlashQ on a disk that is told what to refuse, and can be opened again on a good one."""

    def __init__(self, directory: Path, mode: SyncMode = "always", *, segment_bytes: int = 1 << 20) -> None:
        self.directory = directory
        self.mode = mode
        self.disk = FaultyDisk()
        self.config = TopicConfig(segment_bytes=segment_bytes)
        self.flashq = self._open(self.disk)

    def _open(self, disk: Disk) -> FlashQ:
        backend = FileBackend(str(self.directory), sync_mode=self.mode, disk=disk, sync_interval_s=60)
        return FlashQ(backend, topic_defaults=self.config)

    @property
    def backend(self) -> FileBackend:
        assert isinstance(self.flashq.backend, FileBackend)
        return self.flashq.backend

    def log(self) -> FileTopicLog:
        log = self.flashq.log("t")
        assert isinstance(log, FileTopicLog)
        return log

    def reopen(self) -> FlashQ:
        try:
            self.flashq.close()
        except StorageFailed:
            pass
        self.flashq = self._open(FaultyDisk())
        return self.flashq

    def values(self) -> list[bytes]:
        records = self.flashq.poll_records("t", from_offset=self.log().log_start_offset)
        assert [record.offset for record in records] == list(range(self.log().log_start_offset, self.log().next_offset))
        return [record.value for record in records]


def row(value: bytes) -> list[Row]:
    return [(None, value, NO_HEADERS)]
