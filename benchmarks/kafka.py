"""FlashQ on Kafka against Kafka's own performance tools, on one cluster in one run: `make bench-kafka`.

Both sides send batches of 1,000 records of 100 bytes with acks=all to a topic of one partition with three replicas, and
read them back. The tools keep several batches in flight; FlashQ's clients are eight connections that each wait for an
answer. Client, server and three brokers share the machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.kafka.cluster import Cluster, missing_tools

from benchmarks.measure import Row, free_port, interleave, median_ratio, report
from benchmarks.over_http import running

PRODUCER = "org.apache.kafka.tools.ProducerPerformance"
CONSUMER = "org.apache.kafka.tools.ConsumerPerformance"
RECORD = "x" * 100
BATCH = 1000
BATCH_BYTES = BATCH * 110
CONNECTIONS = 8
WANTED_POST = 0.4


def main() -> int:
    if missing_tools():
        print("Java or Maven is missing: nothing was measured")
        return 0
    quick = "--quick" in sys.argv[1:]
    records, seconds, rounds = (200_000, 4.0, 3) if quick else (1_000_000, 10.0, 5)
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory)) as cluster, _server(cluster) as port:
        found = _rows(cluster, port, records, seconds, rounds)
    print(report(found))
    return 1 if any(row.verdict == "SHORT" for row in found) else 0


def _rows(cluster: Cluster, port: int, records: int, seconds: float, rounds: int) -> list[Row]:
    for topic in ("tool", "flashq"):
        _request(port, "PUT", f"/topics/{topic}")
        _request(port, "POST", f"/topics/{topic}/records", {"records": [{"value": RECORD}] * BATCH})
    posts = interleave(
        {"tool": partial(_produced, cluster, records), "flashq": partial(_posted, port, seconds)}, rounds
    )
    polls = interleave(
        {"tool": partial(_consumed, cluster, records), "flashq": partial(_polled, port, seconds)}, rounds
    )
    return [
        Row(
            f"{what}s of {BATCH:,} x 100 B, {CONNECTIONS} connections",
            f"{series['flashq'].median:,.0f} records/s",
            f"{tool} {series['tool'].median:,.0f}/s",
            median_ratio(series["flashq"], series["tool"]),
            wanted,
            series["flashq"].spread,
        )
        for what, tool, series, wanted in (
            ("post", "kafka-producer-perf-test", posts, WANTED_POST),
            ("poll", "kafka-consumer-perf-test", polls, None),
        )
    ]


@contextlib.contextmanager
def _server(cluster: Cluster) -> Iterator[int]:
    port = free_port()
    kafka = ["--storage", "kafka", "--kafka-bootstrap", cluster.bootstrap]
    command = [sys.executable, "-m", "flashq", "serve", "--port", str(port), "--log-level", "warning", *kafka]
    with running(command, port):
        yield port


def _produced(cluster: Cluster, records: int) -> float:
    """Records a second by the tool's own account, which leaves out its start."""
    properties = [f"bootstrap.servers={cluster.bootstrap}", "acks=all", f"batch.size={BATCH_BYTES}", "linger.ms=5"]
    what = ["--topic", "tool", "--num-records", str(records), "--record-size", "100", "--throughput", "-1"]
    said = cluster.tool(PRODUCER, *what, "--producer-props", *properties, timeout_s=300)
    found = re.findall(r"([0-9.]+) records/sec", said)
    return float(found[-1])


def _consumed(cluster: Cluster, records: int) -> float:
    """The fetching itself, without joining a group."""
    where = ["--bootstrap-server", cluster.bootstrap, "--topic", "tool", "--messages", str(records)]
    said = cluster.tool(CONSUMER, *where, "--hide-header", timeout_s=300)
    return float(said.strip().splitlines()[-1].split(",")[-1])  # fetch.nMsg.sec


def _posted(port: int, seconds: float) -> float:
    body = json.dumps({"records": [{"value": RECORD}] * BATCH}).encode()
    headers = {"Content-Type": "application/json"}
    return _clients(port, seconds, lambda client, _: _asked(client, "POST", "/topics/flashq/records", body, headers))


def _polled(port: int, seconds: float) -> float:
    """Each connection reads from the start on, 1,000 records at a time."""
    path = "/topics/flashq/records?max_records=1000&from_offset="
    end = int(json.loads(_request(port, "GET", "/topics/flashq"))["high_water_mark"]) // BATCH
    return _clients(port, seconds, lambda client, at: _asked(client, "GET", f"{path}{at % end * BATCH}", None, {}))


def _clients(port: int, seconds: float, ask: Callable[[http.client.HTTPConnection, int], object]) -> float:
    done = [0] * CONNECTIONS
    deadline = time.perf_counter() + seconds

    def run(number: int) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        at = number * 1000
        while time.perf_counter() < deadline:
            ask(client, at)
            done[number] += BATCH
            at += 1
        client.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def _asked(
    client: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> bytes:
    client.request(method, path, body, headers)
    answer = client.getresponse()
    data = answer.read()
    if answer.status not in (200, 201):
        raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
    return data


def _request(port: int, method: str, path: str, body: object = None) -> bytes:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = None if body is None else json.dumps(body).encode()
    try:
        return _asked(client, method, path, data, {"Content-Type": "application/json"})
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
