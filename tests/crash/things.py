"""Groups and topics, each changed by one owner that writes down what it asks for and what it is told.

What there is to know about a thing is one value: None when it is absent, else an offset, which is 0 until a group
commits.
"""

from __future__ import annotations

import random
from typing import Protocol

from tests.crash.history import HistoryFile
from tests.crash.producers import Signals
from tests.crash.wire import Connection, ConnectionLostError, Message, NotHTTPError

CHANGE_PAUSE_S = 0.01


class Thing(Protocol):
    """A group or a topic beside the topic under load."""

    name: str

    def look(self, connection: Connection) -> int | None:
        """What it is now."""
        ...

    def ask(self, connection: Connection, value: int | None) -> Message:
        """Make it so."""
        ...

    def next_value(self, value: int | None, choices: random.Random) -> int | None:
        """What to make of it next."""
        ...


class Group:
    """A group that reads `topic`: created, committing ever larger offsets, deleted now and then."""

    def __init__(self, group: str, topic: str, metadata: str = "") -> None:
        self.name = f"group {group}"
        self._path = f"/consumer/{group}"
        self._metadata = metadata
        self._offset_path = f"{self._path}/topics/{topic}/offset"

    def look(self, connection: Connection) -> int | None:
        answer = _expect((200, 404), connection.request("GET", self._offset_path))
        body = answer.json()
        if answer.status == 404:
            return None if body["error"] == "group_not_found" else 0  # no topic yet to commit for
        offset: int = body["committed_offset"]
        return offset

    def ask(self, connection: Connection, value: int | None) -> Message:
        if value is None:
            return connection.request("DELETE", self._path)
        if value == 0:
            return connection.request("POST", self._path)
        return connection.request("POST", self._offset_path, {"offset": value, "metadata": self._metadata})

    def next_value(self, value: int | None, choices: random.Random) -> int | None:
        if value is None:
            return 0
        return None if choices.random() < 0.05 else value + choices.randint(1, 3)


class Topic:
    """A topic that holds nothing: created and deleted."""

    def __init__(self, topic: str) -> None:
        self.name = f"topic {topic}"
        self._path = f"/topics/{topic}"

    def look(self, connection: Connection) -> int | None:
        return 0 if _expect((200, 404), connection.request("GET", self._path)).status == 200 else None

    def ask(self, connection: Connection, value: int | None) -> Message:
        if value is None:
            return connection.request("DELETE", self._path)
        return connection.request("PUT", self._path, {})

    def next_value(self, value: int | None, choices: random.Random) -> int | None:
        return 0 if value is None else None


def things_beside(topic: str) -> list[Thing]:
    """What changes while `topic` is under load."""
    return [Group("readers", topic), Group("watchers", topic), Topic("aside"), Topic("beside")]


def own(port: int, history: HistoryFile, thing: Thing, seed: str, signals: Signals) -> None:
    """Change a thing, one change after the other, until the connection is lost. Nobody else may."""
    choices = random.Random(seed)
    try:
        with Connection(port) as connection:
            value = look(connection, history, thing)
            while not signals.stop.wait(CHANGE_PAUSE_S * choices.choice((1, 1, 1, 10))):
                wanted = thing.next_value(value, choices)
                if change(connection, history, thing, wanted):
                    value = wanted
    except ConnectionLostError:
        pass


def look(connection: Connection, history: HistoryFile, thing: Thing) -> int | None:
    """What a thing is, written down."""
    value = thing.look(connection)
    history.thing_seen(thing.name, value)
    return value


def change(connection: Connection, history: HistoryFile, thing: Thing, value: int | None) -> bool:
    """Ask for one change and write it down; False when it was refused and not applied."""
    history.change_begins(thing.name, value, is_durable=value is None or value == 0)
    answer = thing.ask(connection, value)
    is_done = answer.status in (200, 201, 204)
    if is_done or answer.status in (400, 404, 507):  # beyond the end, no topic yet, no room
        history.change_answered(thing.name, is_done=is_done)
    elif answer.status != 503:  # not known
        raise NotHTTPError(f"a change of {thing.name} was answered with {answer.status}: {answer.body[:200]!r}")
    return is_done


def _expect(statuses: tuple[int, ...], answer: Message) -> Message:
    if answer.status not in statuses:
        raise NotHTTPError(f"status {answer.status}, not {statuses}: {answer.body[:300]!r}")
    return answer
