"""A store to test with, in memory or on PostgreSQL as the service's own roles, and effects that add up. No tests in here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.storage.memory import MemoryStore
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import Dsns, Passwords, provision
from cells.storage.postgres_read import PostgresReader
from cells.storage.store import Cursor, Filter, Reader, Stored
from kernel.clock import HOUR, Micros, day_of, hour_of
from kernel.effects import Applied, Apply, DeadLetter, Effects, EventRow, HeldRecord, IdentityClaim, Outcome, RecordRow, TraitClaim
from kernel.epoch import Claim, Epoch, Ownership, OwnershipState
from kernel.ids import CellId, TenantId, message_keys
from kernel.limits import PAGE_EVENTS_MAX
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.postgres import Databases

PASSWORDS = Passwords("owner-pw", "apply-pw", "query-pw", "audit-pw")
CELL = CellId("eu-a-1")
ACME, GLOBEX = TenantId("acme"), TenantId("globex")
NOW = Micros(1_795_262_400_000_000 + 12 * HOUR)  # noon of 2026-11-21
_offsets = itertools.count()
EVER = Filter(Micros(-(2**60)), Micros(2**60))


async def everything(reader: Reader, tenant: TenantId) -> list[Stored]:
    """All stored events of a tenant, newest first, page by page."""
    found: list[Stored] = []
    after: Cursor | None = None
    while page := (await reader.list_events(tenant, EVER, PAGE_EVENTS_MAX, after)).events:
        found += page
        last = page[-1].row
        after = Cursor(last.event_at, last.message_key, last.received_day)
    return found


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
        return await everything(self.reader, tenant)

    async def ids(self, tenant: TenantId = ACME) -> list[str]:
        """All stored message ids, newest first."""
        return [stored.envelope.message_id for stored in await self.all(tenant)]


@dataclass(frozen=True)
class Event:
    """An event of a test, before it is taken apart into its row and a record of its own."""

    message_id: str
    tenant: TenantId
    received_at: Micros
    event_at: Micros
    offset: int
    ordinal: int = 0
    type: str = "track"
    name: str | None = "Order Done"
    user_id: str | None = "ann"
    anonymous_id: str | None = None
    group_id: str | None = None
    source: str = "web"
    cell: CellId = CELL
    epoch: int = 1
    content_hash: int = 7
    payload: bytes = b'{"a":1}'

    @property
    def envelope(self) -> Envelope:
        """As it stands in the record's body."""
        return Envelope(
            self.message_id, self.type, self.payload, self.content_hash, self.user_id, self.anonymous_id, self.name, self.group_id
        )

    def row(self, partition: int) -> EventRow:
        """What it is found by."""
        return EventRow(
            tenant=self.tenant,
            message_key=message_keys(self.tenant, [self.message_id])[0],
            received_day=day_of(self.received_at),
            event_at=self.event_at,
            partition=partition,
            offset=self.offset,
            ordinal=self.ordinal,
            content_hash=self.content_hash,
            type=self.type,
            name=self.name,
            user_id=self.user_id,
            anonymous_id=self.anonymous_id,
            group_id=self.group_id,
            source=self.source,
        )

    def record(self, partition: int) -> RecordRow:
        """The record that it came in; others stand before it when its ordinal says so."""
        others = [Envelope(f"before-{number}", "track", b"{}", 0) for number in range(self.ordinal)]
        body = codec.encode(Body(None, [*others, self.envelope]))
        day, place = day_of(self.received_at), (partition, self.offset)
        return RecordRow(self.tenant, day, *place, self.received_at, self.epoch, self.cell, self.source, 1, body)


def event(message_id: str, tenant: TenantId = ACME, at: int = NOW, **other: object) -> Event:
    """An event in a record of its own."""
    values: dict[str, object] = {"event_at": Micros(at), "offset": next(_offsets), **other}
    return Event(message_id, tenant, Micros(at), **values)  # type: ignore[arg-type]  # test values by name


def effects(
    *events: Event,
    partition: int = 0,
    identities: tuple[IdentityClaim, ...] = (),
    traits: tuple[TraitClaim, ...] = (),
    dead_letters: tuple[DeadLetter, ...] = (),
    held: tuple[HeldRecord, ...] = (),
) -> Effects:
    """Effects that add up."""
    accepted: Counter[tuple[TenantId, Micros]] = Counter()
    for one in events:
        accepted[one.tenant, hour_of(one.received_at)] += 1
    for letter in dead_letters:
        accepted[letter.tenant, hour_of(letter.received_at)] += 1
    for record in held:
        accepted[record.tenant, hour_of(record.received_at)] += record.events
    rows, records = tuple(one.row(partition) for one in events), tuple(one.record(partition) for one in events)
    return Effects(partition, rows, records, identities, traits, dead_letters, held, dict(accepted))


def batch(*events: Event, partition: int = 0) -> Effects:
    """Effects of events that stand in one record, that of the first of them, in their order."""
    together = [replace(one, offset=events[0].offset, ordinal=ordinal) for ordinal, one in enumerate(events)]
    body = codec.encode(Body(None, [one.envelope for one in together]))
    record = events[0].record(partition)._replace(events=len(events), body=body)
    accepted = {(record.tenant, hour_of(record.received_at)): len(events)}
    return Effects(partition, tuple(one.row(partition) for one in together), (record,), accepted=accepted)


def only(made: Effects, *ordinals: int) -> Effects:
    """Of effects of one record, the rows at these ordinals."""
    rows = tuple(row for row in made.rows if row.ordinal in ordinals)
    (record,) = made.records
    accepted = {(record.tenant, hour_of(record.received_at)): len(rows)}
    return replace(made, rows=rows, records=(record._replace(events=len(rows)),), accepted=accepted)


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
