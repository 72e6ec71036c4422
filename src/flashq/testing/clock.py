"""Time that passes when a test says so."""

from __future__ import annotations

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: the same in every run."""


class Clock:
    """A clock that stands still between calls of `advance`."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms

    @property
    def now_ms(self) -> int:
        """Unix time in milliseconds: the timestamp of a record posted now."""
        return self._now_ms

    def advance(self, seconds: float) -> int:
        """Let time pass, to the millisecond; the time it is then. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError(f"the clock cannot go back by {-seconds} s; it still shows {self._now_ms}")
        self._now_ms += round(seconds * 1000)
        return self._now_ms
