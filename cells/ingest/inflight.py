"""Request bytes in memory, bounded in total and per tenant: the first to be shed is the tenant that holds most. Pure.

Bytes are counted as they arrive. Until its sender is known a request counts for nobody, and nobody has a share like any tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kernel import limits
from kernel.errors import Failure, Reason
from kernel.ids import TenantId


@dataclass
class Inflight:
    """`told` hears the total whenever it changes."""

    bytes_max: int
    told: Callable[[int], None]
    total: int = 0
    by_tenant: dict[TenantId | None, int] = field(default_factory=dict)

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """Around one request: whatever it held is given back."""
        held = Held(self)
        try:
            yield held
        finally:
            held.resize(0)

    def grow(self, tenant: TenantId | None, by: int) -> None:
        """Counts `by` more bytes, or fewer. Raises Failure(OVERLOADED) instead of holding too much."""
        total, share = self.total + by, self.by_tenant.get(tenant, 0) + by
        if by > 0 and (total > self.bytes_max or share > self.bytes_max * limits.TENANT_INFLIGHT_SHARE):
            raise Failure(Reason.OVERLOADED, retry_after_seconds=1)
        self.total = total
        self.by_tenant[tenant] = share
        if not share:
            del self.by_tenant[tenant]
        self.told(total)


class Held:
    """One request's bytes."""

    def __init__(self, inflight: Inflight) -> None:
        self._inflight = inflight
        self._tenant: TenantId | None = None
        self._size = 0

    def resize(self, size: int) -> None:
        """Holds `size` bytes from here on. Raises Failure(OVERLOADED) and keeps what it held."""
        self._inflight.grow(self._tenant, size - self._size)
        self._size = size

    def belong(self, tenant: TenantId) -> None:
        """Counts for `tenant` from here on. Raises Failure(OVERLOADED) when that is too much for the tenant, and holds nothing."""
        size = self._size
        self.resize(0)
        self._tenant = tenant
        self.resize(size)
