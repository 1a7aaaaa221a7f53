"""`router.placement.store.Store` in PostgreSQL. The role must own its database: it makes and migrates the schema `placement`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from kernel import limits
from kernel.chain import BEGINNING, Head, Link, link
from kernel.clock import SECOND
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyHash, SourceId, TenantId, ZoneName
from kernel.limits import Plan
from kernel.queries import parse
from router.placement.capacity import NOTHING, Loads
from router.placement.steps import RevokeKey, Step, View, credentials
from router.placement.store import AUDIT_ENTRIES_MAX, CHANGES_KEPT, REPLAY_CHANGES_MAX, Change, Deed, Done, Intent, answered, deed_of
from router.placement.table import BEFORE_SWITCH, Credential, Move, Pin, Source, Table, Tenant, Topology

_FOLDER: Final = Path(__file__).parent / "sql"
_SQL: Final = {query.name: query.text for query in parse((_FOLDER / "queries.sql").read_text()).values()}
_LOCK: Final = 7301
_COMMAND_SECONDS: Final = 10.0
_CONNECTIONS_MAX: Final = 4
_LOST: Final = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)
_EMPTY: Final = Topology((), ())


async def migrate(dsn: str) -> None:
    """Runs the numbered files of sql/ that this database has not seen, in name order. Safe to run from several processes at once."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(_SQL["one_at_a_time"], _LOCK)
            await connection.execute(_SQL["make_schema"])
            await connection.execute(_SQL["make_migrations"])
            seen = {row["name"] for row in await connection.fetch(_SQL["migrations"])}
            for file in sorted(_FOLDER.glob("[0-9]*.sql")):
                if file.name not in seen:
                    await connection.execute(file.read_text())
                    await connection.execute(_SQL["migrated"], file.name)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def open_store(dsn: str, zone: ZoneName) -> AsyncIterator[PostgresStore]:
    """The migrated store of a zone. Raises Failure(STORE_UNAVAILABLE) when PostgreSQL cannot be reached."""
    try:
        await migrate(dsn)
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=_CONNECTIONS_MAX, command_timeout=_COMMAND_SECONDS)
    except _LOST as error:
        raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error
    try:
        await pool.execute(_SQL["make_zone"], zone)
        yield PostgresStore(pool, zone)
    finally:
        await pool.close()


