"""Traits merge by last writer: the greatest (at, message_id) wins, ties by value, whatever the order of arrival. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kernel.effects import TraitClaim
from kernel.ids import TenantId

TraitKey = tuple[TenantId, str, str]


def wins(new: TraitClaim, old: TraitClaim | None) -> bool:
    """Whether `new` replaces `old`."""
    return old is None or (new.at, new.message_id, new.value) > (old.at, old.message_id, old.value)


def latest(claims: Iterable[TraitClaim]) -> dict[TraitKey, TraitClaim]:
    """The winner of each (tenant, node, name), in key order, so that concurrent writers meet the keys in one order."""
    best: dict[TraitKey, TraitClaim] = {}
    for claim in claims:
        key = (claim.tenant, claim.node, claim.name)
        if wins(claim, best.get(key)):
            best[key] = claim
    return dict(sorted(best.items()))


def of_person(claims: Iterable[TraitClaim]) -> dict[str, str]:
    """A profile's traits out of those of all its nodes: name to JSON text, in name order."""
    best: dict[str, TraitClaim] = {}
    for claim in claims:
        if wins(claim, best.get(claim.name)):
            best[claim.name] = claim
    return {name: best[name].value for name in sorted(best)}
