"""What SECURITY.md promises, tried on a running server from outside: tokens, paths, hostile directories, log lines."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.http.edge import Edge
from flashq.http.head import Limits
from flashq.http.message import Request, Response
from tests.http.serving import serving as serving_here
from tests.server.running import JSON, flashq, serving

TOKEN = "a-token-nobody-else-has-5f1d"
HOSTILE_NAMES = ("a b", "a\nb", "\x1b[31mred", "a\x00b"[:1] + "\u202eb", "%2e%2e", "-x", "x" * 200 + "\u00e9")


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# -- the token


def test_the_token_is_in_no_line_whatever_is_asked_and_in_no_answer(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--log-level", "debug", environ={"FLASHQ_TOKEN": TOKEN}) as server:
        right = {"Authorization": f"Bearer {TOKEN}"}
        answers = [
            server.ask("GET", "/topics", headers=right),
            server.ask("GET", f"/topics/{TOKEN}-", headers=right),
            server.ask("GET", "/topics", headers={"Authorization": f"Bearer {TOKEN}x"}),
            server.ask("GET", "/topics", headers={"Authorization": f"Basic {TOKEN}"}),
            server.ask("GET", "/metrics", headers=right),
            server.ask("GET", "/openapi.json", headers=right),
            server.ask("POST", "/topics/t/records", b"{", {**JSON, **right}),
        ]
        assert [answer.status for answer in answers] == [200, 404, 401, 401, 200, 200, 400]
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\x01: bad\r\n\r\n".encode())
            assert TOKEN.encode() not in client.recv(65536)
        for answer in (*answers[:1], *answers[2:]):
            assert TOKEN.encode() not in answer.body
        assert TOKEN not in server.log()
        assert TOKEN not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_no_flag_takes_a_token(tmp_path: Path) -> None:
    with flashq("--token", TOKEN, "--data-dir", str(tmp_path / "data"), log=tmp_path / "log") as server:
        assert server.wait() == 2
        assert "--token" in server.log()
        assert not (tmp_path / "data").exists()


def test_a_token_is_compared_in_a_time_that_does_not_tell_how_much_was_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest` and nothing before it: every token that is told reaches it whole."""
    compared: list[bytes] = []
    real: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def noting(told: bytes, token: bytes) -> bool:
        compared.append(told)
        return real(told, token)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    gate = Edge(token=TOKEN)

    def handle(request: Request) -> Response:
        with contextlib.suppress(Exception):
            gate.check_token(request)
            return Response(200)
        return Response(401)

    guesses = ["", "a", TOKEN[:-1], TOKEN + "x", TOKEN, "\u00ff" * 40]
    with serving_here(handle, Limits()) as served:
        seen = [
            served.ask(
                f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {guess}\r\n\r\n".encode()
            )
            for guess in guesses
        ]
    assert [answer[9:12] for answer in seen] == [b"401", b"401", b"401", b"401", b"200", b"401"]
    assert compared == [guess.encode() for guess in guesses]


# -- paths


NO_NAMES = (
    "..", ".", "%2e%2e", "%2e", "..%2f..%2fetc", "%2fetc%2fpasswd", "a%2fb", "a%5cb", "%c0%ae%c0%ae", "a%00b",
    "a%0ab", "%0d%0aset-cookie:x", "a%20b", "%ff", "~", "a%25", "%E2%80%AE", "x" * 256, "-rf", "*", "nul:",
)  # fmt: skip


def test_no_name_in_a_path_reaches_outside_the_data_directory(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.post("there", "x")
        server.ask("POST", "/consumer/there")
        before = tree(tmp_path / "data")
        body = b'{"records":[{"value":"x"}]}'
        for name in NO_NAMES:
            for method, path, sent in (
                ("POST", f"/topics/{name}/records", body),
                ("PUT", f"/topics/{name}", b"{}"),
                ("DELETE", f"/topics/{name}", None),
                ("POST", f"/consumer/{name}", b"{}"),
                ("DELETE", f"/consumer/{name}", None),
                ("POST", f"/consumer/there/topics/{name}/offset", b'{"offset":0}'),
            ):
                answer = server.ask(method, path, sent, JSON)
                assert answer.status in (400, 404, 405), (method, path, answer)
                assert "set-cookie" not in answer.headers
        assert tree(tmp_path / "data") == before


# -- a data directory somebody else has packed


def test_names_in_an_unpacked_archive_that_are_none_are_refused_and_the_others_work(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with FlashQ.open(data) as packed:
        packed.post_record("good", "x")
        packed.create_consumer_group("good")
    for name in HOSTILE_NAMES:
        shutil.copytree(data / "topics" / "good", data / "topics" / name)
        about = json.loads((data / "topics" / "good" / "topic.json").read_text())
        (data / "topics" / name / "topic.json").write_text(json.dumps({**about, "name": name}))
        shutil.copy(data / "groups" / "good.log", data / "groups" / f"{name}.log")
    for lie in ("../../outside", "/etc", "good"):
        stolen = data / "topics" / f"lie{abs(hash(lie))}"
        shutil.copytree(data / "topics" / "good", stolen)
        about = json.loads((stolen / "topic.json").read_text())
        (stolen / "topic.json").write_text(json.dumps({**about, "name": lie}))
    with serving(data) as server:
        health = server.ask("GET", "/health").json()
        assert health["status"] == "degraded"
        assert len(health["problems"]) == 2 * len(HOSTILE_NAMES) + 3
        assert server.read_all("good")[0]["value"] == "x"
        assert server.ask("GET", "/metrics").status == 200
        assert server.ask("GET", "/topics").status == 200
    assert sorted(os.listdir(tmp_path)) == sorted({"data", *(each.name for each in tmp_path.glob("data-*.log"))})


def test_links_in_the_data_directory_are_refused_and_what_they_point_to_is_untouched(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    for directory in (data, outside):
        with FlashQ.open(directory) as packed:
            packed.post_record("good", "x")
            packed.post_record("other", "x")
            packed.create_consumer_group("readers")
    shutil.rmtree(data / "topics" / "other")
    (data / "topics" / "other").symlink_to(outside / "topics" / "other")
    (data / "topics" / "linked-file").mkdir()
    (data / "topics" / "linked-file" / "topic.json").symlink_to(outside / "topics" / "good" / "topic.json")
    (data / "groups" / "readers.log").unlink()
    (data / "groups" / "readers.log").symlink_to(outside / "groups" / "readers.log")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    with serving(data) as server:
        assert server.read_all("good")[0]["value"] == "x"
        for topic in ("other", "linked-file"):
            assert server.ask("GET", f"/topics/{topic}/records").status == 500
            assert server.try_post(topic, "y").status == 500
        assert server.ask("GET", "/consumer/readers/topics/good/offset").status == 500
        for path in ("/topics/other", "/topics/linked-file", "/consumer/readers"):
            assert server.ask("DELETE", path).status == 204
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert not (data / "topics" / "other").is_symlink()
