"""Faults of the brokers: killed, paused, out of disk. Every target leads, or keeps a copy of, what a client's request is under way to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.faults import disk
from tests.faults.plan import Fault
from tests.faults.session import Session
from tests.support.processes import eventually

_BACK_SECONDS = 60.0


async def kill_leader(session: Session, fault: Fault) -> None:
    """SIGKILL to the broker that leads a partition."""
    node, led = await _leader(session, fault)
    await _kill(session, fault, [node], led)


async def kill_coordinator(session: Session, fault: Fault) -> None:
    """SIGKILL to the broker that coordinates the consumer group."""
    await _kill(session, fault, [await session.observer.coordinator()], frozenset())


async def kill_majority(session: Session, fault: Fault) -> None:
    """SIGKILL to two of three at once: nothing can be written until one is back."""
    node, led = await _leader(session, fault)
    others = [one for one in range(1, len(session.brokers.nodes) + 1) if one != node]
    await _kill(session, fault, [node, others[fault.choice % len(others)]], led)


async def pause_leader(session: Session, fault: Fault) -> None:
    """SIGSTOP to the broker that leads a partition, SIGCONT later: deposed meanwhile, when that is long enough."""
    node, led = await _leader(session, fault)
    await _pause(session, fault, node, led)


async def pause_coordinator(session: Session, fault: Fault) -> None:
    """SIGSTOP to the broker that coordinates the consumer group: nobody reaches the coordinator, nobody is told so."""
    await _pause(session, fault, await session.observer.coordinator(), frozenset())


async def fill_disk(session: Session, fault: Fault) -> None:
    """Not a byte more for a broker, which gives up; then there is room again and it is started."""
    small = session.small_disk
    if small is None:
        node, led = await _leader(session, fault)
        await session.wait_until_appending(led)
        at = time.time()
        child = session.brokers.nodes[node - 1].child
        assert child is not None, f"node {node} was never started"
        disk.bound_growth(child.pid)
    else:
        node, led = len(session.brokers.nodes), frozenset[int]()
        await asyncio.to_thread(small.nearly_fill)
        await session.wait_until_appending(led)
        small.fill()
        at = time.time()
    session.struck(fault.kind, f"node {node}, {'tmpfs' if small else 'RLIMIT_FSIZE'}", at, "append", led)
    child = session.brokers.nodes[node - 1].child
    await eventually(lambda: child is not None and child.exit_code is not None, f"node {node} gives up", _BACK_SECONDS)
    if small is not None:
        small.make_room()
    await _bring_back(session, [node])


async def _leader(session: Session, fault: Fault) -> tuple[int, frozenset[int]]:
    """One of the brokers that lead partitions, and what it leads."""
    leaders = await session.observer.leaders()
    node = sorted(leaders)[fault.choice % len(leaders)]
    return node, leaders[node]


async def _kill(session: Session, fault: Fault, nodes: Sequence[int], led: frozenset[int]) -> None:
    await session.wait_until_appending(led)
    at = time.time()
    for node in nodes:
        session.brokers.kill(node)
    session.struck(fault.kind, f"nodes {nodes}", at, "append", led)
    await asyncio.sleep(fault.seconds)
    await _bring_back(session, nodes)


async def _pause(session: Session, fault: Fault, node: int, led: frozenset[int]) -> None:
    await session.wait_until_appending(led)
    at = time.time()
    session.brokers.pause(node)
    try:
        session.struck(fault.kind, f"node {node}", at, "append", led)
        await asyncio.sleep(fault.seconds)
    finally:
        session.brokers.resume(node)
        session.healed()


async def _bring_back(session: Session, nodes: Sequence[int]) -> None:
    """Starts them; the next fault of a broker waits until every copy is complete again, so that two never meet by accident."""
    for node in nodes:
        await session.brokers.start(node)
    session.healed()
    await session.brokers.wait_until_ready()

    async def complete() -> bool:
        return await session.observer.in_sync() == len(session.brokers.nodes)

    await eventually(complete, "every copy is complete", _BACK_SECONDS)
