"""FlashQ on Kafka against Kafka's own performance tools, on one cluster in one run.

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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.kafka.cluster import Cluster, missing_tools

from benchmarks.measure import Effort, Figures, Row, Work, compare, interleave
from benchmarks.processes import free_port, running

PRODUCER = "org.apache.kafka.tools.ProducerPerformance"
CONSUMER = "org.apache.kafka.tools.ConsumerPerformance"
RECORD = "x" * 100
BATCH = 1000
BATCH_BYTES = BATCH * 110
CONNECTIONS = 8
WANTED_POST = 0.4
MISSING = "needs Java and Maven"


def rows(effort: Effort) -> Iterator[Row]:
    """Posts, and polls of what they left."""
    if missing_tools():
        found = {"FlashQ on Kafka": MISSING, "Kafka's tools": MISSING}
        yield _compared("post", found, effort)
        yield _compared("poll", found, effort)
        return
    records, seconds = int(1_000_000 * effort.scale), 10 * effort.seconds
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory)) as cluster, _server(cluster) as port:
        for topic in ("tool", "flashq"):
            _request(port, "PUT", f"/topics/{topic}")
            _request(port, "POST", f"/topics/{topic}/records", {"records": [{"value": RECORD}] * BATCH})
        posts = {
            "FlashQ on Kafka": partial(_posted, port, seconds),
            "Kafka's tools": partial(_produced, cluster, records),
        }
        yield _compared("post", posts, effort)
        polls = {
            "FlashQ on Kafka": partial(_polled, port, seconds),
            "Kafka's tools": partial(_consumed, cluster, records),
        }
        yield _compared("poll", polls, effort)


def _compared(what: str, work: Mapping[str, Work], effort: Effort) -> Row:
    title = f"{what}s of {BATCH:,} x 100 B through FlashQ on a Kafka cluster of three, {CONNECTIONS} connections"
    wanted = {"Kafka's tools": WANTED_POST} if what == "post" else {}
    return compare(f"replicated/{what}", title, "records/s", interleave(work, effort), wanted=wanted)


@contextlib.contextmanager
def _server(cluster: Cluster) -> Iterator[int]:
    port = free_port()
    kafka = ["--storage", "kafka", "--kafka-bootstrap", cluster.bootstrap]
    command = [sys.executable, "-m", "flashq", "serve", "--port", str(port), "--log-level", "warning", *kafka]
    with running(command, port):
        yield port


def _produced(cluster: Cluster, records: int) -> Figures:
    """Records a second by the tool's own account, which leaves out its start."""
    properties = [f"bootstrap.servers={cluster.bootstrap}", "acks=all", f"batch.size={BATCH_BYTES}", "linger.ms=5"]
    what = ["--topic", "tool", "--num-records", str(records), "--record-size", "100", "--throughput", "-1"]
    said = cluster.tool(PRODUCER, *what, "--producer-props", *properties, timeout_s=300)
    found = re.findall(r"([0-9.]+) records/sec", said)
    return {"rate": float(found[-1])}


def _consumed(cluster: Cluster, records: int) -> Figures:
    """The fetching itself, without joining a group."""
    where = ["--bootstrap-server", cluster.bootstrap, "--topic", "tool", "--messages", str(records)]
    said = cluster.tool(CONSUMER, *where, "--hide-header", timeout_s=300)
    return {"rate": float(said.strip().splitlines()[-1].split(",")[-1])}  # fetch.nMsg.sec


def _posted(port: int, seconds: float) -> Figures:
    body = json.dumps({"records": [{"value": RECORD}] * BATCH}).encode()
    headers = {"Content-Type": "application/json"}
    return _clients(port, seconds, lambda client, _: _asked(client, "POST", "/topics/flashq/records", body, headers))


def _polled(port: int, seconds: float) -> Figures:
    """Each connection reads from the start on, 1,000 records at a time."""
    path = "/topics/flashq/records?max_records=1000&from_offset="
    end = int(json.loads(_request(port, "GET", "/topics/flashq"))["high_water_mark"]) // BATCH
    return _clients(port, seconds, lambda client, at: _asked(client, "GET", f"{path}{at % end * BATCH}", None, {}))


def _clients(port: int, seconds: float, ask: Callable[[http.client.HTTPConnection, int], object]) -> Figures:
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
    return {"rate": sum(done) / (time.perf_counter() - started)}


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
