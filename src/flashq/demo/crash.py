"""A real crash: a child process that holds the log is killed in the middle of a write.

The child posts orders one by one and says which offsets were acknowledged. Then it posts one batch so large that
writing it takes a while. As soon as its file has grown by some of that, the child gets SIGKILL, which no program can
catch or prepare for. The system stops the write where it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from flashq.broker.flashq import FlashQ
from flashq.errors import FlashQError

BATCH_RECORDS: Final = 192
RECORD_BYTES: Final = 256 * 1024
BATCH_BYTES: Final = BATCH_RECORDS * RECORD_BYTES
"""48 MiB: it still fits into the segment that the orders are in."""

_ROOM: Final = f"{2 * BATCH_BYTES // 1024**2} MiB"
_ATTEMPTS: Final = 10
_TIMEOUT_S: Final = 30.0
_READY: Final = "ready\n"


@dataclass(frozen=True, slots=True)
class Crash:
    """What the parent saw: the child's acknowledgements, and its files before and after the kill (bytes)."""

    pid: int
    acknowledged: list[int]
    size_before: int
    size_after: int

    @property
    def written_bytes(self) -> int:
        """Of the last batch: some of it, or a little more than `BATCH_BYTES` if the kill came too late."""
        return self.size_after - self.size_before

    @property
    def is_mid_write(self) -> bool:
        return 0 < self.written_bytes < BATCH_BYTES


def crash(data_dir: str, topic: str, orders: int) -> Crash:
    """Kill a child that posts to `topic`. Nobody may have the directory open.

    A kill that comes after the write is tried again, a few times; the last one is returned whatever it was. Raises
    `FlashQError` if the child ends by itself; it says why on standard error.
    """
    acknowledged: list[int] = []
    for _ in range(_ATTEMPTS):
        happened = _crash_once(data_dir, topic, orders)
        acknowledged += happened.acknowledged
        if happened.is_mid_write:
            break
    return Crash(happened.pid, acknowledged, happened.size_before, happened.size_after)


def _crash_once(data_dir: str, topic: str, orders: int) -> Crash:
    with _child(data_dir, topic, orders) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        acknowledged: list[int] = []
        for line in child.stdout:
            if line == _READY:
                break
            acknowledged.append(int(line))
        else:
            raise _did_not_write(data_dir)
        before = after = _size(data_dir, topic)
        child.stdin.write("\n")  # it waits for this, so that the size before is that before
        child.stdin.flush()
        deadline = time.monotonic() + _TIMEOUT_S
        while after == before and child.poll() is None and time.monotonic() < deadline:
            after = _size(data_dir, topic)
        child.kill()
        child.wait()
        after = _size(data_dir, topic)
        if after == before:
            raise _did_not_write(data_dir)
        return Crash(child.pid, acknowledged, before, after)


@contextmanager
def _child(data_dir: str, topic: str, orders: int) -> Iterator[subprocess.Popen[str]]:
    """In a session of its own, so that Ctrl-C is for the tour alone; gone when this ends."""
    command = [sys.executable, "-m", __name__, data_dir, topic, str(orders)]
    with subprocess.Popen(  # noqa: S603 (this interpreter and a module of ours)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def _size(data_dir: str, topic: str) -> int:
    """Bytes in the topic's segments, as the system has them now."""
    with os.scandir(os.path.join(data_dir, "topics", topic, "0")) as entries:
        return sum(os.stat(entry.path).st_size for entry in entries if entry.name.endswith(".log"))


def _did_not_write(data_dir: str) -> FlashQError:
    return FlashQError("the child process did not write its batch", hint=f"it needs {_ROOM} in {data_dir}")


def _post_until_killed(data_dir: str, topic: str, orders: int) -> None:
    """The child."""
    with FlashQ.open(data_dir) as flashq:
        for number in range(1, orders + 1):
            print(flashq.post_record(topic, f"order {number} of the child"), flush=True)
        batch = [bytes([65 + number % 26]) * RECORD_BYTES for number in range(BATCH_RECORDS)]
        print(_READY, end="", flush=True)
        if not sys.stdin.readline():
            return  # the parent is gone
        flashq.post_records(topic, batch)


if __name__ == "__main__":
    try:
        _post_until_killed(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except FlashQError as error:
        sys.exit(f"child process: {error.message}")
