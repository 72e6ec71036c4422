"""Where a reset moves a group to."""

from __future__ import annotations

from typing import Literal

from flashq.errors import InvalidOffset, InvalidParameter
from flashq.storage.interface import TopicLog

ResetTo = Literal["earliest", "latest", "offset", "time"]


def reset_target(log: TopicLog, to: ResetTo, at: int | None) -> int:
    """The offset a reset goes to. May read the disk."""
    if to not in ("earliest", "latest", "offset", "time"):
        raise InvalidParameter(f"to is {to!r}; it must be earliest, latest, offset or time", parameter="to")
    if (at is not None) != (to in ("offset", "time")):
        raise InvalidParameter(f"a reset to {to} {'needs' if at is None else 'takes no'} at", parameter="at")
    start, end = log.log_start_offset, log.high_water_mark
    if at is None:
        return start if to == "earliest" else end
    if to == "time":
        return log.offset_at(whole("at", at))
    if not start <= whole("at", at) <= end:
        raise InvalidOffset(
            f"offset {at} is not one of topic {log.name}, which has {start} to {end}; nothing was committed",
            offset=at,
            topic=log.name,
            min_offset=start,
            max_offset=end,
        )
    return at


def whole(name: str, value: int) -> int:
    """A whole number, whatever its size. Raises `InvalidParameter`."""
    if type(value) is not int:
        raise InvalidParameter(f"{name} is {value!r}; it must be a whole number", parameter=name)
    return value
