"""`flashq groups` against a server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from flashq.api.schemas import GroupOffset, GroupTopic
from flashq.cli.groups import _row
from flashq.cli.output import span
from tests.api.test_topics import SWEEPING, wait_for
from tests.cli.commands import on_terminal, run
from tests.server.running import Process, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """With retention that does not wait for ten seconds."""
    with serving(tmp_path_factory.mktemp("server") / "data", command=SWEEPING) as process:
        yield process


@pytest.fixture
def orders(server: Process) -> str:
    """A topic of five records."""
    if server.ask("GET", "/topics/orders").status == 404:
        assert run(server, "produce", "orders", "--file", "-", given=b"a\nb\nc\nd\ne\n").code == 0
    return "orders"


def test_a_group_is_created_commits_and_shows_its_lag_in_records_and_in_time(server: Process, orders: str) -> None:
    assert run(server, "groups", "create", "billing").lines == ["created billing"]
    moved = run(server, "groups", "commit", "billing", orders, "2", "--metadata", "by hand")
    assert [line.split() for line in moved.lines] == [
        ["GROUP", "TOPIC", "BEFORE", "AFTER"],
        ["billing", "orders", "0", "2"],
    ]
    titles, row = run(server, "groups", "describe", "billing").lines
    assert titles.split() == ["TOPIC", "COMMITTED", "END", "LAG", "BEHIND", "LAST", "COMMIT", "NOTE"]
    assert row.split()[:4] == ["orders", "2", "5", "3"]
    assert row.endswith("Z  by hand")
    stands = json.loads(run(server, "groups", "describe", "billing", "--json").out)
    assert (stands["committed_offset"], stands["lag"], stands["metadata"]) == (2, 3, "by hand")
    assert 0 <= stands["behind_s"] < 120
    assert json.loads(run(server, "groups", "list", "--json").lines[0]) == {
        "group_id": "billing",
        "topics": 1,
        "lag": 3,
    }
    assert ["billing", "1", "3"] in [line.split() for line in run(server, "groups", "list").lines]
    assert run(server, "groups", "delete", "billing", "--yes").lines == ["deleted billing"]
    assert run(server, "groups", "describe", "billing").code == 1


def test_behind_is_told_by_the_oldest_record_left_when_retention_was_faster(server: Process) -> None:
    run(server, "topics", "create", "short", "--segment-bytes", "1MiB")
    run(server, "groups", "create", "slow")
    lines = b"".join(b"%d%s\n" % (number, b"x" * 4000) for number in range(600))
    run(server, "produce", "short", "--file", "-", given=lines)
    run(server, "groups", "commit", "slow", "short", "0")
    run(server, "topics", "set", "short", "--retention-bytes", "1")
    wait_for(lambda: server.ask("GET", "/topics/short").json()["log_start_offset"] > 0)
    stands = json.loads(run(server, "groups", "describe", "slow", "--json").out)
    assert stands["lag"] == 600
    assert 0 <= stands["behind_s"] < 120


def test_a_topic_without_a_commit_is_shown_when_asked_for(server: Process, orders: str) -> None:
    run(server, "groups", "create", "fresh")
    assert run(server, "groups", "describe", "fresh").lines[1:] == []
    _, row = run(server, "groups", "describe", "fresh", "--topic", orders).lines
    assert row.split()[:4] == ["orders", "0", "5", "5"]
    assert row.endswith("never")


def test_a_group_that_has_read_everything_is_not_behind(server: Process, orders: str) -> None:
    run(server, "groups", "create", "done")
    run(server, "groups", "commit", "done", orders, "5")
    stands = json.loads(run(server, "groups", "describe", "done", "--json").out)
    assert (stands["lag"], stands["behind_s"]) == (0, None)


@pytest.mark.parametrize(
    ("to", "after"), [("earliest", 0), ("latest", 5), ("3", 3), ("2020-01-01", 0), ("9999999999999", 5)]
)
def test_a_reset_shows_before_and_after_and_a_dry_run_changes_nothing(
    server: Process, orders: str, to: str, after: int
) -> None:
    run(server, "groups", "create", "moved", "--if-not-exists")
    run(server, "groups", "commit", "moved", orders, "1")
    dry = run(server, "groups", "reset", "moved", orders, "--to", to, "--dry-run")
    assert dry.lines[1].split() == ["moved", "orders", "1", str(after)]
    assert dry.err == "dry run: nothing was changed\n"
    told = json.loads(run(server, "groups", "reset", "moved", orders, "--to", to, "--json").out)
    assert told == {"group_id": "moved", "topic": "orders", "before": 1, "after": after, "dry_run": False}
    stands = json.loads(run(server, "groups", "describe", "moved", "--json").out)
    assert stands["committed_offset"] == after


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("reset", "g", "orders", "--to", "soon"), "--to is 'soon'; it is earliest, latest, an offset or a time"),
        (
            ("commit", "g", "orders", "6"),
            "offset 6 is beyond the high water mark 5 of topic orders",
        ),
        (("commit", "g", "orders", "-1"), "No such option"),
        (("reset", "g", "orders"), "Missing option '--to'"),
        (("create", "g"), "group g is there already. Nothing was changed"),
        (("delete", "g"), "nobody is here to ask. Nothing was done"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    server: Process, orders: str, arguments: tuple[str, ...], told: str
) -> None:
    run(server, "groups", "create", "g", "--if-not-exists")
    run(server, "groups", "commit", "g", orders, "1")
    refused = run(server, "groups", *arguments)
    assert (refused.code, refused.out) == (2, b"")
    assert told in refused.err
    assert json.loads(run(server, "groups", "describe", "g", "--json").out)["committed_offset"] == 1


def test_deleting_asks_on_a_terminal(server: Process) -> None:
    run(server, "groups", "create", "asked")
    code, seen = on_terminal(server, ["groups", "delete", "asked"], "n\n")
    assert (code, "Delete group asked and its offsets in 0 topics? [y/N]: " in seen) == (0, True)
    assert "asked" in run(server, "groups", "list").out.decode()
    code, seen = on_terminal(server, ["groups", "delete", "asked"], "y\n")
    assert (code, "deleted asked" in seen) == (0, True)
    assert "asked" not in run(server, "groups", "list").out.decode()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (45, "45s"), (60, "1m"), (200, "3m 20s"), (7500, "2h 5m"), (86_400, "1d"), (356_400, "4d 3h")],
)
def test_a_time_span_is_shown_in_its_two_largest_units(seconds: int, shown: str) -> None:
    assert span(seconds) == shown


def test_a_commit_whose_time_is_not_told_is_not_shown_as_none() -> None:
    """As of a group that a program of Kafka's has committed."""
    assert _row(GroupOffset("g", "t", 3, 5, 2, None), None)[5] == "not told"
    assert _row(GroupTopic("t", 3, 5, 2, None), None)[5] == "not told"
    assert _row(GroupOffset("g", "t", 0, 5, 5), None)[5] == "never"
