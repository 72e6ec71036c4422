"""`flashq migrate`: from a data directory to a Kafka cluster, or back, or between two of a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flashq.cli.output import print_json, print_line, progress
from flashq.errors import InvalidParameter, StorageUnavailable, TopicNotFound

if TYPE_CHECKING:
    from flashq import FlashQ
    from flashq.storage.interface import TopicLog

EPILOG = (
    "Example: flashq migrate --from ./flashq-data --to kafka://broker-1:9092\n\n"
    "Records keep their offsets, timestamps, keys and headers. Stop the servers of both sides first. An interrupted "
    "migration is gone on with by the same command. At the end both sides are read again and compared."
)
_PLACE = "A data directory, or kafka://host:9092,..."


def migrate(
    source: Annotated[str, typer.Option("--from", metavar="PLACE", help=_PLACE + ".")],
    target: Annotated[str, typer.Option("--to", metavar="PLACE", help=_PLACE + "; made if it is not there.")],
    topic: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this topic. Repeat it for more.")
    ] = None,
    kafka_config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings of librdkafka, for the cluster.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Copy topics and the offsets of groups from one storage to another, and check that all is there."""
    from flashq.broker.migrate import migrate_groups, migrate_topic, verify_groups, verify_topic

    if source == target:
        raise InvalidParameter("--from and --to are the same place. Nothing was copied")
    with _opened(source, kafka_config, is_source=True) as old, _opened(target, kafka_config) as new:
        logs = _chosen(old, topic or [])
        size = sum(log.size_bytes or 0 for log in logs) or None
        with progress("copy", size) as advance:
            for log in logs:
                copied = migrate_topic(log, new, advance)
                _tell(as_json, {"topic": log.name, "records": copied.records, "copied": copied.copied})
        offsets = migrate_groups(old, new, logs)
        with progress("verify", None if size is None else 2 * size) as advance:
            for log in logs:
                verify_topic(log, new.log(log.name), advance)
        verify_groups(old, new, logs)
    if as_json:
        print_json({"topics": len(logs), "group_offsets": offsets, "verified": True})
    else:
        print_line(f"verified: {len(logs)} topics, {offsets} offsets of groups")


def _opened(place: str, kafka_config: str | None, *, is_source: bool = False) -> FlashQ:
    import os

    from flashq import FlashQ
    from flashq.storage.extras import KAFKA_SCHEME, import_kafka

    if place.startswith(KAFKA_SCHEME):
        given = None if kafka_config is None else import_kafka().read_config_file(kafka_config)
        return FlashQ.open(place, kafka_config=given)
    if is_source and not os.path.isdir(place):
        raise InvalidParameter(f"--from {place}: there is no such directory. Nothing was copied")
    return FlashQ.open(place)


def _chosen(old: FlashQ, names: list[str]) -> list[TopicLog]:
    logs = old.logs()
    problems = old.health().problems if old.backend.is_remote else []
    if problems and not names:
        raise StorageUnavailable(f"not all topics can be told: {problems[0]}. Nothing was copied; try again later")
    missing = sorted(set(names) - {log.name for log in logs})
    if missing:
        raise TopicNotFound(f"there is no topic {missing[0]}. Nothing was copied", topic=missing[0])
    return [log for log in logs if not names or log.name in names]


def _tell(as_json: bool, told: dict[str, object]) -> None:
    if as_json:
        print_json(told)
    else:
        print_line(f"{told['topic']}: {told['records']} records, {told['copied']} of them copied now")
