"""Where in the log a message id stands that no apply has reached yet: the first half of `events trace`."""

from __future__ import annotations

import asyncio

from cells.eventlog import codec
from cells.eventlog.log import EventLog
from cells.processing.store import Applier
from kernel import limits
from kernel.effects import Position
from kernel.errors import Failure, Reason
from kernel.ids import TenantId

_RECORDS_MAX = 20_000


async def locate(log: EventLog, store: Applier, tenant: TenantId, message_id: str) -> Position | None:
    """Its position, or None: not in the log, applied already, or further behind than a search may look. Breathes between records.

    Raises Failure(OVERLOADED) when the search takes longer than a query may.
    """
    try:
        async with asyncio.timeout(limits.QUERY_SECONDS_MAX):
            return await _search(log, store, tenant, message_id)
    except TimeoutError:
        raise Failure(Reason.OVERLOADED, "too much of the log is not applied yet", retry_after_seconds=1) from None


async def _search(log: EventLog, store: Applier, tenant: TenantId, message_id: str) -> Position | None:
    positions = await store.positions()
    for partition, bounds in (await log.bounds()).items():
        offset = max(bounds.first, positions.get(partition, 0))
        searched = 0
        while offset < bounds.next and searched < _RECORDS_MAX:
            entries = await log.fetch(partition, offset, limits.FETCH_RECORDS_MAX, limits.FETCH_BYTES_MAX, 0.0)
            if not entries:
                break
            for entry in entries:
                await asyncio.sleep(0)
                if entry.record.tenant == tenant and (ordinal := _ordinal(entry.record.body, message_id)) is not None:
                    return Position(partition, entry.offset, ordinal)
            searched += len(entries)
            offset = entries[-1].offset + 1
    return None


def _ordinal(body: bytes, message_id: str) -> int | None:
    try:
        envelopes = codec.decode(body).envelopes
    except codec.Undecodable:
        return None
    return next((ordinal for ordinal, envelope in enumerate(envelopes) if envelope.message_id == message_id), None)
