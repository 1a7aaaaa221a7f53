"""Ownership only grows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kernel.epoch import Claim, Ownership, door_two
from kernel.ids import TenantId


def supersedes(new: Ownership, old: Ownership | None) -> bool:
    """Whether `new` is recorded over `old`: a greater epoch is; at the same epoch nobody becomes the owner."""
    if old is None or new.epoch > old.epoch:
        return True
    return new.epoch == old.epoch and new.state not in ("owner", old.state)


def grow(known: Mapping[TenantId, Ownership], news: Iterable[Ownership]) -> dict[TenantId, Ownership]:
    """The rows that change, in tenant order."""
    changed: dict[TenantId, Ownership] = {}
    for new in news:
        if supersedes(new, changed.get(new.tenant) or known.get(new.tenant)):
            changed[new.tenant] = new
    return dict(sorted(changed.items()))


def check_forward(expected: int, following: int) -> None:
    """Raises ValueError: a position only moves forward."""
    if not 0 <= expected < following:
        raise ValueError(f"a position moves forward, not from {expected} to {following}")


def fenced(claim: Claim, tenants: Iterable[TenantId], owned: Mapping[TenantId, Ownership]) -> frozenset[TenantId]:
    """The tenants that door two refuses."""
    return frozenset(tenant for tenant in tenants if not door_two(claim, owned.get(tenant)))
