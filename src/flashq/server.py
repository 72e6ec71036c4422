"""The one place that wires a server: open storage, build FlashQ, start listening; stop in reverse."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import ssl
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from flashq import __version__
from flashq.broker.flashq import FlashQ
from flashq.errors import ConfigurationError, FlashQError
from flashq.http.edge import Edge
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.groups import GroupHandlers
from flashq.http.handlers.health import HealthHandler
from flashq.http.handlers.metrics import MetricsHandler
from flashq.http.handlers.openapi import OpenApiHandler
from flashq.http.handlers.posts import PostHandler
from flashq.http.handlers.reads import ReadHandler
from flashq.http.handlers.streams import StreamHandler
from flashq.http.handlers.topics import TopicHandlers
from flashq.http.head import Limits
from flashq.http.listener import Counters, HttpServer
from flashq.http.message import Response, render_error
from flashq.http.router import OperationHandler, PerHead, Router
from flashq.logging import get_logger
from flashq.metrics import Metrics
from flashq.settings import ServerSettings
from flashq.storage.backend import StorageBackend
from flashq.storage.extras import import_kafka
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import TopicConfig
from flashq.storage.memory import InMemoryBackend
from flashq.tls import server_context

DRAIN_S = 8.0  # of the 10 s a stop may take; the rest is for the last flush
BLOCKING_THREADS = 4
REMOTE_THREADS = 32  # most of them wait for a network
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = get_logger("flashq.server")


def run(settings: ServerSettings, token: str | None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises `FlashQError` or OSError if it cannot start."""
    tls = _tls_of(settings)
    _raise_descriptor_limit()
    gc.disable()  # opening makes no cycles; with thousands of topics, looking for some takes as long as the rest
    flashq, opening = _open(settings)
    _relax_collector()
    try:
        _run_loop(_serve(flashq, settings, token, tls, opening))
    except BaseException:
        flashq.close()
        raise
    return _close(flashq)


def _edge_of(settings: ServerSettings, token: str | None) -> Edge:
    return Edge(token=token, host=settings.host, allow_hosts=settings.allow_host, cors_origins=settings.cors_origin)


