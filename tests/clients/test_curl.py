"""curl, as a person at a shell uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.server.running import Process

JSON = ("-H", "Content-Type: application/json")


def run(curl: str, *arguments: str, stdin: bytes = b"") -> str:
    done = subprocess.run([curl, "-sS", *arguments], input=stdin, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def url(server: Process, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def test_post_poll_and_commit(curl: str, server: Process) -> None:
    told = run(curl, url(server, "/topics/curl/records"), *JSON, "-d", '{"records":[{"key":"k","value":"hello"}]}')
    (posted,) = json.loads(told)["offsets"]
    assert posted["offset"] == 0
    polled = json.loads(run(curl, url(server, "/topics/curl/records")))
    assert polled["records"] == [
        {"key": "k", "value": "hello", "headers": None, "offset": 0, "timestamp": posted["timestamp"]}
    ]
    run(curl, "-X", "POST", url(server, "/consumer/g"))
    committed = run(curl, url(server, "/consumer/g/topics/curl/offset"), *JSON, "-d", '{"offset":1}')
    assert json.loads(committed)["committed_offset"] == 1


def test_an_export_can_be_piped_into_an_import(curl: str, server: Process) -> None:
    records = [{"value": str(at), "key": f"k{at}", "headers": {"n": str(at)}} for at in range(500)]
    body = json.dumps({"records": [*records, {"value": "/wA=", "encoding": "base64"}]}).encode()
    run(curl, url(server, "/topics/from/records"), *JSON, "--data-binary", "@-", stdin=body)
    accept = ("-H", "Accept: application/x-ndjson")
    exported = run(curl, url(server, "/topics/from/records?max_records=1000"), *accept)
    lines = ("-H", "Content-Type: application/x-ndjson", "--data-binary", "@-")
    told = run(curl, url(server, "/topics/to/records"), *lines, stdin=exported.encode())
    assert json.loads(told) == {"first_offset": 0, "last_offset": 500, "count": 501}
    imported = run(curl, url(server, "/topics/to/records?max_records=1000"), *accept)

    def kept(text: str) -> list[dict[str, object]]:
        return [{**json.loads(line), "timestamp": None} for line in text.splitlines()]

    assert kept(imported) == kept(exported)


def test_a_chunked_body_of_unknown_length(curl: str, server: Process) -> None:
    body = json.dumps({"records": [{"value": "x" * 100_000}] * 10}).encode()
    chunked = ("-H", "Transfer-Encoding: chunked", "-T", "-", "-X", "POST")
    told = run(curl, url(server, "/topics/chunked/records"), *JSON, *chunked, stdin=body)
    assert len(json.loads(told)["offsets"]) == 10


def test_expect_100_continue_is_answered_before_the_body_is_sent(curl: str, server: Process, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"records": [{"value": "x" * 1_000_000}] * 3}))
    expect = ("-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", f"@{body}")
    told = run(curl, "-i", "-m", "10", url(server, "/topics/expect/records"), *JSON, *expect)
    assert told.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_many_requests_on_one_connection(curl: str, server: Process) -> None:
    targets = [url(server, f"/topics/many/records?from_offset={at}") for at in range(50)]
    run(curl, url(server, "/topics/many/records"), *JSON, "-d", '{"records":[{"value":"v"}]}')
    told = run(curl, "-w", "%{num_connects} ", *targets)
    assert told.count("next_offset") == 50
    assert told.split("}")[-1].strip() in ("0", "1")


def test_pipelined_requests_written_at_once(curl: str, server: Process) -> None:
    """curl's HTTP has not pipelined since 7.65; as a plain connection it still carries what does."""
    post = b'{"records":[{"value":"v"}]}'
    head = b"POST /topics/piped/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    requests = (head + b"Content-Length: %d\r\n\r\n%b" % (len(post), post)) * 20 + last
    told = run(curl, "-N", f"telnet://127.0.0.1:{server.port}", stdin=requests)
    assert re.findall(r'"offset":(\d+)', told) == [str(offset) for offset in range(20)]
    assert '"status":"healthy"' in told.rpartition('"offset"')[2]


def test_requests_in_parallel(curl: str, server: Process) -> None:
    one = ("--data", '{"records":[{"value":"v"}]}', *JSON)
    target = url(server, "/topics/parallel/records?[1-100]").replace("?[1-100]", "")
    arguments: list[str] = []
    for _ in range(100):
        arguments += ["--next", "-sS", target, *one] if arguments else [target, *one]
    told = run(curl, "-Z", *arguments)
    offsets = sorted(each["offsets"][0]["offset"] for each in json.loads(f"[{told.replace('}{', '},{')}]"))
    assert offsets == list(range(100))


def test_head_and_http_1_0(curl: str, server: Process) -> None:
    assert run(curl, "-I", url(server, "/health")).startswith("HTTP/1.1 200 OK\r\n")
    assert '"status":"healthy"' in run(curl, "-0", url(server, "/health"))


def test_a_stream_is_shown_as_it_comes(curl: str, server: Process) -> None:
    server.post("followed", "first")
    with subprocess.Popen(
        [curl, "-sSN", url(server, "/topics/followed/stream")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as following:
        assert following.stdout is not None
        try:
            seen = b""
            while b"first" not in seen:
                seen += os.read(following.stdout.fileno(), 65536)
            server.post("followed", "second")
            while b"second" not in seen:
                seen += os.read(following.stdout.fileno(), 65536)
        finally:
            following.kill()
    assert b"id: 1\n" in seen.replace(b"id:1\n", b"id: 1\n")
