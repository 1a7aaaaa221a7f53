"""What the directory of a zone orders a cell to do with a tenant, as signed bytes. Pure; `kernel.journal` says how bytes are signed.

An order names the cell, the tenant, the deed (the RPC's name) and a time after which it is void. It cannot be taken for a placement
update, which is signed with the same key: no update begins as an order does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kernel.clock import SECOND, Micros
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.journal import Signed
from kernel.limits import ORDER_SECONDS

HEADER: Final = "dataflow-order-bin"
NOBODY: Final = TenantId("")
"""Whom an order is about that is about no tenant."""
_TAG: Final = "dataflow.order.v1"
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Order:
    """The directory lets whoever brings it do this deed to this tenant in this cell, until `expires_at`."""

    cell: CellId
    tenant: TenantId
    deed: str
    expires_at: Micros

    def text(self) -> bytes:
        """What is signed."""
        return "\n".join((_TAG, self.cell, self.tenant, self.deed, str(int(self.expires_at)))).encode()


def order_now(cell: CellId, tenant: TenantId, deed: str, now: Micros) -> Order:
    """An order that holds for ORDER_SECONDS."""
    return Order(cell, tenant, deed, Micros(now + ORDER_SECONDS * SECOND))


def packed(signed: Signed) -> bytes:
    """Order and signature as one value of a header."""
    return signed.signature + signed.update


def unpacked(data: bytes) -> Signed:
    """The inverse."""
    return Signed(data[_SIGNATURE_BYTES:], data[:_SIGNATURE_BYTES])


def parse(text: bytes) -> Order:
    """The order in `text`. Raises Failure(ORDER_REFUSED)."""
    try:
        tag, cell, tenant, deed, expires_at = text.decode().split("\n")
        if tag == _TAG:
            return Order(CellId(cell), TenantId(tenant), deed, Micros(int(expires_at)))
    except ValueError:
        pass
    raise Failure(Reason.ORDER_REFUSED, "it cannot be read")


def check(order: Order, wanted: Order, now: Micros) -> None:
    """Raises Failure(ORDER_REFUSED): for another cell, tenant or deed; too old, or for longer than an order holds. `wanted` says what is
    asked for; its time is not looked at."""
    if order.cell != wanted.cell:
        raise Failure(Reason.ORDER_REFUSED, f"it is for cell {order.cell}")
    if order.tenant != wanted.tenant:
        raise Failure(Reason.ORDER_REFUSED, "it is for another tenant")
    if order.deed != wanted.deed:
        raise Failure(Reason.ORDER_REFUSED, f"it is for {order.deed}")
    if not now < order.expires_at <= now + 2 * ORDER_SECONDS * SECOND:
        raise Failure(Reason.ORDER_REFUSED, "it is too old, or its clock is ahead")
