"""`flashq verify`, `repair` and `dump`: work on the files of a data directory that no server has open."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flashq.cli import exit_codes
from flashq.cli.output import Cell, Colour, Coloured, advise, is_agreed, print_json, print_line, print_table, progress
from flashq.errors import InvalidParameter
from flashq.settings import SETTINGS

if TYPE_CHECKING:
    from flashq.storage.file.repair import Lost, Repair
    from flashq.storage.file.verify import Finding, LogReport

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
_DATA_DIR_HELP = "The data directory."
_DEFAULT_DATA_DIR = str(SETTINGS["data_dir"].default)
_COLOUR: Mapping[str, Colour] = {"ok": "green", "torn": "yellow", "damaged": "red"}


def verify(
    data_dir: Annotated[
        str, typer.Argument(metavar="DATA_DIR", envvar="FLASHQ_DATA_DIR", help=_DATA_DIR_HELP)
    ] = _DEFAULT_DATA_DIR,
    topic: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this topic. Repeat it for more.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check every record of a data directory. Changes nothing.

    While a server has the directory open this is refused: stop it, or verify a copy. Exit code 4 means damage.
    """
    from flashq.storage.file.verify import size_to_read
    from flashq.storage.file.verify import verify as verified

    topics = topic or []
    reports: list[LogReport] = []
    with _held(data_dir, to_write=False), progress("verify", size_to_read(data_dir, topics)) as advance:
        for report in verified(data_dir, topics, on_progress=advance):
            reports.append(report)
            if as_json:
                print_json({**asdict(report), "state": report.state})
    if not as_json:
        _print_reports(reports, data_dir)
    if any(report.state == "damaged" for report in reports):
        advise(f"hint: flashq repair --dry-run {data_dir} shows what can be kept; a good copy may have more")
        raise typer.Exit(exit_codes.UNREADABLE)


def _print_reports(reports: list[LogReport], data_dir: str) -> None:
    titles = ("KIND", "NAME", "SEGMENTS", "BATCHES", "RECORDS", "FIRST", "NEXT", "BYTES", "STATE")
    print_table(titles, map(_row, reports))
    for report in reports:
        for finding in report.findings:
            print_line(f"{finding.kind}: {report.kind} {report.name}: {_told(finding, data_dir)}")


def _row(report: LogReport) -> list[Cell]:
    counts = (report.segments, report.batches, report.records, report.first_offset, report.next_offset)
    state = Coloured(report.state, _COLOUR[report.state])
    return [report.kind, report.name, *counts, report.size_bytes, state]


def _told(finding: Finding, data_dir: str) -> str:
    places = (("offset", finding.offset), ("position", finding.position))
    where = ", ".join(f"{name} {number}" for name, number in places if number is not None)
    return f"{os.path.relpath(finding.path, data_dir)}{f' ({where})' if where else ''}: {finding.why}"


