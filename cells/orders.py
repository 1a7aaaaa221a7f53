"""Whether the zone's directory ordered what a call asks: every call that moves a tenant passes here first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kernel import orders
from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.journal import Signed


class Orders:
    """`verify` says whether the directory signed something."""

    def __init__(self, cell: CellId, verify: Callable[[Signed], bool], clock: Clock) -> None:
        self._cell = cell
        self._verify = verify
        self._clock = clock

    def check(self, metadata: Mapping[str, str | bytes], tenant: TenantId, deed: str) -> None:
        """`deed` is the name of the RPC. Raises Failure(ORDER_REFUSED)."""
        brought = metadata.get(orders.HEADER)
        if not isinstance(brought, bytes):
            raise Failure(Reason.ORDER_REFUSED, f"metadata {orders.HEADER} is missing")
        signed = orders.unpacked(brought)
        if not self._verify(signed):
            raise Failure(Reason.ORDER_REFUSED, "its signature is wrong")
        now = self._clock.now()
        orders.check(orders.parse(signed.update), orders.order_now(self._cell, tenant, deed, now), now)
