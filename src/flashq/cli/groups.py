"""`flashq groups`: where consumer groups stand, how far they lag behind, and moving them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flashq.cli.completion import GroupName, TopicName, topic_names
from flashq.cli.output import Cell, advise, ask_before, print_json, print_line, print_table, span
from flashq.cli.remote import CaFile, Json, Server, client_of
from flashq.errors import GroupNotFound, InvalidParameter, OffsetOutOfRange, TopicNotFound

if TYPE_CHECKING:
    from flashq import Client
    from flashq.api.schemas import Group, GroupOffset, GroupTopic

groups = typer.Typer(
    help="List, create, describe, move and delete consumer groups.", no_args_is_help=True, rich_markup_mode=None
)

RESET_EPILOG = (
    "Example: flashq groups reset billing orders --to 2026-01-15T10:30:00Z --dry-run\n\n"
    "--to: a number of up to 12 digits is an offset, a longer one Unix milliseconds; a time may also be "
    "2026-01-15T10:30:45Z or 2026-01-15, and moves to the first record from then on."
)


@groups.command("list", epilog="Example: flashq groups list")
def list_(server: Server = None, ca_file: CaFile = None, as_json: Json = False) -> None:
    """Print all groups by name: the topics they have committed in, and their lag in records over all of these."""
    with client_of(server, ca_file) as client:
        found = ((group.group_id, len(group.topics), sum(t.lag for t in group.topics)) for group in _all(client))
        if as_json:
            for name, topics, lag in found:
                print_json({"group_id": name, "topics": topics, "lag": lag})
        else:
            print_table(("GROUP", "TOPICS", "LAG"), found)


def _all(client: Client) -> Iterator[Group]:
    for name in client.consumer_groups():
        try:
            yield client.describe_consumer_group(name)
        except GroupNotFound:
            pass  # deleted since it was listed


@groups.command("create", epilog="Example: flashq groups create billing")
def create(
    group: GroupName,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="A group that is there already is fine, and stays where it is.")
    ] = False,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Create a group. It begins at the start of every topic."""
    with client_of(server, ca_file) as client:
        created = client.create_consumer_group(group)
    if not created and not if_not_exists:
        raise InvalidParameter(
            f"group {group} is there already. Nothing was changed", hint="--if-not-exists accepts that"
        )
    if as_json:
        print_json({"group_id": group, "created": created})
    else:
        print_line(f"created {group}" if created else f"{group} is there already")


@groups.command("describe", epilog="Example: flashq groups describe billing")
def describe(
    group: GroupName,
    topic: Annotated[
        str | None,
        typer.Option(
            "--topic",
            metavar="TOPIC",
            autocompletion=topic_names,
            help="Only this one, also before the first commit in it.",
        ),
    ] = None,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Print where a group stands in each topic it has committed in.

    BEHIND is how long the oldest record that it has not committed has been there.
    """
    with client_of(server, ca_file) as client:
        if topic is None:
            stands: list[GroupTopic] | list[GroupOffset] = client.describe_consumer_group(group).topics
        else:
            stands = [client.describe_consumer_group_offset(group, topic)]
        now_s = client.health().timestamp
        rows = ((each, _behind_s(client, each, now_s)) for each in stands)
        if as_json:
            for each, behind_s in rows:
                print_json(_as_json(group, each, behind_s))
        else:
            titles = ("TOPIC", "COMMITTED", "END", "LAG", "BEHIND", "LAST COMMIT", "NOTE")
            print_table(titles, (_row(each, behind_s) for each, behind_s in rows))


def _row(stands: GroupTopic | GroupOffset, behind_s: int | None) -> tuple[Cell, ...]:
    behind = "" if behind_s is None else span(behind_s)
    return (
        stands.topic,
        stands.committed_offset,
        stands.high_water_mark,
        stands.lag,
        behind,
        "not told" if stands.last_commit_time is None else stands.last_commit_time or "never",
        stands.metadata or "",
    )


def _as_json(group: str, stands: GroupTopic | GroupOffset, behind_s: int | None) -> dict[str, object]:
    import msgspec

    return {"group_id": group, **msgspec.to_builtins(stands), "behind_s": behind_s}


def _behind_s(client: Client, stands: GroupTopic | GroupOffset, now_s: int) -> int | None:
    """By the server's clock, to the second; None where there is nothing to read or the topic is gone."""
    if stands.lag == 0:
        return None
    try:
        try:
            polled = client.poll_records(stands.topic, from_offset=stands.committed_offset, count=1)
        except OffsetOutOfRange:  # retention was faster than the group
            polled = client.poll_records(stands.topic, from_time_ms=0, count=1)
    except TopicNotFound:
        return None
    return max(now_s - polled[0].timestamp_ms // 1000, 0) if polled else None


@groups.command("commit", epilog="Example: flashq groups commit billing orders 42 --metadata 'by hand'")
def commit(
    group: GroupName,
    topic: TopicName,
    offset: Annotated[int, typer.Argument(metavar="OFFSET", min=0, help="That of the record to read next.")],
    metadata: Annotated[str | None, typer.Option("--metadata", metavar="TEXT", help="A note to keep with it.")] = None,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Set the offset that a group reads next in a topic. Back is allowed."""
    with client_of(server, ca_file) as client:
        before = client.consumer_group_offset(group, topic)
        client.commit_offset(group, topic, offset, metadata)
    _print_move(group, topic, before, offset, as_json=as_json, dry_run=False)


@groups.command("reset", epilog=RESET_EPILOG)
def reset(
    group: GroupName,
    topic: TopicName,
    to: Annotated[str, typer.Option("--to", metavar="earliest|latest|OFFSET|TIME", help="Where to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show where it would be.")] = False,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Move a group in a topic, and show where it was and where it is."""
    from flashq.cli.starts import reset_of

    where, at = reset_of(to)
    with client_of(server, ca_file) as client:
        before, after = client.reset_offset(group, topic, where, at, dry_run=dry_run)
    _print_move(group, topic, before, after, as_json=as_json, dry_run=dry_run)


def _print_move(group: str, topic: str, before: int, after: int, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json({"group_id": group, "topic": topic, "before": before, "after": after, "dry_run": dry_run})
        return
    print_table(("GROUP", "TOPIC", "BEFORE", "AFTER"), [(group, topic, before, after)])
    if dry_run:
        advise("dry run: nothing was changed")


@groups.command("delete", epilog="Example: flashq groups delete billing --yes")
def delete(
    group: GroupName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Delete a group and what it has committed, for good. Records stay."""
    with client_of(server, ca_file) as client:
        topics = len(client.describe_consumer_group(group).topics)
        if not yes:
            ask_before(f"Delete group {group} and its offsets in {topics} topics?")
        client.delete_consumer_group(group)
    if as_json:
        print_json({"group_id": group, "deleted": True})
    else:
        print_line(f"deleted {group}")
