"""The error table of the HTTP contract: which code has which status. Complete: a test compares it with errors.py."""

from __future__ import annotations

from collections.abc import Mapping

from flashq.api.schemas import ErrorBody, encode_json
from flashq.errors import FlashQError

STATUS: Mapping[str, int] = {
    "invalid_parameter": 400,
    "validation_error": 400,
    "invalid_offset": 400,
    "invalid_json": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "storage_refused": 403,
    "topic_not_found": 404,
    "group_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "group_in_use": 409,
    "offset_out_of_range": 410,
    "precondition_failed": 412,
    "unsupported_media_type": 415,
    "misdirected_request": 421,
    "invalid_body": 422,
    "idempotency_key_reused": 422,
    "configuration_error": 500,
    "data_corruption": 500,
    "internal_error": 500,
    "not_migrated": 500,
    "unsupported_format": 500,
    "closed": 503,
    "directory_locked": 503,
    "not_confirmed": 503,
    "storage_failed": 503,
    "storage_unavailable": 503,
    "storage_full": 507,
}


class RequestError(FlashQError):
    """A request that is refused before it reaches the log: its code is one of this table's."""

    def __init__(self, code: str, message: str, **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]
        self.code = code  # type: ignore[misc]


def error_body(error: FlashQError, *, is_write: bool) -> tuple[int, bytes]:
    """Status and body for an error; a refused write says what became of it."""
    details = dict(error.details)
    if is_write:
        details["outcome"] = error.outcome
    return STATUS[error.code], encode_json(ErrorBody(error.code, error.message, details))
