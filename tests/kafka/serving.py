"""A FlashQ server on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.cluster import PASSWORD, USER, Cluster
from tests.server.running import Process, serving

BY_NAME = {
    "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": USER, "sasl_password": PASSWORD,
}  # fmt: skip


@contextmanager
def serving_on(cluster: Cluster, directory: Path, *arguments: str, **config: str) -> Iterator[Process]:
    """A server that listens; `config` is of librdkafka, with `_` for `.`. With `BY_NAME`, it has a name there."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "kafka.properties"
    settings.write_text("".join(f"{name.replace('_', '.')}={value}\n" for name, value in config.items()))
    bootstrap = cluster.sasl_bootstrap if "security_protocol" in config else cluster.bootstrap
    kafka = ("--storage", "kafka", "--kafka-bootstrap", bootstrap, "--kafka-config", str(settings))
    with serving(directory / "data", *kafka, *arguments) as server:
        yield server
