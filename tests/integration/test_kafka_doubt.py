"""The event log in Kafka when it cannot know: what was lost on the way, who has moved, what another partition has found out."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceRequest

from cells.eventlog.kafka_line import Lost
from cells.eventlog.kafka_login import Address
from kernel.errors import Reason
from tests.integration.test_kafka_log import Room, logging_to, own
from tests.support.kafka import Brokers
from tests.support.processes import eventually, free_port

__all__ = ["own"]

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
_NOT_LEADER = 6


async def test_a_doubt_is_not_forgotten_for_a_later_refusal(own: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: once the answer of a batch was lost, no later refusal makes it sure that it is not there. When its callers give up, the next
    batch begins a new session: under the old one's numbers the broker would take it for the batch before, and name that one's offset."""
    appender = own.log._appenders[0]
    asked = appender._line.ask
    tries = 0

    async def lossy(address: Any, request: Any, seconds: float) -> Any:
        nonlocal tries
        if not isinstance(request, ProduceRequest):
            return await asked(address, request, seconds)
        tries += 1
        if tries > 1:
            return SimpleNamespace(topics=[(own.log._brokers.topic, [(0, _NOT_LEADER, -1, -1)])])
        await asked(address, request, seconds)
        raise Lost("the answer is lost")

    assert await own.append("before") is None
    monkeypatch.setattr(appender._line, "ask", lossy)
    assert await own.append("in doubt", 1.0) is Reason.LOG_UNAVAILABLE
    assert tries > 1, "the run is void: it was not tried again"
    monkeypatch.setattr(appender._line, "ask", asked)
    assert await own.append("after") is None
    await own.settled()


async def test_brokers_that_have_all_moved_are_found_by_the_first_addresses(own: Room) -> None:
    """Law: when nobody answers where brokers were last, those are asked again that the settings name."""
    assert await own.append("before") is None
    brokers, moved = own.log._brokers, Address("127.0.0.1", free_port())
    brokers.view = dataclasses.replace(brokers.view, nodes=dict.fromkeys(brokers.view.nodes, moved))

    async def found() -> bool:
        return not await own.problem() and await own.append("after") is None

    await eventually(found, "the broker is found again", 30)
    await own.settled()


async def test_a_replaced_partition_closes_the_log(kafka: Brokers) -> None:
    """Law: a topic is made anew as a whole, so what one partition's reader misses refuses appends to all of them."""
    async with logging_to(kafka, partitions=3) as room:
        waiting = asyncio.create_task(room.log.fetch(2, 7, 10, 1 << 20, 30.0))
        await eventually(lambda: room.log._readers[2].replaced is not None, "the reader finds the end", 10)
        assert await room.append("refused") is Reason.LOG_REPLACED
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
