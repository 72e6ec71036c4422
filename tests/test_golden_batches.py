"""Batches that librdkafka and kafka-python wrote decode here, and librdkafka reads ours."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from flashq.batch import BadFrame, Batch, check, decode, encode_stored, to_kafka
from flashq.record import RecordWithOffset
from tests.golden.make import CODECS, HERE, MADE, SENT
from tests.produced import TOPIC, assert_librdkafka_reads_ours

READ_HERE = [name for name in MADE if name.endswith(("-none", "-gzip"))]


def kafka_bytes(name: str) -> bytes:
    return (HERE / f"{name}.batch").read_bytes()


def batch_of(kafka: bytes) -> Batch:
    return check(kafka[8:12] + kafka[:8] + kafka[12:], 0, lambda offset: 0)


@pytest.mark.parametrize("name", READ_HERE)
def test_what_others_wrote_decodes_to_what_was_sent(name: str) -> None:
    batch = batch_of(kafka_bytes(name))
    assert batch.frame[22] & 7 == CODECS.index(name.rsplit("-", 1)[1])
    expected = [
        RecordWithOffset(
            offset, timestamp_ms, key, value or b"", {name: content or b"" for name, content in headers} or None
        )
        for offset, (timestamp_ms, key, value, headers) in enumerate(SENT)
    ]
    assert decode(batch, RecordWithOffset) == expected
    assert to_kafka(batch) == kafka_bytes(name)


@pytest.mark.parametrize("name", sorted(set(MADE) - set(READ_HERE)))
def test_a_codec_that_is_not_read_is_a_bad_frame_that_names_it(name: str) -> None:
    codec = CODECS.index(name.rsplit("-", 1)[1])
    with pytest.raises(BadFrame, match=f"codec {codec} of Kafka's; only gzip"):
        decode(batch_of(kafka_bytes(name)), RecordWithOffset)


def test_our_bytes_are_those_of_librdkafka() -> None:
    assert to_kafka(encode_stored(0, SENT)) == kafka_bytes("librdkafka-none")


def test_librdkafka_reads_ours() -> None:
    """From the broker librdkafka has inside for tests, which hands out what it was sent."""
    mock = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = mock.list_topics(TOPIC, timeout=10).brokers.values()  # which makes it
    assert_librdkafka_reads_ours(broker.host, broker.port)