class PostgresStore:
    """See the port. Make it with `open_store`."""

    def __init__(self, pool: asyncpg.Pool, zone: ZoneName, changes_kept: int = CHANGES_KEPT) -> None:
        self._pool = pool
        self._zone = zone
        self._changes_kept = changes_kept

    async def revision(self) -> int:
        """See the port."""
        async with self._reading() as connection:
            return await self._revision(connection)

    async def adopt(self, topology: Topology) -> int:
        """See the port."""
        async with self._mutation() as connection:
            row = await connection.fetchrow(_SQL["lock_zone"], self._zone)
            if row["topology"] is not None and _topology(row["topology"]) == topology:
                return int(row["revision"])
            homeless = await connection.fetchval(_SQL["homeless"], self._zone, [c.cell for c in topology.cells])
            if homeless is not None:
                raise Failure(Reason.SNAPSHOT_REFUSED, f"the topology lacks a cell of {homeless}")
            revision = int(row["revision"]) + 1
            body = msgspec.json.encode(topology).decode()
            await connection.execute(_SQL["step"], self._zone, revision)
            await connection.execute(_SQL["set_topology"], self._zone, body)
            await connection.execute(_SQL["log_change"], self._zone, revision, None)
            return revision

    async def table(self) -> Table:
        """See the port."""
        async with self._reading() as connection:
            row = await connection.fetchrow(_SQL["zone"], self._zone)
            topology = _topology(row["topology"])
            tenants = {tenant.name: tenant for tenant in await self._tenants(connection, None)}
        return Table(self._zone, row["revision"], tenants, {c.cell: c for c in topology.cells}, dict(topology.zones))

    async def tenant(self, name: TenantId) -> Tenant:
        """See the port."""
        async with self._reading() as connection:
            return await self._tenant(connection, name)

    async def moving(self) -> Sequence[tuple[TenantId, Move]]:
        """See the port."""
        async with self._reading() as connection:
            rows = await connection.fetch(_SQL["moving"], self._zone)
        return [(TenantId(row["name"]), msgspec.json.decode(row["move"], type=Move)) for row in rows]

    async def change(self, step: Step, intent: Intent) -> Done:
        """See the port."""
        with _failures():
            async with self._pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    done = await self._take(connection, step, intent)
                except BaseException:
                    await transaction.rollback()
                    raise
                await (transaction.rollback() if intent.dry_run else transaction.commit())
                return done

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """See the port."""
        async with self._reading() as connection:
            revision = await self._revision(connection)
            rows = await connection.fetch(_SQL["changes"], self._zone, after, limit)
        if after > revision or (after < revision and (not rows or rows[0]["revision"] != after + 1)):
            return None
        return tuple(Change(row["revision"], None if row["tenant"] is None else _parse_tenant(row["tenant"])) for row in rows)

    async def audit(self, after: int = 0, limit: int = AUDIT_ENTRIES_MAX) -> Sequence[Link[Deed]]:
        """See the port."""
        async with self._reading() as connection:
            rows = await connection.fetch(_SQL["audit"], self._zone, after, limit)
        return [Link(row["seq"], Deed(*(row[name] for name in Deed._fields)), row["prev_hash"], row["hash"]) for row in rows]

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Any]:
        with _failures():
            async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

    @contextlib.asynccontextmanager
    async def _mutation(self) -> AsyncIterator[Any]:
        with _failures():
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection

    async def _take(self, connection: Any, step: Step, intent: Intent) -> Done:
        """The zone's row is locked first, so that no other step comes between."""
        zone = await connection.fetchrow(_SQL["lock_zone"], self._zone)
        if intent.request_id:
            await connection.execute(_SQL["trim_requests"], self._zone, intent.at - limits.REQUESTS_KEPT_SECONDS * SECOND)
            if (row := await connection.fetchrow(_SQL["request"], self._zone, intent.request_id)) is not None:
                return answered(row["fingerprint"], Done(_parse_tenant(row["tenant"]), row["revision"]), intent)
        held = await self._subject(connection, step)
        others = await self._others(connection, held) if step.weighs else NOTHING
        after = step.take(held, View(self._zone, _topology(zone["topology"]).cells, others))
        intent.check(held)
        revision = zone["revision"]
        if after != held:
            revision += 1
            after = replace(after, since=revision)
            await connection.execute(_SQL["step"], self._zone, revision)
            await self._write(connection, held, after)
            await connection.execute(_SQL["log_change"], self._zone, revision, msgspec.json.encode(after).decode())
            await connection.execute(_SQL["trim_changes"], self._zone, revision - self._changes_kept)
            await self._enter(connection, deed_of(step, after, intent))
        done = Done(after, revision)
        if intent.request_id:
            body = msgspec.json.encode(after).decode()
            await connection.execute(_SQL["add_request"], self._zone, intent.request_id, intent.fingerprint, intent.at, revision, body)
        return replace(done, revision=zone["revision"]) if intent.dry_run else done

    async def _subject(self, connection: Any, step: Step) -> Tenant | None:
        if isinstance(step, RevokeKey):
            name = await connection.fetchval(_SQL["owner"], self._zone, step.subject)
        else:
            name = step.subject
        found = [] if name is None else await self._tenants(connection, name)
        return found[0] if found else None

    async def _others(self, connection: Any, held: Tenant | None) -> Loads:
        rows = await connection.fetch(_SQL["loads"], self._zone, None if held is None else held.name, sorted(BEFORE_SWITCH))
        return Loads({CellId(row["cell"]): row["demand"] for row in rows})

    async def _write(self, connection: Any, held: Tenant | None, after: Tenant) -> None:
        """What of the tenant is another than before."""
        pin = after.pinned
        await connection.execute(
            _SQL["put_tenant"],
            self._zone,
            after.name,
            after.cell,
            after.epoch,
            after.suspended,
            msgspec.json.encode(after.plan).decode(),
            after.dedicated_schema,
            after.demand,
            *((None, "", None) if pin is None else (pin.cell, pin.reason, pin.expires_at)),
            after.since,
            after.fenced,
            None if after.move is None else msgspec.json.encode(after.move).decode(),
            after.standby,
        )
        had = set() if held is None else {source.name for source in held.sources}
        for source in after.sources:
            if source.name not in had:
                await connection.execute(_SQL["add_source"], self._zone, after.name, source.name, source.slug)
        known = {} if held is None else {key.hash: key for key in credentials(held)}
        for name, key in _keys(after):
            if key.hash not in known:
                await connection.execute(_SQL["add_key"], key.hash, self._zone, after.name, name, key.revoked)
            elif key != known[key.hash]:
                await connection.execute(_SQL["revoke"], self._zone, key.hash)

    async def _enter(self, connection: Any, deed: Deed) -> None:
        row = await connection.fetchrow(_SQL["audit_head"], self._zone)
        (entry,) = link(BEGINNING if row is None else Head(row["seq"], row["hash"]), [deed])
        await connection.execute(_SQL["add_entry"], self._zone, entry.seq, *deed, entry.prev_hash, entry.hash)

    async def _revision(self, connection: Any) -> int:
        return int(await connection.fetchval(_SQL["revision"], self._zone))

    async def _tenant(self, connection: Any, name: TenantId) -> Tenant:
        found = await self._tenants(connection, name)
        if not found:
            raise Failure(Reason.UNKNOWN_TENANT, name)
        return found[0]

    async def _tenants(self, connection: Any, name: TenantId | None) -> list[Tenant]:
        keys: dict[tuple[str, str | None], list[Credential]] = {}
        for row in await connection.fetch(_SQL["credentials"], self._zone, name):
            keys.setdefault((row["tenant"], row["source"]), []).append(Credential(KeyHash(row["hash"]), row["revoked"]))
        sources: dict[str, list[Source]] = {}
        for row in await connection.fetch(_SQL["sources"], self._zone, name):
            held = tuple(keys.get((row["tenant"], row["name"]), ()))
            sources.setdefault(row["tenant"], []).append(Source(SourceId(row["name"]), row["slug"], held))
        return [
            _tenant_of(self._zone, row, sources.get(row["name"], ()), keys.get((row["name"], None), ()))
            for row in await connection.fetch(_SQL["tenants"], self._zone, name)
        ]


