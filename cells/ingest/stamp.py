"""The edge's stamp on a request: which tenant it found, and the placement that it routed by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kernel.epoch import Epoch, Stamp
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId

TENANT, CELL, EPOCH = "x-dataflow-tenant", "x-dataflow-cell", "x-dataflow-epoch"
_EPOCH_DIGITS_MAX: Final = 18  # what a signed 64-bit number surely holds


def stamp_of(headers: Mapping[str, str]) -> Stamp | None:
    """The stamp, or None on a request that came by no edge. Half a stamp is a defect of the edge: Failure(INTERNAL)."""
    tenant, cell, epoch = headers.get(TENANT), headers.get(CELL), headers.get(EPOCH)
    if tenant is None and cell is None and epoch is None:
        return None
    if not tenant or not cell or not epoch or not _is_number(epoch):
        raise Failure(Reason.INTERNAL, "the edge's stamp is incomplete")
    return Stamp(TenantId(tenant), CellId(cell), Epoch(int(epoch)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _EPOCH_DIGITS_MAX
