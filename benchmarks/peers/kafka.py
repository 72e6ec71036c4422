"""Apache Kafka, one node that is broker and controller, measured by its own producer and consumer performance tools.

They pipeline, and their figures take in that each starts a new, cold virtual machine; so does our load, which is
warm at once. `periodic` is Kafka's default, which leaves flushing to the operating system; `always` flushes each
message set (log.flush.interval.messages=1).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import LOAD_CORES, on_cores, scratch
from benchmarks.measure import Figures
from benchmarks.peers import Durability
from benchmarks.processes import Server, free_port, running

JARS = Path(__file__).parents[2] / "tests" / "kafka" / "target" / "jars"
TOPIC = "news"
BATCH_ROOM = 12  # bytes a record takes in a batch beside its content, at most
TOOLS = "org.apache.kafka.tools"


class Kafka:
    name = "Apache Kafka, its own tools"

    def missing(self) -> str:
        if not shutil.which("java"):
            return "java is not installed (make bench-peers)"
        return "" if JARS.exists() else "the jars of Apache Kafka are not there (make bench-peers)"

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        assert durability != "memory"
        port, controller = free_port(), free_port()
        with scratch() as directory:
            settings = {
                "process.roles": "broker,controller",
                "node.id": "1",
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
                "controller.listener.names": "CONTROLLER",
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "log.dirs": str(directory / "data"),
                "offsets.topic.replication.factor": "1",
                "group.initial.rebalance.delay.ms": "0",
                **({"log.flush.interval.messages": "1"} if durability == "always" else {}),
            }
            path = directory / "server.properties"
            path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
            _java("kafka.tools.StorageTool", "format", "-t", "Rmxhc2hRLWJlbmNobWFyaw", "-c", str(path))
            command = ["java", "-Xmx1g", "-cp", f"{JARS}/*", "kafka.Kafka", str(path)]
            with running(command, port) as server:
                create = ["--create", "--topic", TOPIC, "--partitions", "1"]
                _java(f"{TOOLS}.TopicCommand", "--bootstrap-server", f"127.0.0.1:{port}", *create)
                yield server

    def post(self, server: Server, count: int, batch: int, size: int) -> Figures:
        """`count` records in batches of so many, acknowledged as the broker is set."""
        properties = ["acks=all", "linger.ms=50", f"batch.size={batch * (size + BATCH_ROOM)}"]
        said = _java(
            f"{TOOLS}.ProducerPerformance",
            *["--topic", TOPIC, "--num-records", str(count), "--record-size", str(size), "--throughput", "-1"],
            *["--producer-props", f"bootstrap.servers=127.0.0.1:{server.port}", *properties],
        )
        found = re.findall(r"([\d.]+) records/sec", said)
        return {"rate": float(found[-1])}

    def poll(self, server: Server, count: int) -> Figures:
        """`count` records from the first on, in fetches as large as the consumer likes."""
        said = _java(
            f"{TOOLS}.ConsumerPerformance",
            *["--bootstrap-server", f"127.0.0.1:{server.port}", "--topic", TOPIC, "--messages", str(count)],
        )
        *_, fetched = said.strip().splitlines()[-1].split(",")
        return {"rate": float(fetched)}

    def end_to_end(self, server: Server, count: int, size: int) -> Figures:
        """One record at a time from producer to consumer, in whole milliseconds as the tool has them."""
        said = _java(f"{TOOLS}.EndToEndLatency", f"127.0.0.1:{server.port}", TOPIC, str(count), "all", str(size))
        found = re.search(r"50th = (\d+), 99th = (\d+), 99\.9th = (\d+)", said)
        assert found is not None, said
        p50, p99, p999 = (float(each) * 1000 for each in found.groups())
        return {"p50_us": p50, "p99_us": p99, "p999_us": p999}


def _java(program: str, *arguments: str) -> str:
    """What it printed. Raises RuntimeError with that if it fails."""
    command = ["java", "-cp", f"{JARS}/*", program, *arguments]
    with on_cores(LOAD_CORES):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stdout[-2000:]}")
    return done.stdout
