"""`store.Store` on PostgreSQL, as df_apply.

Concurrent applies cannot deadlock: each takes its locks class by class - position, ownership, event keys, records, dead letters, held,
traits, tenants' identity locks, ledger - and within a class in key order. Day partitions are made before, in a transaction of
their own. The ledger's rows, which applies of one tenant share, come last and are held for one round trip.

Rows go by COPY straight into the partition of their day, which knows no row-level security; what is stored already is looked up before.
Two applies that store one key of one day at the same time meet at its unique index: the later one begins again and finds it. Of two
days they would not meet. So an apply of today's rows holds its tenants' ownership beside others, and one of other days in the window
(after an outage, over midnight) holds it alone: applies of one tenant then wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final, TypeVar

import asyncpg

from cells.storage import dedup, identity, metrics, own, tally, traits
from cells.storage.postgres import APPLY_BOUNDS, EVENT_COLUMNS, INDEX_PLANS, Connection, Session
from cells.storage.postgres_convert import Converter
from cells.storage.sql import sql
from cells.storage.store import LedgerRow
from kernel.clock import Clock, Micros, day_of
from kernel.effects import (
    Applied,
    Apply,
    DeadLetter,
    Duplicate,
    Effects,
    EventRow,
    Fenced,
    HeldRecord,
    IdentityClaim,
    Outcome,
    RecordRow,
    TraitClaim,
    Unkeepable,
)
from kernel.epoch import Epoch, Ownership
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import APPLY_SECONDS_MAX
from kernel.metrics import Meter

SHARED: Final = "tenants"
_ATTEMPTS: Final = 3
_CLAIMS_MAX: Final = 50_000

Item = TypeVar("Item", EventRow, RecordRow, DeadLetter, HeldRecord, IdentityClaim, TraitClaim, tally.Line)


# What is refused of a value whenever it is sent, by the server or the driver. Nothing else is: a defect of ours must stop the partition,
# not bury what is in it.
_NEVER: Final = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, Unkeepable)


class _Stale(Exception):
    """What this apply believed of schemas, partitions or stored keys is not so (any more): learn and begin again."""


@dataclass(slots=True)
class Known:
    """What this process need not ask again: tenants with their own schema, day partitions, partitions with a position row,
    and identity claims that brought no news: components only ever grow together, so they never will."""

    homes: dict[TenantId, str] = field(default_factory=dict)
    days: set[tuple[str, date]] = field(default_factory=set)
    started: set[int] = field(default_factory=set)
    claims: set[IdentityClaim] = field(default_factory=set)

    def home(self, tenant: TenantId) -> str:
        """The schema that keeps the tenant's rows."""
        return self.homes.get(tenant, SHARED)

    def settle(self, claim: IdentityClaim) -> None:
        """Remembers a claim that brought no news. Forgets all of them rather than grow without bound."""
        if len(self.claims) >= _CLAIMS_MAX:
            self.claims.clear()
        self.claims.add(claim)

    def split(self, items: Iterable[Item]) -> list[tuple[str, list[Item]]]:
        """The items by schema, in schema order, each list in the order of `items`."""
        if not self.homes:
            all_of_them = list(items)
            return [(SHARED, all_of_them)] if all_of_them else []
        parts: dict[str, list[Item]] = {}
        for item in items:
            parts.setdefault(self.homes.get(item.tenant, SHARED), []).append(item)
        return sorted(parts.items())


