"""FlashQ: topics, offsets, consumer groups and a crash-proof append-only log.

from flashq import FlashQ

with FlashQ.open("./data") as flashq:
    flashq.post_record("news", "Hello, World!")
    for record in flashq.poll_records("news"):
        print(record.offset, record.text)
"""

from flashq.broker.flashq import FlashQ, PolledRecords
from flashq.errors import (
    Closed,
    ConfigurationError,
    DataCorruption,
    DirectoryLocked,
    FlashQError,
    GroupNotFound,
    InvalidOffset,
    InvalidParameter,
    OffsetOutOfRange,
    StorageFailed,
    StorageFull,
    TopicNotFound,
    UnsupportedFormat,
    ValidationError,
)
from flashq.record import Record, RecordWithOffset

__version__ = "0.1.0"

__all__ = [
    "Closed",
    "ConfigurationError",
    "DataCorruption",
    "DirectoryLocked",
    "FlashQ",
    "FlashQError",
    "GroupNotFound",
    "InvalidOffset",
    "InvalidParameter",
    "OffsetOutOfRange",
    "PolledRecords",
    "Record",
    "RecordWithOffset",
    "StorageFailed",
    "StorageFull",
    "TopicNotFound",
    "UnsupportedFormat",
    "ValidationError",
    "__version__",
]
