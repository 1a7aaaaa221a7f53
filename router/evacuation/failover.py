"""Failing a cell over to those that stand by for its tenants: what would be missing, and the deed.

Nothing is copied: who stands by has folded what the lost cell accepted, up to the gap, and goes on from there. What lies in the gap comes
back with the lost cell's disks, over the same link. Whoever does this may be killed at any point: each tenant is failed over by one step of
the directory, and asking again fails over the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.evacuation.cells import Gap, Peers
from router.placement.table import Table, Tenant


class Left(NamedTuple):
    """A tenant that stays where it is, and why."""

    tenant: TenantId
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a failover came to, or would come to."""

    gaps: tuple[Gap, ...]
    moved: tuple[Tenant, ...]
    left: tuple[Left, ...]


async def fail_over(table: Table, lost: CellId, force: bool, peers: Peers, step: Callable[[TenantId], Awaitable[Tenant]]) -> Outcome:
    """Fails over every tenant of `lost` that somebody stands by for; `step` takes one tenant's step, or tries it.

    Raises Failure before anything is changed: UNKNOWN_CELL; CELL_ANSWERS, unless by `force`; NO_STANDBY when no tenant of the cell has one;
    CELL_UNAVAILABLE when a cell that is to take over cannot be reached: a tenant is never given to a cell that may be lost as well.
    """
    if lost not in table.cells:
        raise Failure(Reason.UNKNOWN_CELL, lost)
    homeless = [tenant for _, tenant in sorted(table.tenants.items()) if tenant.cell == lost]
    standbys = sorted({tenant.standby for tenant in homeless if tenant.standby is not None})
    if homeless and not standbys:
        raise Failure(Reason.NO_STANDBY, f"none of the {len(homeless)} tenants of {lost} has one")
    if not force and await peers.answers(lost):
        raise Failure(Reason.CELL_ANSWERS, lost)
    gaps = [await peers.gap(cell, lost) for cell in standbys]
    moved: list[Tenant] = []
    left: list[Left] = []
    for tenant in homeless:
        try:
            moved.append(await step(tenant.name))
        except Failure as failure:
            left.append(Left(tenant.name, failure.message))
    return Outcome(tuple(gaps), tuple(moved), tuple(left))
