"""Two cells of a zone with their stores, in memory or on PostgreSQL, and copies between them. No tests in here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from cells.storage import chunk as wire
from cells.storage.copies import Copies, Copy
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_copies import PostgresCopies
from cells.storage.postgres_provision import provision
from cells.storage.postgres_read import PostgresReader
from kernel.clock import Micros
from kernel.effects import Applied, Apply, Effects, IdentityClaim, TraitClaim
from kernel.epoch import Claim, Epoch, Ownership, OwnershipState
from kernel.ids import CellId, TenantId
from kernel.limits import COPY_BYTES
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.postgres import Databases
from tests.support.storage_room import ACME, GLOBEX, NOW, PASSWORDS, effects, event, everything

HOME, TARGET = CellId("eu-a-1"), CellId("eu-b-1")
SMALL = 1


@dataclass
class Side:
    """A cell's store."""

    cell: CellId
    store: MemoryStore | PostgresStore
    reader: MemoryStore | PostgresReader
    copies: Copies
    next: dict[int, int] = field(default_factory=dict)
    admin_dsn: str = ""

    async def own(self, epoch: int, home: CellId, *tenants: TenantId) -> None:
        """What the directory says."""
        state: OwnershipState = "owner" if home == self.cell else "released"
        await self.store.own([Ownership(tenant, Epoch(epoch), state) for tenant in tenants or (ACME, GLOBEX)], [])

    async def apply(self, made: Effects, epoch: int = 1) -> Applied:
        """The next record of its partition, which stands at the partition's position."""
        at = self.next.get(made.partition, 0)
        outcome = await self.store.apply(Apply(made, Claim(self.cell, dict.fromkeys(made.tenants, Epoch(epoch))), at, at + 1), _FAR)
        assert isinstance(outcome, Applied), outcome
        self.next[made.partition] = at + 1
        return outcome

    async def put(self, *message_ids: str, tenant: TenantId = ACME, partition: int = 0, at: int = NOW, epoch: int = 1) -> None:
        """Each event in a record of its own."""
        for message_id in message_ids:
            offset = self.next.get(partition, 0)
            one = event(message_id, tenant, at, offset=offset, cell=self.cell, user_id=f"u-{message_id}", anonymous_id="dev")
            claims = (IdentityClaim(tenant, f"u:u-{message_id}", "a:dev"),)
            traits = (TraitClaim(tenant, f"u:u-{message_id}", "plan", f'"{message_id}"', Micros(at), message_id),)
            await self.apply(effects(one, partition=partition, identities=claims, traits=traits), epoch)

    async def ids(self, tenant: TenantId = ACME) -> list[str]:
        """What is stored."""
        return sorted(stored.envelope.message_id for stored in await everything(self.reader, tenant))


@dataclass
class Pair:
    """Two cells of a zone, and the clock of both."""

    home: Side
    target: Side
    clock: ManualClock

    async def own(self, epoch: int, home: CellId) -> None:
        """What the directory says to both."""
        for side in (self.home, self.target):
            await side.own(epoch, home)

    async def step(self, back: bool = False, epoch: int = 1, bytes_max: int = COPY_BYTES, tenant: TenantId = ACME) -> tuple[Copy, bool]:
        """One part, over the wire; (the copy, whether more was there)."""
        source, target = (self.target, self.home) if back else (self.home, self.target)
        copy = await target.copies.begin(tenant, source.cell, "m1", None, False)
        part = await source.copies.export(tenant, Epoch(epoch), copy.cursor, bytes_max)
        chunk, cursor = wire.decode(wire.encode(part.chunk)), wire.decode_cursor(wire.encode(part.cursor))
        assert cursor is not None
        return await target.copies.take(source.cell, "m1", copy.seq, chunk, cursor), part.more

    async def copy(self, back: bool = False, epoch: int = 1, bytes_max: int = COPY_BYTES, tenant: TenantId = ACME) -> Copy:
        """All of it."""
        for _ in range(10_000):
            copy, more = await self.step(back, epoch, bytes_max, tenant)
            if not more:
                return copy
        raise AssertionError("a copy never ends")

    async def erase_home(self, epoch: int) -> int:
        """All of the tenant from the cell that it has left by the move, prepared as a switch does it; rows removed."""
        mark = await self.target.copies.mark(ACME, Epoch(epoch))
        await self.home.copies.begin(ACME, TARGET, "m1", mark, False)
        return await erased(self.home, epoch, "m1")


async def erased(side: Side, epoch: int, move: str) -> int:
    """Erases until nothing is left; rows removed."""
    rows, left = 0, True
    while left:
        removed, left = await side.copies.erase(ACME, Epoch(epoch), move)
        assert removed or not left
        rows += removed
    return rows


_FAR = 1e12


def in_memory() -> Pair:
    """Two stores in memory."""
    clock = ManualClock(NOW)
    one, other = MemoryStore(clock, MemoryMeter()), MemoryStore(clock, MemoryMeter())
    return Pair(Side(HOME, one, one, MemoryCopies(one, HOME)), Side(TARGET, other, other, MemoryCopies(other, TARGET)), clock)


@pytest.fixture
async def memory_pair() -> Pair:
    """Two stores in memory."""
    pair = in_memory()
    await pair.own(1, HOME)
    return pair


@pytest.fixture
async def postgres_pair(postgres: Databases) -> AsyncIterator[Pair]:
    """Two real ones, as the service's own roles."""
    clock, sides = ManualClock(NOW), []
    for cell, dsn in ((HOME, postgres.admin_dsn), (TARGET, await postgres.create())):
        dsns = await provision(dsn, PASSWORDS)
        store, reader = PostgresStore(dsns.apply, clock, MemoryMeter()), PostgresReader(dsns.query)
        sides.append(Side(cell, store, reader, PostgresCopies(dsns.apply, cell, clock), admin_dsn=dsn))
    pair = Pair(sides[0], sides[1], clock)
    await pair.own(1, HOME)
    yield pair
    for side in sides:
        assert isinstance(side.copies, PostgresCopies)
        await side.copies.close()
        await side.reader.close()
        await side.store.close()


@pytest.fixture(params=["memory_pair", pytest.param("postgres_pair", marks=pytest.mark.postgres)])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each adapter in turn."""
    made: Pair = request.getfixturevalue(request.param)
    return made


async def same(pair: Pair, tenant: TenantId = ACME) -> None:
    """Both keep the same of the tenant."""
    one, other = pair.home.copies, pair.target.copies
    assert await one.digest(tenant, None, None) == await other.digest(tenant, None, None)
    assert await one.digest_profiles(tenant) == await other.digest_profiles(tenant)
    assert await everything(pair.home.reader, tenant) == await everything(pair.target.reader, tenant)
    assert await one.ledger_of(tenant) == await other.ledger_of(tenant)
