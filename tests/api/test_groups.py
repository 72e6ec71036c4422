"""Consumer groups over HTTP as a checklist: create, list, describe, delete; what is refused, what a restart keeps."""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.api.standing import At, fresh
from tests.api.test_limits_and_statuses import BAD_NAMES, assert_error
from tests.api.test_topics import SWEEPING, put, wait_for
from tests.server.running import JSON, Process, serving

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_fresh = itertools.count()


@pytest.fixture
def at(server: Process) -> At:
    return fresh(server)


@pytest.fixture
def group() -> str:
    """A group that is not there yet."""
    return f"new-{next(_fresh)}"


def groups(server: Process) -> list[str]:
    answer = server.ask("GET", "/consumer")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return [each["group_id"] for each in answer.json()["groups"]]


# -- create, list, delete


def test_a_group_is_created_once(server: Process, group: str) -> None:
    for created in (True, False, False):
        answer = server.ask("POST", f"/consumer/{group}")
        assert (answer.status, answer.json()) == (200, {"group_id": group, "created": created})
    assert groups(server).count(group) == 1


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", JSON),
        (b'{"auto_offset_reset": "earliest"}', JSON),
        (b"not json", JSON),
        (b"", JSON),
        (b"", {}),
        (None, {}),
    ],
)
def test_a_body_is_tolerated_when_a_group_is_created(
    server: Process, group: str, body: bytes | None, headers: dict[str, str]
) -> None:
    answer = server.ask("POST", f"/consumer/{group}", body, headers)
    assert (answer.status, answer.json()) == (200, {"group_id": group, "created": True})


def test_of_many_that_create_a_group_at_once_one_does(server: Process, group: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda _: server.ask("POST", f"/consumer/{group}").json()["created"], range(8)))
    assert sorted(created) == [False] * 7 + [True]


def test_the_list_has_every_group_by_name(server: Process, group: str) -> None:
    for name in (f"{group}-b", f"{group}-a"):
        server.ask("POST", f"/consumer/{name}")
    assert groups(server) == sorted(groups(server))
    assert {f"{group}-a", f"{group}-b"} <= set(groups(server))


def test_health_counts_groups(server: Process, group: str) -> None:
    before = server.ask("GET", "/health").json()["consumer_groups_count"]
    server.ask("POST", f"/consumer/{group}")
    assert server.ask("GET", "/health").json()["consumer_groups_count"] == before + 1


def test_a_deleted_group_is_gone_with_its_offsets(at: At) -> None:
    at.commit(4)
    answer = at.server.ask("DELETE", f"/consumer/{at.group}")
    assert (answer.status, answer.body) == (204, b"")
    assert at.group not in groups(at.server)
    gone = {"group_id": at.group}
    for method, path in (("GET", f"/consumer/{at.group}"), ("DELETE", f"/consumer/{at.group}"), ("GET", at.path)):
        assert_error(at.server.ask(method, path), 404, "group_not_found", gone)
    assert_error(at.commit(1), 404, "group_not_found", {**gone, "outcome": "not_applied"})
    assert at.server.ask("POST", f"/consumer/{at.group}").json()["created"] is True
    assert at.committed() == 0


def test_deleting_a_group_leaves_the_others_and_the_topic(at: At) -> None:
    other = fresh(at.server)
    for each in (at, other._replace(topic=at.topic)):
        each.commit(3)
    at.server.ask("DELETE", f"/consumer/{at.group}")
    assert other._replace(topic=at.topic).committed() == 3
    assert len(at.server.read_all(at.topic)) == 5


# -- where a group stands


def test_a_group_stands_at_0_before_its_first_commit(at: At) -> None:
    assert at.stands() == {
        "group_id": at.group, "topic": at.topic, "committed_offset": 0, "high_water_mark": 5, "lag": 5,
    }  # fmt: skip
    assert at.server.ask("GET", f"/consumer/{at.group}").json() == {"group_id": at.group, "topics": []}


