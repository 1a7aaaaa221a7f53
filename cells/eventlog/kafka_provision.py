"""Makes the log's topic, or says what is wrong with the one that is there. Idempotent."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Final

from aiokafka.protocol.admin import CreateTopicsRequest

from cells.eventlog.access import Access
from cells.eventlog.kafka_brokers import ANSWER_SECONDS, Brokers, View
from cells.eventlog.kafka_line import Lost, name_of
from cells.eventlog.kafka_login import Login
from cells.eventlog.kafka_start import reached, refused, settings, unreachable
from cells.eventlog.topics import STRANGERS_TIMES, Topic, differences, impossible
from kernel.clock import Clock
from kernel.errors import Failure

_MAKING_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.1
_CLIENT: Final = "dataflow-provision"
# Kafka's numbers of errors.
_UNKNOWN_TOPIC: Final = 3
_TOPIC_FORBIDDEN: Final = 29
_MAKING_FORBIDDEN: Final = 31
_EXISTS: Final = 36
_INVALID_SETTINGS: Final = 40


async def provision(access: Access, topic: Topic, clock: Clock) -> None:
    """Makes the topic (`access` need not name it) when it is not there.

    Raises ValueError for what cannot be, and for a topic that differs, naming each difference; Failure(LOG_UNAVAILABLE) when Kafka
    does not answer or does not let us.
    """
    if found := impossible(topic):
        raise ValueError("; ".join(found))
    brokers = Brokers(Login(dataclasses.replace(access, topic=topic.name), _CLIENT), clock)
    try:
        async with asyncio.timeout(_MAKING_SECONDS):
            await _provision(brokers, topic, clock)
    except (Lost, TimeoutError) as lost:
        raise unreachable(lost) from lost
    finally:
        await brokers.close()


async def _provision(brokers: Brokers, topic: Topic, clock: Clock) -> None:
    view = await reached(brokers)
    if view.error == _TOPIC_FORBIDDEN:
        raise _forbidden(topic)
    if view.error == _UNKNOWN_TOPIC:
        await _make(brokers, view, topic)
    while not await brokers.known_to_all():
        await clock.sleep(_LOOK_SECONDS)
    if found := differences(topic, await settings(brokers, await reached(brokers))):
        raise ValueError(f"topic {topic.name} is there, but {'; '.join(found)}")


async def _make(brokers: Brokers, view: View, topic: Topic) -> None:
    if topic.replication > len(view.nodes):
        raise ValueError(f"{topic.replication} copies need as many brokers, there are {len(view.nodes)}: see DATAFLOW_LOG_REPLICATION")
    code, message = await _ask_for(brokers, view, topic, {**topic.settings(), **STRANGERS_TIMES})
    if code == _INVALID_SETTINGS:
        # A broker before 3.6 does not know of such a bound; readers bound such times too.
        code, message = await _ask_for(brokers, view, topic, topic.settings())
    if code in (_TOPIC_FORBIDDEN, _MAKING_FORBIDDEN):
        raise _forbidden(topic)
    if code not in (0, _EXISTS):
        raise refused(f"topic {topic.name} cannot be made: {message or name_of(code)}")


async def _ask_for(brokers: Brokers, view: View, topic: Topic, settings: Mapping[str, str]) -> tuple[int, str | None]:
    """Kafka's number of an error or 0, and what it says of it. Raises Lost."""
    placed_by_kafka: list[tuple[int, list[int]]] = []
    wanted = (topic.name, topic.partitions, topic.replication, placed_by_kafka, list(settings.items()))
    request = CreateTopicsRequest([wanted], int(ANSWER_SECONDS * 1_000), False)
    # Old brokers leave it to their controller; those of today hand it on.
    address = view.nodes.get(view.controller) or next(iter(view.nodes.values()))
    answer = await brokers.ask(address, request, 2 * ANSWER_SECONDS)
    [(_, code, message)] = answer.topic_errors
    return code, message


def _forbidden(topic: Topic) -> Failure:
    return refused(f"we may not CREATE or DESCRIBE topic {topic.name}: allow it in Kafka's ACLs, or have its owner make it")
