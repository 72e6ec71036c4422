"""`flashq export` and `flashq import`: a topic to a file of NDJSON, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, BinaryIO, NamedTuple

import typer

from flashq.cli.completion import TopicName, topic_names
from flashq.cli.output import advise, counted, print_json, print_line, progress
from flashq.cli.produce import ProgressFile
from flashq.cli.remote import CaFile, Json, Server, client_of
from flashq.errors import InvalidParameter, PreconditionFailed

if TYPE_CHECKING:
    from flashq import Client
    from flashq.cli.stdout import Out

EXPORT_EPILOG = (
    "Example: flashq export orders --file orders.ndjson\n\n"
    "A record a line, as the server sends it: key, value, headers, offset, timestamp; keys and values that are not "
    "UTF-8 in base64. In header values such bytes are shown as \\xNN and come back so. The topic's retention and what "
    "groups have committed are not in it."
)
IMPORT_EPILOG = (
    "Example: flashq import orders --file orders.ndjson\n\n"
    "Values, keys, headers, their order and the offsets are kept. Timestamps are those of the import: "
    "--timestamp-header puts the exported ones in a header.\n\n"
    "An interrupted import is gone on with by the same command, as `flashq produce --help` tells."
)


def export(
    topic: TopicName,
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="Where to; - is standard output.")] = "-",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="The file may be there, and is replaced.")] = False,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Write all records of a topic to a file, to where it ends now.

    The file gets its name when all is in it and on disk.
    """
    from flashq.cli.stdout import bytes_out

    with client_of(server, ca_file) as client:
        if file == "-":
            with bytes_out() as out:
                exported = _write_records(client, topic, out)
            advise(f"{counted(exported.records)} of {topic}{exported.offsets}")
            return
        with _new_file(file, overwrite=overwrite) as out:
            exported = _write_records(client, topic, out)
    if as_json:
        print_json({"topic": topic, "file": file, "records": exported.records, **exported.facts})
    else:
        print_line(f"{counted(exported.records)} of {topic} in {file}{exported.offsets}")


class _Exported(NamedTuple):
    """What was written: the records from `first_offset` to before `next_offset`, all there were."""

    first_offset: int
    next_offset: int

    @property
    def records(self) -> int:
        return self.next_offset - self.first_offset

    @property
    def offsets(self) -> str:
        return f", offsets {self.first_offset} to {self.next_offset - 1}" if self.records else ""

    @property
    def facts(self) -> dict[str, int | None]:
        if not self.records:
            return {"first_offset": None, "last_offset": None}
        return {"first_offset": self.first_offset, "last_offset": self.next_offset - 1}


def _write_records(client: Client, topic: str, out: Out) -> _Exported:
    """The bar shows bytes of the log: how long the lines will be is not known before."""
    from flashq.cli.printing import last_offset, record_offset

    stands = client.describe_topic(topic)
    left = stands.high_water_mark - stands.log_start_offset
    first_offset = next_offset = stands.log_start_offset
    with progress("export", stands.size_bytes) as advance:
        for lines in client.read_lines(topic, from_time_ms=0):
            out.write(lines)
            if next_offset == first_offset:
                first_offset = record_offset(lines[: lines.index(b"\n")])
            next_offset = last_offset(lines) + 1
            advance(lines.count(b"\n") * (stands.size_bytes or 0) // max(left, 1))
    return _Exported(first_offset, next_offset)


@contextmanager
def _new_file(path: str, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A file that is there, whole and on disk, or not at all; where a link leads, if it is one.

    Raises `InvalidParameter`, also for what is no file: a rename would put one in the place of a device or a FIFO.
    """
    from flashq.cli.runs import sync_directory
    from flashq.cli.stdout import named

    if os.path.exists(path) and not os.path.isfile(path):
        raise InvalidParameter(
            f"{path} is there and is no regular file. Nothing was written",
            hint="without --file, records go to standard output, which can be redirected there",
        )
    if not overwrite and os.path.lexists(path):
        raise InvalidParameter(f"{path} is there already. Nothing was written", hint="--overwrite replaces it")
    target = os.path.realpath(path)
    unfinished = f"{target}.{os.getpid()}.unfinished"
    try:
        file = open(unfinished, "wb")  # noqa: SIM115  closed below
    except OSError as error:
        raise InvalidParameter(f"{path} cannot be written: {error.strerror}. Nothing was written") from error
    try:
        with named(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:
        os.unlink(unfinished)
        raise
    sync_directory(target)


def import_(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC", autocompletion=topic_names, help="Empty or not there, for the offsets to be kept."
        ),
    ],
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="An export; - is standard input.")] = "-",
    allow_new_offsets: Annotated[
        bool, typer.Option("--allow-new-offsets", help="Post the records even where their offsets cannot be kept.")
    ] = False,
    timestamp_header: Annotated[
        str | None,
        typer.Option("--timestamp-header", metavar="NAME", help="Put each exported timestamp in this header."),
    ] = None,
    progress_file: ProgressFile = None,
    server: Server = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Post the records of an export to a topic.

    At the offsets they had, or it is refused: the topic must end at the first offset of the export, and none may be
    missing in it. Each post is stored at its offsets or not at all, whoever else posts.
    """
    from flashq.cli.exported import at_their_offsets, with_timestamps
    from flashq.cli.posting import opened, post_batches, report
    from flashq.cli.sources import ndjson_batches

    with client_of(server, ca_file) as client, opened(file) as source:
        what = {"server": client.base_url, "format": "export", "timestamp_header": timestamp_header}
        with source.run(topic, what, progress_file) as run:
            batches = ndjson_batches(source.file, run.place, is_live=not source.is_file)
            if not allow_new_offsets:
                batches = at_their_offsets(batches, None if run.last_offset is None else run.last_offset + 1)
            if timestamp_header is not None:
                batches = with_timestamps(batches, timestamp_header)
            try:
                post_batches(client, topic, source, run, batches)
            except PreconditionFailed as error:
                error.details["hint"] = "import into an empty topic; or --allow-new-offsets gives the records new ones"
                raise
            report(run, topic, as_json=as_json, offsets_kept=not allow_new_offsets, timestamps_kept=False)
    lost = "offsets and timestamps are" if allow_new_offsets else "timestamps are"
    kept = f"; the exported times are in header {timestamp_header}" if timestamp_header else ""
    advise(f"{lost} those of the import{kept}")