def _tls_of(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return server_context(settings.tls_cert, settings.tls_key)


def _open(settings: ServerSettings) -> tuple[FlashQ, dict[str, object]]:
    """The FlashQ these settings ask for, and what opening it found."""
    started = time.monotonic()
    backend: StorageBackend
    found: dict[str, object] = {}
    if settings.storage == "memory":
        backend = InMemoryBackend()
    elif settings.storage == "kafka":
        backend, found = _open_kafka(settings)
    else:
        backend = FileBackend(
            settings.data_dir,
            sync_mode=settings.sync_mode,
            commit_threshold=settings.commit_threshold,
            sync_interval_s=settings.sync_interval_s,
        )
        recovered = backend.recovered
        found = {
            "sync_mode": settings.sync_mode,
            "data_dir": backend.data_dir,
            "topics": recovered.topics,
            "groups": recovered.groups,
            "torn_tails": recovered.torn_tails,
            "damaged": len(recovered.problems),
        }
    defaults = TopicConfig(
        retention_ms=settings.retention_ms,
        retention_bytes=settings.retention_bytes,
        segment_bytes=settings.segment_bytes,
    )
    found["opened_in_s"] = round(time.monotonic() - started, 3)
    return FlashQ(backend, topic_defaults=defaults), found


def _open_kafka(settings: ServerSettings) -> tuple[StorageBackend, dict[str, object]]:
    if settings.kafka_bootstrap is None:
        raise ConfigurationError("storage kafka needs kafka_bootstrap: --kafka-bootstrap host:9092,...")
    kafka = import_kafka()
    given = {} if settings.kafka_config is None else kafka.read_config_file(settings.kafka_config)
    backend = kafka.KafkaBackend(
        settings.kafka_bootstrap,
        config=given,
        sync_mode=settings.sync_mode,
        replication_factor=settings.kafka_replication_factor,
    )
    cluster = backend.cluster
    return backend, {
        "sync_mode": settings.sync_mode,
        "bootstrap": settings.kafka_bootstrap,
        "brokers": cluster.brokers,
        "replication_factor": cluster.replication_factor,
        "min_insync_replicas": cluster.min_insync_replicas,
        "topics": len(backend.topics),
        "groups": len(backend.groups),
    }


async def _serve(
    flashq: FlashQ,
    settings: ServerSettings,
    token: str | None,
    tls: ssl.SSLContext | None,
    opening: dict[str, object],
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    # Not the loop's own handlers: closing the loop brings the default action back, while the last flush is to come.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    flashq.backend.drive_from_loop(loop)
    threads = REMOTE_THREADS if flashq.backend.is_remote else BLOCKING_THREADS
    executor = ThreadPoolExecutor(threads, thread_name_prefix="flashq-blocking")
    metrics, counters = Metrics(), Counters()
    flashq.backend.observe_syncs(metrics.syncs.add)
    handlers = operation_handlers(flashq, loop, executor, metrics, counters)
    router = Router(handlers, _edge_of(settings, token), metrics)
    limits = Limits(max_body_bytes=settings.max_body_bytes, max_connections=settings.max_connections)
    server = HttpServer(router.handle, limits=limits, render=_protocol_error, on_error=_log_failure, counters=counters)
    try:
        await server.start(settings.host, settings.port, ssl=tls)
        scheme = "http" if tls is None else "https"
        log.info(
            "listening",
            version=__version__,
            address=" ".join(f"{scheme}://{_in_url(host)}:{port}" for host, port in server.addresses),
            storage=settings.storage,
            **opening,
        )
        await stop.wait()
        log.info("stopping", connections=len(server.connections))
        if not await server.drain(DRAIN_S):
            log.warning("connections_cut_off", after_s=DRAIN_S)
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the server is stopping, and a flush must not be cut short
        executor.shutdown()
        flashq.backend.leave_loop()


def operation_handlers(
    flashq: FlashQ, loop: asyncio.AbstractEventLoop, executor: Executor, metrics: Metrics, counters: Counters
) -> dict[str, OperationHandler | PerHead]:
    """What answers each operation of the contract, by its id."""
    blocking = Blocking(loop, executor, is_remote=flashq.backend.is_remote)
    posts = PostHandler(flashq, loop, executor, metrics.posted)
    reads = ReadHandler(flashq, loop, blocking, metrics.read)
    streams = StreamHandler(flashq, loop, blocking, metrics.read)
    topics, groups = TopicHandlers(flashq, blocking), GroupHandlers(flashq, blocking)
    return {
        "post_records": PerHead(posts.prepare),
        "poll_records": reads.poll_records,
        "poll_group": reads.poll_group,
        "stream_records": streams.stream_records,
        "stream_group": streams.stream_group,
        "list_topics": topics.list_topics,
        "put_topic": topics.put_topic,
        "get_topic": topics.get_topic,
        "delete_topic": topics.delete_topic,
        "create_group": groups.create_group,
        "list_groups": groups.list_groups,
        "get_group": groups.get_group,
        "delete_group": groups.delete_group,
        "commit_offset": groups.commit_offset,
        "get_group_offset": groups.get_group_offset,
        "reset_offset": groups.reset_offset,
        "health": HealthHandler(flashq).get,
        "metrics": MetricsHandler(flashq, blocking, metrics, counters).get,
        "openapi": OpenApiHandler().get,
    }


def _close(flashq: FlashQ) -> int:
    """Flush and release; 5 if the disk did not take the last records, as the log has said."""
    try:
        flashq.close()
    except FlashQError as error:
        log.error("stopped", outcome="storage failed", why=error.message)
        return 5
    log.info("stopped", outcome="clean")
    return 0


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:  # plain asyncio serves the same, slower
        pass
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _protocol_error(status: int, code: str, message: str, details: dict[str, object]) -> Response:
    """What the protocol layer refuses never reached the log; what failed inside may have."""
    return render_error(status, code, message, {**details, "outcome": "unknown" if status == 500 else "not_applied"})


def _log_failure(error: Exception) -> None:
    if isinstance(error, FlashQError):  # met in the middle of a streamed answer, after its status
        log.warning("answer_cut_off", error=error.code, why=error.message)
    else:
        log.error("internal_error", exc_info=error)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _relax_collector() -> None:
    """What is here now stays; requests leave no cycles behind, so look for some a hundred times less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(70_000, 10, 10)
    gc.enable()


def _raise_descriptor_limit() -> None:
    """Connections, and logs that are written to, hold a descriptor each: take what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS refuses "unlimited"; the soft limit then stays
            pass
