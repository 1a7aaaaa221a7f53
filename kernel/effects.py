"""What processing asks of storage: rows, records, identity claims, traits, dead letters - and what storage answers.

The words cross from `cells.processing` to `cells.storage`, which never import each other, so they live here. Rows are named
tuples: one is made per event on the hot path, and a tuple is what a binary COPY takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from kernel.clock import Micros
from kernel.epoch import Claim
from kernel.ids import CellId, TenantId


class Unkeepable(ValueError):
    """Values that no store will ever keep, whenever they are sent. Any other error of an apply is of the moment, or a defect of ours,
    for which nothing may be given up.
    """


class Position(NamedTuple):
    """Where an event stands in its cell's log; `ordinal` counts inside the record."""

    partition: int
    offset: int
    ordinal: int


class EventRow(NamedTuple):
    """What one event is found by. `message_key` is `kernel.ids.message_key` of it; `event_at` is the corrected time.

    (partition, offset) name its RecordRow, in whose body the event itself stands at `ordinal`. The fields are in the order of the
    columns, so that a COPY takes the tuple as it is.
    """

    tenant: TenantId
    message_key: bytes
    received_day: date
    event_at: Micros
    partition: int
    offset: int
    ordinal: int
    content_hash: int
    type: str
    name: str | None
    user_id: str | None
    anonymous_id: str | None
    group_id: str | None
    source: str


class RecordRow(NamedTuple):
    """A log record as storage keeps it: what its events have in common, and its body, untouched. `events` of them have an EventRow."""

    tenant: TenantId
    received_day: date
    partition: int
    offset: int
    received_at: Micros
    epoch: int
    cell: CellId
    source: str
    events: int
    body: bytes


class IdentityClaim(NamedTuple):
    """`left` and `right` are the same person. A node is `u:<userId>` or `a:<anonymousId>`."""

    tenant: TenantId
    left: str
    right: str


class TraitClaim(NamedTuple):
    """At `at` the node's trait `name` was `value` (JSON text). The last writer by (at, message_id) wins, whatever the order."""

    tenant: TenantId
    node: str
    name: str
    value: str
    at: Micros
    message_id: str


class DeadLetter(NamedTuple):
    """An event that processing could not take, with its reason (an error id of `kernel.errors`) and position."""

    tenant: TenantId
    received_at: Micros
    offset: int
    ordinal: int
    message_id: str
    reason: str
    detail: str
    payload: bytes


class HeldRecord(NamedTuple):
    """A whole log record of a tenant that this cell may not apply now: kept visible until a claim for it is back (I8)."""

    tenant: TenantId
    received_at: Micros
    offset: int
    events: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Effects:
    """What a range of one partition comes to. `accepted` counts events per (tenant, received hour): the ledger's left side, but for the
    records at the offsets `elsewhere`, which another cell accepted and accounts for.

    Every row's record is in `records`. Tenants that appear in `held` alone need no claim.
    """

    partition: int
    rows: tuple[EventRow, ...] = ()
    records: tuple[RecordRow, ...] = ()
    identities: tuple[IdentityClaim, ...] = ()
    traits: tuple[TraitClaim, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    held: tuple[HeldRecord, ...] = ()
    accepted: dict[tuple[TenantId, Micros], int] = field(default_factory=dict)
    elsewhere: frozenset[int] = frozenset()

    @property
    def tenants(self) -> frozenset[TenantId]:
        """The tenants that a claim must cover: all that have events here beside held ones."""
        beside: dict[TenantId, int] = {}
        for (tenant, _), events in self.accepted.items():
            beside[tenant] = beside.get(tenant, 0) + events
        for held in self.held:
            beside[held.tenant] = beside.get(held.tenant, 0) - held.events
        return frozenset(tenant for tenant, events in beside.items() if events)


@dataclass(frozen=True, slots=True)
class Apply:
    """One apply: `effects` advance the consumer's position of the partition from `expected` to `next`, under `claim`."""

    effects: Effects
    claim: Claim
    expected: int
    next: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Done, durably. Counts are events: `stored` new, `duplicate` known already, `quarantined` dead letters, `held` waiting
    for a claim, `conflicts` duplicates whose content differed from the first write's."""

    stored: int
    duplicate: int
    quarantined: int
    held: int
    conflicts: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The position had moved already: somebody applied this range. `position` is the next offset to apply."""

    position: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """The claim does not hold for these tenants; nothing was applied."""

    tenants: frozenset[TenantId]


Outcome = Applied | Duplicate | Fenced
