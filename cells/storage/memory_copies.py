"""`copies.Copies` over a store in memory. Nothing here yields between reading and writing: each call is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from zlib import crc32

import msgspec

from cells.eventlog import codec
from cells.eventlog.envelope import Envelope
from cells.storage import convert, export, identity
from cells.storage.chunk import Chunk, Cursor, KeptHeld, KeptLetter, KeptRecord, Key, LedgerLine
from cells.storage.copies import Copy, Part, Totals
from cells.storage.memory import Kept, MemoryStore
from kernel.effects import EventRow, TraitClaim
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId

_encoder = msgspec.msgpack.Encoder()


class MemoryCopies:
    """See the port. `cell` is whose store it is."""

    def __init__(self, store: MemoryStore, cell: CellId) -> None:
        self._store = store
        self._cell = cell
        self._copies: dict[tuple[TenantId, CellId], tuple[str, Copy]] = {}

    async def export(self, tenant: TenantId, epoch: Epoch, cursor: Cursor | None, bytes_max: int) -> Part:
        """See the port."""
        self._check(tenant, "owner", epoch)
        return await export.export(_Source(self._store.kept(tenant), self._store.reached(), self._cell), tenant, epoch, cursor, bytes_max)

    async def mark(self, tenant: TenantId, epoch: Epoch) -> Cursor:
        """See the port."""
        self._store.reached()
        found = self._store.ownership(tenant)
        if found is None or found.epoch != epoch:
            raise Failure(Reason.MOVED, "the cell is at another epoch")
        return await export.end(_Source(self._store.kept(tenant), self._store.reached(), self._cell))

    async def begin(self, tenant: TenantId, origin: CellId, move: str, cursor: Cursor | None, dedicated: bool) -> Copy:
        """See the port. Here every tenant has a schema of its own."""
        if self._store.ownership(tenant) is None:
            raise Failure(Reason.MOVED, "the cell has not heard of the tenant")
        known = self._copies.get((tenant, origin))
        if known is None or known[0] != move:
            known = (move, Copy(0, cursor, Totals()))
            self._copies[tenant, origin] = known
        if known[1].cursor is None and self._store.kept(tenant).anything:
            raise Failure(Reason.MOVE_NOT_NOW, "something of the tenant is here already")
        return known[1]

    async def take(self, origin: CellId, move: str, seq: int, chunk: Chunk, cursor: Cursor) -> Copy:
        """See the port."""
        known = self._copies.get((chunk.tenant, origin))
        if known is None or known[0] != move:
            raise Failure(Reason.NOT_MOVING, f"by {move} from cell {origin}")
        copy = known[1]
        if copy.seq != seq:
            return copy
        self._check(chunk.tenant, "standby" if self._stands_by(chunk.tenant) else "released", chunk.epoch)
        added = _take(self._store.kept(chunk.tenant), chunk, self._cell)
        copy = Copy(seq + 1, cursor, copy.added + added)
        self._copies[chunk.tenant, origin] = (move, copy)
        return copy

    async def digest(self, tenant: TenantId, after: Cursor | None, until: Cursor | None) -> Totals:
        """See the port."""
        kept = self._store.kept(tenant)
        if after is not None and until is not None:
            return kept_digest(kept, set(await export.keys_between(_Source(kept, {}, self._cell), after, until)))
        if until is None:
            return kept_digest(kept, None)
        behind, taken = until.given, kept.keys()
        return kept_digest(kept, {key for key in taken if key[0] < 0 or key[1] < behind.get(key[0], 0)})

    async def digest_profiles(self, tenant: TenantId) -> Totals:
        """See the port."""
        kept = self._store.kept(tenant)
        return Totals(*_sum(kept.nodes.items()), *_sum(kept.traits.values()))

    async def ledger_of(self, tenant: TenantId) -> list[LedgerLine]:
        """See the port."""
        return await _Source(self._store.kept(tenant), {}, self._cell).ledger()

    async def erase(self, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        """See the port. All at once: there is nobody to wait."""
        self._store.reached()
        if all(key[0] != tenant or known != move for key, (known, _) in self._copies.items()):
            return 0, False
        self._check(tenant, "released", epoch)
        removed = self._store.drop(tenant)
        if not removed:
            for key in [key for key in self._copies if key[0] == tenant]:
                del self._copies[key]
        return removed, removed > 0

    def _stands_by(self, tenant: TenantId) -> bool:
        found = self._store.ownership(tenant)
        return found is not None and found.state == "standby"

    def _check(self, tenant: TenantId, state: str, epoch: Epoch) -> None:
        self._store.reached()
        found = self._store.ownership(tenant)
        if found is None or (found.state, found.epoch) != (state, epoch):
            raise Failure(Reason.MOVED, "the cell knows another owner")


class _Source:
    """`export.Source`."""

    def __init__(self, kept: Kept, positions: dict[int, int], cell: CellId) -> None:
        self._kept = kept
        self._positions = positions
        self._cell = cell

    async def positions(self) -> dict[int, int]:
        """See Source."""
        return self._positions

    async def keys_below_zero(self, after: Key, limit: int) -> list[tuple[Key, int]]:
        """See Source."""
        return [(key, self._size(key)) for key in sorted(self._kept.keys()) if after < key and key[0] < 0][:limit]

    async def keys_of(self, partition: int, first: int, until: int, limit: int) -> list[tuple[Key, int]]:
        """See Source."""
        return [(k, self._size(k)) for k in sorted(self._kept.keys()) if k[0] == partition and first <= k[1] < until][:limit]

    async def records(self, keys: Sequence[Key]) -> list[KeptRecord]:
        """See Source."""
        return [self._kept.records[place] for place in sorted(self._kept.records) if place[:2] in set(keys)]

    async def rows(self, records: Sequence[KeptRecord], found: Sequence[bytes]) -> list[EventRow]:
        """See Source."""
        places = {(kept.record.partition, kept.record.offset, kept.record.received_day) for kept in records}
        rows = [stored.row for key in found for stored in self._kept.events.get(key, ())]
        return [row for row in rows if (row.partition, row.offset, row.received_day) in places]

    async def letters(self, keys: Sequence[Key]) -> list[KeptLetter]:
        """See Source."""
        return [self._kept.letters[place] for place in sorted(self._kept.letters) if place[:2] in set(keys)]

    async def held(self, keys: Sequence[Key]) -> list[KeptHeld]:
        """See Source."""
        return [self._kept.held[place] for place in sorted(self._kept.held) if place in set(keys)]

    async def marker(self) -> int:
        """See Source."""
        return self._kept.changes

    async def nodes(self, since: int | None, after: str, limit: int) -> list[tuple[str, str]]:
        """See Source."""
        found = sorted(self._kept.nodes.items())
        return [pair for pair in found if pair[0] > after and self._kept.changed.get(pair[0], 0) >= (since or 0)][:limit]

    async def traits(self, since: int | None, after: tuple[str, str], limit: int) -> list[TraitClaim]:
        """See Source."""
        found = sorted(self._kept.traits.items())
        return [claim for key, claim in found if key > after and self._kept.changed.get(key, 0) >= (since or 0)][:limit]

    async def events_kept(self) -> int:
        """See Source."""
        return sum(line.stored for line in await self.ledger())

    async def ledger(self) -> list[LedgerLine]:
        """See Source."""
        own = [LedgerLine(self._cell, *line[1:]) for line in self._kept.ledger()]
        return own + [self._kept.before[key] for key in sorted(self._kept.before)]

    def _size(self, key: Key) -> int:
        return sum(len(kept.record.body) for place, kept in self._kept.records.items() if place[:2] == key)


def kept_digest(kept: Kept, keys: set[Key] | None) -> Totals:
    """Of what lies at some keys; None: of everything."""
    rows = [s.row for same in kept.events.values() for s in same if keys is None or (s.row.partition, s.row.offset) in keys]
    records = [r for place, r in kept.records.items() if keys is None or place[:2] in keys]
    others = [o for place, o in (*kept.letters.items(), *kept.held.items()) if keys is None or place[:2] in keys]
    return Totals(
        *_sum(row._replace(partition=0) for row in rows),
        *_sum((r.record._replace(partition=0, events=0), r.stored_at) for r in records),
        *_sum(other[1:] for other in others),
    )


def _take(kept: Kept, chunk: Chunk, cell: CellId) -> Totals:
    places, taken = convert.places_below(chunk.keys), kept.keys()
    while any((place, offset) in taken for (_, offset), place in places.items()):
        places = convert.avoid(places, taken)
    records = {
        (k.record.partition, k.record.offset, k.record.received_day): k._replace(
            record=k.record._replace(partition=places[k.record.partition, k.record.offset])
        )
        for k in chunk.records
    }
    fresh: set[Key] = set()
    for row in chunk.rows:
        known = kept.events.get(row.message_key, [])
        if all(stored.row.received_day != row.received_day for stored in known):
            moved = records[row.partition, row.offset, row.received_day]
            kept.keep(row._replace(partition=moved.record.partition), moved, _envelope(moved.record.body, row.ordinal))
            fresh.add((moved.record.partition, row.offset))
    for letter in chunk.letters:
        place = places[letter.key]
        kept.letters[place, letter.offset, letter.ordinal] = letter._replace(partition=place)
        fresh.add((place, letter.offset))
    for held in chunk.held:
        place = places[held.key]
        kept.held[place, held.offset] = held._replace(partition=place)
        fresh.add((place, held.offset))
    kept.merge(identity.merge(kept.nodes, chunk.nodes).changed)
    for claim in chunk.traits:
        kept.write(claim)
    kept.before.update({(line.cell, line.hour): line for line in chunk.ledger if line.cell != cell})
    return kept_digest(kept, fresh)


@lru_cache(maxsize=64)
def _envelopes(body: bytes) -> list[Envelope]:
    return codec.decode(body).envelopes


def _envelope(body: bytes, ordinal: int) -> Envelope:
    return _envelopes(body)[ordinal]


def _sum(found: Iterable[object]) -> tuple[int, int]:
    hashes = [crc32(_encoder.encode(one)) for one in found]
    return len(hashes), sum(hashes)
