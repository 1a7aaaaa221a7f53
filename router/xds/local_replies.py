"""Answers that Envoy itself makes up, in the shape of everybody's: a body of our vocabulary for HTTP, status details for gRPC."""

from __future__ import annotations

from typing import Final

from kernel.errors import Reason
from router.xds import refusals
from router.xds.refusals import RETRY_AFTER_SECONDS

_REQUESTS: Final = "too many requests"
# What says that Envoy and no cell answers: Lua's and the routes' answers have their shape already.
_NO_UPSTREAM: Final = ("UH", "UF", "UO", "UC", "LR", "LH", "UR", "UT", "NC", "URX", "SI", "DT", "DF", "UPE", "NR", "OM", "FI")


def local_replies() -> list[dict[str, object]]:
    """The first mapper that matches wins. gRPC answers keep their status and get details; HTTP answers get the JSON body."""
    lost: dict[str, object] = {"response_flag_filter": {"flags": list(_NO_UPSTREAM)}}
    grpc: dict[str, object] = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
    return [
        _reply(_all(_status(408), grpc), Reason.REQUEST_TIMEOUT, grpc=True),
        _reply(_status(408), Reason.REQUEST_TIMEOUT),
        _reply(_all(_status(429), grpc), Reason.QUOTA_EXCEEDED, grpc=True, detail=_REQUESTS),
        _reply(_status(429), Reason.QUOTA_EXCEEDED, detail=_REQUESTS),
        _reply(_status(413), Reason.BODY_TOO_LARGE),
        _reply(_status(431), Reason.MALFORMED_BODY, detail="the headers are too large"),
        _reply(_all(_status(400), {"response_flag_filter": {"flags": ["DPE"]}}), Reason.MALFORMED_BODY, detail="not valid HTTP"),
        _reply(_all(_status(503), lost, grpc), Reason.CELL_UNAVAILABLE, grpc=True),
        _reply(_all(_status(503), lost), Reason.CELL_UNAVAILABLE),
        _reply(_all(_status(504), grpc), Reason.CELL_UNAVAILABLE, grpc=True),
        _reply(_status(504), Reason.CELL_UNAVAILABLE, status=503),
        _reply(_all(_status(404), lost), Reason.NO_ROUTE),
        _reply(_status(500), Reason.INTERNAL),
    ]


def _reply(
    match: dict[str, object], reason: Reason, *, grpc: bool = False, detail: str = "", status: int | None = None
) -> dict[str, object]:
    headers = {}
    if reason in (Reason.CELL_UNAVAILABLE, Reason.QUOTA_EXCEEDED):
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if grpc:
        headers["grpc-status-details-bin"] = refusals.details(reason, detail)
    text = refusals.message(reason, detail) if grpc else refusals.body(reason, detail)
    mapper: dict[str, object] = {
        "filter": match,
        "headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for name, value in headers.items()
        ],
        "body_format_override": {"text_format_source": {"inline_string": text.replace("%", "%%")}, "content_type": "application/json"},
    }
    return mapper if status is None else {**mapper, "status_code": status}


def _status(code: int) -> dict[str, object]:
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "edge.local_reply"}}}}


def _all(*filters: dict[str, object]) -> dict[str, object]:
    return {"and_filter": {"filters": list(filters)}}
