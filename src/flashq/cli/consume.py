"""`flashq consume`: records of a topic to standard output, perhaps for a group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from flashq.cli.completion import TopicName, group_names
from flashq.cli.remote import CaFile, Json, Server, client_of
from flashq.errors import FlashQError, InvalidParameter

if TYPE_CHECKING:
    from flashq import Client
    from flashq.cli.starts import Start

EPILOG = (
    "Example: flashq consume orders --from -10 --follow\n\n"
    "Example: flashq consume orders --group billing --output value\n\n"
    "--from: a number of up to 12 digits is an offset, a longer one Unix milliseconds; a time may also be "
    "2026-01-15T10:30:45Z or 2026-01-15.\n\n"
    "--group commits what has been printed, once a second and at the end. What was printed and not yet committed when "
    "the command is killed is printed again: each record comes at least once."
)

_COMMIT_EVERY_S: Final = 1.0


def consume(
    topic: TopicName,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="NAME",
            autocompletion=group_names,
            help="Begin where this group stands, and commit what is printed. Made if need be.",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="earliest|latest|OFFSET|TIME|-N",
            help="Where to begin; -10 is the last ten. [default: where the group stands, else earliest]",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is posted later, until Ctrl-C.")] = False,
    max_: Annotated[int | None, typer.Option("--max", metavar="N", min=1, help="End after so many records.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="Only records with this key.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="Only with this header. Repeat for more.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="REGEX", help="Only where the expression is found in the value.")
    ] = None,
    output: Annotated[
        Literal["text", "json", "value"],
        typer.Option(
            "--output",
            help="text: offset, time, key, headers and value, between tabs, with escapes. json: lines as the server "
            "sends them. value: bytes as they are, and a line end.",
        ),
    ] = "text",
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Print the records of a topic.

    To where it ends now or, with --follow, as they come.
    """
    from flashq.cli.printing import Printer, Wanted
    from flashq.cli.produce import headers_in
    from flashq.cli.stdout import bytes_out, interrupt_held

    if as_json and output == "value":
        raise InvalidParameter("--json and --output value exclude each other. Nothing was read")
    wanted = Wanted(key, headers_in(header or []), grep)
    printer = Printer("json" if as_json else output, wanted, max_)
    with client_of(server, ca_file) as client, bytes_out() as out:
        start = _start(client, topic, group, from_)
        # What is not wanted does not count for --max, so then the printer counts.
        reader = client.read_lines(topic, follow=follow, max_records=None if wanted else max_, **start)
        with _commits(client, group, topic) as commits:
            for lines in reader:
                printed = printer.printed(lines)
                with interrupt_held():
                    out.write(printed)
                    commits.reach(printer.next_offset)
                commits.commit_if_due(is_end=printer.next_offset == reader.high_water_mark)
                if printer.is_done:
                    break


def _start(client: Client, topic: str, group: str | None, from_: str | None) -> Start:
    """The arguments of `Client.read_lines`."""
    from flashq.cli.starts import start_of

    if group is None:
        return start_of(client, topic, from_ or "earliest")
    start: Start = {"group": group} if from_ is None else start_of(client, topic, from_)
    client.describe_topic(topic)  # a topic that is not there makes no group, nor does a bad place in it
    client.create_consumer_group(group)
    return start


class _NoCommits:
    """Of a reader without a group."""

    def reach(self, next_offset: int) -> None:
        pass

    def commit_if_due(self, *, is_end: bool) -> None:
        pass


class Commits(_NoCommits):
    """Commits what has been printed: at the end of the log, else once a second."""

    def __init__(self, client: Client, group: str, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._group = group
        self._topic = topic
        self._clock = clock
        self._due_s = clock() + _COMMIT_EVERY_S
        self._reached: int | None = None

    def reach(self, next_offset: int) -> None:
        """All before this offset has been printed."""
        self._reached = next_offset

    def commit_if_due(self, *, is_end: bool) -> None:
        """At the end of the log, and once a second."""
        if is_end or self._clock() >= self._due_s:
            self.commit()

    def commit(self) -> None:
        if self._reached is not None:
            self._client.commit_offset(self._group, self._topic, self._reached)
            self._reached = None
            self._due_s = self._clock() + _COMMIT_EVERY_S


@contextmanager
def _commits(client: Client, group: str | None, topic: str) -> Iterator[_NoCommits]:
    """Commits once more at the end, also after Ctrl-C; not where the server has failed the reader."""
    if group is None:
        yield _NoCommits()
        return
    commits = Commits(client, group, topic)
    try:
        yield commits
    except FlashQError:
        raise
    except BaseException:
        commits.commit()
        raise
    commits.commit()
