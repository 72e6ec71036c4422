"""Times on the wire: ISO 8601 UTC with milliseconds and Z. Inside, Unix milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_MAX_SHOWN = 1024
_ISO = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d([.]\d{1,9})?)?(Z|[+-]\d\d:\d\d))?", re.ASCII)


class _Shown(dict[int, str]):
    """Times as they are shown, `_MAX_SHOWN` at most. A dict answers in half the time of lru_cache."""

    __slots__ = ()

    def __missing__(self, timestamp_ms: int) -> str:
        shown = f"{_iso_seconds(timestamp_ms // 1000)}.{timestamp_ms % 1000:03}Z"
        if len(self) >= _MAX_SHOWN:
            self.clear()
        self[timestamp_ms] = shown
        return shown


iso_timestamp = _Shown().__getitem__
"""Unix milliseconds as ISO 8601 UTC: 2026-01-15T10:30:45.123Z."""


@lru_cache(maxsize=64)
def _iso_seconds(timestamp_s: int) -> str:
    return (_EPOCH + timedelta(seconds=timestamp_s)).strftime("%Y-%m-%dT%H:%M:%S")


def parse_time(text: str) -> int:
    """Unix milliseconds of a time as people and programs write it. Raises ValueError that says what is taken.

    Unix milliseconds themselves, a date (its midnight in UTC), or a date and time with Z or an offset: a time
    without one would mean something else on every machine. Digits past the millisecond are cut off.
    """
    if _MILLISECONDS.fullmatch(text):
        return int(text)
    # The + of an offset is a space once a URL has been read by the rules of forms.
    text = text.replace(" ", "+")
    if _ISO.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text if "T" in text else f"{text}T00:00Z")
            return (moment - _EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            pass
    raise ValueError("a time is 2026-01-15T10:30:45.123Z (or with an offset), 2026-01-15, or Unix milliseconds")
