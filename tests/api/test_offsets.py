"""Commits and resets over HTTP as a checklist: where they lead, and what is refused and changes nothing."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from tests.api.standing import At, fresh
from tests.api.test_limits_and_statuses import assert_error
from tests.server.running import JSON, Process

HUGE = "9" * 4000
RefusedBody = tuple[str, bytes, dict[str, str], int, str, Mapping[str, object]]
"""What it is, the body and headers sent, and the status, error and details that answer it."""


@pytest.fixture
def at(server: Process) -> At:
    return fresh(server)


# -- commit


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_up_to_the_high_water_mark_is_committed_also_back(at: At, offset: int) -> None:
    at.commit(5)
    assert at.commit(offset).status == 200
    assert at.committed() == offset


@pytest.mark.parametrize("note", ["", "é" * 2048, "\x00\n🙂", "x" * 4096])
def test_a_note_comes_back_as_it_was(at: At, note: str) -> None:
    assert at.commit(1, metadata=note).status == 200
    assert at.stands()["metadata"] == note
    assert at.commit(1, metadata=None).status == 200
    assert "metadata" not in at.stands()


@pytest.mark.parametrize("offset", [6, 1000, 2**63 - 1, -1, -(2**63)])
def test_an_offset_that_no_reader_can_have_reached_is_refused(at: At, offset: int) -> None:
    at.commit(2)
    details = {"offset": offset, "topic": at.topic, "max_offset": 5, "outcome": "not_applied"}
    assert_error(at.commit(offset), 400, "invalid_offset", details)
    assert at.committed() == 2


TOO_LONG = {"field": "metadata", "max_size": 4096, "outcome": "not_applied"}
REFUSED_COMMITS: list[RefusedBody] = [
    ("a note of 4097 bytes", json.dumps({"offset": 1, "metadata": "x" * 4097}).encode(), JSON, 400,
     "validation_error", {**TOO_LONG, "actual_size": 4097}),
    ("a note of 2049 characters", json.dumps({"offset": 1, "metadata": "é" * 2049}).encode(), JSON, 400,
     "validation_error", {**TOO_LONG, "actual_size": 4098}),
    ("no body", b"", JSON, 400, "invalid_json", {}),
    ("not JSON", b"{offset: 1}", JSON, 400, "invalid_json", {}),
    ("a lone surrogate", rb'{"offset": 1, "metadata": "\ud800"}', JSON, 400, "invalid_json", {}),
    ("no offset", b"{}", JSON, 422, "invalid_body", {}),
    ("a null offset", b'{"offset": null}', JSON, 422, "invalid_body", {}),
    ("a text for an offset", b'{"offset": "1"}', JSON, 422, "invalid_body", {}),
    ("a fraction", b'{"offset": 1.5}', JSON, 422, "invalid_body", {}),
    ("a boolean", b'{"offset": true}', JSON, 422, "invalid_body", {}),
    ("an offset over 63 bits", b'{"offset": 9223372036854775808}', JSON, 422, "invalid_body", {}),
    ("an offset of 4000 digits", f'{{"offset": {HUGE}}}'.encode(), JSON, 422, "invalid_body", {}),
    ("an unknown field", b'{"offset": 1, "offsets": 2}', JSON, 422, "invalid_body", {}),
    ("a number for a note", b'{"offset": 1, "metadata": 5}', JSON, 422, "invalid_body", {}),
    ("a list", b"[1]", JSON, 422, "invalid_body", {}),
    ("no content type", b'{"offset": 1}', {}, 415, "unsupported_media_type", {}),
    ("another content type", b'{"offset": 1}', {"Content-Type": "text/plain"}, 415, "unsupported_media_type", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says", "body", "headers", "status", "error", "details"), REFUSED_COMMITS, ids=[row[0] for row in REFUSED_COMMITS]
)
def test_is_no_commit(
    at: At, says: str, body: bytes, headers: dict[str, str], status: int, error: str, details: Mapping[str, object]
) -> None:
    answer = at.server.ask("POST", at.path, body, headers)
    assert_error(answer, status, error, {**details, "outcome": "not_applied"})
    assert "last_commit_time" not in at.stands()


def test_of_many_commits_one_after_the_other_the_last_counts(at: At) -> None:
    with at.server.connect() as connection:
        offsets = [number % 6 for number in range(200)]
        connection.send(b"".join(connection.encode("POST", at.path, {"offset": offset}) for offset in offsets))
        answers = [connection.receive() for _ in offsets]
    assert [answer.json()["offset"] for answer in answers] == offsets
    assert at.committed() == offsets[-1]


def test_commits_while_the_group_is_deleted_and_made_again_are_200_or_404(at: At) -> None:
    def work(number: int) -> set[tuple[str, int]]:
        done = set()
        for _ in range(15):
            if number % 4 == 0:
                done.add(("DELETE", at.server.ask("DELETE", f"/consumer/{at.group}").status))
                done.add(("CREATE", at.server.ask("POST", f"/consumer/{at.group}").status))
            elif number % 4 == 1:
                done.add(("RESET", at.reset(to="latest").status))
            else:
                done.add(("COMMIT", at.commit(3).status))
        return done

    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(work, range(8)))
    assert seen <= {
        ("DELETE", 204), ("DELETE", 404), ("CREATE", 200), *itertools.product(("COMMIT", "RESET"), (200, 404)),
    }  # fmt: skip


# -- reset


RESETS: list[tuple[str, dict[str, object], int]] = [
    ("the start", {"to": "earliest"}, 0),
    ("the end", {"to": "latest"}, 5),
    ("the first offset", {"to": "offset", "offset": 0}, 0),
    ("an offset between", {"to": "offset", "offset": 2}, 2),
    ("the offset at the end", {"to": "offset", "offset": 5}, 5),
    ("nulls for what does not belong", {"to": "latest", "offset": None, "time": None}, 5),
    ("a time before all", {"to": "time", "time": "2020-01-01T00:00:00.000Z"}, 0),
    ("a date", {"to": "time", "time": "2020-01-01"}, 0),
    ("a time with an offset", {"to": "time", "time": "2020-01-01T00:00:00+02:00"}, 0),
    ("a time of 0 ms", {"to": "time", "time": 0}, 0),
    ("a time after all", {"to": "time", "time": "2200-01-01"}, 5),
    ("Unix milliseconds", {"to": "time", "time": 7_000_000_000_000}, 5),
    ("Unix milliseconds as text", {"to": "time", "time": "7000000000000"}, 5),
]


@pytest.mark.parametrize(("says", "body", "after"), RESETS, ids=[row[0] for row in RESETS])
def test_resets_to(at: At, says: str, body: dict[str, object], after: int) -> None:
    at.commit(3, metadata="before")
    dry = at.reset(**body, dry_run=True)
    assert (dry.status, dry.json()) == (200, {"before": 3, "after": after})
    assert (at.committed(), at.stands()["metadata"]) == (3, "before")
    answer = at.reset(**body)
    assert (answer.status, answer.json()) == (200, {"before": 3, "after": after})
    assert at.committed() == after
    assert "metadata" not in at.stands()
    assert at.reset(**body).json() == {"before": after, "after": after}


def test_a_reset_to_a_time_goes_to_the_first_record_stored_then_or_later(at: At) -> None:
    time.sleep(0.01)
    stamp = at.server.post(at.topic, "5", "6")[0]["timestamp"]
    time.sleep(0.01)
    at.server.post(at.topic, "7")
    assert at.reset(to="time", time=stamp).json()["after"] == 5
    unix_ms = round(datetime.fromisoformat(stamp).timestamp() * 1000)
    assert at.reset(to="time", time=unix_ms).json()["after"] == 5
    assert at.reset(to="time", time=unix_ms + 1).json()["after"] == 7


def test_a_dry_run_before_the_first_commit_leaves_it_so(at: At) -> None:
    assert at.reset(to="latest", dry_run=True).json() == {"before": 0, "after": 5}
    assert "last_commit_time" not in at.stands()


def not_in_the_log(offset: int) -> RefusedBody:
    body = json.dumps({"to": "offset", "offset": offset}).encode()
    details = {"offset": offset, "min_offset": 0, "max_offset": 5}
    return f"to offset {offset}", body, JSON, 400, "invalid_offset", details


REFUSED_RESETS: list[RefusedBody] = [
    *[not_in_the_log(offset) for offset in (-1, 6, 2**63 - 1, -(2**63))],
    *[(f"a body {body}", body.encode(), JSON, 422, "invalid_body", {}) for body in (
        "{}", "[]", "null", '{"to": null}', '{"to": "start"}', '{"to": "Earliest"}', '{"to": 5}',
        '{"to": "offset"}', '{"to": "offset", "offset": null}', '{"to": "offset", "time": 5}',
        '{"to": "offset", "offset": 1, "time": 5}', '{"to": "offset", "offset": "1"}',
        '{"to": "offset", "offset": 9223372036854775808}',
        '{"to": "time"}', '{"to": "time", "offset": 1}', '{"to": "time", "time": 5, "offset": 1}',
        '{"to": "time", "time": "yesterday"}', '{"to": "time", "time": ""}', '{"to": "time", "time": -1}',
        '{"to": "time", "time": 1.5}', '{"to": "time", "time": "2026-01-15T10:30:45"}',
        '{"to": "time", "time": 9999999999999999}', '{"to": "time", "time": "2026-02-30"}',
        '{"to": "earliest", "offset": 0}', '{"to": "latest", "time": 0}', '{"to": "latest", "dryrun": true}',
        '{"to": "latest", "dry_run": "yes"}', '{"to": "latest", "dry_run": null}',
    )],
    ("a time of 4000 digits", f'{{"to": "time", "time": {HUGE}}}'.encode(), JSON, 422, "invalid_body", {}),
    ("no body", b"", JSON, 400, "invalid_json", {}),
    ("not JSON", b"earliest", JSON, 400, "invalid_json", {}),
    ("no content type", b'{"to": "latest"}', {}, 415, "unsupported_media_type", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says", "body", "headers", "status", "error", "details"), REFUSED_RESETS, ids=[row[0] for row in REFUSED_RESETS]
)
def test_is_no_reset(
    at: At, says: str, body: bytes, headers: dict[str, str], status: int, error: str, details: Mapping[str, object]
) -> None:
    at.commit(3)
    answer = at.server.ask("POST", f"{at.path}/reset", body, headers)
    assert_error(answer, status, error, {**details, "outcome": "not_applied"})
    assert at.committed() == 3
