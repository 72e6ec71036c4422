"""Topics and groups on an Apache Kafka cluster. The only package that imports confluent_kafka."""

from flashq.storage.kafka.backend import KafkaBackend as KafkaBackend
from flashq.storage.kafka.config import read_config_file as read_config_file
