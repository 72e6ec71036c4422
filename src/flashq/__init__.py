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
    GroupInUse,
    GroupNotFound,
    IdempotencyKeyReused,
    InvalidOffset,
    InvalidParameter,
    NotConfirmed,
    OffsetOutOfRange,
    PreconditionFailed,
    StorageFailed,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
    TopicNotFound,
    UnsupportedFormat,
    ValidationError,
)

if TYPE_CHECKING:
    from flashq.broker.flashq import FlashQ
    from flashq.broker.polled import PolledRecords
    from flashq.client.aio import AsyncClient
    from flashq.client.client import Client
    from flashq.client.errors import ConnectionFailed
    from flashq.record import Record, RecordWithOffset

__version__ = "0.1.0"

# Loaded when first named: the command line would pay half a second for the engine in every `--help`.
_LAZY = {
    "AsyncClient": "flashq.client.aio",
    "Client": "flashq.client.client",
    "ConnectionFailed": "flashq.client.errors",
    "FlashQ": "flashq.broker.flashq",
    "PolledRecords": "flashq.broker.polled",
    "Record": "flashq.record",
    "RecordWithOffset": "flashq.record",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Closed",
    "ConfigurationError",
    "ConnectionFailed",
    "DataCorruption",
    "DirectoryLocked",
    "FlashQ",
    "FlashQError",
    "GroupInUse",
    "GroupNotFound",
    "IdempotencyKeyReused",
    "InvalidOffset",
    "InvalidParameter",
    "NotConfirmed",
    "OffsetOutOfRange",
    "PolledRecords",
    "PreconditionFailed",
    "Record",
    "RecordWithOffset",
    "StorageFailed",
    "StorageFull",
    "StorageRefused",
    "StorageUnavailable",
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