def test_a_commit_is_told_the_same_everywhere(at: At) -> None:
    before = datetime.now(UTC)
    answer = at.commit(3, metadata="half way")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    stamp = answer.json()["timestamp"]
    assert answer.json() == {
        "group_id": at.group, "topic": at.topic, "offset": 3, "committed_offset": 3, "timestamp": stamp,
    }  # fmt: skip
    assert TIMESTAMP.fullmatch(stamp)
    assert abs((datetime.fromisoformat(stamp) - before).total_seconds()) < 10
    stands = {
        "topic": at.topic, "committed_offset": 3, "high_water_mark": 5, "lag": 2,
        "last_commit_time": stamp, "metadata": "half way",
    }  # fmt: skip
    assert at.stands() == {"group_id": at.group, **stands}
    assert at.server.ask("GET", f"/consumer/{at.group}").json() == {"group_id": at.group, "topics": [stands]}


def test_lag_grows_with_the_topic_and_reading_does_not_change_it(at: At) -> None:
    at.commit(5)
    at.server.post(at.topic, "more", "more")
    at.server.read_all(at.topic)
    told = at.stands()
    assert (told["committed_offset"], told["high_water_mark"], told["lag"]) == (5, 7, 2)


def test_a_group_is_described_by_the_topics_it_has_committed_in_by_name(at: At) -> None:
    for topic, offset in ((f"{at.topic}-b", 1), (f"{at.topic}-a", 0)):
        at.server.post(topic, "x")
        at._replace(topic=topic).commit(offset)
    described = at.server.ask("GET", f"/consumer/{at.group}").json()["topics"]
    assert [(each["topic"], each["committed_offset"], each["lag"]) for each in described] == [
        (f"{at.topic}-a", 0, 1), (f"{at.topic}-b", 1, 0),
    ]  # fmt: skip
    assert all("metadata" not in each for each in described)


def test_groups_do_not_share_offsets(at: At) -> None:
    other = fresh(at.server)._replace(topic=at.topic)
    at.commit(4)
    assert (at.committed(), other.committed()) == (4, 0)


# -- refused everywhere

GROUP_ROUTES = [("POST", "/consumer/{group}"), ("GET", "/consumer/{group}"), ("DELETE", "/consumer/{group}")]
OFFSET = "/consumer/{group}/topics/{topic}/offset"
OFFSET_ROUTES: list[tuple[str, str, bytes | None]] = [
    ("GET", OFFSET, None),
    ("POST", OFFSET, b'{"offset": 0}'),
    ("POST", f"{OFFSET}/reset", b'{"to": "earliest"}'),
    ("POST", f"{OFFSET}/reset", b'{"to": "earliest", "dry_run": true}'),
    ("POST", f"{OFFSET}/reset", b'{"to": "time", "time": 0}'),
]
ALL_ROUTES = [("GET", "/consumer", None), *[(method, route, None) for method, route in GROUP_ROUTES], *OFFSET_ROUTES]


def outcome(method: str) -> dict[str, object]:
    return {} if method == "GET" else {"outcome": "not_applied"}


@pytest.mark.parametrize(("method", "route", "body"), OFFSET_ROUTES)
def test_an_unknown_topic_or_group_is_404_and_not_created(at: At, method: str, route: str, body: bytes | None) -> None:
    for group, topic, error in (
        ("nobody", at.topic, "group_not_found"), (at.group, "nothing", "topic_not_found"),
    ):  # fmt: skip
        answer = at.server.ask(method, route.format(group=group, topic=topic), body, JSON)
        assert_error(answer, 404, error, outcome(method))
    assert "nobody" not in groups(at.server)
    assert at.server.ask("GET", "/topics/nothing").status == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_group_is_404(server: Process, method: str) -> None:
    answer = server.ask(method, "/consumer/nobody")
    assert_error(answer, 404, "group_not_found", {"group_id": "nobody", **outcome(method)})


@pytest.mark.parametrize(("says", "written"), BAD_NAMES, ids=[row[0] for row in BAD_NAMES])
def test_a_bad_name_is_refused(at: At, says: str, written: str) -> None:
    before = groups(at.server)
    for method, route in GROUP_ROUTES:
        answer = at.server.ask(method, route.format(group=written))
        assert_error(answer, 400, "invalid_parameter", {"parameter": "group", **outcome(method)})
    for method, route, body in OFFSET_ROUTES:
        answer = at.server.ask(method, route.format(group=written, topic=at.topic), body, JSON)
        assert_error(answer, 400, "invalid_parameter", {"parameter": "group", **outcome(method)})
        answer = at.server.ask(method, route.format(group=at.group, topic=written), body, JSON)
        assert_error(answer, 400, "invalid_parameter", {"parameter": "topic", **outcome(method)})
    assert groups(at.server) == before


