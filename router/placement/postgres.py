"""`router.placement.store.Store` in PostgreSQL. The role must own its database: it makes and migrates the schema `placement`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from kernel import limits
from kernel.chain import BEGINNING, Head, Link, link
from kernel.clock import SECOND
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyHash, SourceId, TenantId, ZoneName
from kernel.queries import parse
from router.placement.capacity import NOTHING, Loads
from router.placement.entry import Entry, Place, Request
from router.placement.postgres_rows import json_of, keys_of, link_of, parse_tenant, parse_topology, tenant_of
from router.placement.replica import Agrees
from router.placement.steps import RevokeKey, Step, View, credentials
from router.placement.store import AUDIT_ENTRIES_MAX, CHANGES_KEPT, REPLAY_CHANGES_MAX, Change, Deed, Done, Intent, answered, deed_of
from router.placement.table import BEFORE_SWITCH, Credential, Move, Source, Table, Tenant, Topology
from router.placement.turns import Asked, Turns

_FOLDER: Final = Path(__file__).parent / "sql"
SQL: Final = {query.name: query.text for query in parse((_FOLDER / "queries.sql").read_text()).values()}
_LOCK: Final = 7301
_COMMAND_SECONDS: Final = 10.0
_CONNECTIONS_MAX: Final = 4
_LOST: Final = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)


async def migrate(dsn: str) -> None:
    """Runs the numbered files of sql/ that this database has not seen, in name order. Safe to run from several processes at once."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(SQL["one_at_a_time"], _LOCK)
            await connection.execute(SQL["make_schema"])
            await connection.execute(SQL["make_migrations"])
            seen = {row["name"] for row in await connection.fetch(SQL["migrations"])}
            for file in sorted(_FOLDER.glob("[0-9]*.sql")):
                if file.name not in seen:
                    await connection.execute(file.read_text())
                    await connection.execute(SQL["migrated"], file.name)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def open_store(dsn: str, zone: ZoneName) -> AsyncIterator[PostgresStore]:
    """The migrated store of a zone. Raises Failure(STORE_UNAVAILABLE) when PostgreSQL cannot be reached."""
    async with open_pool(dsn, zone) as pool:
        yield PostgresStore(pool, zone)


@contextlib.asynccontextmanager
async def open_pool(dsn: str, zone: ZoneName) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a migrated database with the zone's row."""
    try:
        await migrate(dsn)
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=_CONNECTIONS_MAX, command_timeout=_COMMAND_SECONDS)
    except _LOST as error:
        raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error
    try:
        await pool.execute(SQL["make_zone"], zone)
        await pool.execute(SQL["make_ballot"], zone)
        yield pool
    finally:
        await pool.close()


class _Change(NamedTuple):
    """What is to be taken, of the zone's row, and whether it is kept: its answer, and the entry if there is one."""

    take: Callable[[Any, Any], Awaitable[tuple[object, Entry | None]]]
    keep: bool


