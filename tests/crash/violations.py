"""The promises, each by what breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Broken(StrEnum):
    LOST = "an acknowledged record is missing"
    MOVED = "a record is not at its acknowledged offset"
    RETIMED = "a timestamp is not the acknowledged one"
    DOUBLED = "a record is there more than once"
    TORN = "a post is there in part, or not contiguous"
    DAMAGED = "a record has other bytes than were sent"
    REFUSED_PRESENT = "a post refused as not applied is there"
    UNSENT = "a record that nobody sent"
    HOLE = "offsets are not dense"
    ORDER = "a post answered before another began has the larger offset"
    CLOCK = "a timestamp went back"
    CONDITION = "a post is not where it asked to be stored"
    REPEATED = "a post sent again with its key was answered otherwise than before"
    TAKEN_BACK = "what was read earlier is no longer so"
    STALE = "a read did not see what was acknowledged or shown before it began"
    MALFORMED = "an answer is not what the contract says"
    PRESENCE = "a topic or group that was created is gone, or one that was deleted is back"
    COMMIT_LOST = "a committed offset is neither the acknowledged one nor a later one"
    WINDOW = "a power cut took what it may not take in this sync mode"
    EPOCH = "the epoch did not rise though records may have been taken back"


@dataclass(frozen=True, slots=True)
class Violation:
    broken: Broken
    detail: str

    def __str__(self) -> str:
        return f"{self.broken.name}: {self.broken.value}: {self.detail}"