def repair(
    data_dir: Annotated[str, typer.Argument(metavar="DATA_DIR", help=_DATA_DIR_HELP)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: _Json = False,
) -> None:
    """Mend a data directory: what can be read stays.

    Nothing is deleted: bytes that cannot be read are moved to files beside the one they were in. Exit code 4 means
    that damage is left.
    """
    from flashq import logging
    from flashq.storage.file.repair import plan

    logging.configure(level="error")  # what is done is printed here
    with _held(data_dir, to_write=not dry_run):
        repairs = list(plan(data_dir))
        if not as_json:
            _print_plan(repairs)
        agreed = bool(repairs) and not dry_run and (yes or is_agreed("Do this?", "--yes, or --dry-run to look only"))
        for each in repairs if agreed else ():
            each.apply()
    if as_json:
        for each in repairs:
            print_json(_plan_as_json(each, agreed))
    elif agreed:
        print_line(f"done; flashq verify {data_dir} checks it again")
    if any(each.remains or (each.is_damage and not agreed) for each in repairs):
        raise typer.Exit(exit_codes.UNREADABLE)


@contextmanager
def _held(data_dir: str, *, to_write: bool) -> Iterator[None]:
    """The directory, closed to others; what is none stays without a lock file."""
    from flashq.storage.file.directory_lock import DirectoryLock, kept_closed
    from flashq.storage.file.disk import Disk
    from flashq.storage.file.verify import check_root

    _check_owner(data_dir)
    if not to_write:
        with kept_closed(data_dir):
            yield
        return
    check_root(Disk(), data_dir)
    lock = DirectoryLock(data_dir, Disk())
    try:
        yield
    finally:
        lock.release()


def _check_owner(data_dir: str) -> None:
    """Storage refuses files of another user, and files made by one would make the server refuse them."""
    if not os.path.isdir(data_dir):
        raise InvalidParameter(f"there is no directory {data_dir}")
    owner = os.stat(data_dir).st_uid
    if owner != os.geteuid():
        raise InvalidParameter(
            f"{data_dir} belongs to user {owner}, and this is user {os.geteuid()}. Nothing was touched",
            hint=f"run it as the owner: sudo -u '#{owner}' flashq ...",
        )


def _print_plan(repairs: list[Repair]) -> None:
    if not repairs:
        print_line("nothing to repair")
    for each in repairs:
        print_line(f"{each.kind} {each.name}:{_offsets(each) if each.kind == 'topic' and each.actions else ''}")
        for line in [*map(_lost, each.lost), *each.actions, *each.remains]:
            print_line(f"  {line}")


def _offsets(each: Repair) -> str:
    (first, end), (new_first, new_end) = each.before, each.after
    return f" first and next offset {first} and {end} before, {new_first} and {new_end} after"


def _lost(lost: Lost) -> str:
    first, last = lost.first_offset, lost.goes_on_at - 1
    if last < first:
        return f"lost: what was at offset {first} and after; how many records is not known"
    return f"lost: offset {first}" if first == last else f"lost: offsets {first} to {last}, {last - first + 1} records"


def _plan_as_json(each: Repair, done: bool) -> dict[str, object]:
    facts = ("kind", "name", "path", "before", "after", "actions", "remains")
    lost = [{"first_offset": lost.first_offset, "goes_on_at": lost.goes_on_at} for lost in each.lost]
    return {**{name: getattr(each, name) for name in facts}, "lost": lost, "done": done}


def dump(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A .log, .index or .keys file, or a topic's directory.")],
    records: Annotated[bool, typer.Option("--records", help="Show the records instead of the frames.")] = False,
    as_json: _Json = False,
) -> None:
    """Show what a file of a data directory holds, as it stands. Changes nothing.

    Exit code 4 means that something in it is not good.
    """
    problems: list[str] = []
    for file in _files_in(path):
        columns, rows = _content(file, records, problems)
        if as_json:
            for row in rows:
                print_json({"file": file, **row})
        else:
            print_line(f"{file}:")
            print_table(
                [column.replace("_", " ").upper() for column in columns], (_cells(row, columns) for row in rows)
            )
    for problem in problems:
        advise(problem)
    if problems:
        raise typer.Exit(exit_codes.UNREADABLE)


def _files_in(path: str) -> list[str]:
    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise InvalidParameter(f"there is no file {path}")
        return [path]
    for directory in (os.path.join(path, "0"), path):  # the partition
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        segments = [os.path.join(directory, name) for name in names if name.endswith(".log")]
        if segments:
            return segments
    raise InvalidParameter(f"{path} is not the directory of a topic: it has no segments", hint="name a file in it")


def _content(file: str, records: bool, problems: list[str]) -> tuple[Sequence[str], Iterator[dict[str, object]]]:
    """The names of the columns, and the facts of each row. What is not good is added to `problems` on the way."""
    from flashq.storage.file.dump import index_entries, key_entries

    if file.endswith(".index"):
        index = index_entries(file)
        entries = zip(index.offsets, index.positions, index.timestamps, strict=True)
        rows = ({"offset": offset, "position": at, "timestamp": _time(ms)} for offset, at, ms in entries)
        return ("offset", "position", "timestamp"), rows
    if file.endswith(".keys"):
        keys = ({"key_hash": key_hash.hex(), "offset": offset} for key_hash, offset in key_entries(file).items())
        return ("key_hash", "offset"), keys
    if records:
        return ("offset", "timestamp", "key", "value", "headers"), _records(file, problems)
    columns = ("position", "bytes", "offset", "count", "epoch", "timestamp", "key_hash", "crc", "problem")
    return columns, _frames(file, problems)


def _frames(file: str, problems: list[str]) -> Iterator[dict[str, object]]:
    from flashq.storage.file.dump import frames

    for frame in frames(file):
        yield {
            "position": frame.position,
            "bytes": frame.size_bytes,
            "offset": frame.base_offset,
            "count": frame.count,
            "epoch": frame.epoch,
            "timestamp": _time(frame.max_timestamp_ms),
            "key_hash": frame.key_hash and frame.key_hash.hex(),
            "crc": f"{frame.crc:08x}",
            "problem": frame.problem,
        }
        if frame.problem is not None:
            problems.append(f"{file}: position {frame.position}: {frame.problem}")


def _records(file: str, problems: list[str]) -> Iterator[dict[str, object]]:
    import msgspec

    from flashq.api.records import to_record_out
    from flashq.batch import BadFrame, decode_each
    from flashq.storage.file.dump import frames

    for frame in frames(file):
        try:
            if frame.batch is None:
                raise BadFrame(frame.problem)
            for record in decode_each(frame.batch, to_record_out):
                yield msgspec.to_builtins(record)
        except BadFrame as error:
            problems.append(f"{file}: position {frame.position}: {error}")


def _cells(row: Mapping[str, object], columns: Sequence[str]) -> list[Cell]:
    return [value if isinstance(value := row[name], int | str | None) else json.dumps(value) for name in columns]


def _time(timestamp_ms: int) -> str:
    """ISO 8601, or the number where damage has made it one that no calendar has."""
    from flashq.api.times import iso_timestamp

    try:
        return iso_timestamp(timestamp_ms)
    except OverflowError:
        return str(timestamp_ms)
