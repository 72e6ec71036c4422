"""Server-Sent Events, byte for byte, against a running server on each storage."""

from __future__ import annotations

import itertools
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.api.test_limits_and_statuses import assert_error
from tests.api.test_topics import SWEEPING, put, wait_for
from tests.server.running import JSON, Process, serving

OPENING = b"retry: 1000\n\n"
HEARTBEAT = b": heartbeat\n\n"
BEATING = (
    sys.executable,
    "-c",
    "import sys; from flashq.http.handlers.streams import StreamHandler; "
    "StreamHandler.__init__.__kwdefaults__['heartbeat_s'] = 0.3; from flashq.cli.main import main; sys.exit(main())",
)
"""A server whose heartbeats do not wait fifteen seconds."""
EVENT = re.compile(rb"id: (\d+)\ndata: (.+)\n\n")
_fresh = itertools.count()


class Stream:
    """A client of a stream: its head, and its body as it comes."""

    def __init__(self, client: socket.socket) -> None:
        self._file: BinaryIO = client.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name] = value
        self.ended = False

    def chunk(self) -> bytes:
        """The next chunk; b"" at the end mark. Raises ConnectionError if the stream is cut off."""
        line = self._file.readline()
        if not line:
            raise ConnectionError("the stream was cut off")
        data = self._file.read(int(line, 16) + 2)
        self.ended = data == b"\r\n"
        return data[:-2]

    def read(self, size: int) -> bytes:
        """Whole chunks with so many bytes at least."""
        chunks: list[bytes] = []
        while size > 0:
            chunks.append(self.chunk())
            assert not self.ended, chunks
            size -= len(chunks[-1])
        return b"".join(chunks)

    def events(self, count: int) -> list[dict[str, Any]]:
        """So many records, the ids of which are their offsets."""
        data = b""
        found: list[tuple[bytes, bytes]] = []
        while len(found) < count:
            data += self.read(1)
            found = EVENT.findall(data)
        records = [json.loads(record) for _, record in found]
        assert [int(offset) for offset, _ in found] == [record["offset"] for record in records]
        return records

    def values(self, count: int) -> list[str]:
        return [record["value"] for record in self.events(count)]

    def rest(self) -> bytes:
        """Everything up to the end mark."""
        return b"".join(iter(self.chunk, b""))


