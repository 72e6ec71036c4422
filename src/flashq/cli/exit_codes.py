"""What the exit code of `flashq` says. Scripts and service managers rely on it.

| code | meaning |
|---|---|
| 0 | ok |
| 1 | the server refused it (no such topic, for one), or an unexpected failure |
| 2 | usage or configuration error: nothing was done, and the same call will fail again |
| 3 | another process holds the data directory |
| 4 | the data cannot be read: unsupported format, or damage |
| 5 | storage failed or is full |
| 6 | the address is in use or cannot be listened on |
| 7 | the server cannot be reached, gave up, or does not let this client in |
| 8 | a record of the input was refused; those before it are stored |
| 9 | `flashq health`: the server is not healthy |
| 130 | interrupted |
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from flashq.errors import FlashQError

OK: Final = 0
UNEXPECTED: Final = 1
USAGE: Final = 2
LOCKED: Final = 3
UNREADABLE: Final = 4
STORAGE: Final = 5
CANNOT_BIND: Final = 6
NO_SERVER: Final = 7
REFUSED: Final = 8
NOT_HEALTHY: Final = 9
INTERRUPTED: Final = 130

EXIT_CODES: Final[Mapping[str, int]] = {
    "internal_error": UNEXPECTED,
    "invalid_parameter": USAGE,
    "validation_error": USAGE,
    "invalid_offset": USAGE,
    "configuration_error": USAGE,
    "offset_out_of_range": UNEXPECTED,
    "precondition_failed": UNEXPECTED,
    "idempotency_key_reused": UNEXPECTED,
    "topic_not_found": UNEXPECTED,
    "group_not_found": UNEXPECTED,
    "closed": UNEXPECTED,
    "directory_locked": LOCKED,
    "unsupported_format": UNREADABLE,
    "data_corruption": UNREADABLE,
    "storage_full": STORAGE,
    "storage_failed": STORAGE,
    "storage_refused": STORAGE,
    "storage_unavailable": STORAGE,
    "not_confirmed": STORAGE,
    "group_in_use": UNEXPECTED,
    "connection_failed": NO_SERVER,
    "unexpected_answer": NO_SERVER,
    "overloaded": NO_SERVER,
    "too_many_connections": NO_SERVER,
    "request_timeout": NO_SERVER,
    "unauthorized": NO_SERVER,
    "forbidden": NO_SERVER,
    "body_too_large": USAGE,
    "record_refused": REFUSED,
    "not_migrated": UNREADABLE,
}

_BIND_ERRORS: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def exit_code(error: BaseException) -> int:
    """The exit code for an error that ends a command."""
    if isinstance(error, FlashQError):
        return EXIT_CODES.get(error.code, UNEXPECTED)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError):
        return _of_system(error)
    return UNEXPECTED


def _of_system(error: OSError) -> int:
    import socket  # here, since only a failure needs it

    if isinstance(error, socket.gaierror) or error.errno in _BIND_ERRORS:
        return CANNOT_BIND
    if error.errno == errno.EACCES and error.filename is None:
        return CANNOT_BIND  # a port below 1024; a refused file comes with its name
    return STORAGE if error.filename is not None else UNEXPECTED
