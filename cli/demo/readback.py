"""What clients can see: every event of a tenant, read back through the zone's endpoint with the tenant's read key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from chaos.checkers.history import Sent, Stored
from cli.demo.traffic import Tenant
from dataflow.storage.v1 import query_pb2, query_pb2_grpc

_PAGE: Final = 1_000
_PAGES_MAX: Final = 10_000
_CALL_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Seen:
    """A visible row, when it became queryable (seconds since 1970), and the cell that took it: its home, or who stands by for that."""

    row: Stored
    stored_at: float
    taken_by: str


async def visible(tenant: Tenant, standby: str) -> list[Seen]:
    """Every event of the tenant. What was taken by its home or by `standby` is in its home, which answers; anything else is where it was
    taken, and does not belong there."""
    return [
        Seen(
            Stored(
                tenant.cell if event.cell == standby else event.cell,
                tenant.name,
                event.user_id,
                event.message_id,
                (event.partition, event.offset, event.ordinal),
            ),
            event.stored_at.seconds + event.stored_at.nanos / 1e9,
            event.cell,
        )
        async for event in _events(tenant)
    ]


def freed(sent: Sequence[Sent], home: str, seen: Sequence[Seen]) -> list[Sent]:
    """What was sent; the place of what a standby took is free, since it was taken in another log than what stands around it."""
    elsewhere = {one.row.message_id for one in seen if one.taken_by != home}
    return [one._replace(sequence=None) if one.message_id in elsewhere else one for one in sent]


async def _events(tenant: Tenant) -> AsyncIterator[query_pb2.StoredEvent]:
    options = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)
    async with grpc.aio.insecure_channel(tenant.address, options=options) as channel:
        stub: query_pb2_grpc.QueryServiceAsyncStub = query_pb2_grpc.QueryServiceStub(channel)
        which = query_pb2.EventFilter(since=Timestamp(seconds=0))
        token = ""
        for _ in range(_PAGES_MAX):
            request = query_pb2.ListEventsRequest(filter=which, page_size=_PAGE, page_token=token)
            page = await stub.ListEvents(request, metadata=(("authorization", f"Bearer {tenant.read_key}"),), timeout=_CALL_SECONDS)
            for event in page.events:
                yield event
            token = page.next_page_token
            if not token:
                return
    raise RuntimeError(f"{tenant.name} has more than {_PAGE * _PAGES_MAX} events")
