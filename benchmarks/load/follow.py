"""Readers that follow a log while it is posted to, and how long each record took to reach them.

    python -m benchmarks.load.follow WAY PORT READERS

WAY is one of `WAYS`. Prints a line once all readers wait for records. When its standard input ends it prints one line
of JSON: how many records were seen, how many of them after the first WARM_UP_S, and percentiles of these in
microseconds, from the time in each record, which load.c put there, to when its bytes were read. All readers share one
thread, whatever they read from.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop

from benchmarks.load import WARM_UP_S
from benchmarks.peers import nats
from benchmarks.peers.flashq_server import TOPIC, request
from benchmarks.peers.redis import STREAM, command

MARK = re.compile(rb"t=(\d{20})")
GROUP = f"followers-{os.getpid()}"  # a new one each time


class Watch:
    """How long records took."""

    def __init__(self) -> None:
        self._took: list[int] = []
        self._first: int | None = None
        self._seen = 0

    def note(self, data: bytes) -> int:
        """Count the records in these bytes, which just came. Gives how many there were."""
        now = time.monotonic_ns()
        marks = MARK.findall(data)
        self._seen += len(marks)
        for mark in marks:
            started = int(mark)
            if self._first is None:
                self._first = started
            if started - self._first >= WARM_UP_S * 1e9:
                self._took.append(now - started)
        return len(marks)

    def figures(self) -> dict[str, float]:
        took = sorted(self._took)
        if not took:
            return {"records": 0, "seen": self._seen}
        shares = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999}
        found = {name: took[int(share * len(took))] / 1000 for name, share in shares.items()}
        return {"records": len(took), "seen": self._seen, **found}


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(port: int) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)


# -- FlashQ


async def flashq_group(port: int, watch: Watch, ready: Callable[[], None]) -> None:
    """Long polls of a consumer group, and commits of what was read on another connection, one at a time."""
    (reader, writer), commits = await connect(port), await connect(port)
    await exchange(commits, request("POST", f"/consumer/{GROUP}", b"{}"))
    read = await next_offset(commits)
    committing: asyncio.Future[Any] = asyncio.ensure_future(asyncio.sleep(0))
    ready()
    while True:
        path = f"/consumer/{GROUP}/topics/{TOPIC}?from_offset={read}&max_records=10000&timeout_ms=1000"
        writer.write(request("GET", path))
        read += watch.note(await body(reader))
        if committing.done():
            commit = b'{"offset":%d}' % read
            asked = request("POST", f"/consumer/{GROUP}/topics/{TOPIC}/offset", commit)
            committing = asyncio.ensure_future(exchange(commits, asked))


async def flashq_stream(port: int, watch: Watch, ready: Callable[[], None]) -> None:
    """Server-Sent Events."""
    reader, writer = await connect(port)
    writer.write(request("GET", f"/topics/{TOPIC}/stream?from_offset={await next_offset((reader, writer))}"))
    await reader.readuntil(b"\r\n\r\n")
    ready()
    await all_that_comes(reader, watch)


async def next_offset(streams: Streams) -> int:
    topic = json.loads(await exchange(streams, request("GET", f"/topics/{TOPIC}")))
    return int(topic["high_water_mark"])


async def exchange(streams: Streams, asked: bytes) -> bytes:
    reader, writer = streams
    writer.write(asked)
    return await body(reader)


async def body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if head[9:10] != b"2":
        raise RuntimeError(head.decode())
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return await reader.readexactly(int(length[1]))


# -- Redis


async def redis_group(port: int, watch: Watch, ready: Callable[[], None]) -> None:
    """XREADGROUP that blocks; XACK of what was read goes with the next one."""
    reader, writer = await connect(port)
    writer.write(command(b"XGROUP", b"CREATE", STREAM, GROUP.encode(), b"$", b"MKSTREAM"))
    assert await reader.readline() == b"+OK\r\n"
    ready()
    read = command(
        b"XREADGROUP", b"GROUP", GROUP.encode(), b"one", b"COUNT", b"10000", b"BLOCK", b"1000", b"STREAMS", STREAM, b">"
    )
    acknowledge = b""
    while True:
        writer.write(acknowledge + read)
        if acknowledge:
            await reply(reader)
        entries = await reply(reader)
        watch.note(b"".join(entry.values for entry in entries))
        ids = [entry.id for entry in entries]
        acknowledge = command(b"XACK", STREAM, GROUP.encode(), *ids) if ids else b""


async def redis_stream(port: int, watch: Watch, ready: Callable[[], None]) -> None:
    """XREAD that blocks, from the last id read."""
    reader, writer = await connect(port)
    last = b"$"
    ready()
    while True:
        writer.write(command(b"XREAD", b"COUNT", b"10000", b"BLOCK", b"1000", b"STREAMS", STREAM, last))
        entries = await reply(reader)
        watch.note(b"".join(entry.values for entry in entries))
        last = entries[-1].id if entries else last


class Entry:
    __slots__ = ("id", "values")

    def __init__(self, entry_id: bytes, values: bytes) -> None:
        self.id, self.values = entry_id, values


async def reply(reader: asyncio.StreamReader) -> list[Entry]:
    """The entries of a reply; none of a number or of nil."""
    flat = await flatten(reader)
    # [stream, id, field, value, id, field, value, ...]
    return [Entry(flat[at], flat[at + 2]) for at in range(1, len(flat), 3)]


async def flatten(reader: asyncio.StreamReader) -> list[bytes]:
    """The strings of a RESP reply, whatever their depth."""
    found: list[bytes] = []
    left = 1
    while left:
        line = await reader.readline()
        number = int(line[1:]) if line[:1] in b"*$:" else 0
        left -= 1
        if line[:1] == b"-":
            raise RuntimeError(line.decode())
        if line[:1] == b"*" and number > 0:
            left += number
        elif line[:1] == b"$" and number >= 0:
            found.append((await reader.readexactly(number + 2))[:-2])
    return found


# -- NATS


async def nats_group(port: int, watch: Watch, ready: Callable[[], None]) -> None:
    """A pull consumer that acknowledges all up to a message with it."""
    durable = {"durable_name": GROUP, "ack_policy": "all", "deliver_policy": "new"}
    reader, writer = await nats_consumer(port, durable)
    asked = json.dumps({"batch": 1000, "expires": 1_000_000_000}).encode()
    ready()
    while True:
        writer.write(nats.publish(f"$JS.API.CONSUMER.MSG.NEXT.{nats.STREAM}.{GROUP}".encode(), asked, b"inbox"))
        left = 1000
        while left > 0:
            acknowledge, content, is_last = await nats_message(reader, writer)
            if is_last:
                break
            left -= watch.note(content)
            writer.write(nats.publish(acknowledge, b"+ACK"))


async def nats_stream(port: int, watch: Watch, ready: Callable[[], None]) -> None:
    """A push consumer without acknowledgements."""
    reader, _ = await nats_consumer(
        port,
        {
            "deliver_subject": f"inbox.{id(ready)}.{len(asyncio.all_tasks())}",
            "ack_policy": "none",
            "deliver_policy": "new",
        },
    )
    ready()
    await all_that_comes(reader, watch)


async def nats_consumer(port: int, config: dict[str, Any]) -> Streams:
    reader, writer = await connect(port)
    inbox = config.get("deliver_subject", "inbox").encode()
    writer.write(nats.CONNECT + b"SUB " + inbox + b" 1\r\n")
    asked = json.dumps({"stream_name": nats.STREAM, "config": config}).encode()
    subject = f"$JS.API.CONSUMER.CREATE.{nats.STREAM}"
    if "durable_name" in config:
        subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{nats.STREAM}.{GROUP}"
    writer.write(nats.publish(subject.encode(), asked, inbox))
    _, content, _ = await nats_message(reader, writer)
    if b'"error"' in content:
        raise RuntimeError(content.decode())
    return reader, writer


async def nats_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, bytes, bool]:
    """Where to acknowledge, the content, and whether it only says that there is no more."""
    while True:
        line = await reader.readline()
        words = line.split()
        if words[0] == b"PING":
            writer.write(b"PONG\r\n")
        elif words[0] == b"-ERR":
            raise RuntimeError(line.decode())
        elif words[0] in (b"MSG", b"HMSG"):
            content = await reader.readexactly(int(words[-1]) + 2)
            return words[3], content, words[0] == b"HMSG"


async def all_that_comes(reader: asyncio.StreamReader, watch: Watch) -> None:
    kept = b""
    while data := await reader.read(1 << 20):
        data = kept + data
        watch.note(data)
        begun = data.rfind(b"t=")  # a mark that is not whole yet is looked at again
        kept = data[begun:] if begun >= 0 and len(data) - begun < 22 else b""
    raise RuntimeError("the server ended the stream")


WAYS: dict[str, Callable[[int, Watch, Callable[[], None]], Coroutine[Any, Any, None]]] = {
    function.__name__: function
    for function in (flashq_group, flashq_stream, redis_group, redis_stream, nats_group, nats_stream)
}


async def main(way: str, port: int, readers: int) -> None:
    watch, waiting = Watch(), asyncio.Semaphore(0)
    following = [asyncio.ensure_future(WAYS[way](port, watch, waiting.release)) for _ in range(readers)]
    ready = asyncio.gather(*(waiting.acquire() for _ in range(readers)))
    await first_of(ready, following)
    print("following", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await first_of(asyncio.ensure_future(ended.wait()), following)
    print(json.dumps(watch.figures()), flush=True)
    for task in following:
        task.cancel()


async def first_of(wanted: asyncio.Future[Any], following: Sequence[asyncio.Future[None]]) -> None:
    """Wait for what is wanted. Raises what a reader raised before."""
    done, _ = await asyncio.wait([wanted, *following], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {wanted}:
        await task


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