class PostgresStore:
    """See the module's docstring and the port's. `dsn` is df_apply's."""

    def __init__(self, dsn: str, clock: Clock, meter: Meter) -> None:
        self._session = Session(dsn, "dataflow-apply", APPLY_BOUNDS, INDEX_PLANS)
        self._clock = clock
        self._meter = meter
        self._known = Known()

    async def close(self) -> None:
        """Cuts its connections; an apply in flight fails. Idempotent."""
        await self._session.close()

    async def positions(self) -> dict[int, int]:
        """See the port."""
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            return {row["partition"]: row["next_offset"] for row in await connection.fetch(sql("positions"))}

    async def replicated(self, origin: CellId) -> dict[int, int]:
        """See the port."""
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            return {row["partition"]: row["next_offset"] for row in await connection.fetch(sql("replicated"), origin)}

    async def replicate(self, origin: CellId, partition: int, expected: int, following: int) -> bool:
        """See the port."""
        own.check_forward(expected, following)
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            return await connection.fetchval(sql("replicate"), origin, partition, expected, following) is not None

    async def ledger(self) -> list[LedgerRow]:
        """See the port."""
        sums: dict[tuple[str, int], list[int]] = {}
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            await self._learn_homes(connection)
            for home in sorted({SHARED, *self._known.homes.values()}):
                for tenant, hour, *counts in await connection.fetch(sql("ledger", home)):
                    before = sums.setdefault((tenant, hour), [0, 0, 0, 0])
                    sums[tenant, hour] = [a + b for a, b in zip(before, counts, strict=True)]
        return [LedgerRow(TenantId(tenant), Micros(hour), *counts) for (tenant, hour), counts in sorted(sums.items())]

    async def own(self, ownerships: Sequence[Ownership], dedicated: Sequence[TenantId]) -> None:
        """See the port."""
        if not ownerships and not dedicated:
            return
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            homes = {tenant: await connection.fetchval(sql("dedicate"), tenant) for tenant in sorted(set(dedicated))}
            named = [one.tenant for one in ownerships]
            known = {row["tenant"]: _ownership(row) for row in await connection.fetch(sql("ownerships_of"), named)}
            changed = list(own.grow(known, ownerships).values())
            async with connection.transaction():
                if changed:
                    await connection.execute(
                        sql("own"), [o.tenant for o in changed], [o.epoch for o in changed], [o.state for o in changed]
                    )
                for tenant, home in homes.items():
                    await connection.execute(sql("settle"), tenant, home)
            if homes:
                await self._learn_homes(connection)

    async def maintain(self) -> None:
        """Makes the day partitions ahead of now, so that no apply has to wait for one, and moves what the previous version stored.
        Idempotent; call it every few hours."""
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            await connection.execute(sql("maintain"), day_of(self._clock.now()))
        await Converter(self._session, self._clock, self._meter).run()

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        """See the port."""
        counted = tally.count(apply)
        began = self._clock.monotonic()
        try:
            outcome = await self._attempt(apply, counted, deadline)
        except Failure:
            self._meter.add(metrics.APPLIES, outcome="failed")
            raise
        self._meter.observe(metrics.APPLY_SECONDS, self._clock.monotonic() - began)
        self._meter.add(metrics.APPLIES, outcome=type(outcome).__name__.lower())
        if isinstance(outcome, Applied):
            for name in ("stored", "duplicate", "quarantined", "held"):
                self._meter.add(metrics.APPLIED_EVENTS, getattr(outcome, name), outcome=name)
            self._meter.add(metrics.CONFLICTS, outcome.conflicts)
        return outcome

    async def _attempt(self, apply: Apply, counted: tally.Tally, deadline: float) -> Outcome:
        for _ in range(_ATTEMPTS):
            async with self._session.connection(deadline - self._clock.monotonic()) as connection:
                try:
                    return await self._transact(connection, apply, counted)
                except _Stale:
                    await connection.execute("ROLLBACK")
                    self._known = Known()
                    await self._learn_homes(connection)
                except _NEVER as error:
                    raise Unkeepable("a row that can never be kept: text with a NUL, a key too long, a number too large") from error
                except asyncpg.PostgresError as error:
                    raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error
        raise Failure(Reason.STORE_UNAVAILABLE, "schemas, day partitions or stored keys keep changing")

    async def _transact(self, connection: Connection, apply: Apply, counted: tally.Tally) -> Outcome:
        effects = apply.effects
        now = self._clock.now()
        await self._prepare(connection, effects)
        await connection.execute("BEGIN")
        begun, refused = await self._begin(connection, apply, counted, now)
        if not begun:
            position = await connection.fetchval(sql("position"), effects.partition)
            await connection.execute("ROLLBACK")
            return Duplicate(position)
        if refused:
            await connection.execute("ROLLBACK")
            return Fenced(refused)
        fold = Writes(connection, self._known, effects, now)
        sifted = await fold.rows()
        await fold.dead_letters()
        await fold.held()
        await fold.latest_traits()
        dropped = await fold.identities()
        lines = tally.settle(effects, sifted.repeated)
        await fold.ledger(lines)
        await connection.execute("COMMIT")
        self._meter.add(metrics.IDENTITY_DROPPED, dropped)
        return Applied(
            stored=sum(line.stored for line in lines),
            duplicate=sum(line.duplicate for line in lines),
            quarantined=sum(line.quarantined for line in lines),
            held=sum(line.held for line in lines),
            conflicts=sifted.conflicts,
        )

    async def _prepare(self, connection: Connection, effects: Effects) -> None:
        """Outside the transaction: the position's row and the day partitions that the rows fall into."""
        if effects.partition not in self._known.started:
            await connection.execute(sql("start_partition"), effects.partition)
            self._known.started.add(effects.partition)
        for tenant, hour in effects.accepted:
            place = (self._known.home(tenant), day_of(hour))
            if place not in self._known.days:
                await connection.execute(sql("make_day"), *place)
                self._known.days.add(place)

    async def _begin(self, connection: Connection, apply: Apply, counted: tally.Tally, now: Micros) -> tuple[bool, frozenset[TenantId]]:
        """(whether the position moved, the tenants that door two refuses). Raises _Stale when a tenant lives in another schema
        than we thought."""
        claimed = tally.claimed(apply.effects, counted)
        tenants = sorted({*claimed, *(record.tenant for record in apply.effects.held)})
        alone = dedup.alone({record.received_day for record in apply.effects.records}, now)
        found = await connection.fetch(sql("begin_apply"), apply.effects.partition, apply.expected, apply.next, tenants, alone)
        rows = [row for row in found if row["tenant"] is not None]
        if any(self._known.home(row["tenant"]) != row["home"] for row in rows):
            raise _Stale
        return found[0]["moved"], own.fenced(apply.claim, claimed, {row["tenant"]: _ownership(row) for row in rows})

    async def _learn_homes(self, connection: Connection) -> None:
        rows = await connection.fetch(sql("homes_apart"), SHARED)
        self._known.homes = {TenantId(row["tenant"]): row["home"] for row in rows}


