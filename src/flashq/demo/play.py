"""A prompt to play at: words for what the tour has shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from flashq.demo.screen import rows_of
from flashq.errors import FlashQError

if TYPE_CHECKING:
    from flashq.demo.tour import Tour

COMMANDS: Final = (
    ("post TOPIC VALUE", "store a record"),
    ("poll TOPIC [OFFSET]", "read ten records"),
    ("read GROUP TOPIC", "read ten for a group, and commit them"),
    ("topics", "what there is"),
    ("groups", "where the groups stand in orders"),
    ("crash", "kill a child in the middle of a write, and open again"),
    ("quit", "or Ctrl-D"),
)
_AT_ONCE: Final = 10


def play(tour: Tour) -> None:
    """Until quit. Raises `Left` at the end of the input."""
    screen = tour.screen
    screen.table(("TYPE", "TO"), COMMANDS)
    while True:
        words = screen.command("flashq> ").split()
        if not words:
            continue
        if words[0] in ("quit", "q", "exit"):
            return
        try:
            _obey(tour, words[0], words[1:])
        except FlashQError as error:
            screen.say(error.message)


def _obey(tour: Tour, command: str, words: list[str]) -> None:
    plain: dict[str, Callable[[], None]] = {"topics": tour.show_topics, "groups": tour.show_groups, "crash": tour.crash}
    match command, words:
        case "post", [topic, *value] if value:
            tour.screen.result(tour.screen.call(tour.flashq.post_record, topic, " ".join(value)))
        case "poll", [topic]:
            _poll(tour, topic, 0)
        case "poll", [topic, offset] if offset.isascii() and offset.isdigit():
            _poll(tour, topic, int(offset))
        case "read", [group, topic]:
            _read(tour, group, topic)
        case _, [] if command in plain:
            plain[command]()
        case _:
            tour.screen.table(("TYPE", "TO"), COMMANDS)


def _poll(tour: Tour, topic: str, offset: int) -> None:
    polled = tour.screen.call(tour.flashq.poll_records, topic, from_offset=offset, count=_AT_ONCE)
    tour.screen.table(("OFFSET", "TIME (UTC)", "VALUE"), rows_of(polled))


def _read(tour: Tour, group: str, topic: str) -> None:
    screen, flashq = tour.screen, tour.flashq
    flashq.log(topic)  # a topic that is not there makes no group
    if group not in flashq.consumer_groups():
        screen.call(flashq.create_consumer_group, group)
    polled = screen.call(flashq.poll_records_for_consumer_group, group, topic, count=_AT_ONCE)
    screen.table(("OFFSET", "TIME (UTC)", "VALUE"), rows_of(polled))
    screen.call(flashq.commit_offset, group, topic, polled.next_offset)
    screen.say(f"{group} is {polled.lag} behind in {topic}.")
