"""`router.placement.entry.Replica` in PostgreSQL: the store of a site that shares its zone with others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from kernel.errors import Failure, Reason
from kernel.ids import ZoneName
from router.placement.entry import (
    ENTRIES_KEPT,
    ENTRIES_READ_MAX,
    Ballot,
    Chunk,
    Entry,
    Place,
    Request,
    check_follows,
    decode,
    decode_all,
    encode,
    encode_all,
    still_held,
)
from router.placement.postgres import SQL, PostgresStore, failures, open_pool
from router.placement.postgres_rows import link_of, parse_tenant, parse_topology
from router.placement.store import AUDIT_ENTRIES_MAX

_CHUNK_TENANTS: Final = 100
_PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
FORGOTTEN: Final = ("keys", "sources", "tenants", "changes", "requests", "audit", "entries")


@contextlib.asynccontextmanager
async def open_replica(dsn: str, zone: ZoneName) -> AsyncIterator[PostgresReplica]:
    """As `open_store`. A zone that only the code before sites has changed has no number yet; other sites are to take a copy of it."""
    async with open_pool(dsn, zone) as pool:
        await pool.execute(SQL["number"], zone)
        yield PostgresReplica(pool, zone)


class PostgresReplica(PostgresStore):
    """See the port. Make it with `open_replica`."""

    async def ballot(self) -> Ballot:
        """See the port."""
        with failures():
            row = await self._pool.fetchrow(SQL["ballot"], self._zone)
        return _ballot(row)

    async def promise(self, ballot: Ballot) -> None:
        """See the port."""
        with failures():
            _check_kept(await self._pool.execute(SQL["promise"], self._zone, ballot.term, ballot.voted_for, *ballot.last))

    async def hold(self, ballot: Ballot, entries: Sequence[Entry]) -> None:
        """See the port."""
        with failures():
            body = encode_all(entries).decode()
            _check_kept(await self._pool.execute(SQL["hold"], self._zone, ballot.term, ballot.voted_for, *ballot.last, body))

    async def held(self) -> tuple[Place, Sequence[Entry]] | None:
        """See the port."""
        async with self._reading() as connection:
            row: Any = await connection.fetchrow(SQL["ballot"], self._zone)
            settled = _place(await connection.fetchrow(SQL["zone"], self._zone))
        if row["held"] is None:
            return None
        place = _ballot(row).last
        left = still_held(place, decode_all(row["held"]), settled)
        return (place, left) if left else None

    async def settled(self) -> Place:
        """See the port."""
        with failures():
            return _place(await self._pool.fetchrow(SQL["zone"], self._zone))

    async def restate(self, place: Place) -> None:
        """See the port."""
        with failures():
            await self._pool.execute(SQL["restate"], self._zone, place.term, place.number)

    async def settle(self, place: Place, entry: Entry) -> None:
        """See the port."""
        with failures():
            async with self._turn, self._pool.acquire() as connection, connection.transaction():
                zone: Any = await connection.fetchrow(SQL["lock_zone"], self._zone)
                if entry.number <= zone["number"]:
                    return
                head = await self._head(connection)
                check_follows(entry, zone["number"], zone["revision"], head.hash)
                await self.write(connection, entry)
                await self.settle_at(connection, place, [entry])

    async def settle_at(self, connection: Any, place: Place, entries: Sequence[Entry]) -> None:
        """As that of a store that is alone; and other sites may ask for the entries."""
        await super().settle_at(connection, place, entries)
        rows = [(self._zone, entry.number, place.term, encode(entry).decode()) for entry in entries]
        await connection.executemany(SQL["log_entry"], rows)
        await connection.execute(SQL["trim_entries"], self._zone, place.number - ENTRIES_KEPT)

    async def entries(self, after: int, limit: int = ENTRIES_READ_MAX) -> Sequence[tuple[Place, Entry]] | None:
        """See the port."""
        async with self._reading() as connection:
            settled = _place(await connection.fetchrow(SQL["zone"], self._zone))
            rows = await connection.fetch(SQL["entries"], self._zone, after, limit)
        rows = _within(rows)
        numbers = [row["number"] for row in rows]
        if numbers != list(range(after + 1, after + 1 + len(rows))) or (after < settled.number and not rows):
            return None
        return [(_place(row), decode(row["body"])) for row in rows]

    async def copy(self) -> AsyncIterator[Chunk]:
        """See the port."""
        async with self._reading() as connection:
            zone: Any = await connection.fetchrow(SQL["zone"], self._zone)
            topology = None if zone["topology"] is None else parse_topology(zone["topology"])
            yield Chunk(_place(zone), zone["revision"], topology)
            tenants = await self._tenants(connection, None)
            for start in range(0, len(tenants), _CHUNK_TENANTS):
                yield Chunk(tenants=tuple(tenants[start : start + _CHUNK_TENANTS]))
            requests = await connection.fetch(SQL["requests"], self._zone)
            for start in range(0, len(requests), _CHUNK_TENANTS):
                yield Chunk(requests=tuple(_request(row) for row in requests[start : start + _CHUNK_TENANTS]))
            after = 0
            while rows := await connection.fetch(SQL["audit"], self._zone, after, AUDIT_ENTRIES_MAX):
                after = rows[-1]["seq"]
                yield Chunk(deeds=tuple(link_of(row) for row in rows))

    async def take_copy(self, chunks: AsyncIterator[Chunk]) -> None:
        """See the port."""
        with failures():
            async with self._turn, self._pool.acquire() as connection, connection.transaction():
                settled = _place(await connection.fetchrow(SQL["lock_zone"], self._zone))
                first = await anext(chunks)
                if first.place is None:
                    raise ValueError("a copy that does not say of which place it is")
                if first.place.number <= settled.number:
                    return
                for what in FORGOTTEN:
                    await connection.execute(SQL[f"forget_{what}"], self._zone)
                if first.topology is not None:
                    await self._set_topology(connection, first.topology)
                async for chunk in chunks:
                    await self._take_chunk(connection, chunk)
                await connection.execute(SQL["step"], self._zone, first.revision, first.place.number, first.place.term)

    async def _take_chunk(self, connection: Any, chunk: Chunk) -> None:
        for tenant in chunk.tenants:
            await self._write(connection, None, tenant)
        for request in chunk.requests:
            await self._add_request(connection, request)
        for deed in chunk.deeds:
            await self._add_deed(connection, deed)


def _check_kept(status: str) -> None:
    """Raises Failure(STORE_UNAVAILABLE) when a promise was made behind this one's back: by another process of the same site."""
    if not status.endswith(" 1"):  # how many rows
        raise Failure(Reason.STORE_UNAVAILABLE, "another process of this site has promised something else")


def _within(rows: Sequence[Any]) -> Sequence[Any]:
    """The first of them, as many as make a page, and one at least."""
    length = 0
    for count, row in enumerate(rows):
        length += len(row["body"])
        if count and length > _PAGE_BYTES_MAX:
            return rows[:count]
    return rows


def _ballot(row: Any) -> Ballot:
    return Ballot(row["term"], row["voted_for"], Place(row["last_term"], row["last_number"]))


def _place(row: Any) -> Place:
    return Place(row["term"], row["number"])


def _request(row: Any) -> Request:
    return Request(row["id"], row["fingerprint"], row["at"], row["revision"], parse_tenant(row["tenant"]))
