"""Answers questions, whatever the wire: check, read and write the audit chain at the same time, answer when both are done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from opentelemetry.trace import SpanKind

from cells.storage import metrics, query
from cells.storage.audit import Reading
from cells.storage.auditor import Auditor
from cells.storage.query import Asked
from cells.storage.store import Cursor, Profile, Reader, Stored, Traced
from cells.tracing import OFF, Spans
from kernel.clock import Clock, Micros
from kernel.effects import Position
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from kernel.metrics import Meter

Answer = TypeVar("Answer")

Authenticate = Callable[[Mapping[str, str]], tuple[TenantId, str]]
"""From a request's headers (lower-case names) to (tenant, actor); raises Failure. The actor is what the audit chain names."""

Locate = Callable[[TenantId, str], Awaitable[Position | None]]
"""Looks a message id up in the log, past the store's position."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, authenticated, and the traceparent that the question came with."""

    tenant: TenantId
    actor: str
    trace: str = ""


class Questions:
    """The query API without a wire. Every method raises Failure; no answer leaves before its audit entry is durable."""

    def __init__(self, reader: Reader, auditor: Auditor, locate: Locate, clock: Clock, meter: Meter, spans: Spans = OFF) -> None:
        self._reader = reader
        self._auditor = auditor
        self._locate = locate
        self._clock = clock
        self._meter = meter
        self._spans = spans

    async def list_events(self, who: Asker, asked: Asked, page_size: int, token: str) -> tuple[list[Stored], str]:
        """(a page, the token of the next one or "")."""
        page = query.page_of(who.tenant, asked, page_size, token, self._clock.now())
        question = {**_stated(asked), "page_size": page.page_size, "continued": page.after is not None}
        read = self._reader.list_events(who.tenant, page.which, page.page_size, page.after)
        found = await self._answer(who, "list_events", question, read)
        if not found.more:
            return found.events, ""
        last = found.events[-1].row
        return found.events, query.token_of(who.tenant, asked, page.which, Cursor(last.event_at, last.message_key, last.received_day))

    async def get_event(self, who: Asker, message_id: str) -> Stored:
        """One event, or Failure(NOT_FOUND)."""
        read = self._reader.get_event(who.tenant, query.message_id_of(message_id))
        stored = await self._answer(who, "get_event", {"message_id": message_id}, read)
        if stored is None:
            raise Failure(Reason.NOT_FOUND)
        return stored

    async def count_events(self, who: Asker, asked: Asked, bucket_seconds: int) -> list[tuple[Micros, int]]:
        """Buckets in time order."""
        which = query.buckets_of(asked, bucket_seconds, self._clock.now())
        read = self._reader.count_events(who.tenant, which, bucket_seconds)
        return await self._answer(who, "count_events", {**_stated(asked), "bucket_seconds": bucket_seconds}, read)

    async def profile(self, who: Asker, user_id: str | None, anonymous_id: str | None) -> Profile:
        """One person, or Failure(NOT_FOUND)."""
        node = query.node_of(user_id, anonymous_id)
        profile = await self._answer(who, "profile", {"node": node}, self._reader.profile(who.tenant, node))
        if profile is None:
            raise Failure(Reason.NOT_FOUND)
        return profile

    async def trace(self, who: Asker, message_id: str) -> Traced:
        """Where the message is; never NOT_FOUND, but `unknown`."""
        query.message_id_of(message_id)
        return await self._answer(who, "trace", {"message_id": message_id}, self._trace(who.tenant, message_id))

    async def _trace(self, tenant: TenantId, message_id: str) -> Traced:
        traced = await self._reader.trace(tenant, message_id)
        if traced.place != "unknown":
            return traced
        position = await self._locate(tenant, message_id)
        if position is not None:
            return Traced("log", "", position.partition, position.offset, position.ordinal)
        return await self._reader.trace(tenant, message_id)  # it may have been applied between the two looks

    async def _answer(self, who: Asker, action: str, question: Mapping[str, object], read: Coroutine[None, None, Answer]) -> Answer:
        began = self._clock.monotonic()
        stated = json.dumps(question, sort_keys=True, separators=(",", ":"))
        reading = Reading(self._clock.now(), who.actor, who.tenant, action, stated)
        outcome = "ok"
        try:
            with self._spans.start(f"query.{action}", who.trace, kind=SpanKind.SERVER) as span:
                span.note("tenant", who.tenant)
                answer, _ = await asyncio.gather(read, self._auditor.record(reading))
        except Failure as failure:
            outcome = failure.reason.name
            raise
        finally:
            self._meter.add(metrics.QUERIES, action=action, outcome=outcome)
            self._meter.observe(metrics.QUERY_SECONDS, self._clock.monotonic() - began, action=action)
        return answer


def _stated(asked: Asked) -> dict[str, object]:
    return {name: value for name, value in asdict(asked).items() if value is not None}
