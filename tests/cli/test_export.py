"""`flashq export` and `flashq import` against a server: what comes back is what was there, or is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flashq import Client, Record
from tests.cli.commands import COMMAND, environment, next_offset, on_terminal, run, started, values, wait_for_records
from tests.server.running import Process

ODD = [
    {"value": "é\n\x00", "key": "k", "headers": {"a": "b", "é": ""}},
    {"value": "/wA=", "encoding": "base64", "key": "/w==", "key_encoding": "base64"},
    {"value": "", "key": ""},
    {"value": "last"},
]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "timestamp"} for record in records]


def exported(server: Process, topic: str, to: Path) -> Path:
    done = run(server, "export", topic, "--file", to)
    assert done.code == 0, done
    return to


def test_a_topic_goes_to_a_file_and_comes_back_the_same(server: Process, tmp_path: Path) -> None:
    server.post("source", *ODD)
    file = tmp_path / "x.ndjson"
    done = run(server, "export", "source", "--file", file)
    assert done.lines == [f"4 records of source in {file}, offsets 0 to 3"]
    assert [json.loads(line) for line in file.read_bytes().splitlines()] == server.read_all("source")
    done = run(server, "import", "copy", "--file", file)
    assert done.lines == ["4 records in copy, offsets 0 to 3"]
    assert done.err == "timestamps are those of the import\n"
    assert without_times(server.read_all("copy")) == without_times(server.read_all("source"))


def test_a_pipe_from_one_topic_to_another_keeps_all_records(server: Process) -> None:
    server.post("piped", *ODD)
    out = run(server, "export", "piped")
    assert out.err == "4 records of piped, offsets 0 to 3\n"
    assert run(server, "import", "piped-copy", given=out.out).code == 0
    assert without_times(server.read_all("piped-copy")) == without_times(server.read_all("piped"))


def test_json_tells_what_was_done(server: Process, tmp_path: Path) -> None:
    server.post("told", "a", "b")
    file = tmp_path / "x"
    assert json.loads(run(server, "export", "told", "--file", file, "--json").out) == {
        "topic": "told", "file": str(file), "records": 2, "first_offset": 0, "last_offset": 1
    }  # fmt: skip
    assert json.loads(run(server, "import", "told-copy", "--file", file, "--json").out) == {
        "topic": "told-copy", "records": 2, "records_now": 2, "first_offset": 0, "last_offset": 1,
        "offsets_kept": True, "timestamps_kept": False,
    }  # fmt: skip


def test_an_empty_topic_is_an_empty_file(server: Process, tmp_path: Path) -> None:
    assert server.ask("PUT", "/topics/empty").status == 201
    file = tmp_path / "x"
    assert run(server, "export", "empty", "--file", file).lines == [f"0 records of empty in {file}"]
    assert file.read_bytes() == b""
    assert run(server, "import", "empty-copy", "--file", file).lines == ["0 records in empty-copy"]


def test_a_disk_that_is_full_is_told_with_the_name_of_the_file(server: Process) -> None:
    server.post("spills", "a")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, "export", "spills"], stdout=full, stderr=subprocess.PIPE, env=environment(server), check=False
        )
    assert (done.returncode, done.stderr) == (5, b"flashq: 'standard output': No space left on device\n")


def test_a_file_that_is_there_is_replaced_only_if_asked(server: Process, tmp_path: Path) -> None:
    server.post("kept", "a")
    file = tmp_path / "x"
    file.write_text("mine")
    done = run(server, "export", "kept", "--file", file)
    assert done.code == 2
    assert "is there already. Nothing was written" in done.err
    assert file.read_text() == "mine"
    assert run(server, "export", "kept", "--file", file, "--overwrite").code == 0
    assert json.loads(file.read_bytes())["value"] == "a"
    assert os.listdir(tmp_path) == ["x"]


def test_where_a_link_leads_is_replaced_and_the_link_stays(server: Process, tmp_path: Path) -> None:
    server.post("linked", "a")
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link", tmp_path / "there" / "x"
    link.symlink_to(target)
    assert run(server, "export", "linked", "--file", link).code == 2
    for old in (None, "mine"):
        if old is not None:
            target.write_text(old)
        assert run(server, "export", "linked", "--file", link, "--overwrite").code == 0
        assert link.readlink() == target
        assert json.loads(target.read_bytes())["value"] == "a"
    assert (sorted(os.listdir(tmp_path)), os.listdir(tmp_path / "there")) == (["link", "there"], ["x"])


def test_what_is_no_file_is_not_replaced(server: Process, tmp_path: Path) -> None:
    server.post("kept", "a")
    fifo, to_fifo = tmp_path / "fifo", tmp_path / "to-fifo"
    os.mkfifo(fifo)
    to_fifo.symlink_to(fifo)
    for path in (fifo, to_fifo, tmp_path):
        for flags in ([], ["--overwrite"]):
            done = run(server, "export", "kept", "--file", path, *flags)
            assert (done.code, done.out) == (2, b"")
            assert f"{path} is there and is no regular file. Nothing was written\nhint: without --file" in done.err
    assert fifo.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "to-fifo"]
    stdout = "/proc/self/fd/1"  # where /dev/stdout leads: to a pipe, which has no path
    done = run(server, "export", "kept", "--file", stdout, "--overwrite")
    assert (done.code, f"{stdout} is there and is no regular file" in done.err) == (2, True)


def test_an_export_that_fails_leaves_no_file(server: Process, tmp_path: Path) -> None:
    for arguments, code in ((["nothing"], 1), (["x", "--server", "http://127.0.0.1:1"], 7)):
        assert run(server, "export", *arguments, "--file", tmp_path / "x").code == code
        assert os.listdir(tmp_path) == []
    done = run(server, "export", "nothing", "--file", tmp_path / "no" / "x")
    assert done.code == 2
    assert "cannot be written: No such file or directory" in done.err


def test_a_topic_with_records_refuses_an_import_and_says_what_to_do(server: Process, tmp_path: Path) -> None:
    server.post("full", "a", "b")
    file = exported(server, "full", tmp_path / "x")
    done = run(server, "import", "full", "--file", file)
    assert done.code == 1
    assert "topic full ends at offset 2, not at 0; nothing was stored\n" in done.err
    assert "--allow-new-offsets" in done.err
    assert next_offset(server, "full") == 2
    assert os.listdir(tmp_path) == ["x"]
    done = run(server, "import", "full", "--file", file, "--allow-new-offsets")
    assert done.lines == ["2 records in full, offsets 2 to 3"]
    assert done.err == "offsets and timestamps are those of the import\n"
    assert values(server, "full") == ["a", "b", "a", "b"]


def test_an_export_that_begins_later_is_refused_or_gets_new_offsets(server: Process, tmp_path: Path) -> None:
    server.post("later", *map(str, range(5)))
    file = tmp_path / "x"
    file.write_bytes(run(server, "consume", "later", "--from", "3", "--json").out)
    done = run(server, "import", "later-copy", "--file", file)
    assert done.code == 1
    assert "topic later-copy ends at offset 0, not at 3; nothing was stored" in done.err
    assert run(server, "import", "later-copy", "--file", file, "--allow-new-offsets").code == 0
    assert values(server, "later-copy") == ["3", "4"]


def test_an_import_goes_on_at_the_end_of_a_part_that_is_there(server: Process) -> None:
    server.post("parts", *map(str, range(6)))
    for arguments in (["--max", "4"], ["--from", "4"]):
        part = run(server, "consume", "parts", "--json", *arguments).out
        assert run(server, "import", "parts-copy", given=part).code == 0
    assert without_times(server.read_all("parts-copy")) == without_times(server.read_all("parts"))


def test_a_missing_record_is_noticed_and_all_before_it_are_stored(server: Process, tmp_path: Path) -> None:
    server.post("gap", *map(str, range(900)))
    server.post("gap", *map(str, range(900, 1800)))
    lines = run(server, "export", "gap").out.splitlines(keepends=True)
    file = tmp_path / "x"
    file.write_bytes(b"".join(lines[:1500] + lines[1501:]))
    done = run(server, "import", "gap-copy", "--file", file)
    assert done.code == 8
    assert "line 1501: offset 1501 comes where 1500 should" in done.err
    assert next_offset(server, "gap-copy") == 1500
    assert "hint: --allow-new-offsets gives the records new ones" in done.err
    assert run(server, "import", "gap-copy", "--file", file, "--allow-new-offsets").code == 0
    assert values(server, "gap-copy") == [str(number) for number in range(1800) if number != 1500]


@pytest.mark.parametrize(
    ("line", "arguments", "said"),
    [
        (b'{"value":"x"}', [], "missing required field `offset`"),
        (b"x", [], "this is no record of an export"),
        (b'{"value":"x","offset":1}', ["--timestamp-header", "at"], "missing required field `timestamp`"),
        (b'{"valeu":"x","offset":1}', [], "missing required field `value`"),
    ],
)
def test_a_line_that_is_no_export_is_refused(server: Process, line: bytes, arguments: list[str], said: str) -> None:
    topic = f"no-export-{abs(hash(line))}"
    good = b'{"value":"good","offset":0,"timestamp":"2026-01-15T10:30:45.123Z"}\n'
    done = run(server, "import", topic, *arguments, given=good + line)
    assert done.code == 8
    assert "line 2: " in done.err
    assert said in done.err
    assert values(server, topic) == ["good"]


def test_timestamps_go_to_a_header_and_a_second_import_leaves_them(server: Process) -> None:
    server.post("dated", *ODD)
    first = run(server, "export", "dated").out
    done = run(server, "import", "dated-copy", "--timestamp-header", "at", given=first)
    assert done.err == "timestamps are those of the import; the exported times are in header at\n"
    source, copy = server.read_all("dated"), server.read_all("dated-copy")
    assert [record["headers"]["at"] for record in copy] == [record["timestamp"] for record in source]
    for record in copy:
        del record["headers"]["at"]
        record["headers"] = record["headers"] or None
    assert without_times(copy) == without_times(source)
    second = run(server, "export", "dated-copy").out
    assert run(server, "import", "dated-again", "--timestamp-header", "at", given=second).code == 0
    again = server.read_all("dated-again")
    assert [record["headers"]["at"] for record in again] == [record["timestamp"] for record in source]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("options", [[], ["--timestamp-header", "at"], ["--allow-new-offsets"]])
def test_an_interrupted_import_goes_on_without_hole_or_duplicate(
    server: Process, tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    count, topic = 150_000, f"cut-{number}-{len(options)}-{options[:1] == ['--allow-new-offsets']}"
    stamp = "2026-01-15T10:30:45.123Z"
    file = tmp_path / "x"
    lines = (f'{{"value":"{at}","offset":{at},"timestamp":"{stamp}"}}\n' for at in range(count))
    file.write_text("".join(lines))
    with started(server, "import", topic, "--file", file, *options) as process:
        wait_for_records(server, topic, 3000)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    done = run(server, "import", topic, "--file", file, *options, "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["records"] == count
    assert values(server, topic) == [str(at) for at in range(count)]


def test_an_import_that_others_post_into_stops_before_it_mixes_offsets(server: Process, tmp_path: Path) -> None:
    with started(server, "import", "meddled") as process:
        assert process.stdin is not None
        process.stdin.write(b'{"value":"a","offset":0}\n')
        process.stdin.flush()
        wait_for_records(server, "meddled", 1)
        server.post("meddled", "other")
        _, err = process.communicate(b'{"value":"b","offset":1}\n', timeout=60)
    assert process.returncode == 1
    assert b"topic meddled ends at offset 2, not at 1; nothing was stored. Records stored: 1, all before line 2" in err
    assert values(server, "meddled") == ["a", "other"]


def test_a_terminal_sees_the_export_progress(server: Process, tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        for _ in range(50):
            client.post_records("watched", [Record("x" * 100)] * 1000)
    code, seen = on_terminal(server, ["export", "watched", "--file", tmp_path / "x"])
    assert code == 0
    assert "export" in seen
    assert "B/s" in seen
    assert "50000 records of watched" in seen
