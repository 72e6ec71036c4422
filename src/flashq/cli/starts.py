"""Where `consume --from` begins, as people write it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypedDict

from flashq.errors import InvalidParameter

if TYPE_CHECKING:
    from flashq import Client

_OFFSET: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
"""More digits are a time: Unix milliseconds have had 13 since September 2001, and no log has so many records."""

_LAST: Final = re.compile(r"-[0-9]{1,12}", re.ASCII)


class Start(TypedDict, total=False):
    """Those arguments of `Client.read_lines` that say where to begin."""

    group: str
    from_offset: int
    from_time_ms: int


def start_of(client: Client, topic: str, from_: str) -> Start:
    """The arguments of `Client.read_lines` for it. Raises `InvalidParameter`, `TopicNotFound`."""
    from flashq.api.times import parse_time

    if from_ == "earliest":
        return {"from_time_ms": 0}  # the server finds the log start, wherever retention moves it meanwhile
    if from_ == "latest" or _LAST.fullmatch(from_):
        stands = client.describe_topic(topic)
        count = 0 if from_ == "latest" else -int(from_)
        return {"from_offset": max(stands.high_water_mark - count, stands.log_start_offset)}
    if _OFFSET.fullmatch(from_):
        return {"from_offset": int(from_)}
    try:
        return {"from_time_ms": parse_time(from_)}
    except ValueError as error:
        raise InvalidParameter(
            f"--from is {from_!r}; it is earliest, latest, an offset, -10 (the last ten) or a time, and {error}. "
            "Nothing was read"
        ) from error