def test_names_are_percent_decoded(at: At) -> None:
    encoded = at._replace(group=at.group.replace("g", "%67", 1), topic=at.topic.replace("r", "%72", 1))
    assert encoded.commit(2).json()["group_id"] == at.group
    assert at.committed() == 2


@pytest.mark.parametrize(("method", "route", "body"), ALL_ROUTES)
@pytest.mark.parametrize("query", ["from_offset=0", "dry_run=true", "x", "x=1&x=2"])
def test_a_parameter_is_refused_and_nothing_is_done(
    at: At, method: str, route: str, body: bytes | None, query: str
) -> None:
    at.commit(3)
    answer = at.server.ask(method, f"{route.format(group=at.group, topic=at.topic)}?{query}", body, JSON)
    assert_error(answer, 400, "invalid_parameter", outcome(method))
    assert at.committed() == 3


@pytest.mark.parametrize(
    ("path", "methods", "allowed"),
    [
        ("/consumer", ("POST", "PUT", "DELETE"), "GET, HEAD"),
        ("/consumer/any", ("PUT", "PATCH"), "DELETE, GET, HEAD, POST"),
        ("/consumer/any/topics/any/offset", ("PUT", "DELETE"), "GET, HEAD, POST"),
        ("/consumer/any/topics/any/offset/reset", ("GET", "PUT", "DELETE"), "POST"),
    ],
)
def test_another_method_is_405(server: Process, path: str, methods: tuple[str, ...], allowed: str) -> None:
    for method in methods:
        answer = server.ask(method, path)
        assert_error(answer, 405, "method_not_allowed", {"allow": allowed.split(", ")})
        assert answer.headers["allow"] == allowed


# -- retention and restarts


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_where_records_were_removed_the_start_is_the_earliest(tmp_path: Path, storage: str) -> None:
    with serving(tmp_path / "data", "--storage", storage, command=SWEEPING) as server:
        at = fresh(server)
        put(server, at.topic, retention_ms=0)
        wait_for(lambda: bool(server.ask("GET", f"/topics/{at.topic}").json()["log_start_offset"] == 5))
        put(server, at.topic, retention_ms=None)
        server.post(at.topic, "5", "6")
        assert at.stands()["lag"] == 7
        assert at.reset(to="earliest").json() == {"before": 0, "after": 5}
        assert at.reset(to="time", time=0).json() == {"before": 5, "after": 5}
        refused = at.reset(to="offset", offset=4)
        assert_error(refused, 400, "invalid_offset", {"offset": 4, "min_offset": 5, "max_offset": 7})


@pytest.mark.parametrize("sync_mode", ["always", "periodic", "never"])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, sync_mode: str) -> None:
    with serving(tmp_path / "data", "--sync-mode", sync_mode) as server:
        at, moved, deleted, again = (fresh(server) for _ in range(4))
        for each in (at, moved, deleted, again):
            each.commit(2, metadata="first")
            each.commit(4, metadata="last")
        moved.reset(to="offset", offset=1)
        for each in (deleted, again):
            server.ask("DELETE", f"/consumer/{each.group}")
        server.ask("POST", f"/consumer/{again.group}")
        server.ask("DELETE", f"/topics/{deleted.topic}")
        stands = at.stands(), moved.stands(), groups(server)
        server.kill()
    with serving(tmp_path / "data", "--sync-mode", sync_mode) as server:
        at, moved, again = (each._replace(server=server) for each in (at, moved, again))
        assert (at.stands(), moved.stands(), groups(server)) == stands
        assert (at.committed(), at.stands()["metadata"], moved.committed()) == (4, "last", 1)
        assert deleted.group not in groups(server)
        assert again.committed() == 0
        assert server.ask("GET", f"/consumer/{again.group}").json()["topics"] == []
        assert_error(server.ask("GET", f"/consumer/{deleted.group}"), 404, "group_not_found", {})


def test_a_topic_deleted_and_made_again_has_no_old_offsets_also_after_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        at = fresh(server)
        at.commit(5)
        server.ask("DELETE", f"/topics/{at.topic}")
        server.post(at.topic, "new")
        server.kill()
    with serving(tmp_path / "data") as server:
        assert at._replace(server=server).stands()["committed_offset"] == 0
