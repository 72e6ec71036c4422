"""Our batches sent to a Kafka broker as they are, by a Produce request of bytes, and read from there by librdkafka."""

from __future__ import annotations

import socket
import time
from struct import pack, unpack_from

from confluent_kafka import Consumer, TopicPartition

from flashq.batch import encode, encode_stored, to_kafka
from tests.golden.make import SENT, TIME_MS

TOPIC = "ours"
_PRODUCE, _VERSION = 0, 7  # the last version but one whose strings and arrays have plain lengths
_NOT_YET = (3, 6)  # unknown topic, not its leader: a broker hears of a new topic a little later
_TIMEOUT_S = 10


def assert_librdkafka_reads_ours(host: str, port: int) -> None:
    """The topic `ours` must be there, with nothing in it, or be made when it is first asked for."""
    posted = encode([(key, value or b"", [("h", b"x")]) for _, key, value, _ in SENT], TIME_MS)
    posted.place(0, 0, 0)
    _produce(host, port, to_kafka(encode_stored(0, SENT)))
    _produce(host, port, to_kafka(posted))
    read = _consume(f"{host}:{port}", 2 * len(SENT))
    assert read[: len(SENT)] == SENT
    assert read[len(SENT) :] == [(TIME_MS, key, value or b"", [("h", b"x")]) for _, key, value, _ in SENT]


def _produce(host: str, port: int, batch: bytes) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while (error := _answer(host, port, batch)) in _NOT_YET and time.monotonic() < deadline:
        time.sleep(0.1)
    assert error == 0, f"the broker refuses our batch with error {error}"


def _answer(host: str, port: int, batch: bytes) -> int:
    """The error code of the answer; 0 is none."""
    partition = pack(">iii", 1, 0, len(batch)) + batch
    topic = pack(f">h{len(TOPIC)}s", len(TOPIC), TOPIC.encode())
    head = pack(">hhih", _PRODUCE, _VERSION, 1, -1)  # no client's name
    request = head + pack(">hhii", -1, -1, _TIMEOUT_S * 1000, 1) + topic + partition  # no transaction, all replicas
    with socket.create_connection((host, port), _TIMEOUT_S) as broker, broker.makefile("rb") as answer:
        broker.sendall(pack(">i", len(request)) + request)
        (size,) = unpack_from(">i", answer.read(4))
        error: int = unpack_from(">h", answer.read(size), 4 + 4 + len(topic) + 4 + 4)[0]
    return error


def _consume(bootstrap: str, count: int) -> list[tuple[object, ...]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "log_level": 0, "check.crcs": True})
    try:
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        messages = consumer.consume(count, timeout=_TIMEOUT_S)
        assert [message.offset() for message in messages] == list(range(count))
        return [(each.timestamp()[1], each.key(), each.value(), each.headers() or []) for each in messages]
    finally:
        consumer.close()
