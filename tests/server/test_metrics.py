"""`GET /metrics` of a live server: read by Prometheus's own parser, true after known traffic, and all documented."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.running import JSON, Process, serving

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(server: Process) -> Samples:
    answer = server.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    with serving(tmp_path / "data") as server:
        yield server


def test_requests_records_and_bytes_are_counted(server: Process) -> None:
    body = b'{"records":[{"value":"a"},{"value":"b"}]}'
    for _ in range(3):
        assert server.ask("POST", "/topics/news/records", body, JSON).status == 200
    assert server.ask("POST", "/topics/news/records", b"{", JSON).status == 400
    assert server.ask("GET", "/nowhere").status == 404
    polled = server.ask("GET", "/topics/news/records")
    samples = scrape(server)
    assert value(samples, "flashq_http_requests_total", operation="post_records", status="200") == 3
    assert value(samples, "flashq_http_requests_total", operation="post_records", status="400") == 1
    assert value(samples, "flashq_http_requests_total", operation="none", status="404") == 1
    assert value(samples, "flashq_http_request_duration_seconds_count", operation="post_records") == 4
    assert value(samples, "flashq_http_request_duration_seconds_bucket", operation="post_records", le="+Inf") == 4
    assert value(samples, "flashq_posted_records_total") == 6
    assert value(samples, "flashq_posted_bytes_total") == 3 * len(body)
    assert value(samples, "flashq_read_records_total") == 6
    assert value(samples, "flashq_read_bytes_total") == len(polled.body)
    assert value(samples, "flashq_fsync_records_sum") == 6
    assert 1 <= value(samples, "flashq_fsync_duration_seconds_count") <= 3


def test_posts_that_share_a_batch_are_each_counted_once(server: Process) -> None:
    server.post("news", "a")
    body = b'{"records":[{"value":"b"}]}'
    request = b"POST /topics/news/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(request * 40)
        answers = b""
        while answers.count(b"]}") < 40:
            answers += client.recv(65536)
    samples = scrape(server)
    assert value(samples, "flashq_http_requests_total", operation="post_records", status="200") == 41
    assert value(samples, "flashq_http_request_duration_seconds_count", operation="post_records") == 41
    assert value(samples, "flashq_http_request_duration_seconds_bucket", operation="post_records", le="+Inf") == 41
    assert value(samples, "flashq_posted_records_total") == 41
    assert value(samples, "flashq_fsync_duration_seconds_count") < 20  # or none of them shared one


def test_topics_and_lags_are_those_of_the_moment(server: Process) -> None:
    server.post("news", "a", "b", "c")
    server.post("gone", "a")
    server.ask("POST", "/consumer/readers")
    server.ask("POST", "/consumer/readers/topics/news/offset", b'{"offset":1}', JSON)
    samples = scrape(server)
    assert value(samples, "flashq_topic_next_offset", topic="news") == 3
    assert value(samples, "flashq_topic_high_water_mark", topic="news") == 3
    assert value(samples, "flashq_topic_log_start_offset", topic="news") == 0
    assert value(samples, "flashq_topic_size_bytes", topic="news") > 0
    assert value(samples, "flashq_group_lag_records", group="readers", topic="news") == 2
    age = value(samples, "flashq_group_lag_seconds", group="readers", topic="news")
    assert age >= 0
    server.ask("POST", "/consumer/readers/topics/news/offset", b'{"offset":3}', JSON)
    server.ask("DELETE", "/topics/gone")
    samples = scrape(server)
    assert value(samples, "flashq_group_lag_records", group="readers", topic="news") == 0
    assert value(samples, "flashq_group_lag_seconds", group="readers", topic="news") == 0
    assert not [labels for _, labels in samples if ("topic", "gone") in labels]


def test_connections_and_what_was_wrong_with_them_are_counted(server: Process) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10):
        before = scrape(server)
    refused = server.ask("GET", "/" + "a" * 10_000)
    after = scrape(server)
    assert value(before, "flashq_http_connections") == 2  # that one, and this scrape
    assert value(after, "flashq_http_connections_opened_total") >= 4
    assert value(after, "flashq_http_connections_refused_total") == 0
    assert value(after, "flashq_http_protocol_errors_total", status=str(refused.status)) == 1


def test_counters_never_go_back_while_posts_go_on(server: Process) -> None:
    stop = threading.Event()

    def post() -> None:
        while not stop.is_set():
            server.post("news", "a")

    poster = threading.Thread(target=post)
    poster.start()
    try:
        seen: Samples = {}
        for _ in range(20):
            samples = scrape(server)
            for key, earlier in seen.items():
                if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                    assert samples[key] >= earlier, key
            seen = samples
    finally:
        stop.set()
        poster.join()


def test_the_page_lists_exactly_the_metrics_of_a_live_server(server: Process) -> None:
    server.post("news", "a")
    server.ask("POST", "/consumer/readers")
    server.ask("POST", "/consumer/readers/topics/news/offset", b'{"offset":1}', JSON)
    text = server.ask("GET", "/metrics").body.decode()
    live = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type)
        for family in text_string_to_metric_families(text)
        if not family.name.startswith("process_")
    }
    told = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert told == live
