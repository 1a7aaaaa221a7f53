"""The HTTP shell, Segment-compatible (ingest.md).

Success is status 200 with `"success": true`; everything else is `{"code": ..., "message": ...}`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from opentelemetry.trace import SpanKind
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cells.admission.table import Admission
from cells.answers import http_answer
from cells.eventlog.envelope import EVENT_TYPES
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Credentials, Sender, authenticate_sender, key_of_headers, plan_of_slug
from cells.ingest.body import check_media_type, read_body
from cells.ingest.inflight import Held
from cells.ingest.split import Split, split_batch, split_single
from cells.ingest.stamp import stamp_of
from cells.ingest.verdict import Admitted
from cells.tracing import HEADER, OFF, Span, Spans, traceparent_of
from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason

_SUCCESS: Final = b'{"success": true}'
_JSON: Final = {"content-type": "application/json"}
_GZIP_GROWTH_MAX: Final = 1_032  # a byte of DEFLATE becomes no more


class IngestHttp:
    """The routes of the ingestion API."""

    def __init__(self, acceptor: Acceptor, admission: Callable[[], Admission], clock: Clock, spans: Spans = OFF) -> None:
        self._acceptor = acceptor
        self._admission = admission
        self._clock = clock
        self._spans = spans

    def routes(self) -> list[Route]:
        """`/v1/<type>` and `/v1/batch`, also below `/s/<slug>` for clients whose key is in the body only."""
        kinds = [*EVENT_TYPES, "batch"]
        return [Route(prefix + f"/v1/{kind}", self._endpoint(kind), methods=["POST"]) for prefix in ("", "/s/{slug}") for kind in kinds]

    def _endpoint(self, kind: str) -> Callable[[Request], object]:
        async def endpoint(request: Request) -> Response:
            came_with = traceparent_of(request.headers.get(HEADER))
            try:
                with self._acceptor.request() as held, self._spans.start("ingest", came_with, kind=SpanKind.SERVER) as span:
                    return await self._take(request, kind, span.traceparent or came_with, span, held)
            except Failure as failure:
                status, headers, body = http_answer(failure)
                return Response(body, status, headers)
            except ClientDisconnect:
                return Response(status_code=400)

        return endpoint

    async def _take(self, request: Request, kind: str, trace: str, span: Span, held: Held) -> Response:
        deadline = self._clock.monotonic() + limits.BODY_READ_SECONDS
        header_key = key_of_headers(request.headers.get("authorization"), request.headers.get("x-api-key"))
        slug = request.path_params.get("slug")
        sender = self._sender(Credentials(header_key, None, slug)) if header_key else None
        if sender is not None:
            held.belong(sender.tenant.name)
        plan = sender.tenant.plan if sender else plan_of_slug(slug, self._admission())
        body = await _read(request, plan.batch_bytes_max, deadline - self._clock.monotonic(), held)
        split = split_batch(body) if kind == "batch" else split_single(body, kind)
        if sender is None or split.write_key is not None:
            sender = self._sender(Credentials(header_key, split.write_key, slug))
            held.belong(sender.tenant.name)
        _bound(len(body), sender.tenant.plan.batch_bytes_max)
        span.note("tenant", sender.tenant.name)
        span.note("events", len(split.items))
        batch = Batch(split.items, split.sent_at, trace)
        admitted = await self._acceptor.accept(sender, stamp_of(request.headers), batch, deadline)
        return _answer(admitted, split)

    def _sender(self, credentials: Credentials) -> Sender:
        return authenticate_sender(credentials, self._admission())


async def _read(request: Request, bytes_max: int, seconds_max: float, held: Held) -> bytes:
    check_media_type(request.headers.get("content-type"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        _bound(int(declared), bytes_max)
    encoding = request.headers.get("content-encoding")
    plain = (encoding or "identity").strip().lower() == "identity"
    chunks = _counted(request.stream(), 1 if plain else _GZIP_GROWTH_MAX, bytes_max, held)
    body = await read_body(chunks, encoding, bytes_max, seconds_max)
    held.resize(len(body))
    return body


async def _counted(chunks: AsyncIterator[bytes], growth_max: int, bytes_max: int, held: Held) -> AsyncIterator[bytes]:
    """Each chunk is counted before it is kept, as large as it may become."""
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        held.resize(min(received * growth_max, bytes_max))
        yield chunk


def _bound(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise Failure(Reason.BODY_TOO_LARGE, f"more than {bytes_max} bytes")


def _answer(admitted: Admitted, split: Split) -> Response:
    if not admitted.rejected:
        return Response(_SUCCESS, 200, _JSON)
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
        return Response(msgspec.json.encode({"success": True, "rejected": rejected}), 200, _JSON)
    only = admitted.rejected[0]
    failure = Failure(only.reason, only.detail) if len(split.items) == 1 else Failure(Reason.ALL_REJECTED)
    status, headers, body = http_answer(failure, {"rejected": rejected})
    return Response(body, status, headers)
