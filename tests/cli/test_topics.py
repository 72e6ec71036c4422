"""`flashq topics` against a server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.commands import on_terminal, run
from tests.server.running import Process, serving


def test_a_topic_is_created_listed_described_set_and_deleted(server: Process) -> None:
    assert run(server, "topics", "create", "orders", "--retention-ms", "7d").lines == ["created orders"]
    assert run(server, "produce", "orders", "tea").lines == ["0"]
    titles, *rows = run(server, "topics", "list").lines
    assert titles.split() == ["TOPIC", "RECORDS", "FIRST", "NEXT", "BYTES"]
    assert ["orders", "1", "0", "1"] in [row.split()[:4] for row in rows]
    shown = dict(line.split() for line in run(server, "topics", "describe", "orders").lines)
    assert shown["retention_ms"] == "7d"
    assert shown["retention_bytes"] == "none"
    assert (shown["name"], shown["records"], shown["durability"]) == ("orders", "1", "fsynced")
    shown = dict(line.split() for line in run(server, "topics", "set", "orders", "--segment-bytes", "1MiB").lines)
    assert (shown["segment_bytes"], shown["retention_ms"]) == ("1MiB", "7d")
    assert run(server, "topics", "delete", "orders", "--yes").lines == ["deleted orders with 1 record"]
    gone = run(server, "topics", "describe", "orders")
    assert (gone.code, gone.out) == (1, b"")
    assert gone.err.startswith("flashq: there is no topic orders")


def test_json_has_a_line_for_each_topic_and_numbers_as_the_server_has_them(server: Process) -> None:
    assert json.loads(run(server, "topics", "create", "j1", "--json").out) == {"topic": "j1", "created": True}
    run(server, "topics", "create", "j2", "--retention-bytes", "10GiB")
    listed = [json.loads(line) for line in run(server, "topics", "list", "--json").lines]
    assert {"j1", "j2"} <= {each["name"] for each in listed}
    described = json.loads(run(server, "topics", "describe", "j2", "--json").out)
    assert (described["retention_bytes"], described["retention_ms"]) == (10 << 30, None)
    changed = json.loads(run(server, "topics", "set", "j2", "--retention-bytes", "none", "--json").out)
    assert changed["retention_bytes"] is None
    deleted = json.loads(run(server, "topics", "delete", "j2", "--yes", "--json").out)
    assert deleted == {"topic": "j2", "deleted": True, "records": 0}


def test_a_topic_that_is_there_is_refused_or_left_as_it_is(server: Process) -> None:
    run(server, "topics", "create", "twice", "--retention-ms", "1h")
    refused = run(server, "topics", "create", "twice", "--retention-ms", "2h")
    assert (refused.code, refused.out) == (2, b"")
    assert refused.err.splitlines() == [
        "flashq: topic twice is there already. Nothing was changed",
        "hint: --if-not-exists accepts that; flashq topics set changes how it is kept",
    ]
    accepted = run(server, "topics", "create", "twice", "--retention-ms", "none", "--if-not-exists", "--json")
    assert (accepted.code, json.loads(accepted.out)) == (0, {"topic": "twice", "created": False})
    assert json.loads(run(server, "topics", "describe", "twice", "--json").out)["retention_ms"] == 3_600_000


def test_none_keeps_everything_whatever_the_server_does_by_itself(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--retention-ms", "1d") as server:
        run(server, "topics", "create", "usual")
        run(server, "topics", "create", "forever", "--retention-ms", "none")
        kept = [json.loads(run(server, "topics", "describe", name, "--json").out) for name in ("usual", "forever")]
    assert [each["retention_ms"] for each in kept] == [86_400_000, None]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "x", "--retention-ms", "soon"), "--retention-ms 'soon' is not allowed; allowed: a whole number"),
        (("create", "x", "--segment-bytes", "none"), "--segment-bytes 'none' is not allowed"),
        (("create", "no/slash"), "no/slash"),
        (("set", "x"), "give what to change"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    server: Process, arguments: tuple[str, ...], told: str
) -> None:
    refused = run(server, "topics", *arguments)
    assert (refused.code, refused.out) == (2, b"")
    assert told in refused.err
    assert server.ask("GET", "/topics/x").status == 404


def test_deleting_asks_on_a_terminal_and_needs_yes_elsewhere(server: Process) -> None:
    run(server, "produce", "kept", "x")
    refused = run(server, "topics", "delete", "kept")
    assert (refused.code, refused.err) == (2, "flashq: nobody is here to ask. Nothing was done\nhint: add --yes\n")
    question = "Delete topic kept with 1 record, and what groups have committed in it? [y/N]: "
    code, seen = on_terminal(server, ["topics", "delete", "kept"], "n\n")
    assert (code, question in seen, "nothing was done" in seen) == (0, True, True)
    assert server.ask("GET", "/topics/kept").status == 200
    code, seen = on_terminal(server, ["topics", "delete", "kept"], "y\n")
    assert (code, "deleted kept" in seen) == (0, True)
    assert server.ask("GET", "/topics/kept").status == 404


def test_ctrl_c_at_the_question_is_an_interrupt_and_ctrl_d_a_no(server: Process) -> None:
    run(server, "produce", "asked-for", "x")
    code, seen = on_terminal(server, ["topics", "delete", "asked-for"], interrupt_at="[y/N]: ")
    assert (code, seen.splitlines()[-1]) == (130, "nothing was done")
    code, seen = on_terminal(server, ["topics", "delete", "asked-for"], "\x04")
    assert (code, seen.splitlines()[-1]) == (0, "nothing was done")
    assert server.ask("GET", "/topics/asked-for").status == 200


def test_without_a_server_every_verb_says_so_with_exit_code_7() -> None:
    verbs = [("list",), ("create", "x"), ("describe", "x"), ("set", "x", "--retention-ms", "1d"), ("delete", "x")]
    with ThreadPoolExecutor(len(verbs)) as pool:  # each tries again for a second or so
        everyone = pool.map(lambda verb: run(None, "topics", *verb, "--server", "http://127.0.0.1:9"), verbs)
    for ended in everyone:
        assert ended.code == 7
        assert ended.err.startswith("flashq: no connection to http://127.0.0.1:9"), ended
