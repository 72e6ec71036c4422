"""Settings of librdkafka: those a user gives, those that are FlashQ's alone, and the file they come in.

https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flashq.errors import ConfigurationError

DELIVERY_TIMEOUT_MS = 30_000
MAX_BATCH_BYTES = 100 * 1024 * 1024 - 64 * 1024
"""Of a post, in topics made here. Brokers take requests of 100 MiB, unless socket.request.max.bytes says otherwise."""
_LARGEST_MESSAGE_BYTES = 1_000_000_000  # librdkafka's own limit

_OWNED = frozenset(
    {
        "acks", "allow.auto.create.topics", "auto.commit.enable", "auto.offset.reset", "batch.num.messages",
        "batch.size", "bootstrap.servers", "enable.auto.commit", "enable.auto.offset.store", "enable.idempotence",
        "enable.partition.eof", "group.id", "group.instance.id", "isolation.level", "linger.ms", "message.max.bytes",
        "metadata.broker.list", "partition.assignment.strategy", "partitioner", "queue.buffering.max.kbytes",
        "queue.buffering.max.messages", "queue.buffering.max.ms", "request.required.acks", "transactional.id",
    }
)  # fmt: skip
"""What FlashQ's promises rest on."""


def read_config_file(path: str) -> dict[str, str]:
    """Settings of a file of `name=value` lines, as Kafka's own clients take; `#` begins a comment.

    Raises `ConfigurationError`, which names the line, and OSError.
    """
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigurationError(f"{path}, line {number}: {text[:60]!r} is not name=value")
        found[name.strip()] = value.strip()
    return found


class KafkaConfig:
    """What producers, consumers and admin clients are made with. Raises `ConfigurationError` for what is not to set."""

    def __init__(self, bootstrap: str, given: Mapping[str, str]) -> None:
        owned = sorted(_OWNED & given.keys())
        if owned:
            raise ConfigurationError(f"{', '.join(owned)}: not to be set; what FlashQ promises rests on it")
        self._common: dict[str, str | int | bool] = {"bootstrap.servers": bootstrap, "log_level": 0, **given}
        self.delivery_timeout_ms = _milliseconds(given)

    def admin(self) -> dict[str, object]:
        """One that forgets who leads what, and who coordinates which group, after a second: a broker may be gone."""
        return {"socket.timeout.ms": 10_000, "metadata.max.age.ms": 1000, **self._common}

    def group(self, name: str, on_commit: Callable[..., None]) -> dict[str, object]:
        """A consumer for the offsets of a group, which it never joins. `on_commit` is told of every commit's end."""
        return {
            "reconnect.backoff.max.ms": 1000,
            **self._common,
            "group.id": name,
            "on_commit": on_commit,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "allow.auto.create.topics": False,
            "isolation.level": "read_uncommitted",  # of offsets: not to wait for a consumer's transaction
        }

    def producer(self, acks: str) -> dict[str, object]:
        """One that sends only when flushed: a post is then one batch, whole or not at all."""
        return {
            "message.timeout.ms": DELIVERY_TIMEOUT_MS,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.fast.interval.ms": 50,
            "topic.metadata.propagation.max.ms": 5000,
            **self._common,
            "acks": acks,
            "enable.idempotence": acks == "all",
            "linger.ms": min(self.delivery_timeout_ms - 1, 900_000),
            "batch.num.messages": 1_000_000,
            "batch.size": 2**31 - 1,
            "message.max.bytes": _LARGEST_MESSAGE_BYTES,
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": 2**31 - 1,
            "allow.auto.create.topics": False,
        }

    def consumer(self, *, wait_ms: int, ahead_kib: int) -> dict[str, object]:
        """One that is told what to read and commits nothing. It waits `wait_ms` for more at the end of a topic."""
        return {
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.propagation.max.ms": 5000,
            "queued.min.messages": 10_000,
            "fetch.error.backoff.ms": 100,
            **self._common,
            "group.id": "flashq-reads",  # never joined; librdkafka wants a name
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": wait_ms,
            "queued.max.messages.kbytes": ahead_kib,
        }


def _milliseconds(given: Mapping[str, str]) -> int:
    text = given.get("message.timeout.ms", given.get("delivery.timeout.ms", str(DELIVERY_TIMEOUT_MS)))
    if not text.isdecimal() or int(text) < 1000:
        raise ConfigurationError(f"message.timeout.ms is {text!r}; it must be a whole number, 1000 or more")
    return int(text)
