"""What Kafka says no with, as errors of FlashQ: the one table of its codes.

An outcome is "not_applied" only where the cluster cannot have stored anything: refused before the append, or never
sent. Whatever else ends a post is "unknown".
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException

from flashq.errors import (
    FlashQError,
    GroupInUse,
    InvalidParameter,
    NotConfirmed,
    StorageRefused,
    StorageUnavailable,
    TopicNotFound,
    ValidationError,
)

NO_SUCH_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
LEADER_CHANGES = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError._NOENT,  # librdkafka's word for a partition without a leader
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)
"""Passes by itself, in a moment if there is somebody to lead."""
COORDINATOR_CHANGES = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._WAIT_COORD,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)
"""The same of the broker that keeps a group."""
_NOT_ALLOWED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_NOT_TAKEN = frozenset(
    {
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_REQUEST,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_RECORD,
    }
)
_IN_USE = frozenset(
    {
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)
_NEVER_APPENDED = frozenset({KafkaError.NOT_ENOUGH_REPLICAS, KafkaError._PURGE_QUEUE, KafkaError._ALL_BROKERS_DOWN})
_NOT_ANSWERED = frozenset({KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._TRANSPORT})


def refused(
    error: KafkaError, what: str, *, topic: str | None = None, is_post: bool = False, is_change: bool = False
) -> FlashQError:
    """The error for a request that Kafka has refused or not answered; `what` says what was asked, as a clause.

    `is_change`: it asked for something other than records to be changed, which may be done without an answer.
    """
    code = error.code()
    told = f"{what}: {error.str()}"
    details: dict[str, Any] = {} if topic is None else {"topic": topic}
    if code in NO_SUCH_TOPIC:
        return TopicNotFound(f"there is no topic {topic} in the cluster", **details)
    if code in _NOT_ALLOWED:
        return StorageRefused(f"{told}. The cluster does not let this FlashQ's user do that", **details)
    if code in _TOO_LARGE:
        return ValidationError(
            f"{told}. Nothing was stored; post fewer or smaller records, or raise the topic's max.message.bytes",
            field="records",
            **details,
        )
    if code == KafkaError.OFFSET_METADATA_TOO_LARGE:
        return ValidationError(f"{told}. Nothing was committed", field="metadata")
    if code in _NOT_TAKEN:
        return InvalidParameter(told, parameter=_parameter(error))
    if code in _IN_USE:
        return GroupInUse(f"{told}. Kafka consumers are members of the group: stop them, or commit through them")
    if is_post and code not in _NEVER_APPENDED:
        return NotConfirmed(f"{told}. Whether the records are stored is not known; they are once, or not at all")
    if is_change and code in _NOT_ANSWERED:
        return StorageUnavailable(
            f"{told}. Whether it is done is not known; it can be tried again", outcome="unknown", **details
        )
    return StorageUnavailable(f"{told}. Nothing was done; it can be tried again", **details)


def refusal(error: KafkaException, what: str, *, topic: str | None = None, is_change: bool = False) -> FlashQError:
    """`refused`, of the error inside an exception."""
    return refused(error.args[0], what, topic=topic, is_change=is_change)


def _parameter(error: KafkaError) -> str:
    """The parameter of ours that Kafka complains of, as far as its words tell."""
    words = error.str()
    for setting in ("segment.bytes", "retention.ms", "retention.bytes"):
        if setting in words:
            return setting.replace(".", "_")
    return "topic" if error.code() == KafkaError.TOPIC_EXCEPTION else "kafka"
