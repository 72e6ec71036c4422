"""`flashq produce` against a server: formats, refusals, and that no interrupt loses or doubles a record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq import Client
from flashq.cli.runs import FileRun
from flashq.cli.sources import Place, ndjson_batches
from tests.cli.commands import (
    COMMAND,
    environment,
    next_offset,
    on_terminal,
    run,
    started,
    values,
    wait_for_read_of_stdin,
    wait_for_records,
)
from tests.server.running import Process, serving

MANY = 300_000
"""Records that take long enough to post to be interrupted in the middle."""


def ndjson(count: int) -> bytes:
    return b"".join(b'{"value":"%d","key":"k"}\n' % number for number in range(count))


def progress_of(file: Path, topic: str) -> Path:
    return Path(f"{file}.{topic}.flashq-progress")


# -- a value


def test_a_value_is_posted_with_key_and_headers_and_its_offset_printed(server: Process) -> None:
    arguments = ("produce", "one", "tea", "--key", "k", "--header", "a=b", "--header", "c=d=e")
    assert (first := run(server, *arguments)).out == b"0\n", first
    assert run(server, "produce", "one", "", "--json").out == b'{"topic":"one","offset":1}\n'
    tea, empty = server.read_all("one")
    assert (tea["value"], tea["key"], tea["headers"]) == ("tea", "k", {"a": "b", "c": "d=e"})
    assert (empty["value"], empty["key"], empty["headers"]) == ("", None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("t",), "give a VALUE or a --file"),
        (("t", "v", "--file", "f"), "give a VALUE or a --file"),
        (("t", "v", "--format", "text"), "--format and --progress-file are for a --file"),
        (("t", "v", "--header", "a"), "must be like NAME=VALUE"),
        (("t", "v", "--header", "a=1", "--header", "a=2"), "'a' is given twice"),
        (("t", "--file", "/nowhere/f"), "/nowhere/f cannot be read: No such file or directory"),
        (("t", "--file", "-", "--progress-file", "p"), "--progress-file has no use"),
        (("t", "--file", "-", "--format", "ndjson", "--key", "k"), "--key and --header are for text"),
        (("not/a/name", "v"), "not/a/name"),
        (("t", "v", "--prot"), "No such option"),
        (("t", "v", "--server", "ftp://x"), "base_url is 'ftp://x'"),
        (("t", "--file", "-", "--format", "csv"), "csv"),
    ],
)
def test_wrong_use_is_refused_with_code_2_and_nothing_is_posted(
    server: Process, arguments: tuple[str, ...], said: str
) -> None:
    done = run(server, "produce", *arguments)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err
    assert next_offset(server, "t") == 0


def test_a_server_that_is_not_there_is_code_7(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("a\n")
    with Client("http://127.0.0.1:1", retries=0) as client:
        url = client.base_url
    for what in (["a"], ["--file", str(file)]):
        done = run(None, "produce", "t", *what, "--server", url)
        assert done.code == 7
        assert "no connection to http://127.0.0.1:1" in done.err
    assert os.listdir(tmp_path) == ["f.txt"]


# -- formats


def test_text_is_a_record_a_line_byte_for_byte(server: Process) -> None:
    done = run(
        server, "produce", "lines", "--file", "-", "--key", "k", "--header", "a=b", given=b" a\r\n\n\xff\n\tlast"
    )
    assert done.lines == ["4 records in lines, offsets 0 to 3"]
    records = server.read_all("lines")
    assert [record["value"] for record in records] == [" a\r", "", "/w==", "\tlast"]
    assert {(record["key"], record["headers"]["a"]) for record in records} == {("k", "b")}


def test_ndjson_is_passed_on_and_empty_lines_are_skipped(server: Process) -> None:
    given = (
        '\n{"value": "é", "key": "k", "headers": {"a": "b"}}\n  \n{"value": "/w==", "encoding": "base64"}\n\n'.encode()
    )
    assert run(server, "produce", "nd", "--file", "-", given=given).lines == ["2 records in nd, offsets 0 to 1"]
    first, second = server.read_all("nd")
    assert (first["value"], first["key"], first["headers"]) == ("é", "k", {"a": "b"})
    assert (second["value"], second["encoding"]) == ("/w==", "base64")


def test_an_array_may_be_written_in_any_way(server: Process) -> None:
    given = '\n[ {"value":\n"é ] , { \\" \\n"},{"value":"b","headers":\n{"a":"b"}}\n]\n'.encode()
    assert run(server, "produce", "array", "--file", "-", given=given).code == 0
    assert values(server, "array") == ['é ] , { " \n', "b"]


def test_an_array_larger_than_what_is_read_at_once_arrives_whole(server: Process, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    wanted = [str(number) + "é" * (700_000 if number == 1500 else 300) for number in range(2500)]
    file.write_text(json.dumps([{"value": value} for value in wanted], ensure_ascii=False, indent=1))
    refused = run(server, "produce", "large-array", "--file", file)
    assert "line 4502: the value has 1400004 bytes" in refused.err
    wanted[1500] = "é" * 500_000
    file.write_text(json.dumps([{"value": value} for value in wanted], ensure_ascii=False, indent=1))
    assert run(server, "produce", "large-array", "--file", file).code == 0
    assert values(server, "large-array") == wanted


@pytest.mark.parametrize("given", [b"", b"\n\n", b"[]", b" [ ] \n"])
def test_a_source_without_records_posts_none(server: Process, given: bytes, tmp_path: Path) -> None:
    file = tmp_path / ("none.json" if b"[" in given else "none.ndjson")
    file.write_bytes(given)
    done = run(server, "produce", "none", "--file", file, "--json")
    assert json.loads(done.out) == {
        "topic": "none", "records": 0, "records_now": 0, "first_offset": None, "last_offset": None
    }  # fmt: skip
    assert next_offset(server, "none") == 0


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("a.ndjson", b'{"value":"x"}', "x"),
        ("a.jsonl", b'{"value":"x"}', "x"),
        ("a.json", b'[{"value":"x"}]', "x"),
        ("a.txt", b'{"value":"x"}', '{"value":"x"}'),
        ("a", b' {"value":"x"}', "x"),
        ("a.log", b'[{"value":"x"}]', "x"),
        ("a.csv", b"x,{", "x,{"),
    ],
)
def test_the_format_is_told_by_the_extension_then_by_the_first_byte(
    server: Process, tmp_path: Path, name: str, content: bytes, value: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    topic = f"guessed-{name}"
    assert run(server, "produce", topic, "--file", file).code == 0
    assert values(server, topic) == [value]


def test_format_overrules_the_guess(server: Process, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'{"value":"x"}\n{"value":"y"}\n')
    assert run(server, "produce", "overruled", "--file", file, "--format", "ndjson").code == 0
    assert values(server, "overruled") == ["x", "y"]


def test_records_from_a_slow_pipe_are_posted_as_they_come(server: Process) -> None:
    with started(server, "produce", "slow", "--file", "-") as process:
        assert process.stdin is not None
        process.stdin.write(b"first\nsecond\nthi")
        process.stdin.flush()
        wait_for_records(server, "slow", 2)
        out, _ = process.communicate(b"rd\n", timeout=60)
    assert out == b"3 records in slow, offsets 0 to 2\n"
    assert values(server, "slow") == ["first", "second", "third"]


# -- refusals


@pytest.mark.parametrize(
    ("name", "bad", "said"),
    [
        ("shape.ndjson", b'{"valeu":"x"}', "missing required field `value`"),
        ("syntax.ndjson", b'{"value":"x"', "the record is not JSON"),
        ("base64.ndjson", b'{"value":"!","encoding":"base64"}', "the value is not base64"),
        ("size.ndjson", b'{"value":"x","key":"' + b"k" * 1025 + b'"}', "the key has 1025 bytes"),
        ("size.txt", b"x" * (1024 * 1024 + 1), "the value has 1048577 bytes"),
        ("huge.txt", b"x" * (17 * 1024 * 1024), "more than 16777216 bytes"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 1500])
def test_a_bad_line_is_named_and_all_before_it_are_stored(
    server: Process, tmp_path: Path, name: str, bad: bytes, said: str, before: int
) -> None:
    file, topic = tmp_path / name, f"bad-{name}-{before}"
    good = b"good\n" if name.endswith("txt") else b'{"value":"good"}\n'
    file.write_bytes(good * before + bad + b"\n" + good * 3)
    done = run(server, "produce", topic, "--file", file)
    assert done.code == 8
    assert f"line {before + 1}: " in done.err
    assert said in done.err
    assert (f"Records stored: {before}, all before line {before + 1}\n" if before else "Nothing is stored") in done.err
    assert next_offset(server, topic) == before
    assert progress_of(file, topic).exists() is bool(before)
    file.write_bytes(good * before + good + good * 3)
    assert run(server, "produce", topic, "--file", file).code == 0
    assert values(server, topic) == ["good"] * (before + 4)


@pytest.mark.parametrize(
    ("given", "line", "said", "stored"),
    [
        (b'[\n{"value":"a"},\n7]', 3, "here is '7'", 1),
        (b'[{"value":"a"}\n{"value":"b"}]', 2, "after a record of an array comes , or ]", 1),
        (b'[{"value":"a"},\n\n{"valeu":"b"}]', 3, "missing required field", 1),
        (b'[{"value":"a"},\n{"value":"b"', 2, "this is not JSON", 1),
        (b'[{"value":"a"}', 1, "here the file ends", 1),
        (b'[{"value":"a"}]]', 1, "after the array there is ']'", 1),
        (b'{"value":"a"}', 1, "an array begins with [", 0),
        (b"[" + b'{"a":' * 100_000, 1, "this is not JSON", 0),
    ],
)
def test_a_bad_array_is_refused_with_the_line(
    server: Process, given: bytes, line: int, said: str, stored: int, request: pytest.FixtureRequest
) -> None:
    topic = "array-" + str(abs(hash(request.node.name)))
    done = run(server, "produce", topic, "--file", "-", "--format", "json", given=given)
    assert done.code == 8
    assert f"line {line}: " in done.err
    assert said in done.err
    assert next_offset(server, topic) == stored


def test_an_empty_line_before_a_bad_one_does_not_shift_its_number(server: Process) -> None:
    given = b'{"value":"a"}\n\n \n{"value":"b"}\n\n{"value":"c","key":"' + b"k" * 2000 + b'"}\n'
    done = run(server, "produce", "shifted", "--file", "-", given=given)
    assert "line 6: the key has 2000 bytes" in done.err
    assert values(server, "shifted") == ["a", "b"]


# -- interrupts


@pytest.fixture
def many(tmp_path: Path) -> Path:
    file = tmp_path / "many.ndjson"
    file.write_bytes(ndjson(MANY))
    return file


def interrupted(server: Process, file: Path, topic: str, at: int, number: signal.Signals) -> tuple[int, str]:
    """Exit code and complaint of a post that gets a signal once so many records are stored."""
    with started(server, "produce", topic, "--file", file) as process:
        wait_for_records(server, topic, at)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=60)
    return process.returncode, complaint.decode()


def test_ctrl_c_says_where_it_stopped_and_the_same_command_goes_on(server: Process, many: Path) -> None:
    code, complaint = interrupted(server, many, "interrupted", 5000, signal.SIGINT)
    assert code == 130, complaint
    assert "Traceback" not in complaint
    told, hint = complaint.splitlines()
    assert told.startswith("flashq: interrupted. ")
    assert told.endswith("; up to 1000 after that may be too")
    assert hint.startswith("hint: the same command goes on there and stores nothing twice")
    stored = int(told.split("Records stored: ")[1].split(",")[0])
    assert 4000 <= stored <= next_offset(server, "interrupted") < MANY
    done = run(server, "produce", "interrupted", "--file", many, "--json")
    assert f"going on with line {stored + 1}, after {stored} records of an earlier run" in done.err
    told_now = json.loads(done.out)
    assert (told_now["records"], told_now["records_now"]) == (MANY, MANY - stored)
    assert (told_now["first_offset"], told_now["last_offset"]) == (0, MANY - 1)
    assert values(server, "interrupted") == [str(number) for number in range(MANY)]
    assert not progress_of(many, "interrupted").exists()


def test_kill_9_again_and_again_leaves_every_record_once_and_in_order(server: Process, many: Path) -> None:
    for at in (1, 20_000, 21_000, 70_000):
        code, complaint = interrupted(server, many, "killed", at, signal.SIGKILL)
        assert code == -signal.SIGKILL, complaint
    assert run(server, "produce", "killed", "--file", many).code == 0
    assert values(server, "killed") == [str(number) for number in range(MANY)]


def test_a_post_that_was_stored_but_not_written_down_is_not_stored_again(server: Process, tmp_path: Path) -> None:
    file, topic = tmp_path / "f.ndjson", "not-written-down"
    file.write_bytes(ndjson(2500))
    with Client(f"http://127.0.0.1:{server.port}") as client, file.open("rb") as source:
        what = {"server": client.base_url, "topic": topic, "format": "ndjson", "key": None, "headers": "{}"}
        with FileRun(what, source.fileno(), str(progress_of(file, topic))) as crashed:
            first, second, _ = ndjson_batches(source, Place(), is_live=False)
            posted = client.post_lines(topic, first.body, idempotency_key=crashed.key_of(first))
            crashed.stored(first, posted.first_offset, posted.last_offset)
            client.post_lines(topic, second.body, idempotency_key=crashed.key_of(second))
    assert run(server, "produce", topic, "--file", file).code == 0
    assert values(server, topic) == [str(number) for number in range(2500)]


def test_a_first_post_that_was_stored_but_not_written_down_is_not_stored_again(tmp_path: Path) -> None:
    """Also when the server is still away at the next attempt, which knows no more about that post than the first."""
    file, topic = tmp_path / "f.ndjson", "first-not-written-down"
    file.write_bytes(ndjson(700))
    with (
        serving(tmp_path / "data") as server,
        Client(f"http://127.0.0.1:{server.port}") as client,
        file.open("rb") as source,
    ):
        what = {"server": client.base_url, "topic": topic, "format": "ndjson", "key": None, "headers": "{}"}
        with FileRun(what, source.fileno(), str(progress_of(file, topic))) as crashed:
            (first,) = ndjson_batches(source, Place(), is_live=False)
            client.post_lines(topic, first.body, idempotency_key=crashed.key_of(first))
    away = run(server, "produce", topic, "--file", file)
    assert away.code == 7
    assert "Nothing is stored; up to 1000 after that may be too" in away.err
    assert "the same command goes on there and stores nothing twice" in away.err
    with serving(tmp_path / "data", "--port", str(server.port)) as server:
        assert run(server, "produce", topic, "--file", file).code == 0
        assert values(server, topic) == [str(number) for number in range(700)]


def test_a_file_that_was_refused_at_once_leaves_nothing_behind(server: Process, tmp_path: Path) -> None:
    file = tmp_path / "f.ndjson"
    file.write_bytes(b"bad\n")
    assert run(server, "produce", "refused", "--file", file).code == 8
    assert not progress_of(file, "refused").exists()


def test_a_finished_file_can_be_posted_again(server: Process, tmp_path: Path) -> None:
    file = tmp_path / "f.ndjson"
    file.write_bytes(ndjson(3))
    assert run(server, "produce", "again", "--file", file).code == 0
    assert run(server, "produce", "again", "--file", file).lines == ["3 records in again, offsets 3 to 5"]


@pytest.fixture
def stopped(server: Process, tmp_path: Path) -> tuple[Path, Path, str]:
    """A file whose post stopped after 1,500 of its records; its progress file, and the topic."""
    file, topic = tmp_path / "f.ndjson", f"stopped-{tmp_path.name}"
    file.write_bytes(ndjson(1500) + b"bad\n")
    assert run(server, "produce", topic, "--file", file).code == 8
    return file, progress_of(file, topic), topic


def test_a_file_that_begins_otherwise_now_is_not_gone_on_with(server: Process, stopped: tuple[Path, Path, str]) -> None:
    file, progress, topic = stopped
    for content in (ndjson(1500).replace(b"1499", b"9941"), ndjson(1500).replace(b'"0"', b'"1"'), ndjson(1499)):
        file.write_bytes(content)
        done = run(server, "produce", topic, "--file", file)
        assert done.code == 2
        assert "the file now begins otherwise. Nothing was posted" in done.err
        assert f"delete {progress}" in done.err
    assert next_offset(server, topic) == 1500


def test_other_options_do_not_go_on_with_an_earlier_run(server: Process, stopped: tuple[Path, Path, str]) -> None:
    file, _, topic = stopped
    done = run(server, "produce", topic, "--file", file, "--format", "text", "--key", "k")
    assert done.code == 2
    assert "is of an earlier run with format 'ndjson', not 'text', key None, not 'k'" in done.err
    assert next_offset(server, topic) == 1500


def test_a_progress_file_that_cannot_be_read_is_named(server: Process, stopped: tuple[Path, Path, str]) -> None:
    file, progress, topic = stopped
    other = b'{"flashq_progress":2,"what":{},"run":"x"}'
    for content, said in ((b"junk", "is no progress file"), (other, "of another version of flashq")):
        progress.write_bytes(content)
        done = run(server, "produce", topic, "--file", file)
        assert done.code == 2
        assert said in done.err
    assert next_offset(server, topic) == 1500


def test_a_topic_that_lost_what_was_stored_is_not_gone_on_with(
    server: Process, stopped: tuple[Path, Path, str]
) -> None:
    file, progress, topic = stopped
    assert server.ask("DELETE", f"/topics/{topic}").status == 204
    done = run(server, "produce", topic, "--file", file)
    assert done.code == 2
    assert f"stored records up to offset 1499, and topic {topic} now ends at 0" in done.err
    assert progress.exists()
    progress.unlink()
    file.write_bytes(ndjson(1500))
    assert run(server, "produce", topic, "--file", file).code == 0
    assert next_offset(server, topic) == 1500


def test_two_runs_of_one_file_into_one_topic_exclude_each_other(server: Process, tmp_path: Path) -> None:
    file, progress = tmp_path / "f.ndjson", tmp_path / "p"
    file.write_bytes(ndjson(3))
    arguments = ("produce", "shared", "--file", file, "--progress-file", progress)
    with file.open("rb") as source, FileRun({}, source.fileno(), str(progress)) as first:
        second = run(server, *arguments)
        assert second.code == 2
        assert f"another run holds {progress}" in second.err
        assert next_offset(server, "shared") == 0
        first.finish()
    assert run(server, *arguments).lines == ["3 records in shared, offsets 0 to 2"]
    assert os.listdir(tmp_path) == ["f.ndjson"]


def test_a_place_that_cannot_be_remembered_is_refused_before_anything_is_posted(
    server: Process, tmp_path: Path
) -> None:
    file = tmp_path / "f.ndjson"
    file.write_bytes(ndjson(3))
    done = run(server, "produce", "unremembered", "--file", file, "--progress-file", tmp_path / "no" / "p")
    assert done.code == 2
    assert "cannot be written: No such file or directory. Nothing was posted\nhint: --progress-file names" in done.err
    done = run(server, "produce", "../x", "--file", file)
    assert done.code == 2
    assert "../x" in done.err
    assert next_offset(server, "unremembered") == 0
    assert os.listdir(tmp_path) == ["f.ndjson"]


def test_an_interrupted_pipe_tells_what_is_stored(server: Process) -> None:
    with started(server, "produce", "cut-pipe", "--file", "-") as process:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        wait_for_records(server, "cut-pipe", 2)
        wait_for_read_of_stdin(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        told, hint = process.stderr.read().decode().splitlines()
    assert process.returncode == 130
    assert "flashq: interrupted. " in told
    assert "what is read from a pipe cannot be gone on with" in hint


# -- around


def test_a_terminal_sees_progress_with_rate_and_time_left(server: Process, many: Path) -> None:
    code, seen = on_terminal(server, ["produce", "watched", "--file", many])
    assert code == 0
    assert "post" in seen
    assert "MB/s" in seen or "kB/s" in seen
    assert "0:00:0" in seen
    assert f"{MANY} records in watched, offsets 0 to {MANY - 1}" in seen


def test_others_who_post_meanwhile_are_noticed(server: Process) -> None:
    with started(server, "produce", "mixed", "--file", "-") as process:
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        wait_for_records(server, "mixed", 1)
        server.post("mixed", "other")
        out, _ = process.communicate(b"b\n", timeout=60)
    assert out == b"2 records in mixed, between offsets 0 and 2; others posted too\n"


def test_a_large_file_is_posted_in_little_memory(server: Process, tmp_path: Path) -> None:
    def peak_kib(megabytes: int) -> int:
        file = tmp_path / f"{megabytes}.ndjson"
        file.write_bytes((b'{"value":"%s"}\n' % (b"x" * 10_000)) * (100 * megabytes))
        command = [COMMAND, "produce", f"memory-{megabytes}", "--file", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment(server))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss

    assert peak_kib(100) < peak_kib(2) + 16 * 1024


@pytest.mark.parametrize("write", [ndjson, lambda count: b"".join(b"%d\n" % number for number in range(count))])
def test_where_batches_end_does_not_depend_on_where_reading_began(
    tmp_path: Path, write: Callable[[int], bytes]
) -> None:
    file = tmp_path / "f"
    file.write_bytes(write(5000) + b'{"value":"%s"}\n' % (b"x" * 900_000) + write(5000) + b"last")
    with file.open("rb") as source:
        whole = list(ndjson_batches(source, Place(), is_live=False))
        assert b"".join(batch.body for batch in whole) == file.read_bytes() + b"\n"
        assert max(map(len, whole)) == 1000
        for at, batch in enumerate(whole):
            source.seek(batch.start.position)
            assert list(ndjson_batches(source, batch.start, is_live=False)) == whole[at:]
