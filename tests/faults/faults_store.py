"""Faults of PostgreSQL's backends, records that nobody can read or take, and a member that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from random import Random
from typing import Final

import psutil
from aiokafka.errors import KafkaError

from cells.eventlog.access import Access
from cells.eventlog.kafka import KafkaLog, open_log
from cells.eventlog.kafka_start import Needs
from cells.eventlog.log import Membership
from cells.eventlog.topics import Topic
from cells.processing.consumer import GROUP
from kernel.errors import Failure
from kernel.process.clock import SystemClock
from tests.faults import foreign
from tests.faults.placement import PARTITIONS, Party
from tests.faults.plan import Fault
from tests.faults.session import Session
from tests.support.processes import eventually

_BACK_SECONDS: Final = 60.0
_LARGE_SECONDS: Final = 4.0
_LARGE_EVENTS: Final = 6
_LARGE_CHARS: Final = 28_000
_TAKEN_BYTES_MAX: Final = 65_536


async def kill_backend(session: Session, fault: Fault) -> None:
    """SIGKILL to a backend in mid-apply: PostgreSQL ends all others too and recovers, as after a crash."""
    backend = await _backend_at_work(session)
    at = time.time()
    backend.send_signal(signal.SIGKILL)
    session.struck(fault.kind, f"backend {backend.pid}", at, "apply")
    session.healed()

    async def answers() -> bool:
        return await session.cell.postgres.probe() is None

    await eventually(answers, "PostgreSQL has recovered", _BACK_SECONDS)


async def pause_backend(session: Session, fault: Fault) -> None:
    """SIGSTOP to a backend in mid-apply, locks held; SIGCONT later."""
    backend = await _backend_at_work(session)
    at = time.time()
    with contextlib.suppress(psutil.NoSuchProcess):
        backend.suspend()
    try:
        session.struck(fault.kind, f"backend {backend.pid}", at, "apply")
        await asyncio.sleep(fault.seconds)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            backend.resume()
        session.healed()


async def join_group(session: Session, fault: Fault) -> None:
    """One more member comes, is given its share, does nothing with it, and goes."""
    log = await _guest(session)
    try:
        assigned = await _assigned(await log.join(GROUP, "guest"))
        await session.wait_until_applying()
        session.struck(fault.kind, f"partitions {sorted(assigned)}", time.time(), "apply")
        await asyncio.sleep(fault.seconds)
    finally:
        await log.close()
        session.healed()


async def put_foreign_record(session: Session, fault: Fault) -> None:
    """A stranger writes a record that is not ours into a partition that a client's request is under way to."""
    name, make = foreign.variant(fault.choice)
    party = _party(session, fault)
    partition = party.partition("")
    record = make(party.name.encode())
    # In bad weather nobody knows whether it was written; the auditor does, who reads the log.
    with contextlib.suppress(KafkaError, TimeoutError):
        async with session.observer.stranger(packed=record.packed) as put:
            await session.wait_until_appending(frozenset([partition]))
            at = time.time()
            await put(partition, record.value, record.key, record.headers)
            session.struck(fault.kind, f"{name} in {partition}", at, "append", frozenset([partition]))
    session.healed()


async def send_too_large(session: Session, fault: Fault) -> None:
    """The topic takes less than it did: a request whose record is too large now is refused by name, its neighbours are stored."""
    party = _party(session, fault)
    shape = Topic(session.cell.topic, PARTITIONS, *session.brokers.replication)
    await session.observer.set_topic({**shape.settings(), "max.message.bytes": str(_TAKEN_BYTES_MAX)})
    session.large += 1
    client = session.traffic.sender(f"large-{session.large}", party)
    partitions = frozenset([party.partition("")])
    # Not for long: a role that is started meanwhile finds the topic unfit, and ends.
    deadline = time.monotonic() + _LARGE_SECONDS
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                await session.wait_until_appending(partitions, _LARGE_SECONDS)
            at = time.time()
            batch = [client.event(n, text=_incompressible(client.random)) for n in range(_LARGE_EVENTS)]
            if await client.deliver(batch, expected=("RECORD_TOO_LARGE", "too large for the log"), seconds=0.0) == "rejected":
                session.struck(fault.kind, party.name, at, "append", partitions)
                return
    finally:
        await session.observer.set_topic(shape.settings())
        session.healed()


def _incompressible(random: Random) -> str:
    return f"{random.getrandbits(_LARGE_CHARS * 4):x}"


async def _backend_at_work(session: Session) -> psutil.Process:
    """One that is in an apply now. Nobody applies while another fault keeps all readers away: that is waited for."""
    deadline = time.monotonic() + _BACK_SECONDS
    while time.monotonic() < deadline:
        await session.wait_until_applying()
        if (found := session.cell.backend_at_work()) is not None:
            return found
    raise AssertionError("no backend of the applying role was seen at work")


async def _guest(session: Session) -> KafkaLog:
    """The log as one more member opens it, once it lets itself be opened."""
    access = Access(session.brokers.bootstrap, session.cell.topic)
    opened: list[KafkaLog] = []

    async def opens() -> bool:
        with contextlib.suppress(Failure):
            opened.append(await open_log(access, Needs(appends=False, reads=True, groups=(GROUP,)), "guest", SystemClock()))
        return bool(opened)

    await eventually(opens, "one more member can open the log", _BACK_SECONDS)
    return opened[0]


async def _assigned(membership: Membership) -> frozenset[int]:
    """What the group gives it, once the group answers."""
    given: list[frozenset[int]] = []

    async def answers() -> bool:
        with contextlib.suppress(Failure):
            given.append(await membership.assignment())
        return bool(given)

    await eventually(answers, "the group answers", _BACK_SECONDS)
    return given[0]


def _party(session: Session, fault: Fault) -> Party:
    alone = [party for party in session.cell.placement.parties if party.spread == 1]
    return alone[fault.choice % len(alone)]