@contextmanager
def streaming(server: Process, target: str, *headers: str, buffer: int | None = None) -> Iterator[Stream]:
    with socket.socket() as client:
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(15)
        client.connect(("127.0.0.1", server.port))
        client.sendall("\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
        yield Stream(client)


@pytest.fixture
def topic() -> str:
    """A topic that is not there yet."""
    return f"streamed-{next(_fresh)}"


# -- what goes over the wire


def test_a_stream_is_these_bytes(server: Process, topic: str) -> None:
    stamps = [each["timestamp"].encode() for each in server.post(topic, "one\nline", {"value": "é", "key": "k"})]
    with streaming(server, f"/topics/{topic}/stream") as stream:
        assert stream.status == 200
        assert stream.headers == {
            "content-type": "text/event-stream", "cache-control": "no-store", "transfer-encoding": "chunked",
        }  # fmt: skip
        assert stream.chunk() == OPENING
        assert stream.chunk() == (
            b'id: 0\ndata: {"key":null,"value":"one\\nline","headers":null,"offset":0,"timestamp":"%b"}\n\n'
            b'id: 1\ndata: {"key":"k","value":"\xc3\xa9","headers":null,"offset":1,"timestamp":"%b"}\n\n' % (*stamps,)
        )


def test_a_stream_begins_before_there_is_a_record_and_goes_on_with_each(server: Process, topic: str) -> None:
    server.ask("PUT", f"/topics/{topic}")
    with streaming(server, f"/topics/{topic}/stream") as stream:
        assert stream.chunk() == OPENING
        for offset in range(5):
            posted = time.monotonic()
            server.post(topic, f"{offset}")
            assert stream.events(1)[0]["offset"] == offset
            assert time.monotonic() - posted < 1


def test_many_records_come_in_few_chunks_and_a_large_one_in_several(server: Process, topic: str) -> None:
    large = "x" * 500_000
    for _ in range(5):
        server.post(topic, *["small"] * 1000)
    server.post(topic, large)
    with streaming(server, f"/topics/{topic}/stream") as stream:
        chunks = [stream.chunk() for _ in range(2)]
        while not chunks[-1].endswith(b"\n\n") or large.encode() not in b"".join(chunks):
            chunks.append(stream.chunk())
    assert len(chunks) < 30
    assert max(len(chunk) for chunk in chunks) <= 128 * 1024
    assert len(EVENT.findall(b"".join(chunks))) == 5001


def test_http_1_0_gets_the_events_without_chunks(server: Process, topic: str) -> None:
    server.post(topic, "a")
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(f"GET /topics/{topic}/stream HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b'"value":"a"' not in received:
            received += client.recv(4096)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body.startswith(OPENING + b"id: 0\n")


# -- where it begins


def test_a_stream_begins_where_it_is_told(server: Process, topic: str) -> None:
    stamps = []
    for value in "abcd":
        stamps.append(server.post(topic, value)[0]["timestamp"])
        time.sleep(0.005)
    for query, headers, expected in [
        ("", (), "abcd"),
        ("?from_offset=2", (), "cd"),
        (f"?from_time={stamps[3]}", (), "d"),
        ("", ("Last-Event-ID: 1",), "cd"),
        ("?from_offset=0", ("Last-Event-ID: 2",), "d"),
        (f"?from_time={stamps[0]}", ("Last-Event-ID: 0",), "bcd"),
    ]:
        with streaming(server, f"/topics/{topic}/stream{query}", *headers) as stream:
            assert stream.values(len(expected)) == list(expected), (query, headers)


def test_a_stream_past_the_end_waits_for_its_offset(server: Process, topic: str) -> None:
    server.post(topic, "a")
    with (
        streaming(server, f"/topics/{topic}/stream?from_offset=3") as far,
        streaming(server, f"/topics/{topic}/stream", "Last-Event-ID: 0") as near,
    ):
        for value in "bcd":
            server.post(topic, value)
        assert far.events(1)[0]["offset"] == 3
        assert near.events(1)[0]["offset"] == 1


def test_a_group_streams_from_where_it_stands_and_stays_there(server: Process, topic: str) -> None:
    server.post(topic, "a", "b", "c")
    group = f"/consumer/group-of-{topic}"
    server.ask("POST", group)
    with streaming(server, f"{group}/topics/{topic}/stream") as stream:
        assert stream.values(3) == ["a", "b", "c"]
    assert server.ask("POST", f"{group}/topics/{topic}/offset", b'{"offset": 2}', JSON).status == 200
    for headers, expected in [((), ["c", "d"]), (("Last-Event-ID: 0",), ["b", "c", "d"])]:
        with streaming(server, f"{group}/topics/{topic}/stream", *headers) as stream:
            if not headers:
                assert stream.values(1) == ["c"]
                server.post(topic, "d")
                assert stream.values(1) == ["d"]
            else:
                assert stream.values(3) == expected
    assert server.ask("GET", f"{group}/topics/{topic}/offset").json()["committed_offset"] == 2


@pytest.mark.parametrize("given", ["", "x", "-1", "+1", "1_0", "1.5", "9" * 19, "1" * 400, "0, 1"])
def test_a_malformed_last_event_id_is_refused(server: Process, topic: str, given: str) -> None:
    server.post(topic, "a")
    answer = server.ask("GET", f"/topics/{topic}/stream", None, {"Last-Event-ID": given})
    assert_error(answer, 400, "invalid_parameter", {"parameter": "Last-Event-ID"})


def test_what_cannot_be_streamed_has_a_status(server: Process, topic: str) -> None:
    assert_error(server.ask("GET", f"/topics/{topic}/stream"), 404, "topic_not_found", {"topic": topic})
    server.post(topic, "a")
    for query, parameter in [
        ("max_records=1", "max_records"), ("from_offset=x", "from_offset"), ("from_offset=0&from_time=0", "from_time"),
    ]:  # fmt: skip
        answer = server.ask("GET", f"/topics/{topic}/stream?{query}")
        assert_error(answer, 400, "invalid_parameter", {"parameter": parameter})


# -- how it goes on, and how it ends


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_a_silent_stream_beats(storage: str, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--storage", storage, command=BEATING) as server:
        server.post("t", "a")
        with streaming(server, "/topics/t/stream?from_offset=1") as stream:
            assert stream.chunk() == OPENING
            begun = time.monotonic()
            for beats in (1, 2, 3):
                assert stream.chunk() == HEARTBEAT
                assert 0.3 * beats - 0.05 < time.monotonic() - begun < 0.3 * beats + 1
            time.sleep(0.2)
            server.post("t", "b")
            assert stream.values(1) == ["b"]
            told = time.monotonic()
            assert stream.chunk() == HEARTBEAT
            assert time.monotonic() - told > 0.2, "silence is counted from the last record on"


def test_a_deleted_topic_ends_its_streams_and_its_namesake_is_another(server: Process, topic: str) -> None:
    server.post(topic, "a")
    with streaming(server, f"/topics/{topic}/stream") as waits, streaming(server, f"/topics/{topic}/stream") as other:
        assert waits.values(1) == other.values(1) == ["a"]
        assert server.ask("DELETE", f"/topics/{topic}").status == 204
        server.post(topic, "new", "new")
        assert (waits.rest(), other.rest()) == (b"", b"")


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_sigterm_ends_streams_at_once_and_whole(storage: str, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--storage", storage) as server:
        server.post("t", "a")
        with streaming(server, "/topics/t/stream") as stream, streaming(server, "/topics/t/stream") as other:
            assert stream.values(1) == other.values(1) == ["a"]
            begun = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun < 3
            assert (stream.rest(), other.rest()) == (b"", b"")


def test_a_client_that_leaves_is_forgotten(server: Process, topic: str) -> None:
    server.post(topic, "a")
    for _ in range(20):
        with streaming(server, f"/topics/{topic}/stream") as stream:
            assert stream.values(1) == ["a"]
    server.post(topic, "b")
    with streaming(server, f"/topics/{topic}/stream") as stream:
        assert stream.values(2) == ["a", "b"]


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_retention_that_passes_a_slow_reader_ends_its_stream_with_an_error(storage: str, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--storage", storage, command=SWEEPING) as server:
        put(server, "t", segment_bytes=1024 * 1024)
        for _ in range(24):
            server.post("t", "x" * 1_000_000)
        with streaming(server, "/topics/t/stream", buffer=4096) as stream:
            assert stream.chunk() == OPENING
            put(server, "t", retention_ms=0)
            wait_for(lambda: server.ask("GET", "/topics/t").json()["log_start_offset"] == 24)
            *whole, last = stream.rest().removesuffix(b"\n\n").split(b"\n\n")
        assert 0 < len(whole) < 24
        event, data = last.split(b"\n")
        assert event == b"event: error"
        error = json.loads(data.removeprefix(b"data: "))
        assert (error["error"], error["details"]["log_start_offset"]) == ("offset_out_of_range", 24)


@pytest.mark.parametrize("found", ["by the start", "on the way"])
def test_damaged_records_end_a_stream_with_an_error_behind_those_before_them(found: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, "--segment-bytes", "4096") as server:
        for number in range(12):
            server.post("t", f"{number} ".ljust(1500))
        third = sorted((data / "topics" / "t" / "0").glob("*.log"))[2]
        if found == "on the way":
            damage(third)
            streams_up_to(server, third)
    if found == "by the start":
        damage(third)
        with serving(data) as server:
            streams_up_to(server, third)


def damage(segment: Path) -> None:
    """Change a bit of its first batch."""
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(content)


def streams_up_to(server: Process, segment: Path) -> None:
    """A stream of `t` has what comes before the damaged segment, says what is wrong, and is over."""
    offset = int(segment.stem)
    with streaming(server, "/topics/t/stream") as stream:
        assert stream.chunk() == OPENING
        *events, last = stream.rest().removesuffix(b"\n\n").split(b"\n\n")
    assert [json.loads(event.partition(b"\ndata: ")[2])["offset"] for event in events] == list(range(offset))
    event, data = last.split(b"\n")
    assert event == b"event: error"
    error = json.loads(data.removeprefix(b"data: "))
    assert error["error"] == "data_corruption"
    told = {name: error["details"][name] for name in ("topic", "offset", "position")}
    assert told == {"topic": "t", "offset": offset, "position": 0}
    assert error["details"]["path"].endswith(segment.name)
    assert server.ask("GET", "/topics").status == 200


@pytest.mark.load
def test_by_default_a_stream_beats_after_15_seconds_and_retention_looks_every_ten(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.post("t", "a")
        with streaming(server, "/topics/t/stream?from_offset=1") as stream:
            assert stream.chunk() == OPENING
            opened = time.monotonic()
            put(server, "kept-for-nothing", retention_ms=0)
            swept = [removed_at(server, "kept-for-nothing") for _ in range(2)]
            assert 9.5 < swept[1] - swept[0] < 11
            assert stream.chunk() == HEARTBEAT
            assert stream.chunk() == HEARTBEAT
            assert 29.5 < time.monotonic() - opened < 31


def removed_at(server: Process, topic: str) -> float:
    """Post a record and wait until retention has removed it; when that was."""
    offset = server.post(topic, "a")[0]["offset"]
    while server.ask("GET", f"/topics/{topic}").json()["log_start_offset"] <= offset:
        time.sleep(0.05)
    return time.monotonic()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_slow_reader_of_a_stream_holds_little_memory(tmp_path: Path) -> None:
    def rss_kib() -> int:
        status = Path(f"/proc/{server.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    with serving(tmp_path / "data", "--sync-mode", "never") as server:
        for _ in range(40):
            server.post("t", "x" * 1_000_000)
        before = rss_kib()
        with streaming(server, "/topics/t/stream", buffer=4096) as stream:
            assert stream.chunk() == OPENING
            for _ in range(20):
                server.post("t", "x" * 1_000_000)
            assert rss_kib() - before < 16 * 1024
            assert stream.read(60 * 1_000_000).count(b"\ndata: ") == 60
            assert rss_kib() - before < 16 * 1024
