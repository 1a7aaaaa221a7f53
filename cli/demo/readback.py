"""What clients can see: every event of a tenant, read back through the zone's endpoint with the tenant's read key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from chaos.checkers.history import Stored
from cli.demo.traffic import Tenant
from dataflow.storage.v1 import query_pb2, query_pb2_grpc

_PAGE: Final = 1_000
_PAGES_MAX: Final = 10_000
_CALL_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Seen:
    """A visible row, and when it became queryable (seconds since 1970)."""

    row: Stored
    stored_at: float


async def visible(tenant: Tenant) -> list[Seen]:
    """Every event of the tenant."""
    return [
        Seen(
            Stored(event.cell, tenant.name, event.user_id, event.message_id, (event.partition, event.offset, event.ordinal)),
            event.stored_at.seconds + event.stored_at.nanos / 1e9,
        )
        async for event in _events(tenant)
    ]


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
