"""Which records of another cell's log a cell keeps in its own. Pure.

A record is replicated from where it was accepted, and once: what the other cell has from elsewhere, from this cell too, stays there. Of
what was accepted there a cell keeps what concerns its own tenants - handoff, and the last seconds of a home that was lost - and those that
it stands by for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cells.admission.table import Tenant, standing
from cells.eventlog.log import Entry, Record
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE, CellId, TenantId


def chosen(entries: Sequence[Entry], origin: CellId, here: CellId, tenants: Mapping[TenantId, Tenant]) -> list[Record]:
    """The records to append, in order. Raises Failure(UNKNOWN_TENANT): this cell has not heard of one yet, and must not pass over it."""
    return [entry.record for entry in entries if _concerns(entry.record, origin, here, tenants)]


def _concerns(record: Record, origin: CellId, here: CellId, tenants: Mapping[TenantId, Tenant]) -> bool:
    if record.cell != origin or record.tenant == UNREADABLE:
        return False
    tenant = tenants.get(record.tenant)
    if tenant is None:
        raise Failure(Reason.UNKNOWN_TENANT, "the directory has not told this cell of a tenant that its peer serves", retry_after_seconds=1)
    return standing(tenant, here) != "released"
