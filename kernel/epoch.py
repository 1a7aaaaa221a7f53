"""Ownership of tenants: epochs fence writers, not facts (architecture.md, promise 2).

An epoch is the ownership number of a tenant's home; it only grows. Door 1 compares the edge's stamp with the cell's epoch;
door 2 compares an applier's claim with the cell's ownership row. The epoch inside an envelope is provenance, never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NewType

from kernel.ids import CellId, TenantId

Epoch = NewType("Epoch", int)
FIRST_EPOCH = Epoch(1)

OwnershipState = Literal["owner", "standby", "released"]
"""What a cell is to a tenant: its home; its standby, which folds what the home accepts and answers nobody; or nothing."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the edge says of a request: the tenant that it found, its home cell and the epoch of that placement."""

    tenant: TenantId
    cell: CellId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Ownership:
    """A cell's own word on one tenant: may appliers with a claim of `epoch` apply here?"""

    tenant: TenantId
    epoch: Epoch
    state: OwnershipState


@dataclass(frozen=True, slots=True)
class Claim:
    """What an applier believes that it may apply: its cell, and the epoch of each tenant that has the cell as its home or standby."""

    cell: CellId
    epochs: Mapping[TenantId, Epoch]


Entry = Literal["home", "handoff", "moved"]
"""What door one says of a request: it comes home; the cell takes it for a home that cannot be reached; or it is to be sent again."""


def door_one(stamp: Stamp, here: CellId, home: CellId, standby: CellId | None, epoch: Epoch) -> Entry:
    """What the cell `here` does with a request that an edge stamped `stamp`, of a tenant whose `home`, `standby` and `epoch` it knows.

    A stamp that is newer than the cell's knowledge is taken: the edge merely heard of the placement first. Where a home and its standby
    have changed places, the former home's stamp is taken by the new one however old it is: the edge handed over what it could not
    deliver, and a fact with a message id is safe at its tenant's home.
    """
    if here == home:
        return "home" if (stamp.cell == here and stamp.epoch >= epoch) or (standby is not None and stamp.cell == standby) else "moved"
    return "handoff" if here == standby and stamp.cell in (home, here) and stamp.epoch >= epoch else "moved"


def door_two(claim: Claim, owned: Ownership | None) -> bool:
    """Whether storage lets `claim` apply effects of the tenant that `owned` describes. No row means no."""
    return owned is not None and owned.state != "released" and claim.epochs.get(owned.tenant) == owned.epoch
