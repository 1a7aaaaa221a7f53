"""A store to test with, in memory or on PostgreSQL as the service's own roles, and effects that add up. No tests in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from cells.storage.memory import MemoryStore
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import Dsns, Passwords, provision
from cells.storage.postgres_read import PostgresReader
from cells.storage.store import Filter, Stored
from kernel.clock import HOUR, Micros, hour_of
from kernel.effects import Applied, Apply, DeadLetter, Effects, EventRow, HeldRecord, IdentityClaim, Outcome, TraitClaim
from kernel.epoch import Claim, Epoch, Ownership, OwnershipState
from kernel.ids import CellId, TenantId
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.postgres import Databases

PASSWORDS = Passwords("owner-pw", "apply-pw", "query-pw", "audit-pw")
CELL = CellId("eu-a-1")
ACME, GLOBEX = TenantId("acme"), TenantId("globex")
NOW = Micros(1_795_262_400_000_000 + 12 * HOUR)  # noon of 2026-11-21
EVER = Filter(Micros(-(2**60)), Micros(2**60))


@dataclass
class Room:
    """A store and its reader, with a consumer that keeps the positions right."""

    store: MemoryStore | PostgresStore
    reader: MemoryStore | PostgresReader
    clock: ManualClock
    meter: MemoryMeter
    dsns: Dsns | None = None
    admin_dsn: str = ""
    next: Counter[int] = field(default_factory=Counter)

    async def own(self, tenant: TenantId, epoch: int = 1, state: OwnershipState = "owner", dedicated: bool = False) -> None:
        """One ownership."""
        await self.store.own([Ownership(tenant, Epoch(epoch), state)], [tenant] if dedicated else [])

    async def apply(self, effects: Effects, expected: int | None = None, epochs: dict[TenantId, int] | None = None) -> Outcome:
        """At the right position unless told, with claims of epoch 1 unless told."""
        at = self.next[effects.partition] if expected is None else expected
        claimed = {tenant: Epoch(1) for tenant in effects.tenants} if epochs is None else {t: Epoch(e) for t, e in epochs.items()}
        outcome = await self.store.apply(Apply(effects, Claim(CELL, claimed), at, at + 1), self.clock.monotonic() + 10)
        if isinstance(outcome, Applied):
            self.next[effects.partition] = at + 1
        return outcome

    async def all(self, tenant: TenantId) -> list[Stored]:
        """All stored events, newest first."""
        return await self.reader.list_events(tenant, EVER, 1_000, None)

    async def ids(self, tenant: TenantId = ACME) -> list[str]:
        """All stored message ids, newest first."""
        return [stored.row.message_id for stored in await self.all(tenant)]


def row(message_id: str, tenant: TenantId = ACME, at: int = NOW, **other: object) -> EventRow:
    """An event."""
    values: dict[str, object] = {
        "event_at": at,
        "type": "track",
        "name": "Order Done",
        "user_id": "ann",
        "anonymous_id": None,
        "group_id": None,
        "source": "web",
        "cell": CELL,
        "epoch": 1,
        "offset": 0,
        "ordinal": 0,
        "content_hash": 7,
        "payload": b'{"a":1}',
    }
    return EventRow(tenant, message_id, Micros(at), **{**values, **other})  # type: ignore[arg-type]  # test values by name


def effects(
    *rows: EventRow,
    partition: int = 0,
    identities: tuple[IdentityClaim, ...] = (),
    traits: tuple[TraitClaim, ...] = (),
    dead_letters: tuple[DeadLetter, ...] = (),
    held: tuple[HeldRecord, ...] = (),
) -> Effects:
    """Effects that add up."""
    accepted: Counter[tuple[TenantId, Micros]] = Counter()
    for event in rows:
        accepted[event.tenant, hour_of(event.received_at)] += 1
    for letter in dead_letters:
        accepted[letter.tenant, hour_of(letter.received_at)] += 1
    for record in held:
        accepted[record.tenant, hour_of(record.received_at)] += record.events
    return Effects(partition, rows, identities, traits, dead_letters, held, dict(accepted))


async def own_both(made: Room) -> Room:
    """Acme and globex are owned at epoch 1."""
    await made.own(ACME)
    await made.own(GLOBEX)
    return made


@pytest.fixture
async def memory_room() -> Room:
    """The adapters in memory."""
    clock, meter = ManualClock(NOW), MemoryMeter()
    both = MemoryStore(clock, meter)
    return await own_both(Room(both, both, clock, meter))


@pytest.fixture
async def postgres_room(postgres: Databases) -> AsyncIterator[Room]:
    """The real adapters as the service's own roles."""
    dsns = await provision(postgres.admin_dsn, PASSWORDS)
    clock, meter = ManualClock(NOW), MemoryMeter()
    store, reader = PostgresStore(dsns.apply, clock, meter), PostgresReader(dsns.query)
    yield await own_both(Room(store, reader, clock, meter, dsns, postgres.admin_dsn))
    await reader.close()
    await store.close()


@pytest.fixture(params=["memory_room", pytest.param("postgres_room", marks=pytest.mark.postgres)])
def room(request: pytest.FixtureRequest) -> Room:
    """Each adapter in turn."""
    made: Room = request.getfixturevalue(request.param)
    return made
