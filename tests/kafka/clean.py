"""A backend on a cluster without topics and groups: tests share the cluster and begin as on a new one."""

from __future__ import annotations

from flashq.storage.kafka.backend import KafkaBackend
from tests.kafka.cluster import Cluster


def emptied(cluster: Cluster) -> KafkaBackend:
    backend = KafkaBackend(cluster.bootstrap)
    for group in list(backend.groups):
        backend.delete_group(group)
    for topic in list(backend.topics):
        backend.delete_topic(topic)
    return backend
