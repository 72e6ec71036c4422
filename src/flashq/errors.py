"""Every error FlashQ raises on purpose: one family, one stable code each.

An error carries its facts as attributes and, in `details`, as plain JSON values. `outcome` says what became
of a refused write: "not_applied" promises that nothing was written, "unknown" means the records are there
once or not at all. Each edge (HTTP, CLI, client) maps `code` in one table; nothing here knows a status.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Outcome = Literal["not_applied", "unknown"]


class FlashQError(Exception):
    """The root of the family. `retriable`: the same call may succeed later, unchanged."""

    code: ClassVar[str] = "internal_error"
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, outcome: Outcome = "not_applied", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.outcome: Outcome = outcome
        self.details = details


class InvalidParameter(FlashQError, ValueError):
    """A name, a number or an option is outside what is allowed."""

    code = "invalid_parameter"


class ValidationError(FlashQError, ValueError):
    """A record is too large or of the wrong kind. `details` names the field, `max_size` and `actual_size` (bytes)."""

    code = "validation_error"


class InvalidOffset(FlashQError, ValueError):
    """An offset to commit is below 0 or beyond the high water mark, or one to reset to is not in the log.

    `details`: offset, topic, max_offset, and for a reset min_offset.
    """

    code = "invalid_offset"


class OffsetOutOfRange(FlashQError):
    """A read below the log start: retention has removed those records. `details`: log_start_offset.

    In clients also one beyond the end of a log that was longer before. `details`: high_water_mark besides.
    """

    code = "offset_out_of_range"


class PreconditionFailed(FlashQError):
    """The log does not end where the post says it must. `details`: topic, next_offset (where it does end)."""

    code = "precondition_failed"


class IdempotencyKeyReused(FlashQError):
    """An idempotency key came again with other records. `details`: topic, offset (of the first post's first record)."""

    code = "idempotency_key_reused"


class TopicNotFound(FlashQError, LookupError):
    code = "topic_not_found"


class GroupNotFound(FlashQError, LookupError):
    code = "group_not_found"


class StorageFull(FlashQError, OSError):
    """The disk had no room; what was written of the post has been cut off again. Free some space and post again."""

    code = "storage_full"
    retriable = True


class StorageFailed(FlashQError, OSError):
    """The disk reported an error that cannot be undone; this log takes no more posts until a restart."""

    code = "storage_failed"


class StorageUnavailable(FlashQError, OSError):
    """The cluster cannot be reached, or has too few brokers up, now; it recovers by itself. No record was stored."""

    code = "storage_unavailable"
    retriable = True


class NotConfirmed(FlashQError, OSError):
    """The cluster did not confirm in time. With an idempotency key, posting again tells; without, a read does."""

    code = "not_confirmed"
    retriable = True

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message, outcome="unknown", **details)


class StorageRefused(FlashQError, OSError):
    """The cluster does not let this FlashQ's user do it. Nothing was done; grant it, or ask for something else."""

    code = "storage_refused"


class GroupInUse(FlashQError):
    """Members of the group, outside FlashQ, hold its offsets. Nothing was done."""

    code = "group_in_use"


class DataCorruption(FlashQError):
    """Stored bytes are not what was written. Nothing was cut. `details`: topic, offset, path, position (bytes)."""

    code = "data_corruption"


class DirectoryLocked(FlashQError, OSError):
    """Another process holds the data directory. Nothing in it was touched."""

    code = "directory_locked"


class UnsupportedFormat(FlashQError):
    """The data directory was written by a newer FlashQ, or is not one at all."""

    code = "unsupported_format"


class NotMigrated(FlashQError):
    """Source and target of a migration do not fit together. Nothing more was copied. `details`: topic, offset."""

    code = "not_migrated"


class Closed(FlashQError):
    """The log, or the whole FlashQ, has been closed."""

    code = "closed"


class ConfigurationError(FlashQError, ValueError):
    """A setting is unknown or has a bad value; the message names it and where it came from."""

    code = "configuration_error"
