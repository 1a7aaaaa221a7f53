"""The query API over HTTP. Times are RFC 3339, errors `{"code", "message"}`, payloads the client's own JSON text, embedded.

GET /v1/events, /v1/events/count, /v1/events/{message_id}, /v1/events/{message_id}/trace, /v1/profiles/{user_id} and
/v1/profiles?anonymousId=. A parameter that is not known is refused: a misspelt filter must not read as no filter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cells.answers import http_answer
from cells.storage.ask import Asker, Authenticate, Questions
from cells.storage.query import Asked
from cells.storage.store import Profile, Stored, Traced
from cells.tracing import HEADER, traceparent_of
from kernel.clock import Micros, parse_iso, to_datetime
from kernel.errors import Failure, Reason

_FILTER: Final = frozenset({"since", "until", "type", "name", "userId", "anonymousId", "source"})
_FIRST: Final = Micros(-62_135_596_800_000_000)
_DIGITS_MAX: Final = 9
_encoder = msgspec.json.Encoder()

Endpoint = Callable[[Asker, Request], Awaitable[object]]


class QueryHttp:
    """The routes."""

    def __init__(self, questions: Questions, authenticate: Authenticate) -> None:
        self._questions = questions
        self._authenticate = authenticate

    def routes(self) -> list[Route]:
        """In the order in which paths are matched."""
        return [
            Route("/v1/events", self._endpoint(self._list), methods=["GET"]),
            Route("/v1/events/count", self._endpoint(self._count), methods=["GET"]),
            Route("/v1/events/{message_id:path}/trace", self._endpoint(self._trace), methods=["GET"]),
            Route("/v1/events/{message_id:path}", self._endpoint(self._get), methods=["GET"]),
            Route("/v1/profiles", self._endpoint(self._profile), methods=["GET"]),
            Route("/v1/profiles/{user_id:path}", self._endpoint(self._profile), methods=["GET"]),
        ]

    def _endpoint(self, answer: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                tenant, actor = self._authenticate(request.headers)
                asker = Asker(tenant, actor, traceparent_of(request.headers.get(HEADER)))
                body = _encoder.encode(await answer(asker, request))
            except Failure as failure:
                status, headers, text = http_answer(failure)
                return Response(text, status, headers)
            return Response(body, 200, {"cache-control": "no-store"}, "application/json")

        return endpoint

    async def _list(self, who: Asker, request: Request) -> object:
        _known(request, _FILTER | {"pageSize", "pageToken"})
        size, token = _number(request, "pageSize", 0), request.query_params.get("pageToken", "")
        events, following = await self._questions.list_events(who, _asked(request), size, token)
        return {"events": [event_json(event) for event in events], "nextPageToken": following}

    async def _count(self, who: Asker, request: Request) -> object:
        _known(request, _FILTER | {"bucketSeconds"})
        buckets = await self._questions.count_events(who, _asked(request), _number(request, "bucketSeconds", 3_600))
        return {"buckets": [{"start": instant(start), "events": events} for start, events in buckets]}

    async def _get(self, who: Asker, request: Request) -> object:
        _known(request, frozenset())
        return event_json(await self._questions.get_event(who, request.path_params["message_id"]))

    async def _trace(self, who: Asker, request: Request) -> object:
        _known(request, frozenset())
        return trace_json(await self._questions.trace(who, request.path_params["message_id"]))

    async def _profile(self, who: Asker, request: Request) -> object:
        _known(request, frozenset({"anonymousId"}))
        user, anonymous = request.path_params.get("user_id"), request.query_params.get("anonymousId")
        return profile_json(await self._questions.profile(who, user, anonymous))


def event_json(stored: Stored) -> dict[str, object]:
    """An event; absent fields are null."""
    row, record = stored.row, stored.record
    return {
        "messageId": stored.envelope.message_id,
        "timestamp": instant(row.event_at),
        "receivedAt": instant(record.received_at),
        "storedAt": instant(stored.stored_at),
        "type": row.type,
        "name": row.name,
        "userId": row.user_id,
        "anonymousId": row.anonymous_id,
        "groupId": row.group_id,
        "source": row.source,
        "cell": record.cell,
        "epoch": record.epoch,
        "partition": row.partition,
        "offset": row.offset,
        "ordinal": row.ordinal,
        "payload": _json_of(stored.envelope.payload),
    }


def _json_of(payload: bytes) -> msgspec.Raw:
    """The payload; null for one that is no JSON in UTF-8, which only another writer than ingest leaves in a log."""
    try:
        if not payload.isascii():
            payload.decode()
        return msgspec.json.decode(payload, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(b"null")


def profile_json(profile: Profile) -> dict[str, object]:
    """A person."""
    traits = {name: msgspec.Raw(value.encode()) for name, value in profile.traits.items()}
    return {"userIds": profile.user_ids, "anonymousIds": profile.anonymous_ids, "traits": traits}


def trace_json(traced: Traced) -> dict[str, object]:
    """Where an event is; its place in the log is null when that is not known."""
    known = traced.place != "unknown"
    return {
        "place": traced.place,
        "why": traced.why,
        "partition": traced.partition if known else None,
        "offset": traced.offset if known else None,
        "ordinal": traced.ordinal if known else None,
        "event": event_json(traced.stored) if traced.stored else None,
    }


def instant(moment: Micros) -> str:
    """RFC 3339 with four digits of year; a bucket that begins before year 1 is said to begin with it."""
    return to_datetime(max(moment, _FIRST)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _asked(request: Request) -> Asked:
    get = request.query_params.get
    return Asked(
        since=_time(get("since"), "since"),
        until=_time(get("until"), "until"),
        type=get("type"),
        name=get("name"),
        user_id=get("userId"),
        anonymous_id=get("anonymousId"),
        source=get("source"),
    )


def _time(text: str | None, name: str) -> Micros | None:
    if text is None:
        return None
    moment = parse_iso(text)
    if moment is None:
        raise Failure(Reason.INVALID_QUESTION, f"{name} is not an ISO 8601 instant")
    return moment


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise Failure(Reason.INVALID_QUESTION, f"{name} is not a number")
    return int(text)


def _known(request: Request, names: frozenset[str]) -> None:
    given = [name for name, _ in request.query_params.multi_items()]
    if len(set(given)) < len(given) or not names.issuperset(given):
        raise Failure(Reason.INVALID_QUESTION, f"parameters, once each, may be: {', '.join(sorted(names)) or 'none'}")
