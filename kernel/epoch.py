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

OwnershipState = Literal["owner", "released"]


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
    """What an applier believes that it owns: its cell, and the epoch of each tenant of that cell."""

    cell: CellId
    epochs: Mapping[TenantId, Epoch]


def door_one(stamp: Stamp, home: CellId, epoch: Epoch) -> bool:
    """Whether ingest takes a request stamped `stamp`, in the cell `home` whose epoch for the tenant is `epoch`.

    A stamp that is newer than the cell's knowledge is taken: the edge merely heard of the placement first.
    """
    return stamp.cell == home and stamp.epoch >= epoch


def door_two(claim: Claim, owned: Ownership | None) -> bool:
    """Whether storage lets `claim` apply effects of the tenant that `owned` describes. No row means no."""
    return owned is not None and owned.state == "owner" and claim.epochs.get(owned.tenant) == owned.epoch
