"""Posts a source to a topic, batch by batch in order, and tells where it stopped and how to go on.

One post is under way at a time: with two, the second could be stored and the first not.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import TYPE_CHECKING, Final, cast

import typer

from flashq.api.schemas import MAX_BATCH_RECORDS
from flashq.cli import exit_codes
from flashq.cli.output import advise, counted, print_json, print_line, progress
from flashq.cli.runs import FileRun, Run
from flashq.cli.sources import Batch, RecordRefused, plain
from flashq.errors import FlashQError, InvalidParameter, TopicNotFound
from flashq.names import check_name

if TYPE_CHECKING:
    from flashq import Client

STANDARD_STREAM: Final = "-"

_FIELD: Final = re.compile(r"records\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Source:
    """What is posted: `name` as given, and whether it is a file that can be read again from a position."""

    name: str
    file: BufferedReader
    is_file: bool

    @property
    def size_bytes(self) -> int | None:
        """Of a file; of a pipe nobody knows."""
        return os.fstat(self.file.fileno()).st_size if self.is_file else None

    def run(self, topic: str, what: dict[str, str | None], progress_file: str | None) -> Run:
        """The run that posts it. Of a file: perhaps an earlier one, and the file is then where that stopped."""
        check_name("topic", topic)  # before it is part of a path
        what = {"topic": topic, **what}
        if not self.is_file:
            if progress_file is not None:
                raise InvalidParameter(
                    f"{self.name} is no file that can be read twice, so --progress-file has no use. Nothing was posted"
                )
            return Run(what)
        path = progress_file or f"{self.name}.{topic}.flashq-progress"
        run = FileRun(what, self.file.fileno(), path)
        self.file.seek(run.place.position)
        return run


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """The file of that name; standard input for `-`. Raises `InvalidParameter`."""
    if name == STANDARD_STREAM:
        yield Source("standard input", cast(BufferedReader, sys.stdin.buffer), is_file=False)
        return
    try:
        file = open(name, "rb")  # noqa: SIM115  closed below
    except OSError as error:
        raise InvalidParameter(f"{name} cannot be read: {error.strerror}. Nothing was posted") from error
    with file:
        yield Source(name, file, is_file=stat.S_ISREG(os.fstat(file.fileno()).st_mode))


def post_batches(
    client: Client,
    topic: str,
    source: Source,
    run: Run,
    batches: Iterator[Batch],
) -> None:
    """Posts what is left of the source, shows progress on a terminal, and ends the run.

    Raises, with what is stored and how to go on: `RecordRefused` at the first bad record, when all before it are
    stored; what a post raises; `typer.Exit` for Ctrl-C.
    """
    _check_still_there(client, topic, run)
    if run.records_before:
        advise(
            f"going on with line {run.place.line}, after {counted(run.records_before)} of an earlier run ({run.path})"
        )
    with _told_when_stopped(source, run):
        with progress("post", source.size_bytes) as advance:
            advance(run.place.position)
            for batch in batches:
                _post(client, topic, run, batch)
                advance(batch.end.position - batch.start.position)
        run.finish()


def _post(client: Client, topic: str, run: Run, batch: Batch) -> None:
    try:
        posted = client.post_lines(
            topic, batch.body, idempotency_key=run.key_of(batch), if_next_offset=batch.first_offset
        )
    except FlashQError as error:
        index = _index_in(error)
        if index is None or not 0 <= index < len(batch):
            raise
        if index > 0:
            _post(client, topic, run, batch.before(index))
        raise RecordRefused(batch.line_of(index), plain(error.message)) from error
    assert posted.count == len(batch), f"{posted.count} records were stored of a batch of {len(batch)}"
    run.stored(batch, posted.first_offset, posted.last_offset)


def _index_in(error: FlashQError) -> int | None:
    """Which record of a batch the server refused, from 0, if it was one of them."""
    line = error.details.get("line")
    if isinstance(line, int):
        return line - 1
    field = _FIELD.match(str(error.details.get("field")))
    return int(field[1]) if field else None


def _check_still_there(client: Client, topic: str, run: Run) -> None:
    """Raises `InvalidParameter` if the topic ends before what was stored: to go on would leave a hole."""
    if run.last_offset is None:
        return
    try:
        end = client.describe_topic(topic).next_offset
    except TopicNotFound:
        end = 0
    if end <= run.last_offset:
        raise InvalidParameter(
            f"the earlier run stored records up to offset {run.last_offset}, and topic {topic} now ends at {end}: "
            "it was deleted, or its last records were lost. Nothing was posted",
            hint=f"to post from the beginning, delete {run.path}",
        )


@contextmanager
def _told_when_stopped(source: Source, run: Run) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        run.remember()
        advise(f"flashq: interrupted. {_stored(run, is_unsure=True)}")
        advise(f"hint: {_way_on(source, run)}")
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    except FlashQError as error:
        is_unsure = error.outcome == "unknown" or (run.is_resumed and not run.records)
        if run.records or is_unsure or isinstance(error, RecordRefused):
            error.message = f"{error.message}. {_stored(run, is_unsure=is_unsure)}"
        if run.records or is_unsure:
            condition = "once the line is mended, " if isinstance(error, RecordRefused) else ""
            error.details.setdefault("hint", condition + _way_on(source, run))
        else:
            run.finish()
        raise


def _stored(run: Run, *, is_unsure: bool) -> str:
    done = f"Records stored: {run.records}, all before line {run.place.line}" if run.records else "Nothing is stored"
    return f"{done}; up to {MAX_BATCH_RECORDS} after that may be too" if is_unsure else done


def _way_on(source: Source, run: Run) -> str:
    if source.is_file:
        return f"the same command goes on there and stores nothing twice; {run.path} remembers the place"
    return f"what is read from a pipe cannot be gone on with; what is left begins at line {run.place.line}"


def report(run: Run, topic: str, *, as_json: bool, **facts: object) -> None:
    """What a finished run has stored, on standard output."""
    now = run.records - run.records_before
    if as_json:
        offsets = {"first_offset": run.first_offset, "last_offset": run.last_offset}
        print_json({"topic": topic, "records": run.records, "records_now": now, **offsets, **facts})
        return
    and_now = f", {now} of them now" if run.records_before else ""
    print_line(f"{counted(run.records)} in {topic}{_offsets(run)}{and_now}")


def _offsets(run: Run) -> str:
    if run.first_offset is None or run.last_offset is None:
        return ""
    if run.last_offset - run.first_offset + 1 == run.records:
        return f", offsets {run.first_offset} to {run.last_offset}"
    return f", between offsets {run.first_offset} and {run.last_offset}; others posted too"
