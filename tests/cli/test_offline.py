"""`flashq verify`, `repair` and `dump` as processes: what they print, to whom, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from flashq import FlashQ, Record
from flashq.storage.file.directory_lock import LOCK_NAME
from tests.cli.commands import COMMAND, environment, on_terminal

CLEAR = "\x1b]0;owned\x07\x1b[2J"


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**environment(None), **variables},
        timeout=60,
        check=False,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    with FlashQ.open(path, segment_bytes=2000) as flashq:
        for number in range(30):
            flashq.post_record("news", f"{number}" * 50, idempotency_key="first" if number == 0 else None)
        flashq.create_consumer_group("readers")
        flashq.commit_offset("readers", "news", 3)
    return path


def segments(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob("topics/news/0/*.log"))


def damage(path: Path, at: int = 200) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -- verify


def test_verify_of_sound_data_prints_a_table_and_ends_with_0(data_dir: Path) -> None:
    done = run("verify", data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    header, topic, group = done.stdout.splitlines()
    assert header.split() == ["KIND", "NAME", "SEGMENTS", "BATCHES", "RECORDS", "FIRST", "NEXT", "BYTES", "STATE"]
    size = sum(path.stat().st_size for path in segments(data_dir))
    assert topic.split() == ["topic", "news", "3", "30", "30", "0", "30", str(size), "ok"]
    assert group.split()[:5] == ["group", "readers", "1", "2", "2"]
    assert "\x1b" not in done.stdout


def test_verify_of_damage_names_the_place_and_ends_with_4(data_dir: Path) -> None:
    damage(segments(data_dir)[0])
    done = run("verify", data_dir)
    assert done.returncode == 4
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("damage:"))
    assert "topics/news/0/00000000000000000000.log (offset 1, position" in line
    assert "goes on at offset 2" in line
    assert (
        done.stderr == f"hint: flashq repair --dry-run {data_dir} shows what can be kept; a good copy may have more\n"
    )


def test_verify_notes_a_torn_tail_and_ends_with_0(data_dir: Path) -> None:
    with segments(data_dir)[-1].open("ab") as file:
        file.write(b"\0" * 6 + b"x")
    done = run("verify", data_dir)
    assert done.returncode == 0
    assert "torn: topic news" in done.stdout


def test_verify_json_is_an_object_a_line(data_dir: Path) -> None:
    damage(segments(data_dir)[1])
    done = run("verify", "--json", data_dir)
    assert done.returncode == 4
    news, readers = map(json.loads, done.stdout.splitlines())
    assert (news["kind"], news["name"], news["state"], readers["state"]) == ("topic", "news", "damaged", "ok")
    (finding,) = news["findings"]
    assert (finding["kind"], finding["path"]) == ("damage", str(segments(data_dir)[1]))
    assert isinstance(finding["position"], int)


def test_verify_takes_the_directory_from_the_environment_and_topics_by_name(data_dir: Path) -> None:
    done = run("verify", "--topic", "news", FLASHQ_DATA_DIR=str(data_dir))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    done = run("verify", "--topic", "nosuch", data_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no topic nosuch" in done.stderr


def test_verify_and_repair_of_a_directory_in_use_are_refused_with_3(data_dir: Path) -> None:
    with FlashQ.open(data_dir):
        before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
        for arguments in (["verify"], ["repair", "--dry-run"], ["repair", "--yes"]):
            done = run(*arguments, data_dir)
            assert (done.returncode, done.stdout) == (3, ""), arguments
            assert f"in use by another FlashQ (process {os.getpid()})" in done.stderr
        assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


@pytest.mark.parametrize("command", [["verify"], ["repair", "--yes"], ["repair", "--dry-run"]], ids=" ".join)
def test_what_is_no_data_directory_is_refused_and_stays_as_it_is(command: list[str], tmp_path: Path) -> None:
    assert run(*command, tmp_path / "nowhere").returncode == 2
    done = run(*command, tmp_path)
    assert done.returncode == 4
    assert "no data directory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_is_refused_and_stays_as_it_is(data_dir: Path) -> None:
    root = data_dir / "flashq.json"
    root.write_text('{"format": 2}')
    for command in (["verify"], ["repair", "--yes"]):
        done = run(*command, data_dir)
        assert done.returncode == 4
        assert "has format 2" in done.stderr
    assert root.read_text() == '{"format": 2}'


def test_verify_makes_no_file(data_dir: Path) -> None:
    (data_dir / LOCK_NAME).unlink()
    before = sorted(data_dir.rglob("*"))
    assert run("verify", data_dir).returncode == 0
    assert sorted(data_dir.rglob("*")) == before


def test_a_terminal_sees_a_bar_that_goes_away_and_colours_unless_they_are_not_wanted(data_dir: Path) -> None:
    code, seen = on_terminal(None, ["verify", data_dir])
    assert code == 0
    assert "verify" in seen.partition("KIND")[0]
    assert "\x1b[32mok\x1b[0m" in seen
    code, seen = on_terminal(None, ["verify", data_dir], NO_COLOR="1")
    assert code == 0
    assert "\x1b[32m" not in seen
    assert "ok" in seen


# -- repair


def test_repair_shows_what_it_would_do_and_then_does_it(data_dir: Path) -> None:
    damage(segments(data_dir)[0])
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    shown = run("repair", "--dry-run", data_dir)
    assert (shown.returncode, shown.stderr) == (4, "")
    assert shown.stdout.splitlines()[:2] == [
        "topic news: first and next offset 0 and 30 before, 0 and 30 after",
        "  lost: offset 1",
    ]
    assert {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()} == before
    done = run("repair", "--yes", data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown.stdout + f"done; flashq verify {data_dir} checks it again\n"
    assert run("verify", data_dir).returncode == 0
    assert run("repair", data_dir).stdout == "nothing to repair\n"


def test_repair_asks_on_a_terminal_and_takes_no_for_an_answer(data_dir: Path) -> None:
    damage(segments(data_dir)[0])
    code, seen = on_terminal(None, ["repair", data_dir], typed="n\n")
    assert code == 4
    assert "Do this?" in seen
    assert list(data_dir.rglob("*.damaged-*")) == []
    code, seen = on_terminal(None, ["repair", data_dir], typed="y\n")
    assert code == 0
    assert len(list(data_dir.rglob("*.damaged-*"))) == 1


def test_ctrl_c_at_the_question_of_repair_is_an_interrupt(data_dir: Path) -> None:
    damage(segments(data_dir)[0])
    code, seen = on_terminal(None, ["repair", data_dir], interrupt_at="[y/N]: ")
    assert (code, seen.splitlines()[-1]) == (130, "nothing was done")
    assert list(data_dir.rglob("*.damaged-*")) == []


def test_repair_without_anybody_to_ask_does_nothing(data_dir: Path) -> None:
    damage(segments(data_dir)[0])
    done = run("repair", data_dir)
    assert done.returncode == 2
    assert (
        done.stderr == "flashq: nobody is here to ask. Nothing was done\nhint: add --yes, or --dry-run to look only\n"
    )
    assert list(data_dir.rglob("*.damaged-*")) == []


def test_repair_json_is_an_object_a_line(data_dir: Path) -> None:
    damage(segments(data_dir)[0])
    for arguments, finished in ((["--dry-run"], False), (["--yes"], True)):
        done = run("repair", "--json", *arguments, data_dir)
        (fact,) = map(json.loads, done.stdout.splitlines())
        assert (fact["name"], fact["done"], fact["before"], fact["after"]) == ("news", finished, [0, 30], [0, 30])
        assert fact["lost"] == [{"first_offset": 1, "goes_on_at": 2}]


def test_what_cannot_be_repaired_is_said_and_ends_with_4(data_dir: Path) -> None:
    (data_dir / "topics" / "news" / "topic.json").write_text("{")
    done = run("repair", "--yes", data_dir)
    assert done.returncode == 4
    assert "Restore it from a copy" in done.stdout


def test_files_of_another_user_are_not_touched(data_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    os.chown(data_dir, 65534, 65534)
    for command in (["verify"], ["repair", "--yes"]):
        done = run(*command, data_dir)
        assert done.returncode == 2
        assert "belongs to user 65534" in done.stderr
        assert "sudo -u '#65534'" in done.stderr


# -- dump


def test_dump_of_a_segment_shows_a_row_a_frame(data_dir: Path) -> None:
    path = segments(data_dir)[0]
    damage(path)
    done = run("dump", path)
    assert done.returncode == 4
    name, titles, *rows = done.stdout.splitlines()
    assert name == f"{path}:"
    assert titles.split()[:5] == ["POSITION", "BYTES", "OFFSET", "COUNT", "EPOCH"]
    assert rows[1].endswith("the CRC-32C does not match")
    assert len(rows) == int(segments(data_dir)[1].stem)
    assert len(rows[0].split()[6]) == 28, "the hash of the key"
    assert done.stderr.startswith(f"{path}: position ")


def test_dump_json_of_a_topic_is_an_object_a_frame(data_dir: Path) -> None:
    done = run("dump", "--json", data_dir / "topics" / "news")
    assert (done.returncode, done.stderr) == (0, "")
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    assert [frame["offset"] for frame in frames] == list(range(30))
    assert {frame["problem"] for frame in frames} == {None}
    assert {frame["file"] for frame in frames} == {str(path) for path in segments(data_dir)}


def test_dump_of_records_is_their_content_as_the_service_shows_it(data_dir: Path) -> None:
    with FlashQ.open(data_dir) as flashq:
        flashq.post_record("odd", Record(b"\xff\x00", "k", {"h": "v"}))
    path = data_dir / "topics/odd/0" / f"{0:020}.log"
    (record,) = map(json.loads, run("dump", "--records", "--json", path).stdout.splitlines())
    assert (record["value"], record["encoding"], record["key"], record["headers"]) == (
        "/wA=",
        "base64",
        "k",
        {"h": "v"},
    )
    lines = run("dump", "--records", data_dir / "topics" / "news").stdout.splitlines()
    assert sum("0" * 50 in line for line in lines) == 1


@pytest.mark.parametrize("flags", [["--records"], ["--records", "--json"]], ids=" ".join)
def test_no_record_steers_the_terminal(data_dir: Path, flags: list[str]) -> None:
    with FlashQ.open(data_dir) as flashq:
        flashq.post_record("bad", Record(CLEAR + "\x9b31m\u202e\nforged", CLEAR, {CLEAR: CLEAR}))
    code, seen = on_terminal(None, ["dump", *flags, data_dir / "topics" / "bad"])
    assert code == 0
    assert not set(seen) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert all("forged" not in line or "owned" in line for line in seen.splitlines())


def test_dump_of_what_lies_beside_a_segment(data_dir: Path) -> None:
    segment = segments(data_dir)[0]
    assert run("dump", segment.with_suffix(".index")).stdout.splitlines()[2].split()[:2] == ["0", "0"]
    (key,) = map(json.loads, run("dump", "--json", segment.with_suffix(".keys")).stdout.splitlines())
    assert key["offset"] == 0
    segment.with_suffix(".keys").write_bytes(b"short")
    assert run("dump", segment.with_suffix(".keys")).returncode == 4


def test_dump_of_what_is_not_there_or_no_topic_is_a_usage_error(data_dir: Path) -> None:
    assert run("dump", data_dir / "nothing").returncode == 2
    assert run("dump", data_dir).returncode == 2


@pytest.mark.parametrize("arguments", [["dump"], ["dump", "--json"], ["dump", "--records"]], ids=" ".join)
def test_a_reader_that_wants_one_line_gets_it_and_no_traceback(tmp_path: Path, arguments: list[str]) -> None:
    with FlashQ.open(tmp_path) as flashq:
        for _ in range(3000):
            flashq.post_record("long", "x" * 50)
    piped = f'"$0" {" ".join(arguments)} "$1" | head -1'
    command = ["bash", "-c", piped, COMMAND, str(tmp_path / "topics" / "long")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(None), timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_an_interrupt_ends_a_dump_with_130_and_no_traceback(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        for _ in range(3000):
            flashq.post_record("long", "x" * 50)
    process = subprocess.Popen(
        [COMMAND, "dump", tmp_path / "topics" / "long"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()  # it has begun, and waits for a reader who takes no more
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaint
