"""`flashq produce`: a value, or all records of a file or a pipe, into a topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flashq.cli.completion import topic_names
from flashq.cli.output import print_json, print_line
from flashq.cli.remote import CaFile, Json, Server, client_of
from flashq.errors import InvalidParameter

if TYPE_CHECKING:
    from flashq import Client
    from flashq.cli.posting import Source
    from flashq.cli.sources import Batch, Format, Place

EPILOG = (
    'Example: flashq produce orders "one tea" --key table-7 --header waiter=Ann\n\n'
    "Example: flashq produce orders --file orders.ndjson\n\n"
    "Format: .ndjson and .jsonl are NDJSON, .json is an array, .txt is text. Of other names and of standard input, the "
    "first byte tells: { is NDJSON, [ is an array, all else is text.\n\n"
    "A file whose post was interrupted is gone on with by the same command, without a hole or a duplicate. Until it is "
    "done, FILE.TOPIC.flashq-progress remembers the place; delete that to post from the beginning."
)

ProgressFile = Annotated[
    str | None,
    typer.Option("--progress-file", metavar="FILE", help="Where to remember the place in a file that is posted."),
]


def produce(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC",
            autocompletion=topic_names,
            help="Made when it is not there.",
        ),
    ],
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", help="One record.", show_default=False)] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="FILE", help="Post its records; - is standard input.", show_default=False),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="The key of the record, or of every line of text.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="As --key. Repeat it for more.")
    ] = None,
    format_: Annotated[
        Literal["text", "ndjson", "json"] | None,
        typer.Option("--format", help="text: a value a line. ndjson: a record a line. json: an array of records."),
    ] = None,
    progress_file: ProgressFile = None,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Post a record, or all records of a file, to a topic.

    A value alone prints its offset. Records of a file are posted in order, 1,000 at a time. A bad one stops the post,
    with the number of its line, when all before it are stored.
    """
    if (value is None) == (file is None):
        raise InvalidParameter("give a VALUE or a --file, one of them (--file - is standard input). Nothing was posted")
    headers = headers_in(header or [])
    if file is None and (format_ is not None or progress_file is not None):
        raise InvalidParameter("--format and --progress-file are for a --file. Nothing was posted")
    with client_of(server, ca_file) as client:
        if value is not None:
            _post_value(client, topic, value, key, headers, as_json=as_json)
        elif file is not None:
            _post_file(client, topic, file, key, headers, format_, progress_file, as_json=as_json)


def headers_in(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE`, each name once. Raises `InvalidParameter`."""
    headers: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or name in headers:
            why = "is given twice" if equals else "must be like NAME=VALUE"
            raise InvalidParameter(f"--header {each!r}: {f'{name!r} ' if equals else 'it '}{why}. Nothing was done")
        headers[name] = value
    return headers


def _post_value(
    client: Client, topic: str, value: str, key: str | None, headers: dict[str, str], *, as_json: bool
) -> None:
    from flashq import Record

    offset = client.post_record(topic, Record(value, key, headers))
    if as_json:
        print_json({"topic": topic, "offset": offset})
    else:
        print_line(str(offset))


def _post_file(
    client: Client,
    topic: str,
    name: str,
    key: str | None,
    headers: dict[str, str],
    format_: Format | None,
    progress_file: str | None,
    *,
    as_json: bool,
) -> None:
    from flashq.cli.posting import opened, post_batches, report
    from flashq.cli.sources import guess_format

    with opened(name) as source:
        shape = format_ or guess_format(name, source.file)
        if shape != "text" and (key is not None or headers):
            raise InvalidParameter(
                f"{source.name} is read as {shape}, where each record has its own key and headers: --key and --header "
                "are for text. Nothing was posted",
                hint="--format text if each line is a value",
            )
        what = {"server": client.base_url, "format": shape, "key": key, "headers": str(headers)}
        with source.run(topic, what, progress_file) as run:
            post_batches(client, topic, source, run, _batches(source, shape, run.place, key, headers))
            report(run, topic, as_json=as_json)


def _batches(source: Source, shape: Format, start: Place, key: str | None, headers: dict[str, str]) -> Iterator[Batch]:
    from flashq.cli.sources import array_batches, ndjson_batches, text_batches

    is_live = not source.is_file
    if shape == "json":
        return array_batches(source.file, start)
    if shape == "ndjson":
        return ndjson_batches(source.file, start, is_live=is_live)
    return text_batches(source.file, start, is_live=is_live, key=key, headers=headers)
