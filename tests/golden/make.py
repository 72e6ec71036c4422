"""Batches as others write them: `python -m tests.golden.make` has a Kafka broker store them, and keeps its bytes.

Each file is the one batch of a partition's segment, in Kafka's order. These are of Kafka 4.3.1, of kafka-python 3.0.12,
which compresses with gzip alone unless more is installed, and of librdkafka 2.16.0 (confluent-kafka 2.16.1), with the
settings that each has by itself.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from tests.kafka.cluster import Cluster

HERE = Path(__file__).parent
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
"""In the order of their numbers in a batch."""
MADE = [*(f"librdkafka-{codec}" for codec in CODECS), "kafka-python-none", "kafka-python-gzip"]
LINGER_MS = 1000  # long enough for all records to go into one batch
TIME_MS = 1_700_000_000_123
SENT: list[tuple[int, bytes | None, bytes | None, list[tuple[str, Any]]]] = [
    (TIME_MS, b"key", b"value", [("header", b"h"), ("second", b"")]),
    (TIME_MS + 7, None, b"no key", []),
    (TIME_MS + 1, b"", b"", [("none", None)]),
    (TIME_MS + 2, b"deleted", None, []),
    (TIME_MS + 70_000, "ключ".encode(), "Grüße 👋".encode(), [("ключ", b"\x00\xff")]),
    (TIME_MS + 70_000, b"\x00\xff", b"v" * 1000, [(f"h{number}", b"x" * number) for number in range(3)]),
]
"""Time, key, value and headers of each record; the content of a header is bytes or None."""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), brokers=1) as cluster:
        for name in MADE:
            # The records are of 2023, and retention would remove them.
            topic = NewTopic(name, 1, 1, config={"retention.ms": "-1"})
            cluster.admin.create_topics([topic])[name].result()
            program, codec = name.rsplit("-", 1)
            (_with_librdkafka if program == "librdkafka" else _with_kafka_python)(cluster.bootstrap, name, codec)
            segment = Path(directory) / "broker-1" / "data" / f"{name}-0" / f"{0:020}.log"
            (HERE / f"{name}.batch").write_bytes(segment.read_bytes())


def _with_librdkafka(bootstrap: str, topic: str, codec: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": LINGER_MS})
    for timestamp_ms, key, value, headers in SENT:
        producer.produce(topic, value, key, partition=0, timestamp=timestamp_ms, headers=headers)
    assert producer.flush(30) == 0


def _with_kafka_python(bootstrap: str, topic: str, codec: str) -> None:
    with warnings.catch_warnings():  # of importlib.resources, in its __init__
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka import KafkaProducer
    compression = None if codec == "none" else codec
    producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type=compression, linger_ms=LINGER_MS)
    for timestamp_ms, key, value, headers in SENT:
        not_null = [(name, content or b"") for name, content in headers]  # it sends no others
        producer.send(topic, value, key, not_null, partition=0, timestamp_ms=timestamp_ms)
    producer.close()


if __name__ == "__main__":
    main()
