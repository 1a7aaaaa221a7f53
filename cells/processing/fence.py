"""What a partition does about tenants that the store fences: first it waits, then it holds their records, now and then it asks again.

Pure; instants are seconds on a monotonic clock. Waiting comes first because a placement reaches ingest, processing and storage at
slightly different moments; holding comes at all because one tenant that lives elsewhere must not stop the others of its partition. Both
are about one claim: a tenant whose claim has changed begins anew, so that one which has come to live or to be stood by for here is not held
for what was true before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kernel.epoch import Claim, Epoch
from kernel.ids import TenantId
from kernel.limits import FENCE_PATIENCE_SECONDS, HELD_RECHECK_SECONDS


@dataclass(slots=True)
class _Fenced:
    """Since when a tenant is fenced at a claim, and until when its records are held."""

    claimed: Epoch | None
    since: float
    held_until: float = 0.0


@dataclass
class Fences:
    """`fenced` and `passed` record what the store answered; `held` is what follows from it."""

    _fenced: dict[TenantId, _Fenced] = field(default_factory=dict)

    def held(self, claim: Claim, now: float) -> frozenset[TenantId]:
        """The tenants whose records are kept whole at `now`, by who works with `claim`."""
        return frozenset(name for name, one in self._fenced.items() if now < one.held_until and claim.epochs.get(name) == one.claimed)

    def fenced(self, tenants: Iterable[TenantId], claim: Claim, now: float) -> bool:
        """The store fenced `tenants` although `claim` is as new as it can be. Whether their records are held from now on;
        if not, the same range is to be tried again in a moment."""
        waiting = False
        for tenant in tenants:
            claimed = claim.epochs.get(tenant)
            one = self._fenced.get(tenant)
            if one is None or one.claimed != claimed:
                one = self._fenced[tenant] = _Fenced(claimed, now)
            if now - one.since >= FENCE_PATIENCE_SECONDS:
                one.held_until = now + HELD_RECHECK_SECONDS
            else:
                waiting = True
        return not waiting

    def passed(self, tenants: Iterable[TenantId]) -> None:
        """The store applied `tenants`: nothing is held against them."""
        for tenant in tenants:
            self._fenced.pop(tenant, None)
