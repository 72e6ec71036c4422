"""Apache Kafka for tests: three processes, each broker and controller, on free ports and a directory of their own.

The jars come through Maven (`pom.xml`), once. Only processes started here are ever signalled, by their own pid, and
none outlives its cluster.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient, PartitionMetadata

START_TIMEOUT_S = 180.0  # of a busy machine; a quiet one takes 15
STOP_TIMEOUT_S = 20.0
TOOL_TIMEOUT_S = 60.0
MISSING_TOOLS = "Java or Maven is missing: the tests on Apache Kafka are skipped"

_HERE = Path(__file__).parent
_JARS = _HERE / "target" / "jars"
USER, PASSWORD = "flashq", "not-secret"
"""Of who comes in by SASL."""
_CLUSTER_ID = "Rmxhc2hRLXRlc3RzLW9uLQ"
_SETTINGS = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=3
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=3
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=2
group.initial.rebalance.delay.ms=0
# A note of 4 KiB, which FlashQ allows, with what FlashQ adds to it.
offset.metadata.max.bytes=8192
# Failures are noticed, and retention is applied, in seconds: a test waits for both.
broker.session.timeout.ms=5000
broker.heartbeat.interval.ms=500
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=3000
replica.fetch.backoff.ms=100
replica.fetch.wait.max.ms=100
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
# Who comes in by name meets rules, where there are any. Brokers have none, and must not wait for each other's rules.
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"""


def missing_tools() -> bool:
    return shutil.which("java") is None or shutil.which("mvn") is None


def fetch_jars() -> None:
    """Have the jars of the version in pom.xml, from Maven's repository the first time."""
    (version,) = re.findall(r"<kafka\.version>(.+)</kafka\.version>", (_HERE / "pom.xml").read_text())
    if (_JARS / f"kafka_2.13-{version}.jar").exists():
        return
    shutil.rmtree(_JARS, ignore_errors=True)
    maven = ["mvn", "--quiet", "--batch-mode", "--file", str(_HERE / "pom.xml"), "package"]
    subprocess.run(maven, check=True, stdin=subprocess.DEVNULL, timeout=600)


class Cluster:
    """Three brokers, numbered from 1; all up when the constructor returns."""

    def __init__(self, directory: Path, brokers: int = 3) -> None:
        fetch_jars()
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ports = {node: (_free_port(), _free_port(), _free_port()) for node in range(1, brokers + 1)}
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port, _, _ in self._ports.values())
        self.sasl_bootstrap = ",".join(f"127.0.0.1:{sasl_port}" for _, sasl_port, _ in self._ports.values())
        voters = ",".join(f"{node}@127.0.0.1:{controller}" for node, (_, _, controller) in self._ports.items())
        for node, (port, sasl_port, controller_port) in self._ports.items():
            home = directory / f"broker-{node}"
            home.mkdir(parents=True)
            settings = _SETTINGS.format(
                node=node,
                voters=voters,
                port=port,
                sasl_port=sasl_port,
                controller_port=controller_port,
                data=home / "data",
                user=USER,
                password=PASSWORD,
            )
            (home / "server.properties").write_text(settings)
        for formatting in [self._format(node) for node in self._ports]:
            assert formatting.wait(TOOL_TIMEOUT_S) == 0, "a broker's directory could not be formatted"
        try:
            for node in self._ports:
                self._spawn(node)
            self.wait_until_up()
        except BaseException:
            self.close()
            raise
        # One that may create topics asks every five minutes for those it was asked about: deleted ones come back.
        self.admin = AdminClient(
            {"bootstrap.servers": self.bootstrap, "log_level": 0, "allow.auto.create.topics": False}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def up(self) -> list[int]:
        """The brokers whose processes run."""
        return sorted(self._processes)

    def close(self) -> None:
        """Kill whatever runs: what these brokers hold is of no use to anyone."""
        for node in self.up:
            self.kill(node)

    def kill(self, node: int) -> None:
        """`kill -9`, and wait until it is gone."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def stop(self, node: int) -> None:
        """SIGTERM: it hands over what it leads first, if there is anyone to take it."""
        process = self._processes.pop(node)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # a controller without a quorum waits for one
            process.kill()
            process.wait()

    @contextmanager
    def frozen(self, *nodes: int) -> Iterator[None]:
        """These brokers do nothing meanwhile, and know nothing of it."""
        for node in nodes:
            self._processes[node].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for node in nodes:
                self._processes[node].send_signal(signal.SIGCONT)

    def start(self, node: int) -> None:
        """Start a broker again on the records it has; returns at once."""
        self._spawn(node)

    def wait_until_up(self) -> None:
        """Until every started broker is one of the cluster, as each of them sees it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        for node in self.up:
            while not self._sees_all(node):
                ended = self._processes[node].poll()
                assert ended is None, f"broker {node} ended with {ended}\n{self.said(node)}"
                assert time.monotonic() < deadline, f"broker {node} is not up in time\n{self.said(node)}"
                time.sleep(0.1)

    def leader(self, topic: str) -> int:
        """The broker that leads the topic's partition; -1 where none does, or whoever is asked has not heard of it."""
        partition = self._partition(topic)
        return -1 if partition is None else partition.leader

    def in_sync(self, topic: str) -> list[int]:
        """The brokers that have all of the topic's records, as far as whoever is asked has heard."""
        partition = self._partition(topic)
        return [] if partition is None else sorted(partition.isrs)

    def said(self, node: int) -> str:
        """The end of what a broker has logged."""
        return (self._directory / f"broker-{node}" / "output").read_text(errors="replace")[-4000:]

    def tool(self, main: str, *arguments: str, give: str = "", timeout_s: float = TOOL_TIMEOUT_S) -> str:
        """What one of Kafka's command-line tools prints; `give` is its standard input. It must succeed."""
        done = subprocess.run(
            [*_java(128), main, *arguments], input=give, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"{main} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _partition(self, topic: str) -> PartitionMetadata | None:
        partitions: dict[int, PartitionMetadata] = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        return partitions.get(0)

    def _format(self, node: int) -> subprocess.Popen[bytes]:
        settings = str(self._directory / f"broker-{node}" / "server.properties")
        command = [*_java(128), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", settings]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _spawn(self, node: int) -> None:
        home = self._directory / f"broker-{node}"
        with (home / "output").open("ab") as output:
            self._processes[node] = subprocess.Popen(
                [*_java(768), "kafka.Kafka", str(home / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
            )

    def _sees_all(self, node: int) -> bool:
        port = self._ports[node][0]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return False
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
        try:
            return set(self._processes) <= set(client.list_topics(timeout=2).brokers)
        except Exception:  # not yet
            return False


def _java(heap_mib: int) -> Sequence[str]:
    """A JVM that starts fast and stays small."""
    options = [f"-Xmx{heap_mib}m", "-XX:+UseSerialGC", "-Xshare:auto", "-Dlog4j2.level=WARN"]
    return ["java", *options, "-cp", f"{_JARS}/*"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
