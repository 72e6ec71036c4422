"""Places in a topic as people write them: `consume --from` and `groups reset --to`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypedDict

from flashq.errors import InvalidParameter

if TYPE_CHECKING:
    from flashq import Client
    from flashq.broker.reset import ResetTo

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
    if from_ == "earliest":
        return {"from_time_ms": 0}  # the server finds the log start, wherever retention moves it meanwhile
    if from_ == "latest" or _LAST.fullmatch(from_):
        stands = client.describe_topic(topic)
        count = 0 if from_ == "latest" else -int(from_)
        return {"from_offset": max(stands.high_water_mark - count, stands.log_start_offset)}
    if _OFFSET.fullmatch(from_):
        return {"from_offset": int(from_)}
    return {"from_time_ms": _time(from_, "--from", "earliest, latest, an offset, -10 (the last ten) or a time")}


def reset_of(to: str) -> tuple[ResetTo, int | None]:
    """The arguments of `Client.reset_offset` for `groups reset --to`. Raises `InvalidParameter`."""
    if to == "earliest":
        return "earliest", None
    if to == "latest":
        return "latest", None
    if _OFFSET.fullmatch(to):
        return "offset", int(to)
    return "time", _time(to, "--to", "earliest, latest, an offset or a time")


def _time(text: str, option: str, taken: str) -> int:
    from flashq.api.times import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidParameter(f"{option} is {text!r}; it is {taken}, and {error}. Nothing was done") from error
