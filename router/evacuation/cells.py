"""What a move asks of cells, as a port. `api_cells` is the real one. Every method raises Failure; CELL_UNAVAILABLE when the cell cannot be
reached. Chunks and cursors are the cells' own words: whoever moves a tenant hands them on unread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.ids import CellId, TenantId

Offsets = dict[int, int]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts and sums of hashes; of two stores that keep the same they are the same."""

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
    """A part of a tenant. `given`: up to where the source's log is given with it; `settled`: up to where it was given when all that had
    changed of people was given last; `past`: whether all that does not lie in the log is given; `more`: whether more was there;
    `events_kept`: about how many events the source has of the tenant."""

    chunk: bytes = field(repr=False)
    cursor: bytes = field(repr=False)
    given: Offsets
    settled: Offsets
    past: bool
    more: bool
    events_kept: int


@dataclass(frozen=True, slots=True)
class Copy:
    """How far a copy is. An empty cursor: nothing was taken."""

    seq: int
    cursor: bytes = field(repr=False)
    added: Totals


class Kept(NamedTuple):
    """A partition of a log: all before `until` is kept, or applied; it ended at `end` when it was seen last."""

    partition: int
    until: int
    end: int


@dataclass(frozen=True, slots=True)
class Gap:
    """What `cell` keeps of another cell's log, and when it heard of that cell last (0: never). What was accepted behind it is missing.
    `own` is its own log: all before `until` is applied. What it kept behind the gap it chose by this `revision` of the placement, or a
    newer one."""

    cell: CellId
    kept: tuple[Kept, ...]
    heard_at: Micros
    asked_at: Micros
    own: tuple[Kept, ...] = ()
    revision: int = 0

    @property
    def records(self) -> int:
        """Records that are known to be missing; nobody knows what was accepted after the lost cell was heard of last."""
        return sum(one.end - one.until for one in self.kept)

    @property
    def silent_seconds(self) -> float | None:
        """How long the lost cell has not been heard of; None: never."""
        return (self.asked_at - self.heard_at) / 1_000_000 if self.heard_at else None


class Cells(Protocol):
    """See the module's docstring and `dataflow.moves.v1`."""

    async def ends(self, cell: CellId, tenant: TenantId) -> Offsets:
        """Where the cell's log ends."""
        ...

    async def fence(self, cell: CellId, tenant: TenantId, epoch: Epoch) -> Offsets:
        """Waits until the cell refuses the tenant's writes; where its log ends then."""
        ...

    async def export(self, cell: CellId, tenant: TenantId, epoch: Epoch, cursor: bytes) -> Part:
        """The next part."""
        ...

    async def mark(self, cell: CellId, tenant: TenantId, epoch: Epoch) -> bytes:
        """The cursor of one who has everything."""
        ...

    async def begin(self, cell: CellId, tenant: TenantId, origin: CellId, move: str, cursor: bytes, dedicated: bool) -> Copy:
        """Makes ready to take a copy, or says how far it is."""
        ...

    async def take(self, cell: CellId, tenant: TenantId, epoch: Epoch, origin: CellId, move: str, seq: int, part: Part) -> Copy:
        """Takes a part, once."""
        ...

    async def digest(self, cell: CellId, tenant: TenantId, after: bytes = b"", until: bytes = b"") -> Totals:
        """Of what lies between two cursors."""
        ...

    async def digest_profiles(self, cell: CellId, tenant: TenantId) -> Totals:
        """Of who and what people are."""
        ...

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        """What `cell` keeps of the log of `origin`. PEER_REFUSED when it keeps nothing of it."""
        ...

    async def erase(self, cell: CellId, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        """(rows removed, whether anything is left)."""
        ...


class Peers(Protocol):
    """What a failover asks of cells."""

    async def answers(self, cell: CellId) -> bool:
        """Whether the cell says that it is ready."""
        ...

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        """What `cell` keeps of the log of `origin`."""
        ...
