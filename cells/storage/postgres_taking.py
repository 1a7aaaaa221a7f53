"""Storing one part of a copy on PostgreSQL, and telling what is there: the inside of a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import asyncpg

from cells.eventlog import codec
from cells.storage import convert
from cells.storage.chunk import Chunk, KeptHeld, KeptLetter, Key
from cells.storage.copies import Totals
from cells.storage.postgres import Connection
from cells.storage.postgres_apply import SHARED, Known, Writes
from cells.storage.sql import sql
from kernel.clock import Micros
from kernel.effects import Effects, EventRow, IdentityClaim
from kernel.errors import Failure, Reason
from kernel.ids import TenantId, message_keys

_ROUNDS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Taking:
    """Storing one part."""

    connection: Connection
    home: str
    chunk: Chunk
    now: Micros

    async def all(self) -> Totals:
        """What was added, as the store gives it back."""
        places = await self._places()
        keys = await self._events(places)
        await self._others(places)
        known = Known(homes={} if self.home == SHARED else {self.chunk.tenant: self.home})
        claims = tuple(IdentityClaim(self.chunk.tenant, *pair) for pair in self.chunk.nodes)
        writes = Writes(self.connection, known, Effects(0, identities=claims, traits=tuple(self.chunk.traits)), self.now)
        await writes.latest_traits()
        await writes.identities()
        letters = [(places[one.key], one.offset) for one in self.chunk.letters]
        held = [(places[one.key], one.offset) for one in self.chunk.held]
        there = list(dict.fromkeys([*keys, *letters, *held]))
        return await digest_at(self.connection, self.home, self.chunk.tenant, there) if there else Totals()

    async def _places(self) -> dict[Key, int]:
        """Where below zero everything goes: where nothing lies that was met before."""
        places = convert.places_below(self.chunk.keys)
        for _ in range(_ROUNDS_MAX if places else 0):
            asked = [(place, offset) for (_, offset), place in places.items()]
            found = await self.connection.fetch(sql("taken_by", self.home), *columns(asked, 2), self.chunk.tenant)
            if not found:
                return places
            places = convert.avoid(places, {(row["partition"], row["log_offset"]) for row in found})
        if places:
            raise Failure(Reason.STORE_UNAVAILABLE, "no place is free")
        return places

    async def _events(self, places: Mapping[Key, int]) -> list[Key]:
        """Stores rows that are new, and the records that have any; where these lie."""
        moved = [row._replace(partition=places[row.partition, row.offset]) for row in self.chunk.rows]
        if not moved:
            return []
        kept = {
            (row["message_key"], row["received_day"])
            for row in await self.connection.fetch(sql("keep_rows", self.home), *zip(*sorted(moved, key=_row_key), strict=True))
        }
        counts: dict[tuple[int, int, date], int] = {}
        for row in moved:
            if (row.message_key, row.received_day) in kept:
                place = (row.partition, row.offset, row.received_day)
                counts[place] = counts.get(place, 0) + 1
        records = []
        for record, stored_at in self.chunk.records:
            place = (places[record.partition, record.offset], record.offset, record.received_day)
            if place in counts:
                records.append((*record._replace(partition=place[0], events=counts[place]), stored_at))
            await asyncio.sleep(0)
        if records:
            await self.connection.execute(sql("keep_pieces", self.home), *zip(*records, strict=True))
        return [place[:2] for place in counts]

    async def _others(self, places: Mapping[Key, int]) -> None:
        letters = [(places[one.key], *one[1:]) for one in self.chunk.letters]
        held = [(places[one.key], *one[1:]) for one in self.chunk.held]
        await self.connection.execute(sql("keep_letters", self.home), self.chunk.tenant, *columns(letters, len(KeptLetter._fields)))
        await self.connection.execute(sql("keep_held", self.home), self.chunk.tenant, *columns(held, len(KeptHeld._fields)))


async def digest_at(connection: Connection, home: str, tenant: TenantId, keys: Sequence[Key]) -> Totals:
    """Of what lies at some keys. The message keys are taken from the bodies as they are stored. Places and rows are joined by hash, since
    there are as many of each."""
    await connection.execute("SET LOCAL enable_hashjoin = on")
    at = columns(keys, 2)
    ids: list[str] = []
    days: set[date] = set()
    for row in await connection.fetch(sql("records_of", home), tenant, *at):
        ids += codec.decode_columns(row["body"]).message_ids
        days.add(row["received_day"])
        await asyncio.sleep(0)
    events = await connection.fetchrow(sql("digest_rows_at", home), tenant, sorted(set(message_keys(tenant, ids))), sorted(days), *at)
    records = await connection.fetchrow(sql("digest_records_at", home), tenant, *at)
    others = await connection.fetchrow(sql("digest_others_at", home), tenant, *at)
    return Totals(*digest(events), *digest(records), *digest(others))


def columns(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    """The rows turned on their side, also when there are none."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def digest(row: asyncpg.Record | None) -> tuple[int, int]:
    """Count and sum."""
    return (0, 0) if row is None else (row["counted"], int(row["summed"]))


def _row_key(row: EventRow) -> tuple[bytes, date]:
    return row.message_key, row.received_day
