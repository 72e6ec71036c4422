"""FlashQ: topics, offsets, consumer groups and a crash-proof append-only log.

from flashq import FlashQ

with FlashQ.open("./data") as flashq:
    flashq.post_record("news", "Hello, World!")
    for record in flashq.poll_records("news"):
        print(record.offset, record.text)
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from flashq.broker.flashq import FlashQ
    from flashq.broker.polled import PolledRecords
    from flashq.record import Record, RecordWithOffset

__version__ = "0.1.0"

# Loaded when first named: the command line would pay half a second for the engine in every `--help`.
_LAZY = {
    "FlashQ": "flashq.broker.flashq",
    "PolledRecords": "flashq.broker.polled",
    "Record": "flashq.record",
    "RecordWithOffset": "flashq.record",
}

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


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value
