"""The HTTP shell, Segment-compatible (ingest.md).

Success is status 200 with `"success": true`; everything else is `{"code": ..., "message": ...}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from opentelemetry.trace import SpanKind
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cells.admission.table import Admission
from cells.answers import http_answer
from cells.eventlog.envelope import EVENT_TYPES
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Credentials, authenticate_sender, key_of_headers, plan_of_slug
from cells.ingest.body import check_media_type, read_body
from cells.ingest.inflight import Held
from cells.ingest.split import Split, salvage, split_quickly, split_single
from cells.ingest.stamp import CELL, EPOCH, TENANT, stamp_of
from cells.ingest.verdict import Admitted
from cells.tracing import HEADER, OFF, Span, Spans, traceparent_of
from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason

_SUCCESS: Final = b'{"success": true}'
_JSON: Final = {"content-type": "application/json"}
_READ: Final = frozenset(
    name.encode()
    for name in ("authorization", "x-api-key", "content-type", "content-length", "content-encoding", HEADER, TENANT, CELL, EPOCH)
)
Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""

_GZIP_GROWTH_MAX: Final = 1_032  # a byte of DEFLATE becomes no more


class IngestHttp:
    """The routes of the ingestion API."""

    def __init__(self, acceptor: Acceptor, admission: Callable[[], Admission], clock: Clock, spans: Spans = OFF) -> None:
        self.acceptor = acceptor
        self.admission = admission
        self.clock = clock
        self.spans = spans
        self.salvaging = asyncio.Semaphore(1)

    def routes(self) -> list[Route]:
        """`/v1/batch` and `/v1/<type>`, also below `/s/<slug>` for clients whose key is in the body only."""
        kinds = ["batch", *EVENT_TYPES]
        return [Route(f"{prefix}/v1/{kind}", _Endpoint(self, kind), methods=["POST"]) for prefix in ("", "/s/{slug}") for kind in kinds]


class _Endpoint:
    """One route, as an ASGI application of its own: a single-event request costs more in layers around it than in its event."""

    def __init__(self, shell: IngestHttp, kind: str) -> None:
        self.__qualname__ = f"ingest {kind}"
        self._shell = shell
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _wanted(scope)
        came_with = traceparent_of(headers.get(HEADER))
        shell = self._shell
        try:
            with shell.acceptor.request() as held, shell.spans.start("ingest", came_with, kind=SpanKind.SERVER) as span:
                body = _Body(receive, headers, held)
                answer = await self._take(body, headers, scope["path_params"].get("slug"), span.traceparent or came_with, span)
        except Failure as failure:
            answer = http_answer(failure)
        except ClientDisconnect:
            return
        await _send(send, *answer)

    async def _take(self, body: _Body, headers: Mapping[str, str], slug: str | None, trace: str, span: Span) -> Answer:
        shell = self._shell
        deadline = shell.clock.monotonic() + limits.BODY_READ_SECONDS
        header_key = key_of_headers(headers.get("authorization"), headers.get("x-api-key"))
        sender = authenticate_sender(Credentials(header_key, None, slug), shell.admission()) if header_key else None
        if sender is not None:
            body.held.belong(sender.tenant.name)
        plan = sender.tenant.plan if sender else plan_of_slug(slug, shell.admission())
        text = await body.read(plan.batch_bytes_max, deadline - shell.clock.monotonic())
        await shell.acceptor.turn(len(text))
        split = await self._split(text)
        if sender is None or split.write_key is not None:
            sender = authenticate_sender(Credentials(header_key, split.write_key, slug), shell.admission())
            body.held.belong(sender.tenant.name)
        _bound(len(text), sender.tenant.plan.batch_bytes_max)
        span.note("tenant", sender.tenant.name)
        span.note("events", len(split.items))
        admitted = await shell.acceptor.accept(sender, stamp_of(headers), Batch(split.items, split.sent_at, trace), deadline)
        return _answer(admitted, split)

    async def _split(self, text: bytes) -> Split:
        """A batch that does not decode as a whole is searched for its items in a thread: that takes a hundred times as long."""
        if self._kind != "batch":
            return split_single(text, self._kind)
        split = split_quickly(text)
        if split is not None:
            return split
        async with self._shell.salvaging:
            return await asyncio.to_thread(salvage, text)


@dataclass(frozen=True, slots=True)
class _Body:
    """What is still to be read of a request. Every byte is counted in `held` as it arrives."""

    receive: Receive
    headers: Mapping[str, str]
    held: Held

    async def read(self, bytes_max: int, seconds_max: float) -> bytes:
        """All of it, decompressed. One that came whole and plain, as nearly all do, takes the short way."""
        check_media_type(self.headers.get("content-type"))
        declared = self.headers.get("content-length", "")
        if declared.isdecimal():
            _bound(int(declared), bytes_max)
        encoding = self.headers.get("content-encoding")
        plain = (encoding or "identity").strip().lower() == "identity"
        first, more = await _within(self.receive(), seconds_max)
        if plain and not more:
            self.held.resize(len(first))
            _bound(len(first), bytes_max)
            return first
        body = await read_body(self._counted(first, more, 1 if plain else _GZIP_GROWTH_MAX, bytes_max), encoding, bytes_max, seconds_max)
        self.held.resize(len(body))
        return body

    async def _counted(self, chunk: bytes, more: bool, growth_max: int, bytes_max: int) -> AsyncIterator[bytes]:
        """Each chunk is counted before it is kept, as large as it may become."""
        received = 0
        while True:
            received += len(chunk)
            self.held.resize(min(received * growth_max, bytes_max))
            yield chunk
            if not more:
                return
            chunk, more = _chunk(await self.receive())


async def _within(message: Awaitable[Message], seconds_max: float) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(seconds_max):
            return _chunk(await message)
    except TimeoutError:
        raise Failure(Reason.REQUEST_TIMEOUT) from None


def _chunk(message: Message) -> tuple[bytes, bool]:
    """A part of the body, and whether another follows. Raises ClientDisconnect."""
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def _wanted(scope: Scope) -> dict[str, str]:
    """The headers that somebody here reads, lower-case names; of one that came twice the first."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    stated = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*stated, (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _bound(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise Failure(Reason.BODY_TOO_LARGE, f"more than {bytes_max} bytes")


def _answer(admitted: Admitted, split: Split) -> Answer:
    if not admitted.rejected:
        return 200, _JSON, _SUCCESS
    rejected: list[object] = [
        {
            "index": item.index_in_batch,
            "messageId": item.message_id,
            "code": item.reason.name,
            "message": f"{item.reason.spec.client}: {item.detail}" if item.detail else item.reason.spec.client,
        }
        for item in admitted.rejected
    ]
    if admitted.accepted or admitted.repeated:
        return 200, _JSON, msgspec.json.encode({"success": True, "rejected": rejected})
    only = admitted.rejected[0]
    failure = Failure(only.reason, only.detail) if len(split.items) == 1 else Failure(Reason.ALL_REJECTED)
    return http_answer(failure, {"rejected": rejected})
