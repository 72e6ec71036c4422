"""`flashq consume` against a server: where it begins and ends, what it prints, and what a group commits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq import Client, FlashQ
from flashq.cli.consume import Commits
from tests.cli.commands import COMMAND, Ended, environment, on_terminal, run, started
from tests.server.running import Process, serving

LINES = "/topics/{}/records?max_records=10000"
CLEAR = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """With a topic `news` of twenty records and some odd ones in `odd`."""
    with serving(tmp_path_factory.mktemp("server") / "data") as process:
        process.post(
            "news",
            *({"value": f"v{at}", "key": f"k{at % 2}", "headers": {"at": str(at % 5)}} for at in range(20)),
        )
        process.post(
            "odd",
            {"value": f"{CLEAR}\ttab\nline", "key": "a\tb", "headers": {"h\n": "x\x1b"}},
            {"value": "/wA=", "encoding": "base64", "key": "/w==", "key_encoding": "base64"},
            {"value": "", "key": ""},
        )
        yield process


def values(done: Ended) -> list[int]:
    """The numbers of the records of `news` that were printed with `--output value`."""
    assert done.code == 0, done
    return [int(line[1:]) for line in done.lines]


def committed(server: Process, group: str, topic: str = "news") -> int:
    found: int = server.ask("GET", f"/consumer/{group}/topics/{topic}/offset").json()["committed_offset"]
    return found


# -- where it begins and ends


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], range(20)),
        (["--from", "earliest"], range(20)),
        (["--from", "latest"], []),
        (["--from", "17"], range(17, 20)),
        (["--from", "20"], []),
        (["--from", "-10"], range(10, 20)),
        (["--from", "-100"], range(20)),
        (["--from", "2020-01-01"], range(20)),
        (["--from", "2020-01-01T00:00:00Z"], range(20)),
        (["--from", "1577836800000"], range(20)),
        (["--from", "2999-01-01"], []),
        (["--max", "3"], range(3)),
        (["--from", "18", "--max", "30"], range(18, 20)),
        (["--key", "k1"], range(1, 20, 2)),
        (["--key", "k1", "--max", "2"], [1, 3]),
        (["--header", "at=2"], [2, 7, 12, 17]),
        (["--header", "at=2", "--key", "k0"], [2, 12]),
        (["--header", "at=2", "--header", "no=1"], []),
        (["--grep", "[12]9|^v3$"], [3, 19]),
        (["--grep", "1", "--from", "12", "--max", "2"], [12, 13]),
    ],
)
def test_it_prints_the_records_asked_for_in_order(server: Process, arguments: list[str], wanted: list[int]) -> None:
    assert values(run(server, "consume", "news", "--output", "value", *arguments)) == list(wanted)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "yesterday"], "--from is 'yesterday'; it is earliest, latest, an offset"),
        (["--from", "2026-01-01T10:00"], "--from is"),
        (["--grep", "("], "is no regular expression"),
        (["--header", "x"], "must be like NAME=VALUE"),
        (["--max", "0"], "--max': 0 is not in the range"),
        (["--output", "xml"], "xml"),
        (["--json", "--output", "value"], "exclude each other"),
        (["--group", "no/name"], "no/name"),
        (["--form", "1"], "No such option"),
    ],
)
def test_wrong_use_is_code_2_and_prints_nothing(server: Process, arguments: list[str], said: str) -> None:
    done = run(server, "consume", "news", *arguments)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


def test_a_topic_that_is_not_there_is_told_and_makes_no_group(server: Process) -> None:
    done = run(server, "consume", "nothing", "--group", "lost")
    assert (done.code, done.out) == (1, b"")
    assert "there is no topic nothing" in done.err
    assert server.ask("GET", "/consumer/lost").status == 404


def test_a_bad_place_to_begin_makes_no_group(server: Process) -> None:
    done = run(server, "consume", "news", "--group", "misplaced", "--from", "nonsense")
    assert (done.code, done.out) == (2, b"")
    assert "--from is 'nonsense'" in done.err
    assert server.ask("GET", "/consumer/misplaced").status == 404


def test_a_server_that_is_not_there_is_code_7(server: Process) -> None:
    done = run(server, "consume", "news", "--server", "http://127.0.0.1:1")
    assert (done.code, done.out) == (7, b"")
    assert "no connection to http://127.0.0.1:1" in done.err


def test_earliest_begins_where_retention_has_left_off(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path / "data") as flashq:
        flashq.create_topic("short", segment_bytes=1024, retention_bytes=1024)
        for number in range(20):
            flashq.post_record("short", f"v{number}" + "x" * 500)
        flashq.apply_retention()
    with serving(tmp_path / "data") as server:
        start = server.ask("GET", "/topics/short").json()["log_start_offset"]
        assert start > 0
        for arguments in ([], ["--from", "-100"], ["--group", "new"]):
            assert (
                json.loads(run(server, "consume", "short", "--json", "--max", "1", *arguments).out)["offset"] == start
            )
        done = run(server, "consume", "short", "--from", "0")
        assert (done.code, done.out) == (1, b"")
        assert f"below the log start {start}: retention has removed it; read from {start}" in done.err


# -- what it prints


def test_json_is_what_the_server_sends_byte_for_byte(server: Process) -> None:
    for topic in ("news", "odd"):
        sent = server.ask("GET", LINES.format(topic), headers={"Accept": "application/x-ndjson"}).body
        assert run(server, "consume", topic, "--output", "json").out == sent
        assert run(server, "consume", topic, "--json").out == sent
        assert run(server, "consume", topic, "--json", "--grep", "").out == sent


def test_value_is_the_bytes_and_a_line_end(server: Process) -> None:
    wanted = f"{CLEAR}\ttab\nline".encode() + b"\n\xff\x00\n\n"
    assert run(server, "consume", "odd", "--output", "value").out == wanted


def test_text_has_columns_and_escapes_what_steers_a_terminal(server: Process) -> None:
    first, binary, empty = (line.split("\t") for line in run(server, "consume", "odd").lines)
    times = [record["timestamp"] for record in server.read_all("odd")]
    assert first == ["0", times[0], r"a\tb", r"h\n=x\x1b", r"\x1b]0;owned\x07\x1b[2J\ttab\nline"]
    assert binary == ["1", times[1], r"\xff", "", r"\xff\x00"]
    assert empty == ["2", times[2], "", "", ""]
    code, seen = on_terminal(server, ["consume", "odd"])
    assert code == 0
    assert "\x1b" not in seen
    assert "owned" in seen


def test_grep_looks_into_values_that_are_not_text(server: Process) -> None:
    assert [line[0] for line in run(server, "consume", "odd", "--grep", r"\\xff").lines] == ["1"]


def test_ten_thousands_of_records_come_whole_in_every_form(server: Process) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        for start in range(0, 25_000, 1000):
            client.post_records("many", [f"v{number}" for number in range(start, start + 1000)])
    assert values(run(server, "consume", "many", "--output", "value")) == list(range(25_000))
    lines = run(server, "consume", "many", "--json").lines
    assert [json.loads(line)["offset"] for line in lines] == list(range(25_000))
    assert len(run(server, "consume", "many", "--max", "12345", "--json").lines) == 12_345


# -- following


def test_follow_prints_what_is_posted_later_until_ctrl_c(server: Process) -> None:
    server.post("live", "one")
    with started(server, "consume", "live", "--follow", "--output", "value") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        for text in ("two", "three"):
            server.post("live", text)
            assert process.stdout.readline() == text.encode() + b"\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def test_follow_with_max_ends_by_itself(server: Process) -> None:
    server.post("counted", "one")
    with started(server, "consume", "counted", "--follow", "--max", "2", "--output", "value") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        server.post("counted", "two", "three")
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"two\n")


@pytest.mark.parametrize("form", ["text", "json", "value"])
def test_a_reader_that_goes_away_ends_it_well(server: Process, form: str) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        for _ in range(5):
            client.post_records(f"head-{form}", ["x" * 1000] * 1000)
    command = [COMMAND, "consume", f"head-{form}", "--output", form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()  # as head does
        assert process.stderr.read() == b""
    assert process.returncode == 0


# -- groups


def test_a_group_goes_on_where_it_stopped(server: Process) -> None:
    arguments = ("consume", "news", "--group", "steps", "--output", "value")
    assert values(run(server, *arguments, "--max", "7")) == list(range(7))
    assert committed(server, "steps") == 7
    assert values(run(server, *arguments)) == list(range(7, 20))
    assert committed(server, "steps") == 20
    assert values(run(server, *arguments)) == []
    assert values(run(server, *arguments, "--from", "-2", "--max", "1")) == [18]
    assert committed(server, "steps") == 19


def test_a_group_passes_over_what_is_not_wanted_but_not_over_what_comes_after_max(server: Process) -> None:
    assert values(
        run(server, "consume", "news", "--group", "picky", "--key", "k1", "--max", "2", "--output", "value")
    ) == [1, 3]
    assert committed(server, "picky") == 4
    assert values(run(server, "consume", "news", "--group", "picky", "--key", "none", "--output", "value")) == []
    assert committed(server, "picky") == 20


def test_ctrl_c_commits_what_was_printed(server: Process) -> None:
    with started(server, "consume", "news", "--group", "stopped", "--follow", "--output", "value") as process:
        assert process.stdout is not None
        for number in range(20):
            assert process.stdout.readline() == b"v%d\n" % number
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert committed(server, "stopped") == 20


def test_what_is_not_printed_is_not_committed(server: Process) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, "consume", "news", "--group", "unprinted"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(server),
            timeout=60,
            check=False,
        )
    assert done.returncode == 5
    assert done.stderr == b"flashq: 'standard output': No space left on device\n"
    assert committed(server, "unprinted") == 0


def test_a_killed_reader_reads_again_what_it_had_not_committed(server: Process) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        for start in range(0, 20_000, 1000):
            client.post_records("kills", [f"v{number}" for number in range(start, start + 1000)])
    arguments = ("consume", "kills", "--group", "killed", "--output", "value")
    seen: list[int] = []
    with started(server, *arguments) as process:
        assert process.stdout is not None
        seen.extend(int(process.stdout.readline()[1:]) for _ in range(5000))
        process.kill()
        process.communicate()
    again = values(run(server, *arguments))
    assert seen == list(range(5000))
    assert again[0] <= 20_000
    assert again == list(range(again[0], 20_000))


def test_commits_come_once_a_second_and_at_the_end_of_the_log(server: Process) -> None:
    now = 0.0
    with Client(f"http://127.0.0.1:{server.port}") as client:
        client.create_consumer_group("timed")
        commits = Commits(client, "timed", "news", clock=lambda: now)
        commits.reach(1)
        commits.commit_if_due(is_end=False)
        assert committed(server, "timed") == 0
        now = 1.0
        commits.reach(2)
        commits.commit_if_due(is_end=False)
        assert committed(server, "timed") == 2
        now = 1.9
        commits.reach(3)
        commits.commit_if_due(is_end=False)
        assert committed(server, "timed") == 2
        commits.reach(20)
        commits.commit_if_due(is_end=True)
        assert committed(server, "timed") == 20


def test_a_hundred_thousand_records_are_read_in_little_memory(server: Process) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        for _ in range(100):
            client.post_records("wide", ["x" * 1000] * 1000)

    def peak_kib(*arguments: str) -> int:
        process = subprocess.Popen(
            [COMMAND, "consume", "wide", "--json", *arguments], stdout=subprocess.DEVNULL, env=environment(server)
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss

    assert peak_kib() < peak_kib("--max", "1") + 16 * 1024
