"""`flashq topics`: what topics there are, how they are kept, and their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashq.cli.completion import TopicName
from flashq.cli.output import Cell, ask_before, counted, print_fields, print_json, print_line, print_table
from flashq.cli.remote import CaFile, Json, Server, client_of
from flashq.errors import InvalidParameter
from flashq.settings import SETTINGS, NotAllowedError

if TYPE_CHECKING:
    from flashq.api.schemas import Topic, TopicSummary

topics = typer.Typer(help="List, create, describe, set and delete topics.", no_args_is_help=True, rich_markup_mode=None)

KEPT_EPILOG = (
    "Example: flashq topics {} orders --retention-ms 7d --retention-bytes 10GiB\n\n"
    "Retention removes whole segments, oldest first; none keeps everything."
)

_Retention = Annotated[
    str | None,
    typer.Option(
        "--retention-ms", metavar="DURATION", help="Keep records this long: 90s, 12h, 7d, milliseconds, or none."
    ),
]
_RetentionBytes = Annotated[
    str | None,
    typer.Option("--retention-bytes", metavar="SIZE", help="Keep at most so much: 500MiB, 10GiB, bytes, or none."),
]
_SegmentBytes = Annotated[
    str | None, typer.Option("--segment-bytes", metavar="SIZE", help="Begin a new file after so much: 64MiB, bytes.")
]


@topics.command("list", epilog="Example: flashq topics list --json | jq .name")
def list_(server: Server = None, ca_file: CaFile = None, as_json: Json = False) -> None:
    """Print all topics by name: records, first and next offset, bytes."""
    with client_of(server, ca_file) as client:
        found = client.topic_summaries()
    if as_json:
        for each in found:
            print_json(_as_json(each))
        return
    titles = ("TOPIC", "RECORDS", "FIRST", "NEXT", "BYTES")
    print_table(titles, map(_row, found))


@topics.command("create", epilog=KEPT_EPILOG.format("create"))
def create(
    topic: TopicName,
    retention_ms: _Retention = None,
    retention_bytes: _RetentionBytes = None,
    segment_bytes: _SegmentBytes = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="A topic that is there already is fine, and stays as it is.")
    ] = False,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Create a topic. What is not given is as the server has it. A post to a topic that is not there makes it too."""
    changes = _changes(retention_ms, retention_bytes, segment_bytes)
    with client_of(server, ca_file) as client:
        created = client.create_topic(topic, **changes)
        forever: dict[str, Any] = {name: None for name, value in changes.items() if value is None}
        if created and forever:  # for create_topic, None is what the server has
            client.configure_topic(topic, **forever)
    if not created and not if_not_exists:
        raise InvalidParameter(
            f"topic {topic} is there already. Nothing was changed",
            hint="--if-not-exists accepts that; flashq topics set changes how it is kept",
        )
    if as_json:
        print_json({"topic": topic, "created": created})
    else:
        print_line(f"created {topic}" if created else f"{topic} is there already")


@topics.command("describe", epilog="Example: flashq topics describe orders")
def describe(topic: TopicName, server: Server = None, ca_file: CaFile = None, as_json: Json = False) -> None:
    """Print a topic's offsets, size, retention and durability."""
    with client_of(server, ca_file) as client:
        _print(client.describe_topic(topic), as_json=as_json)


@topics.command("set", epilog=KEPT_EPILOG.format("set"))
def set_(
    topic: TopicName,
    retention_ms: _Retention = None,
    retention_bytes: _RetentionBytes = None,
    segment_bytes: _SegmentBytes = None,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Change how a topic is kept, and print it. What is not given stays as it is."""
    changes = _changes(retention_ms, retention_bytes, segment_bytes)
    if not changes:
        raise InvalidParameter(
            "give what to change: --retention-ms, --retention-bytes or --segment-bytes. Nothing was changed"
        )
    with client_of(server, ca_file) as client:
        client.configure_topic(topic, **changes)
        _print(client.describe_topic(topic), as_json=as_json)


@topics.command("delete", epilog="Example: flashq topics delete orders --yes")
def delete(
    topic: TopicName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Delete a topic, its records and what groups have committed in it, for good."""
    with client_of(server, ca_file) as client:
        found = client.describe_topic(topic)
        records = found.next_offset - found.log_start_offset
        if not yes:
            ask_before(f"Delete topic {topic} with {counted(records)}, and what groups have committed in it?")
        client.delete_topic(topic)
    if as_json:
        print_json({"topic": topic, "deleted": True, "records": records})
    else:
        print_line(f"deleted {topic} with {counted(records)}")


def _changes(retention_ms: str | None, retention_bytes: str | None, segment_bytes: str | None) -> dict[str, Any]:
    """What was given, parsed as the server's settings of these names are. Raises `InvalidParameter`."""
    given = {"retention_ms": retention_ms, "retention_bytes": retention_bytes, "segment_bytes": segment_bytes}
    return {name: _parsed(name, text) for name, text in given.items() if text is not None}


def _parsed(name: str, text: str) -> object:
    setting = SETTINGS[name]
    try:
        return setting.kind.from_text(text)
    except NotAllowedError:
        raise InvalidParameter(
            f"{setting.flag} {text!r} is not allowed; allowed: {setting.kind.allowed}. Nothing was changed"
        ) from None


def _row(topic: TopicSummary) -> tuple[Cell, ...]:
    first, end = topic.log_start_offset, topic.next_offset
    return topic.name, end - first, first, end, topic.size_bytes


def _as_json(struct: object) -> dict[str, object]:
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(struct)
    return fields


def _print(topic: Topic, *, as_json: bool) -> None:
    fields = _as_json(topic)
    if as_json:
        print_json(fields)
        return
    kept = ("retention_ms", "retention_bytes", "segment_bytes")
    print_fields(
        {"name": topic.name, "records": topic.next_offset - topic.log_start_offset, **fields}
        | {name: SETTINGS[name].kind.show(fields[name]) for name in kept}
    )
