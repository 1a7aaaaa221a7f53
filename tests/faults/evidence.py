"""What a session left behind: rows through the query API, the log as an auditor reads it with plain aiokafka, the store's ledger."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import zstandard

from cells.storage.postgres_apply import PostgresStore
from chaos.checkers.history import History, LedgerLine, Poison, Recovery
from chaos.checkers.points import Walk, counted
from cli.demo.readback import Seen, visible
from cli.demo.traffic import Tenant
from gitops.fleet import EU
from kernel.ids import UNREADABLE
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.faults.foreign import weigh
from tests.faults.placement import Party
from tests.faults.session import Session
from tests.support.processes import eventually

RECOVERY_SECONDS_MAX: Final = 45.0
_FORMATS: Final = 4
_COLUMNS_FROM: Final = 2
_BODY_BYTES_MAX: Final = 1 << 26
# Beyond the bound it is still waited for, so that the verdict is about how late it was, not whether.
_PATIENCE_SECONDS: Final = 90.0


@dataclass(frozen=True)
class Evidence:
    """A history, and which strikes met something: of each kind how many."""

    history: History
    counted: Counter[str]


async def recovered(session: Session) -> float:
    """Waits, with the clients still sending, until each tenant was told so after the last fault that its events are durable. When that
    fault ended, in seconds since 1970."""
    healed_at = session.healed_at

    def unheard() -> list[str]:
        served = {tenant for (tenant, _), at in session.traffic.notes.acknowledged_at.items() if at > healed_at}
        return sorted(session.parties.keys() - served)

    try:
        await eventually(lambda: not unheard(), "every tenant is served again", _PATIENCE_SECONDS)
    except AssertionError as error:
        error.add_note("\n".join(f"{name} was told: {session.traffic.notes.told.get(name)}" for name in unheard()))
        raise
    return healed_at


async def gathered(session: Session, healed_at: float) -> Evidence:
    """Waits until everything is applied, then reads. The clients have their last words."""
    store = PostgresStore(session.cell.apply_dsn, SystemClock(), MemoryMeter())
    try:
        ends = await session.observer.ends()

        async def applied() -> bool:
            positions = await store.positions()
            return all(positions.get(partition, 0) >= end for partition, end in ends.items())

        await eventually(applied, f"everything is applied, up to {ends}", _PATIENCE_SECONDS)
        recovery = Recovery(session.cell.placement.cell, time.time() - healed_at, RECOVERY_SECONDS_MAX)
        ledger = await store.ledger()
    finally:
        await store.close()
    seen = {name: await visible(_as_reader(session, party), "") for name, party in session.parties.items()}
    accepted, poisons = audited(session, await session.observer.records())
    right = {name: Counter[str]() for name in {*accepted, *(line.tenant for line in ledger)}}
    for line in ledger:
        right[line.tenant].update(stored=line.stored, duplicate=line.duplicate, quarantined=line.quarantined, held=line.held)
    cell = session.cell.placement.cell
    history = History(
        sent=tuple(session.traffic.notes.sent),
        stored=tuple(one.row for rows in seen.values() for one in rows),
        ledger=tuple(
            LedgerLine(cell, name, accepted[name], *(sums[column] for column in ("stored", "duplicate", "quarantined", "held")))
            for name, sums in sorted(right.items())
        ),
        poisons=tuple(poisons),
        recoveries=(recovery,),
        homes=dict.fromkeys(session.parties, cell),
        zones={cell: EU},
    )
    return Evidence(history, counted(session.strikes, session.traffic.notes.attempts, walks(session, seen)))


def _as_reader(session: Session, party: Party) -> Tenant:
    cell = session.cell
    return Tenant(party.name, EU, cell.placement.cell, cell.http, cell.query, party.write_key, party.read_key, canary="", sealed="")


def walks(session: Session, seen: dict[str, list[Seen]]) -> list[Walk]:
    """Of each event that was acknowledged and is visible, both moments."""
    told = session.traffic.notes.acknowledged_at
    return [
        Walk(at, one.stored_at, one.row.position[0])
        for name, rows in seen.items()
        for one in rows
        if (at := told.get((name, one.row.message_id))) is not None
    ]


def audited(session: Session, records: list[Any]) -> tuple[Counter[str], list[Poison]]:
    """The ledger's left side from the records' headers, and the records that nobody can read."""
    accepted: Counter[str] = Counter()
    poisons = []
    for record in records:
        tenant, events = weigh(record.key, record.value, list(record.headers), session.parties, UNREADABLE)
        accepted[tenant] += events
        if tenant == UNREADABLE or _envelopes(record.value) != events:
            poisons.append(Poison(session.cell.placement.cell, tenant, events, record.partition, record.offset))
    return accepted, poisons


def _envelopes(value: bytes) -> int:
    """How many envelopes a body holds. -1 for what is no body.

    A byte of format, odd when zstd has packed what follows: MessagePack of the time of sending and a list of envelopes, from format 2
    on of their fields, a list each.
    """
    if not value or value[0] >= _FORMATS:
        return -1
    try:
        data = zstandard.decompress(value[1:], max_output_size=_BODY_BYTES_MAX) if value[0] % 2 else value[1:]
        _, first, *others = msgspec.msgpack.decode(data)
        return len(first) if bool(others) == (value[0] >= _COLUMNS_FROM) else -1
    except (ValueError, TypeError, zstandard.ZstdError):
        return -1
