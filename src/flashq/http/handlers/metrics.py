"""`GET /metrics`: the counts of the server and the state of its logs, in the Prometheus text format.

Everything is made when it is asked for, off the event loop: lag in seconds reads the disk. docs/metrics.md lists it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from math import inf

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flashq import __version__
from flashq.api.operations import PROMETHEUS
from flashq.broker.flashq import FlashQ
from flashq.errors import DataCorruption, FlashQError
from flashq.http.handlers.blocking import Blocking
from flashq.http.listener import Counters
from flashq.http.message import Deferred, Request, Response
from flashq.metrics import Histogram, Metrics
from flashq.storage.interface import ConsumerGroup, TopicLog

_CONTENT_TYPE = PROMETHEUS.encode()


class MetricsHandler:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, flashq: FlashQ, blocking: Blocking, metrics: Metrics, counters: Counters) -> None:
        self._blocking = blocking
        self._registry = CollectorRegistry()
        self._registry.register(_Server(metrics, counters))
        self._registry.register(_Logs(flashq))
        ProcessCollector(registry=self._registry)  # memory, processor, descriptors: from /proc, where there is one

    def get(self, request: Request) -> Deferred:
        return self._blocking.answer(
            request, lambda: generate_latest(self._registry), lambda text: Response(200, text, _CONTENT_TYPE)
        )


class _Server(Collector):
    """What the server has counted since its start."""

    def __init__(self, metrics: Metrics, counters: Counters) -> None:
        self._metrics = metrics
        self._counters = counters
        self._started = time.time()

    def collect(self) -> Iterator[Metric]:
        yield _gauge("flashq_build_info", "Always 1; the version is in the label.", {(__version__,): 1}, "version")
        yield _gauge("flashq_start_time_seconds", "Unix time of the start.", {(): self._started})
        yield from self._requests()
        yield from self._connections()
        yield from self._volumes()
        syncs = self._metrics.syncs
        duration = HistogramMetricFamily("flashq_fsync_duration_seconds", "Duration of fsyncs of logs.")
        yield _with_histogram(duration, syncs.seconds)
        records = HistogramMetricFamily("flashq_fsync_records", "Records and commits made durable by an fsync.")
        yield _with_histogram(records, syncs.records)

    def _requests(self) -> Iterator[Metric]:
        answered: dict[tuple[str, ...], float] = {}
        duration = HistogramMetricFamily(
            "flashq_http_request_duration_seconds", "From a request to its answer.", labels=["operation"]
        )
        for operation, requests in self._metrics.requests.items():
            by_status = requests.by_status.copy()
            if by_status:  # an operation shows up with its first request
                answered.update({(operation, str(status)): count for status, count in by_status.items()})
                _with_histogram(duration, requests.seconds, operation)
        yield _counter("flashq_http_requests", "Answered requests.", answered, "operation", "status")
        yield duration

    def _connections(self) -> Iterator[Metric]:
        counters = self._counters
        is_open = counters.connections - counters.connections_closed
        yield _gauge("flashq_http_connections", "Open connections.", {(): is_open})
        yield _counter("flashq_http_connections_opened", "Connections let in.", {(): counters.connections})
        yield _counter(
            "flashq_http_connections_refused", "Connections over max_connections.", {(): counters.connections_refused}
        )
        broken: dict[tuple[str, ...], float] = {
            (str(status),): count for status, count in counters.protocol_errors.copy().items()
        }
        yield _counter("flashq_http_protocol_errors", "Requests refused before they had a path.", broken, "status")
        late: dict[tuple[str, ...], float] = {(what,): count for what, count in counters.timeouts.copy().items()}
        yield _counter("flashq_http_timeouts", "Connections closed because the client was too slow.", late, "what")

    def _volumes(self) -> Iterator[Metric]:
        posted, read = self._metrics.posted, self._metrics.read
        yield _counter("flashq_posted_records", "Records of acknowledged posts.", {(): posted.records})
        yield _counter("flashq_posted_bytes", "Bytes of the bodies of acknowledged posts.", {(): posted.bytes})
        yield _counter("flashq_read_records", "Records in answers and streams.", {(): read.records})
        yield _counter("flashq_read_bytes", "Bytes of answers and streams with records.", {(): read.bytes})


class _Logs(Collector):
    """Topics and groups as they are now. One that is deleted meanwhile, or cannot be read, is left out."""

    def __init__(self, flashq: FlashQ) -> None:
        self._flashq = flashq
        self._times: dict[tuple[str, int], int | None] = {}  # by topic id and offset: where groups stood last time

    def collect(self) -> Iterator[Metric]:
        try:
            self._flashq.backend.refresh()
        except FlashQError:  # what was last heard, then; `flashq_health_problems` tells
            pass
        logs = [log for log in list(self._flashq.backend.topics.values()) if log.unreadable is None]
        problems = len(self._flashq.health().problems)
        yield _gauge("flashq_health_problems", "Problems that /health tells of.", {(): problems})
        yield from self._topics(logs)
        yield from self._lags(logs)

    def _topics(self, logs: list[TopicLog]) -> Iterator[Metric]:
        gauges: tuple[tuple[str, str, dict[tuple[str, ...], float]], ...] = (
            ("size_bytes", "Bytes stored.", _sizes(logs)),
            ("log_start_offset", "The first offset there is.", {(log.name,): log.log_start_offset for log in logs}),
            ("high_water_mark", "The first offset not readable.", {(log.name,): log.high_water_mark for log in logs}),
            ("next_offset", "The offset the next record gets.", {(log.name,): log.next_offset for log in logs}),
        )
        for name, what, values in gauges:
            yield _gauge(f"flashq_topic_{name}", what, values, "topic")

    def _lags(self, logs: list[TopicLog]) -> Iterator[Metric]:
        records: dict[tuple[str, ...], float] = {}
        seconds: dict[tuple[str, ...], float] = {}
        times: dict[tuple[str, int], int | None] = {}
        by_id = {log.topic_id: log for log in logs}
        for group in list(self._flashq.backend.groups.values()):
            for log, offset in _stands(group, by_id):
                lag = max(log.high_water_mark - offset, 0)
                records[group.name, log.name] = lag
                if self._flashq.backend.is_remote:  # a record of each topic would have to be fetched
                    continue
                age = self._age_s(log, offset, times) if lag else 0.0
                if age is not None:
                    seconds[group.name, log.name] = age
        self._times = times
        yield _gauge("flashq_group_lag_records", "Readable records not yet committed.", records, "group", "topic")
        yield _gauge("flashq_group_lag_seconds", "Age of the oldest of them.", seconds, "group", "topic")

    def _age_s(self, log: TopicLog, offset: int, times: dict[tuple[str, int], int | None]) -> float | None:
        """How long ago the first record at or after `offset` was appended; None if it cannot be read."""
        place = log.topic_id, max(offset, log.log_start_offset)
        if place not in times:
            try:
                times[place] = self._times[place] if place in self._times else _appended_ms(log, place[1])
            except (FlashQError, OSError):  # deleted meanwhile, or retention was faster, or no descriptor is left
                return None
        appended_ms = times[place]
        return None if appended_ms is None else max(self._flashq.clock_ms() - appended_ms, 0) / 1000


def _stands(group: ConsumerGroup, logs: Mapping[str, TopicLog]) -> Iterator[tuple[TopicLog, int]]:
    """The topics a group has committed in, of these (by id), and the offsets it reads next."""
    try:
        for log, committed in group.stands(logs):
            yield log, committed.offset
    except FlashQError:  # the group cannot be read: `flashq_health_problems` counts it
        pass


def _sizes(logs: list[TopicLog]) -> dict[tuple[str, ...], float]:
    """Of the topics whose storage tells."""
    return {(log.name,): log.size_bytes for log in logs if log.size_bytes is not None}


def _appended_ms(log: TopicLog, offset: int) -> int | None:
    """When the record at `offset` was appended, Unix milliseconds; None if it is damaged."""
    try:
        batches = log.read(offset, max_records=1)
    except DataCorruption:  # remembered, so that not every scrape reads and logs it again
        return None
    return batches[0].timestamp_ms if batches else None


_Values = Mapping[tuple[str, ...], float]
"""By the values of the labels."""


def _counter(name: str, what: str, values: _Values, *labels: str) -> Metric:
    return _with_values(CounterMetricFamily(name, what, labels=labels), values)


def _gauge(name: str, what: str, values: _Values, *labels: str) -> Metric:
    return _with_values(GaugeMetricFamily(name, what, labels=labels), values)


def _with_values(family: CounterMetricFamily | GaugeMetricFamily, values: _Values) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _with_histogram(family: HistogramMetricFamily, histogram: Histogram, *labels: str) -> Metric:
    buckets = [("+Inf" if bound == inf else str(bound), count) for bound, count in histogram.cumulative()]
    family.add_metric(labels, buckets, histogram.total)
    return family
