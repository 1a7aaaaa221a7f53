"""What is asked before a cell uses its topic: is it there, may we use it, and would it keep what it acknowledges.

Every question has an answer that says what to do, for whoever reads it starts a cell that does not start.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from cells.eventlog.kafka_brokers import ANSWER_SECONDS, Brokers, View
from cells.eventlog.kafka_line import Lost, name_of
from cells.eventlog.kafka_login import Address
from cells.eventlog.kafka_wire import Groups
from cells.eventlog.topics import Standing, dangers
from kernel.errors import Failure, Reason

_TOPIC_RESOURCE: Final = 2
_GROUP: Final = 0
# Kafka's numbers of errors.
_UNKNOWN_TOPIC: Final = 3
_INVALID_TOPIC: Final = 17
_TOPIC_FORBIDDEN: Final = 29
_GROUP_FORBIDDEN: Final = 30
# Kafka's numbers of operations: bits of what somebody may do.
_READ, _WRITE, _DELETE, _DESCRIBE, _DESCRIBE_CONFIGS = 3, 4, 6, 8, 10


@dataclass(frozen=True, slots=True)
class Needs:
    """What a process does with the log. `groups` are those that it will join."""

    appends: bool
    reads: bool
    groups: tuple[str, ...] = ()


async def checked(brokers: Brokers, needs: Needs) -> Standing:
    """The topic as it is. Raises Failure(LOG_UNAVAILABLE) with what to do when it cannot serve `needs`."""
    try:
        async with asyncio.timeout(4 * ANSWER_SECONDS):
            view = await reached(brokers)
            _check_topic(brokers, view)
            _check_rights(brokers, view, needs)
            standing = await settings(brokers, view)
            for group in needs.groups:
                await _check_group(brokers, f"{brokers.topic}.{group}")
    except (Lost, TimeoutError) as lost:
        raise unreachable(lost) from lost
    if found := dangers(standing):
        raise refused(f"topic {brokers.topic} is not fit to be a log: {'; '.join(found)}. Change its settings, or name another topic")
    for number, partition in view.partitions.items():
        if partition.in_sync < standing.min_in_sync:
            missing = f"partition {number} of {brokers.topic} has {partition.in_sync} of {standing.min_in_sync} copies in sync"
            raise refused(f"{missing}: start the other brokers")
    return standing


async def reached(brokers: Brokers) -> View:
    """What the brokers say of themselves. Raises Lost."""
    await brokers.renew(brokers.view)
    return brokers.view


async def settings(brokers: Brokers, view: View) -> Standing:
    """The topic as it is. Raises Lost, and Failure when the settings may not be seen."""
    answer = await brokers.ask_any(DescribeConfigsRequest([(_TOPIC_RESOURCE, brokers.topic, None)]))
    [(code, message, _, _, entries)] = answer.resources
    if code:
        raise refused(f"the settings of topic {brokers.topic} cannot be read: {message or name_of(code)}")
    replication = min((partition.replicas for partition in view.partitions.values()), default=0)
    return Standing(len(view.partitions), replication, {name: value for name, value, *_ in entries})


def refused(what: str) -> Failure:
    """A failure to start, in words for an operator."""
    return Failure(Reason.LOG_UNAVAILABLE, what)


def unreachable(lost: Exception) -> Failure:
    """No broker answered."""
    advice = lost.advice if isinstance(lost, Lost) else ""
    return refused(f"Kafka does not answer: {str(lost) or 'it takes too long'}" + (f" - {advice}" if advice else ""))


def _check_topic(brokers: Brokers, view: View) -> None:
    if view.error == _UNKNOWN_TOPIC:
        raise refused(f"there is no topic {brokers.topic}: `python -m cells.provision` makes it; see DATAFLOW_KAFKA_TOPIC")
    if view.error == _INVALID_TOPIC:
        raise refused(f"'{brokers.topic}' is no name of a topic: see DATAFLOW_KAFKA_TOPIC")
    if view.error == _TOPIC_FORBIDDEN:
        raise refused(f"{_who(brokers)} may not DESCRIBE topic {brokers.topic}, if there is one: allow it in Kafka's ACLs")
    for number in range(len(view.partitions)):
        view.leader(number)
    if view.error or not view.partitions:
        raise refused(f"topic {brokers.topic} cannot be used: {name_of(view.error)}")


def _check_rights(brokers: Brokers, view: View, needs: Needs) -> None:
    wanted = {"DESCRIBE_CONFIGS": _DESCRIBE_CONFIGS}
    if needs.appends:
        wanted["WRITE"] = _WRITE
    if needs.reads:
        wanted |= {"READ": _READ, "DELETE": _DELETE}
    missing = [name for name, operation in wanted.items() if not view.topic_operations >> operation & 1]
    if missing:
        raise refused(f"{_who(brokers)} may not {', '.join(missing)} topic {brokers.topic}: allow it in Kafka's ACLs")
    if not view.brokers_operations >> _DESCRIBE & 1:
        raise refused(f"{_who(brokers)} may not DESCRIBE the cluster, which is how the log's size is known: allow it in Kafka's ACLs")


async def _check_group(brokers: Brokers, group: str) -> None:
    found = await brokers.ask_any(FindCoordinatorRequest(group, _GROUP))
    code = found.error_code
    if not code:
        answer = await brokers.ask(Address(found.host, found.port), Groups(group))
        [(code, *_, operations)] = answer.groups
    if code == _GROUP_FORBIDDEN or (not code and not operations >> _READ & 1):
        raise refused(f"{_who(brokers)} may not READ group {group}: allow it in Kafka's ACLs")


def _who(brokers: Brokers) -> str:
    access = brokers.login.access
    if access.security.startswith("SASL") and access.user:
        return f"user {access.user}"
    return "whoever this process is to Kafka"
