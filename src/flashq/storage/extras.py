"""Storage that needs more than FlashQ's own dependencies: loaded when asked for."""

from __future__ import annotations

from types import ModuleType

from flashq.errors import ConfigurationError

KAFKA_SCHEME = "kafka://"


def import_kafka() -> ModuleType:
    """`flashq.storage.kafka`. Raises `ConfigurationError` where confluent-kafka is not installed."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "storage on Kafka needs confluent-kafka, which is not installed: pip install 'flashq[kafka]'"
        ) from error
    from flashq.storage import kafka

    return kafka
