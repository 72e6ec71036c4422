"""A FlashQ server on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.cluster import Cluster
from tests.server.running import Process, serving


@contextmanager
def serving_on(cluster: Cluster, directory: Path, *arguments: str, **config: str) -> Iterator[Process]:
    """A server that listens; `config` is of librdkafka, with `_` for `.`."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "kafka.properties"
    settings.write_text("".join(f"{name.replace('_', '.')}={value}\n" for name, value in config.items()))
    kafka = ("--storage", "kafka", "--kafka-bootstrap", cluster.bootstrap, "--kafka-config", str(settings))
    with serving(directory / "data", *kafka, *arguments) as server:
        yield server
