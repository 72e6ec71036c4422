"""What `repair` keeps of a file: bytes that could not be read, beside it and named by the offsets that went with them.

`<file>.damaged-<time>-<first lost offset>-<offset the log goes on at>`. Such files also say that a hole in the log is
known: without them, `verify` takes it for damage.
"""

from __future__ import annotations

import os
import re
import time

_NAME = re.compile(r".+\.damaged-[0-9TZ]+-([0-9]+)-([0-9]+)", re.ASCII)


def damaged_path(path: str, lost_from: int, goes_on_at: int) -> str:
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{path}.damaged-{now}-{lost_from}-{goes_on_at}"


def is_known_lost(directory: str, first: int, stop: int) -> bool:
    """Whether files in this directory say of every offset in `[first, stop)` that it is lost."""
    found = (_NAME.fullmatch(name) for name in os.listdir(directory))
    for start, end in sorted((int(match[1]), int(match[2])) for match in found if match):
        if start <= first < end:
            first = end
    return first >= stop
