"""Where in the log a message id stands that no apply has reached yet: the first half of `events trace`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cells.eventlog import codec
from cells.eventlog.log import Entry, EventLog
from cells.processing.store import Applier
from kernel import limits
from kernel.effects import Position
from kernel.errors import Failure, Reason
from kernel.ids import TenantId

_FETCHES_MAX = 200


async def locate(log: EventLog, store: Applier, tenant: TenantId, message_id: str) -> Position | None:
    """Its position, or None: not in the log, applied already, or further behind than a search may look. Breathes between records.

    Raises Failure when the search takes longer than a query may: OVERLOADED, or LOG_UNAVAILABLE when the log gave nothing in that time.
    """
    looked_at: list[int] = []
    try:
        async with asyncio.timeout(limits.QUERY_SECONDS_MAX):
            return await _search(log, store, tenant, message_id, looked_at)
    except TimeoutError:
        if not looked_at:
            raise Failure(Reason.LOG_UNAVAILABLE, "it does not answer", retry_after_seconds=1) from None
        raise Failure(Reason.OVERLOADED, "too much of the log is not applied yet", retry_after_seconds=1) from None


async def _search(log: EventLog, store: Applier, tenant: TenantId, message_id: str, looked_at: list[int]) -> Position | None:
    """`looked_at` takes the partitions of which a record was looked at."""
    positions = await store.positions()
    for partition, bounds in (await log.bounds()).items():
        async for entry in _unapplied(log, partition, max(bounds.first, positions.get(partition, 0)), bounds.next):
            looked_at[:] = [partition]
            ordinal = _ordinal(entry.record.body, message_id) if entry.record.tenant == tenant else None
            if ordinal is not None:
                return Position(partition, entry.offset, ordinal)
    return None


async def _unapplied(log: EventLog, partition: int, offset: int, end: int) -> AsyncIterator[Entry]:
    """The records of the first fetches from `offset` on, a breath between them."""
    for _ in range(_FETCHES_MAX):
        if offset >= end:
            return
        for entry in await log.fetch(partition, offset, limits.FETCH_RECORDS_MAX, limits.FETCH_BYTES_MAX, 0.0):
            yield entry
            offset = entry.offset + 1
            await asyncio.sleep(0)


def _ordinal(body: bytes, message_id: str) -> int | None:
    try:
        envelopes = codec.decode(body).envelopes
    except codec.Undecodable:
        return None
    return next((ordinal for ordinal, envelope in enumerate(envelopes) if envelope.message_id == message_id), None)
