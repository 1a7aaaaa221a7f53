"""Faults of the cell's processes, and of the group that the processing roles form."""

from __future__ import annotations

import asyncio
import signal
import time

from chaos.checkers.points import Flight
from tests.faults.cell import INGEST, PROCESSING, STORAGE
from tests.faults.plan import Fault
from tests.faults.session import Session
from tests.support.processes import eventually

_LEAVE_SECONDS = 60.0
_FAR = 1 << 40


async def kill_ingest(session: Session, fault: Fault) -> None:
    """SIGKILL to the producer with a request under way."""
    await _kill(session, fault, INGEST, "append")


async def pause_ingest(session: Session, fault: Fault) -> None:
    """SIGSTOP to the producer, SIGCONT later."""
    await _pause(session, fault, INGEST, "append")


async def kill_processing(session: Session, fault: Fault) -> None:
    """SIGKILL to one of the readers: the group finds out by its silence."""
    await _kill(session, fault, _reader(fault), "apply")


async def pause_processing(session: Session, fault: Fault) -> None:
    """SIGSTOP to one of the readers; when that is long its partitions are given away, and it wakes up believing that they are its own."""
    await _pause(session, fault, _reader(fault), "apply")


async def kill_storage(session: Session, fault: Fault) -> None:
    """SIGKILL to the storage role with an apply under way."""
    await _kill(session, fault, STORAGE, "apply")


async def pause_storage(session: Session, fault: Fault) -> None:
    """SIGSTOP to the storage role, SIGCONT later."""
    await _pause(session, fault, STORAGE, "apply")


async def leave_group(session: Session, fault: Fault) -> None:
    """SIGTERM to one of the readers: the group shares out anew, and once more when it comes back."""
    await session.wait_until_applying()
    at, role = time.time(), _reader(fault)
    session.cell.take_down(role, signal.SIGTERM)
    session.struck(fault.kind, role, at, "apply")
    await eventually(lambda: not session.cell.roles[role].alive, f"{role} ends", _LEAVE_SECONDS)
    await asyncio.sleep(fault.seconds)
    await _bring_up(session, role)


async def reset_group(session: Session, fault: Fault) -> None:
    """With all readers gone the group's offsets are moved to the beginning, far ahead, or deleted with the group."""
    for role in PROCESSING:
        session.cell.take_down(role, signal.SIGTERM)
    try:
        await eventually(lambda: not any(session.cell.roles[role].alive for role in PROCESSING), "all readers end", _LEAVE_SECONDS)
        await eventually(lambda: _empty(session), "the group is empty", _LEAVE_SECONDS)
        await session.wait_until_applying()
        at, way = time.time(), ("to the beginning", "far ahead", "deleted")[fault.choice % 3]
        if way == "deleted":
            await session.observer.delete_group()
        else:
            partitions = {partition for led in (await session.observer.leaders()).values() for partition in led}
            await session.observer.move_group(dict.fromkeys(partitions, 0 if way == "to the beginning" else _FAR))
        session.struck(fault.kind, way, at, "apply")
    finally:
        await _bring_up(session, *PROCESSING)


async def _empty(session: Session) -> bool:
    return await session.observer.members() == 0


def _reader(fault: Fault) -> str:
    return PROCESSING[fault.choice % len(PROCESSING)]


async def _kill(session: Session, fault: Fault, role: str, flight: Flight) -> None:
    await _wait_until_met(session, flight)
    at = time.time()
    session.cell.take_down(role, signal.SIGKILL)
    session.struck(fault.kind, role, at, flight)
    await asyncio.sleep(fault.seconds)
    await _bring_up(session, role)


async def _pause(session: Session, fault: Fault, role: str, flight: Flight) -> None:
    await _wait_until_met(session, flight)
    at = time.time()
    session.cell.roles[role].send(signal.SIGSTOP)
    try:
        session.struck(fault.kind, role, at, flight)
        await asyncio.sleep(fault.seconds)
    finally:
        session.cell.roles[role].send(signal.SIGCONT)
        session.healed()


async def _wait_until_met(session: Session, flight: Flight) -> None:
    await (session.wait_until_appending() if flight == "append" else session.wait_until_applying())


async def _bring_up(session: Session, *roles: str) -> None:
    for role in roles:
        session.cell.bring_up(role)
    session.healed()
    await session.cell.wait_until_ready(roles)