class PostgresStore:
    """See the port. Make it with `open_store`."""

    def __init__(self, pool: asyncpg.Pool, zone: ZoneName, changes_kept: int = CHANGES_KEPT) -> None:
        self._pool = pool
        self._zone = zone
        self._changes_kept = changes_kept
        self._turn = asyncio.Lock()
        self._turns = Turns(self._make)
        self.agrees: Agrees | None = None  # nobody else has to

    async def revision(self) -> int:
        """See the port."""
        async with self._reading() as connection:
            return await self._revision(connection)

    async def adopt(self, topology: Topology) -> int:
        """See the port."""
        return await self._turns.ask(_Change(partial(self._adopted, topology), keep=True))  # type: ignore[no-any-return]  # what `_adopted` gives

    async def table(self) -> Table:
        """See the port."""
        async with self._reading() as connection:
            row = await connection.fetchrow(SQL["zone"], self._zone)
            topology = parse_topology(row["topology"])
            tenants = {tenant.name: tenant for tenant in await self._tenants(connection, None)}
        return Table(self._zone, row["revision"], tenants, {c.cell: c for c in topology.cells}, dict(topology.zones))

    async def tenant(self, name: TenantId) -> Tenant:
        """See the port."""
        async with self._reading() as connection:
            return await self._tenant(connection, name)

    async def moving(self) -> Sequence[tuple[TenantId, Move]]:
        """See the port."""
        async with self._reading() as connection:
            rows = await connection.fetch(SQL["moving"], self._zone)
        return [(TenantId(row["name"]), msgspec.json.decode(row["move"], type=Move)) for row in rows]

    async def change(self, step: Step, intent: Intent) -> Done:
        """See the port."""
        return await self._turns.ask(_Change(partial(self._taken, step, intent), keep=not intent.dry_run))  # type: ignore[no-any-return]  # what `_taken` gives

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """See the port."""
        async with self._reading() as connection:
            revision = await self._revision(connection)
            rows = await connection.fetch(SQL["changes"], self._zone, after, limit)
        if after > revision or (after < revision and (not rows or rows[0]["revision"] != after + 1)):
            return None
        return tuple(Change(row["revision"], None if row["tenant"] is None else parse_tenant(row["tenant"])) for row in rows)

    async def audit(self, after: int = 0, limit: int = AUDIT_ENTRIES_MAX) -> Sequence[Link[Deed]]:
        """See the port."""
        async with self._reading() as connection:
            rows = await connection.fetch(SQL["audit"], self._zone, after, limit)
        return [link_of(row) for row in rows]

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Any]:
        with failures():
            async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

    async def _make(self, together: Sequence[Asked[_Change]]) -> None:
        """Raises Failure(STORE_UNAVAILABLE): then none of them is kept, or nobody knows, and somebody else had better lead."""
        try:
            await self._make_all(together)
        except Failure:
            if self.agrees is not None:
                self.agrees.give_up()
            raise

    async def _make_all(self, together: Sequence[Asked[_Change]]) -> None:
        """The zone's row is locked first, so that no other process's step comes between. Entries are written, then agreed on, then
        committed: what the database refuses is never proposed to anybody."""
        with failures():
            async with self._turn, self._pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    row: Any = await connection.fetchrow(SQL["lock_zone"], self._zone)
                    zone = dict(row)
                    term, entries = zone["term"], list[Entry]()
                    answers = [await self._make_one(connection, zone, asked.what, entries) for asked in together]
                    if entries:
                        async with self._agreed(entries, term) as place:
                            await self.settle_at(connection, place, entries)
                            await transaction.commit()
                    else:
                        await transaction.rollback()
                except BaseException:
                    with contextlib.suppress(asyncpg.InterfaceError):  # it ended with the failed commit
                        await transaction.rollback()
                    raise
        for asked, answer in zip(together, answers, strict=True):
            asked.give(answer)

    async def _make_one(self, connection: Any, zone: dict[str, Any], change: _Change, entries: list[Entry]) -> object:
        """Its answer, or why it is refused; what it changes is one entry more, and the zone as the next one finds it."""
        savepoint = connection.transaction()
        await savepoint.start()
        try:
            with failures():
                answer, entry = await change.take(connection, zone)
                if entry is not None:
                    await self.write(connection, entry)
        except asyncpg.DataError as error:
            await savepoint.rollback()
            return Failure(Reason.INVALID_FIELD, f"the store cannot keep it: {error}")
        except Failure as failure:
            if failure.reason is Reason.STORE_UNAVAILABLE:
                raise
            await savepoint.rollback()
            return failure
        if entry is None or not change.keep:
            await savepoint.rollback()
            return answer
        await savepoint.commit()
        entries.append(entry)
        zone |= {"number": entry.number, "revision": entry.revision}
        if entry.topology is not None:
            zone["topology"] = msgspec.json.encode(entry.topology).decode()
        return answer

    @contextlib.asynccontextmanager
    async def _agreed(self, entries: Sequence[Entry], term: int) -> AsyncIterator[Place]:
        if self.agrees is None:
            yield Place(term, entries[-1].number)
            return
        async with self.agrees.agreed(entries) as place:
            yield place

    async def _adopted(self, topology: Topology, connection: Any, zone: Any) -> tuple[int, Entry | None]:
        if zone["topology"] is not None and parse_topology(zone["topology"]) == topology:
            return int(zone["revision"]), None
        homeless = await connection.fetchval(SQL["homeless"], self._zone, [c.cell for c in topology.cells])
        if homeless is not None:
            raise Failure(Reason.SNAPSHOT_REFUSED, f"the topology lacks a cell of {homeless}")
        revision = int(zone["revision"]) + 1
        return revision, Entry(zone["number"] + 1, revision, topology=topology)

    async def _taken(self, step: Step, intent: Intent, connection: Any, zone: Any) -> tuple[Done, Entry | None]:
        if intent.request_id:
            row = await connection.fetchrow(SQL["request"], self._zone, intent.request_id)
            if row is not None and row["at"] >= intent.at - limits.REQUESTS_KEPT_SECONDS * SECOND:
                return answered(row["fingerprint"], Done(parse_tenant(row["tenant"]), row["revision"]), intent), None
        held = await self._subject(connection, step)
        others = await self._others(connection, held) if step.weighs else NOTHING
        after = step.take(held, View(self._zone, parse_topology(zone["topology"]).cells, others))
        intent.check(held)
        revision, deed = zone["revision"], None
        if changed := after != held:
            revision += 1
            after = replace(after, since=revision)
            (deed,) = link(await self._head(connection), [deed_of(step, after, intent)])
        request = Request(intent.request_id, intent.fingerprint, intent.at, revision, after) if intent.request_id else None
        done = Done(after, zone["revision"] if intent.dry_run else revision)
        if not changed and request is None:
            return done, None
        return done, Entry(zone["number"] + 1, revision, after if changed else None, None, deed, request)

    async def write(self, connection: Any, entry: Entry) -> None:
        """All that an entry changes but the zone's own row."""
        if entry.tenant is not None:
            held = await self._tenants(connection, entry.tenant.name)
            await self._write(connection, held[0] if held else None, entry.tenant)
        if entry.topology is not None:
            await self._set_topology(connection, entry.topology)
        if entry.tenant is not None or entry.topology is not None:
            body = None if entry.tenant is None else json_of(entry.tenant)
            await connection.execute(SQL["log_change"], self._zone, entry.revision, body)
            await connection.execute(SQL["trim_changes"], self._zone, entry.revision - self._changes_kept)
        if entry.deed is not None:
            await self._add_deed(connection, entry.deed)
        if entry.request is not None:
            await connection.execute(SQL["trim_requests"], self._zone, entry.request.at - limits.REQUESTS_KEPT_SECONDS * SECOND)
            await self._add_request(connection, entry.request)

    async def _set_topology(self, connection: Any, topology: Topology) -> None:
        await connection.execute(SQL["set_topology"], self._zone, msgspec.json.encode(topology).decode())

    async def _add_deed(self, connection: Any, deed: Link[Deed]) -> None:
        await connection.execute(SQL["add_entry"], self._zone, deed.seq, *deed.fields, deed.prev_hash, deed.hash)

    async def _add_request(self, connection: Any, one: Request) -> None:
        told = (one.id, one.fingerprint, one.at, one.revision, json_of(one.tenant))
        await connection.execute(SQL["add_request"], self._zone, *told)

    async def settle_at(self, connection: Any, place: Place, entries: Sequence[Entry]) -> None:
        """The zone is at the last of these entries from now on."""
        await connection.execute(SQL["step"], self._zone, entries[-1].revision, place.number, place.term)

    async def _subject(self, connection: Any, step: Step) -> Tenant | None:
        if isinstance(step, RevokeKey):
            name = await connection.fetchval(SQL["owner"], self._zone, step.subject)
        else:
            name = step.subject
        found = [] if name is None else await self._tenants(connection, name)
        return found[0] if found else None

    async def _others(self, connection: Any, held: Tenant | None) -> Loads:
        rows = await connection.fetch(SQL["loads"], self._zone, None if held is None else held.name, sorted(BEFORE_SWITCH))
        return Loads({CellId(row["cell"]): row["demand"] for row in rows})

    async def _write(self, connection: Any, held: Tenant | None, after: Tenant) -> None:
        """What of the tenant is another than before."""
        pin = after.pinned
        await connection.execute(
            SQL["put_tenant"],
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
                await connection.execute(SQL["add_source"], self._zone, after.name, source.name, source.slug)
        known = {} if held is None else {key.hash: key for key in credentials(held)}
        for name, key in keys_of(after):
            if key.hash not in known:
                await connection.execute(SQL["add_key"], key.hash, self._zone, after.name, name, key.revoked)
            elif key != known[key.hash]:
                await connection.execute(SQL["revoke"], self._zone, key.hash)

    async def _head(self, connection: Any) -> Head:
        row = await connection.fetchrow(SQL["audit_head"], self._zone)
        return BEGINNING if row is None else Head(row["seq"], row["hash"])

    async def _revision(self, connection: Any) -> int:
        return int(await connection.fetchval(SQL["revision"], self._zone))

    async def _tenant(self, connection: Any, name: TenantId) -> Tenant:
        found = await self._tenants(connection, name)
        if not found:
            raise Failure(Reason.UNKNOWN_TENANT, name)
        return found[0]

    async def _tenants(self, connection: Any, name: TenantId | None) -> list[Tenant]:
        keys: dict[tuple[str, str | None], list[Credential]] = {}
        for row in await connection.fetch(SQL["credentials"], self._zone, name):
            keys.setdefault((row["tenant"], row["source"]), []).append(Credential(KeyHash(row["hash"]), row["revoked"]))
        sources: dict[str, list[Source]] = {}
        for row in await connection.fetch(SQL["sources"], self._zone, name):
            held = tuple(keys.get((row["tenant"], row["name"]), ()))
            sources.setdefault(row["tenant"], []).append(Source(SourceId(row["name"]), row["slug"], held))
        return [
            tenant_of(self._zone, row, sources.get(row["name"], ()), keys.get((row["name"], None), ()))
            for row in await connection.fetch(SQL["tenants"], self._zone, name)
        ]


@contextlib.contextmanager
def failures() -> Any:
    """What PostgreSQL raises, as Failure(KEY_EXISTS, STORE_UNAVAILABLE); but for what lies in the data."""
    try:
        yield
    except asyncpg.DataError:
        raise
    except asyncpg.UniqueViolationError as error:
        raise Failure(Reason.KEY_EXISTS) from error
    except (*_LOST, asyncpg.PostgresError) as error:
        raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error
