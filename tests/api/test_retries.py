"""`Idempotency-Key` and `If-Next-Offset` over HTTP: what a client that retries meets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.running import JSON, Answer, Process, serving


def post(server: Process, topic: str, value: str, key: str | None = None, **headers: str) -> Answer:
    fields = JSON | ({} if key is None else {"Idempotency-Key": key}) | headers
    return server.ask("POST", f"/topics/{topic}/records", json.dumps({"records": [{"value": value}]}).encode(), fields)


def test_a_repetition_has_the_first_answer_byte_for_byte(server: Process) -> None:
    first = post(server, "repeated", "a", "k")
    post(server, "repeated", "b")
    again = post(server, "repeated", "a", "k")
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["x-flashq-durability"] == first.headers["x-flashq-durability"]


def test_lines_are_repeated_as_lines(server: Process) -> None:
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "k"}
    answers = [server.ask("POST", "/topics/lines/records", b'{"value":"a"}\n{"value":"b"}\n', headers) for _ in "ab"]
    assert [answer.json() for answer in answers] == [{"first_offset": 0, "last_offset": 1, "count": 2}] * 2


def test_retries_on_many_connections_at_once_store_one_record(server: Process) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: post(server, "at-once", f"{n % 4}", f"k{n % 4}"), range(160)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) <= 4
    assert sorted(record["value"] for record in server.read_all("at-once")) == list("0123")


def test_pipelined_posts_with_and_without_keys_keep_their_order(server: Process) -> None:
    requests = b""
    for n in range(60):
        key = f"Idempotency-Key: k{n}\r\n" if n % 3 == 0 else f"If-Next-Offset: {n}\r\n" if n % 3 == 1 else ""
        body = json.dumps({"records": [{"value": str(n)}]})
        requests += (
            f"POST /topics/in-order/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{key}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    with server.connect() as connection:
        connection.send(requests)
        offsets = [connection.receive().json()["offsets"][0]["offset"] for _ in range(60)]
    assert offsets == list(range(60))
    assert [record["value"] for record in server.read_all("in-order")] == [str(n) for n in range(60)]


def test_one_of_many_conditional_posts_wins(server: Process) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: post(server, "race", str(n), **{"If-Next-Offset": "0"}), range(32)))
    assert sorted(answer.status for answer in answers) == [200] + [412] * 31
    assert server.poll("race")["high_water_mark"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "x" * 256),
        ("Idempotency-Key", "with space"),
        ("Idempotency-Key", "\xe9"),
        ("If-Next-Offset", ""),
        ("If-Next-Offset", "-1"),
        ("If-Next-Offset", "+1"),
        ("If-Next-Offset", "1.0"),
        ("If-Next-Offset", "9223372036854775808"),
        ("If-Next-Offset", "*"),
    ],
)
def test_a_bad_header_is_refused_by_name_and_nothing_is_stored(server: Process, name: str, value: str) -> None:
    answer = post(server, "refused", "a", **{name: value})
    assert (answer.status, answer.json()["error"]) == (400, "invalid_parameter")
    assert answer.json()["details"] == {"parameter": name, "outcome": "not_applied"}
    assert server.ask("GET", "/topics/refused").status == 404


def test_a_header_given_twice_is_refused(server: Process) -> None:
    body = b'{"records":[{"value":"a"}]}'
    with server.connect() as connection:
        connection.send(
            b"POST /topics/twice/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert connection.receive().status == 400


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_retry_after_a_restart_has_the_first_answer(tmp_path: Path, kill: bool) -> None:
    with serving(tmp_path / "data", "--segment-bytes", "65536") as server:
        first = [post(server, "t", f"{n}" * 3000, f"k{n}").body for n in range(40)]
        server.kill() if kill else server.stop()
    with serving(tmp_path / "data", "--segment-bytes", "65536") as server:
        with ThreadPoolExecutor(8) as pool:  # the keys are loaded while these wait
            again = list(pool.map(lambda n: post(server, "t", f"{n}" * 3000, f"k{n}").body, range(40)))
        assert again == first
        assert post(server, "t", "other", "k7").json()["error"] == "idempotency_key_reused"
        assert server.poll("t", max_bytes=1)["high_water_mark"] == 40
