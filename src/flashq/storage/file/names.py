"""Names of topics and groups as names of files, on any file system.

A name without capitals is its own file name. One with capitals gets lower case and a mark made of the name itself,
so that names that differ only in case stay apart where the file system does not tell case; the name in full stands
inside (`topic.json`, the group's first record). Our own temporary names begin with a dot and `~`, which no name can.
"""

from __future__ import annotations

import hashlib

NEW_PREFIX = ".~new-"
DELETED_PREFIX = ".~deleted-"
MARK = "%"
"""In a file name, never in a name: the file name alone does not tell the name."""
_STEM_BYTES = 180


def file_name(name: str) -> str:
    """The file name for a valid topic or group name (ASCII, at most 255 characters); leaves room for a suffix."""
    if name == name.lower() and len(name) <= _STEM_BYTES and not name.startswith("."):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    return f"{name.lower()[:_STEM_BYTES].lstrip('.')}{MARK}{digest}"


def is_temporary(entry: str) -> bool:
    return entry.startswith((NEW_PREFIX, DELETED_PREFIX))
