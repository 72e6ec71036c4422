"""Kafka's own command-line tools and FlashQ on the same topics and groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq import Client
from tests.kafka.cluster import Cluster
from tests.kafka.serving import serving_on
from tests.server.running import JSON, Process

pytestmark = pytest.mark.kafka
CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONSUMER_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving_on(cluster, tmp_path_factory.mktemp("served")) as running:
        yield running


def consumed(cluster: Cluster, topic: str, count: int) -> list[str]:
    """What the console consumer prints of the first records: key, headers and value."""
    printed = ["print.key=true", "print.headers=true", "print.offset=true"]
    properties = [each for name in printed for each in ("--formatter-property", name)]
    where = ["--bootstrap-server", cluster.bootstrap, "--topic", topic, "--partition", "0", "--offset", "0"]
    return cluster.tool(CONSOLE_CONSUMER, *where, "--max-messages", str(count), *properties).splitlines()


def test_the_console_consumer_reads_what_was_posted_over_http(cluster: Cluster, server: Process) -> None:
    server.post("posted", "plain", {"value": "kept", "key": "k", "headers": {"h": "1"}}, {"value": "Grüße"})
    assert consumed(cluster, "posted", 3) == [
        "Offset:0\tNO_HEADERS\tnull\tplain",
        "Offset:1\th:1\tk\tkept",
        "Offset:2\tNO_HEADERS\tnull\tGrüße",
    ]


def test_records_of_the_console_producer_are_polled_over_http(cluster: Cluster, server: Process) -> None:
    server.post("produced", "before")
    keyed = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]
    where = ["--bootstrap-server", cluster.bootstrap, "--topic", "produced"]
    cluster.tool(CONSOLE_PRODUCER, *where, *keyed, give="a:first\nb:second\n")
    found = server.poll("produced")
    assert [(each["key"], each["value"]) for each in found["records"]] == [
        (None, "before"),
        ("a", "first"),
        ("b", "second"),
    ]
    assert (found["next_offset"], found["high_water_mark"], found["lag"]) == (3, 3, 0)


def test_a_long_poll_is_answered_by_a_record_of_another_program(cluster: Cluster, server: Process) -> None:
    server.post("awaited", "before")
    with server.connect() as connection:
        connection.send(connection.encode("GET", "/topics/awaited/records?from_offset=1&timeout_ms=30000"))
        cluster.tool(CONSOLE_PRODUCER, "--bootstrap-server", cluster.bootstrap, "--topic", "awaited", give="now\n")
        assert [each["value"] for each in connection.receive().json()["records"]] == ["now"]


def test_consumer_groups_shows_and_resets_a_group_and_flashq_follows(cluster: Cluster, server: Process) -> None:
    server.post("grouped", *"abcde")
    server.ask("POST", "/consumer/readers")
    path = "/consumer/readers/topics/grouped/offset"
    assert server.ask("POST", path, b'{"offset": 3, "metadata": "noted"}', JSON).status == 200
    where = ["--bootstrap-server", cluster.bootstrap, "--group", "readers"]
    shown = cluster.tool(CONSUMER_GROUPS, *where, "--describe").splitlines()
    columns = next(line.split() for line in shown if " grouped " in line)
    assert columns[columns.index("grouped") :][1:5] == ["0", "3", "5", "2"]  # partition, offset, end, lag
    cluster.tool(CONSUMER_GROUPS, *where, "--reset-offsets", "--to-offset", "1", "--topic", "grouped", "--execute")
    moved = server.ask("GET", path).json()
    assert (moved["committed_offset"], moved["last_commit_time"]) == (1, None)
    with Client(f"http://127.0.0.1:{server.port}") as client:  # does not take it for one that never committed
        assert next(client.consumer("readers", "grouped", from_="latest")).text == "b"
        assert client.poll_records_for_consumer_group("readers", "grouped", count=1)[0].text == "b"
    polled = server.ask("GET", "/consumer/readers/topics/grouped").json()
    assert [each["value"] for each in polled["records"]] == list("bcde")


def test_a_group_made_by_kafka_is_listed_and_read(cluster: Cluster, server: Process) -> None:
    server.post("theirs", *"abc")
    where = ["--bootstrap-server", cluster.bootstrap, "--group", "made-by-kafka", "--topic", "theirs"]
    cluster.tool(CONSUMER_GROUPS, *where, "--reset-offsets", "--to-offset", "2", "--execute")
    assert {"group_id": "made-by-kafka"} in server.ask("GET", "/consumer").json()["groups"]
    told = server.ask("GET", "/consumer/made-by-kafka").json()["topics"]
    assert [(each["topic"], each["committed_offset"], each["last_commit_time"]) for each in told] == [
        ("theirs", 2, None)
    ]


def test_records_of_a_transaction_leave_holes_that_readers_step_over(cluster: Cluster, server: Process) -> None:
    from confluent_kafka import Producer

    server.post("holes", "0")
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": "holes"})
    producer.init_transactions(30)
    for value in ("1", "aborted", "2"):
        producer.begin_transaction()
        producer.produce("holes", value, partition=0)
        producer.flush(30)
        if value == "aborted":
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    at, values = 0, []
    for _ in range(10):
        polled = server.poll("holes", from_offset=at, max_records=1)
        values += [each["value"] for each in polled["records"]]
        at = polled["next_offset"]
    assert values == ["0", "1", "2"]
    assert (at, polled["high_water_mark"], polled["lag"]) == (7, 7, 0)


def test_a_group_continues_on_the_second_server_where_the_first_was_killed(cluster: Cluster, tmp_path: Path) -> None:
    with serving_on(cluster, tmp_path / "one") as one, serving_on(cluster, tmp_path / "two") as two:
        one.post("shared", *map(str, range(10)))
        one.ask("POST", "/consumer/both")
        read = one.ask("GET", "/consumer/both/topics/shared?max_records=4").json()
        body = b'{"offset": %d}' % read["next_offset"]
        assert one.ask("POST", "/consumer/both/topics/shared/offset", body, JSON).status == 200
        key = {**JSON, "Idempotency-Key": "sent-twice"}
        post = b'{"records": [{"value": "10"}]}'
        first = one.ask("POST", "/topics/shared/records", post, key)
        one.kill()
        rest = two.ask("GET", "/consumer/both/topics/shared").json()
        assert [each["value"] for each in rest["records"]] == [str(number) for number in range(4, 11)]
        again = two.ask("POST", "/topics/shared/records", post, key)
        assert (again.status, again.json()) == (200, first.json())
        assert two.poll("shared")["high_water_mark"] == 11