@contextlib.contextmanager
def _failures() -> Any:
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Failure(Reason.KEY_EXISTS) from error
    except _LOST as error:
        raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error


def _tenant_of(zone: ZoneName, row: Any, sources: Iterable[Source], read_keys: Iterable[Credential]) -> Tenant:
    return Tenant(
        name=TenantId(row["name"]),
        zone=zone,
        cell=CellId(row["cell"]),
        epoch=Epoch(row["epoch"]),
        suspended=row["suspended"],
        plan=msgspec.json.decode(row["plan"], type=Plan),
        dedicated_schema=row["dedicated_schema"],
        sources=tuple(sources),
        read_keys=tuple(read_keys),
        demand=row["demand"],
        pinned=None if row["pin"] is None else Pin(CellId(row["pin"]), row["pin_reason"], row["pin_expires_at"]),
        since=row["revision"],
        fenced=row["fenced"],
        move=None if row["move"] is None else msgspec.json.decode(row["move"], type=Move),
        standby=None if row["standby"] is None else CellId(row["standby"]),
    )


def _keys(tenant: Tenant) -> Iterator[tuple[SourceId | None, Credential]]:
    """Each key with its source; a read key has none."""
    for source in tenant.sources:
        for key in source.write_keys:
            yield source.name, key
    for key in tenant.read_keys:
        yield None, key


def _parse_tenant(body: str) -> Tenant:
    return msgspec.json.decode(body, type=Tenant)


def _topology(body: str | None) -> Topology:
    return _EMPTY if body is None else msgspec.json.decode(body, type=Topology)
