"""What a partition does about tenants that the store fences: first it waits, then it holds their records, now and then it asks again.

Pure; instants are seconds on a monotonic clock. Waiting comes first because a placement reaches ingest, processing and storage at
slightly different moments; holding comes at all because one tenant that lives elsewhere must not stop the others of its partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kernel.ids import TenantId
from kernel.limits import FENCE_PATIENCE_SECONDS, HELD_RECHECK_SECONDS


@dataclass
class Fences:
    """`fenced` and `passed` record what the store answered; `held` is what follows from it."""

    _since: dict[TenantId, float] = field(default_factory=dict)
    _held_until: dict[TenantId, float] = field(default_factory=dict)

    def held(self, now: float) -> frozenset[TenantId]:
        """The tenants whose records are kept whole at `now`."""
        return frozenset(tenant for tenant, until in self._held_until.items() if now < until)

    def fenced(self, tenants: Iterable[TenantId], now: float) -> bool:
        """The store fenced `tenants` although the claim is as new as it can be. Whether their records are held from now on;
        if not, the same range is to be tried again in a moment."""
        waiting = False
        for tenant in tenants:
            if now - self._since.setdefault(tenant, now) >= FENCE_PATIENCE_SECONDS:
                self._held_until[tenant] = now + HELD_RECHECK_SECONDS
            else:
                waiting = True
        return not waiting

    def passed(self, tenants: Iterable[TenantId]) -> None:
        """The store applied `tenants`: nothing is held against them."""
        for tenant in tenants:
            self._since.pop(tenant, None)
            self._held_until.pop(tenant, None)
