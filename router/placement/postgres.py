"""`router.placement.store.Store` in PostgreSQL. The role must own its database: it makes and migrates the schema `placement`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyHash, SourceId, TenantId, ZoneName
from kernel.limits import Plan
from kernel.queries import parse
from router.placement.store import CHANGES_KEPT, REPLAY_CHANGES_MAX, Change
from router.placement.table import Credential, Source, Table, Tenant, Topology

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
                raise Failure(Reason.SNAPSHOT_REFUSED, f"the topology lacks the home of {homeless}")
            revision = await self._step(connection)
            body = msgspec.json.encode(topology).decode()
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

    async def create_tenant(self, tenant: Tenant) -> Tenant:
        """See the port."""

        async def insert(connection: Any, revision: int) -> None:
            await connection.execute(
                _SQL["add_tenant"],
                self._zone,
                tenant.name,
                tenant.cell,
                tenant.epoch,
                tenant.suspended,
                msgspec.json.encode(tenant.plan).decode(),
                tenant.dedicated_schema,
                tenant.pin,
                revision,
            )

        async with self._mutation() as connection:
            return await self._change(connection, tenant.name, insert)

    async def suspend(self, name: TenantId, suspended: bool) -> Tenant:
        """See the port."""

        async def update(connection: Any, _: int) -> None:
            await connection.execute(_SQL["suspend"], self._zone, name, suspended)

        async with self._mutation() as connection:
            await self._lock(connection)
            held = await self._tenant(connection, name)
            return held if held.suspended == suspended else await self._change(connection, name, update)

    async def add_source(self, name: TenantId, source: Source) -> Tenant:
        """See the port."""

        async def insert(connection: Any, _: int) -> None:
            await connection.execute(_SQL["add_source"], self._zone, name, source.name, source.slug)
            for key in source.write_keys:
                await self._insert_key(connection, name, source.name, key)

        async with self._mutation() as connection:
            await self._tenant(connection, name)
            return await self._change(connection, name, insert)

    async def add_write_key(self, name: TenantId, source: SourceId, key: Credential) -> Tenant:
        """See the port."""
        async with self._mutation() as connection:
            held = await self._tenant(connection, name)
            if all(s.name != source for s in held.sources):
                raise Failure(Reason.UNKNOWN_SOURCE, source)
            return await self._change(connection, name, lambda c, _: self._insert_key(c, name, source, key))

    async def add_read_key(self, name: TenantId, key: Credential) -> Tenant:
        """See the port."""
        async with self._mutation() as connection:
            await self._tenant(connection, name)
            return await self._change(connection, name, lambda c, _: self._insert_key(c, name, None, key))

    async def revoke(self, key: KeyHash) -> int:
        """See the port."""

        async def update(connection: Any, _: int) -> None:
            await connection.execute(_SQL["revoke"], self._zone, key)

        async with self._mutation() as connection:
            await self._lock(connection)
            row = await connection.fetchrow(_SQL["key"], self._zone, key)
            if row is None:
                raise Failure(Reason.UNKNOWN_KEY)
            if row["revoked"]:
                return await self._revision(connection)
            return (await self._change(connection, TenantId(row["tenant"]), update)).since

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """See the port."""
        async with self._reading() as connection:
            revision = await self._revision(connection)
            rows = await connection.fetch(_SQL["changes"], self._zone, after, limit)
        if after > revision or (after < revision and (not rows or rows[0]["revision"] != after + 1)):
            return None
        return tuple(Change(row["revision"], None if row["tenant"] is None else _parse_tenant(row["tenant"])) for row in rows)

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

    async def _change(self, connection: Any, name: TenantId, write: Callable[[Any, int], Awaitable[None]]) -> Tenant:
        """One mutation of one tenant: the zone's row is locked first, so that no other step comes between."""
        revision = await self._step(connection)
        await write(connection, revision)
        await connection.execute(_SQL["touch_tenant"], self._zone, name, revision)
        held = await self._tenant(connection, name)
        body = msgspec.json.encode(held).decode()
        await connection.execute(_SQL["log_change"], self._zone, revision, body)
        await connection.execute(_SQL["trim_changes"], self._zone, revision - self._changes_kept)
        return held

    async def _lock(self, connection: Any) -> None:
        await connection.execute(_SQL["lock_zone"], self._zone)

    async def _step(self, connection: Any) -> int:
        return int(await connection.fetchval(_SQL["step"], self._zone))

    async def _revision(self, connection: Any) -> int:
        return int(await connection.fetchval(_SQL["revision"], self._zone))

    async def _insert_key(self, connection: Any, tenant: TenantId, source: SourceId | None, key: Credential) -> None:
        await connection.execute(_SQL["add_key"], key.hash, self._zone, tenant, source, key.revoked)

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
        raise Failure(Reason.TENANT_EXISTS, str(error.constraint_name)) from error
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
        pin=None if row["pin"] is None else CellId(row["pin"]),
        since=row["revision"],
    )


def _parse_tenant(body: str) -> Tenant:
    return msgspec.json.decode(body, type=Tenant)


def _topology(body: str | None) -> Topology:
    return _EMPTY if body is None else msgspec.json.decode(body, type=Topology)
