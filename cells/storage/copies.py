"""A tenant's copy as a port. This docstring is its specification; `tests/contracts/test_copies.py` runs it on every adapter.

**Export** gives a tenant part by part to one who shows by a cursor what it has, from one state of the store at a time. Whoever takes
every part from no cursor on until nothing is more, and the log is applied up to an end, has everything of the tenant that was applied
below that end: events with their records, dead letters, held records, identities, traits and the ledger. Only the tenant's owner at the
epoch that is asked for exports; anybody else raises Failure(MOVED).

**Take** stores a part in one transaction together with the copy's number and cursor: the same part again, or one of another number, changes
nothing and is answered with the copy as it is. It is refused with Failure(MOVED) unless the tenant was released here at the part's own
epoch, or stands by here, where a copy joins what is folded: what a cell owns, or has not heard of, nobody copies into it. An event that is
there already by key and received day is left; a record without any new event is not kept. What is taken lies below zero, where no record of
this cell's log will ever lie, and what it adds is counted and summed from what the store gives back.  **Digest** tells of counts and sums
that do not depend on place: of everything before a cursor by reading everything, and of what lies behind one cursor and before another,
record by record. Where nothing else was stored, what a copy added has the digest of what was exported.

**Erase** removes a bounded part of all that is kept of a tenant that was released here, and says whether anything is left. Its place in
the ownership table stays, so that the tenant's old epochs stay refused, and so does the cell's own ledger: how much it counted. What
the cell owns it refuses with Failure(MOVED).

All raise Failure(STORE_UNAVAILABLE) when the store cannot say; then nothing was changed, or all of it was, and the copy's number tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cells.storage.chunk import Chunk, Cursor, LedgerLine
from kernel.epoch import Epoch
from kernel.ids import CellId, TenantId


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts, and sums of 64-bit hashes. Of profiles, `events` are nodes and `records` traits."""

    events: int = 0
    events_sum: int = 0
    records: int = 0
    records_sum: int = 0
    others: int = 0
    others_sum: int = 0

    def __add__(self, more: Totals) -> Totals:
        return Totals(
            self.events + more.events,
            self.events_sum + more.events_sum,
            self.records + more.records,
            self.records_sum + more.records_sum,
            self.others + more.others,
            self.others_sum + more.others_sum,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A part, what whoever takes it has then, up to where each partition of the log is applied, whether more was there, and about how many
    events there are in all."""

    chunk: Chunk
    cursor: Cursor
    reached: dict[int, int]
    more: bool
    events_kept: int


@dataclass(frozen=True, slots=True)
class Copy:
    """How far a copy is."""

    seq: int
    cursor: Cursor | None
    added: Totals


class Copies(Protocol):
    """See the module's docstring. `origin` is the cell that a copy comes from, `move` what it is made for."""

    async def export(self, tenant: TenantId, epoch: Epoch, cursor: Cursor | None, bytes_max: int) -> Part:
        """The next part for one who has everything up to `cursor`."""
        ...

    async def mark(self, tenant: TenantId, epoch: Epoch) -> Cursor:
        """The cursor of one who has everything that is applied now. Who will own the tenant next may be asked before it does: at its
        present epoch, whoever that one is."""
        ...

    async def begin(self, tenant: TenantId, origin: CellId, move: str, cursor: Cursor | None, dedicated: bool) -> Copy:
        """Makes ready to take a copy, or says how far it is when it was begun for the same move. While anything of the tenant is here that
        a copy without a cursor would bring, it raises Failure(MOVE_NOT_NOW): what is here can then be erased for the move."""
        ...

    async def take(self, origin: CellId, move: str, seq: int, chunk: Chunk, cursor: Cursor) -> Copy:
        """Takes a part. Raises Failure(NOT_MOVING) when no copy was begun for the move, or another one since."""
        ...

    async def digest(self, tenant: TenantId, after: Cursor | None, until: Cursor | None) -> Totals:
        """Of events, records, dead letters and held records; `after` needs `until`."""
        ...

    async def digest_profiles(self, tenant: TenantId) -> Totals:
        """Of identities and traits."""
        ...

    async def ledger_of(self, tenant: TenantId) -> list[LedgerLine]:
        """The tenant's ledger: this cell's lines, and those of cells that it lived in before."""
        ...

    async def erase(self, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        """(rows removed, whether anything is left). Where no copy was begun for the move, or another one since, nothing is: that one's copy
        is not this one's to erase."""
        ...
