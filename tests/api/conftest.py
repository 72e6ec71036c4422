"""One server for each storage; tests keep apart by the names of their topics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.server.running import Process, serving

NOT_ON_KAFKA: Final = {
    "test_a_large_answer_in_lines_stops_at_max_bytes_or_max_records": "lines from Kafka are not streamed",
    "test_unicode_passes_unchanged": "Kafka's clients cannot send NUL in a header's name",
    "test_pipelined_posts_with_and_without_keys_keep_their_order": "a post with a key asks the cluster first",
    "test_one_of_many_conditional_posts_wins": "Kafka has no append on a condition",
    "test_put_creates_a_topic_and_describes_it": "Kafka does not tell sizes, and its posts are replicated",
    "test_creates_with": "Kafka's segments are smaller or larger than these",
    "test_put_changes_what_is_given_and_leaves_the_rest": "Kafka's segments have 1 MiB at least",
    "test_the_list_has_every_topic_by_name_with_its_offsets_and_bytes": "Kafka does not tell sizes",
    "test_a_topic_made_by_its_first_post_is_described": "Kafka does not tell sizes",
}
"""What docs/how-to/kafka.md says is different."""

SAME_FOR_EVERY_STORAGE: Final = (
    "test_limits_and_statuses.py",
    "test_openapi.py",
    "test_conformance.py",
    "test_errors.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Kafka takes minutes: what never reaches a storage is not asked there again."""
    on_kafka = [item for item in items if item.get_closest_marker("kafka") and item.path.name in SAME_FOR_EVERY_STORAGE]
    if on_kafka:
        config.hook.pytest_deselected(items=on_kafka)
        items[:] = [item for item in items if item not in on_kafka]


@pytest.fixture(autouse=True)
def _applies(request: pytest.FixtureRequest) -> None:
    name = getattr(request.node, "originalname", "")
    if request.node.get_closest_marker("kafka") and name in NOT_ON_KAFKA:
        pytest.skip(NOT_ON_KAFKA[name])


@pytest.fixture(scope="session", params=["file", "memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    data_dir = tmp_path_factory.mktemp("served") / "data"
    more: list[str] = []
    if request.param == "kafka":
        more = ["--kafka-bootstrap", request.getfixturevalue("cluster").bootstrap]
    with serving(data_dir, "--storage", request.param, *more) as running:
        yield running