@dataclass(frozen=True, slots=True)
class Writes:
    """The storing part of one apply transaction, a method per class of rows, schema by schema."""

    connection: Connection
    known: Known
    effects: Effects
    now: Micros

    async def rows(self) -> dedup.Sifted:
        """Stores the rows that are new, and their records."""
        if not self.effects.rows:
            return dedup.Sifted((), (), 0)
        found: list[dedup.Found] = []
        days = [record.received_day for record in self.effects.records]
        for home, rows in self.known.split(self.effects.rows):
            keys = sorted(row.message_key for row in rows)
            known = await self.connection.fetch(sql("find_rows", home), keys, min(days) - dedup.WINDOW, max(days) + dedup.WINDOW)
            found += (dedup.Found(*row) for row in known)
        sifted = dedup.sift(self.effects.rows, found, dedup.window_begins(self.now))
        for home, fresh in self.known.split(sifted.fresh):
            for day, rows in _by_day(fresh):
                await self._copy(home, day, rows)
        await self._records({row.offset for row in sifted.fresh})
        return sifted

    async def _copy(self, home: str, day: date, rows: list[EventRow]) -> None:
        try:
            await self.connection.copy_records_to_table(f"event_row_{day:%Y%m%d}", schema_name=home, records=rows, columns=EVENT_COLUMNS)
        except (asyncpg.UniqueViolationError, asyncpg.CheckViolationError, asyncpg.UndefinedTableError) as error:
            raise _Stale from error
        except (ValueError, OverflowError, TypeError) as error:  # in a COPY the driver raises what its encoders do
            raise Unkeepable from error

    async def _records(self, offsets: set[int]) -> None:
        """The records that have new rows."""
        for home, records in self.known.split(record for record in self.effects.records if record.offset in offsets):
            try:
                kept = await self.connection.fetch(sql("store_records", home), self.now, *zip(*records, strict=True))
            except (asyncpg.CheckViolationError, asyncpg.UndefinedTableError) as error:
                raise _Stale from error
            if len(kept) < len(records):
                raise Failure(Reason.LOG_REPLACED, f"partition {self.effects.partition}, from offset {records[0].offset} on")

    async def dead_letters(self) -> None:
        """A text that PostgreSQL cannot keep is shown with a replacement character: the payload keeps the bytes."""
        for home, letters in self.known.split(self.effects.dead_letters):
            letters.sort(key=lambda letter: (letter.tenant, letter.offset, letter.ordinal))
            tenants, received, offsets, ordinals, ids, reasons, details, payloads = zip(*letters, strict=True)
            texts = ([text.replace("\0", "\ufffd") for text in column] for column in (ids, reasons, details))
            await self.connection.execute(
                sql("store_dead_letters", home), self.effects.partition, self.now, tenants, offsets, ordinals, received, *texts, payloads
            )

    async def held(self) -> None:
        """Held records."""
        for home, records in self.known.split(self.effects.held):
            tenants, received, offsets, events, bodies = zip(*sorted(records), strict=True)
            await self.connection.execute(
                sql("store_held", home), self.effects.partition, self.now, tenants, offsets, received, events, bodies
            )

    async def latest_traits(self) -> None:
        """The latest of each trait."""
        for home, claims in self.known.split(traits.latest(self.effects.traits).values()):
            await self.connection.execute(sql("store_traits", home), *zip(*claims, strict=True))

    async def identities(self) -> int:
        """Returns how many claims were dropped. Locks a tenant's graph only when a claim brings something new."""
        dropped = 0
        for home, claims in self.known.split(sorted(set(self.effects.identities) - self.known.claims)):
            by_tenant: dict[TenantId, list[tuple[str, str]]] = {}
            for claim in claims:
                by_tenant.setdefault(claim.tenant, []).append(claim[1:])
            known = await self._components("known_nodes", home, by_tenant)
            fresh: dict[TenantId, list[tuple[str, str]]] = {}
            for claim in claims:
                if identity.news(known.get(claim.tenant, {}), [claim[1:]]):
                    fresh.setdefault(claim.tenant, []).append(claim[1:])
                else:
                    self.known.settle(claim)
            if fresh:
                await self.connection.execute(sql("lock_tenants"), sorted(fresh))
                dropped += await self._merge(home, fresh)
        return dropped

    async def _merge(self, home: str, claims: dict[TenantId, list[tuple[str, str]]]) -> int:
        known = await self._components("touched_components", home, claims)
        dropped = 0
        changed: list[tuple[str, str, str]] = []
        for tenant, pairs in claims.items():
            merged = identity.merge(known.get(tenant, {}), pairs)
            dropped += merged.dropped
            changed += [(tenant, node, component) for node, component in merged.changed.items()]
        if changed:
            await self.connection.execute(sql("store_nodes", home), *zip(*sorted(changed), strict=True))
        return dropped

    async def _components(self, query: str, home: str, claims: dict[TenantId, list[tuple[str, str]]]) -> dict[TenantId, dict[str, str]]:
        asked = sorted({(tenant, node) for tenant, pairs in claims.items() for pair in pairs for node in pair})
        found: dict[TenantId, dict[str, str]] = {}
        for tenant, node, component in await self.connection.fetch(sql(query, home), *zip(*asked, strict=True)):
            found.setdefault(tenant, {})[node] = component
        return found

    async def ledger(self, lines: Sequence[tally.Line]) -> None:
        """Adds the lines."""
        for home, part in self.known.split(lines):
            columns = zip(*((o.tenant, o.hour, o.stored, o.duplicate, o.quarantined, o.held) for o in part), strict=True)
            await self.connection.execute(sql("store_ledger", home), *columns)


def _by_day(rows: list[EventRow]) -> list[tuple[date, list[EventRow]]]:
    """The rows by received day, in the order of days, each list in the order of `rows`."""
    parts: dict[date, list[EventRow]] = {}
    for row in rows:
        parts.setdefault(row.received_day, []).append(row)
    return sorted(parts.items())


def _ownership(row: asyncpg.Record) -> Ownership:
    return Ownership(TenantId(row["tenant"]), Epoch(row["epoch"]), row["state"])
