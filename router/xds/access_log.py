"""The edge's access log: one JSON line on standard output, without customer data: no path, address, user agent or key.

A path names message ids and users. A tenant's name is ours; of what a client chooses there is the request's id, cut short.
"""

from __future__ import annotations

from typing import Final

from envoy.extensions.access_loggers.stream.v3 import stream_pb2

from router.xds import headers
from router.xds.describe import type_of
from router.xds.upstream import CELL

# How often a request that went wrong is told, of a hundred: an outage may not fill a disk with lines that say the same.
FAILURES_PERCENT: Final = 10.0
# A call's status stands behind an HTTP status of 200.
_GRPC: Final[dict[str, object]] = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
_UNSERVED: Final[dict[str, object]] = {"grpc_status_filter": {"statuses": ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"]}}
_FORMAT: Final = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "request_id": "%REQ(X-REQUEST-ID):64%",
    "trace_id": "%TRACE_ID%",
    "tenant": f"%REQ({headers.TENANT})%",
    "cell": f"%REQ({headers.STAMP[1]})%",
    "upstream": "%UPSTREAM_CLUSTER_RAW%",
    "taken_by": f"%UPSTREAM_METADATA({headers.METADATA}:{CELL})%",
    "protocol": "%PROTOCOL%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "method": "%REQ(:METHOD):16%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "millis": "%DURATION%",
    "first_byte_millis": "%RESPONSE_DURATION%",
}


def access_log(percent: float) -> list[dict[str, object]]:
    """Of a hundred requests `percent` are told, and FAILURES_PERCENT of those that the edge or the cell could not serve."""
    failed = _both(_either(_status_from(500), _both(_GRPC, _UNSERVED)), _share("access_log.failed_percent", max(percent, FAILURES_PERCENT)))
    return [
        {
            "name": "envoy.access_loggers.stdout",
            "filter": _either(_share("access_log.percent", percent), failed),
            "typed_config": {
                "@type": type_of(stream_pb2.StdoutAccessLog),
                "log_format": {"json_format": _FORMAT},
            },
        }
    ]


def _both(*filters: dict[str, object]) -> dict[str, object]:
    return {"and_filter": {"filters": list(filters)}}


def _either(*filters: dict[str, object]) -> dict[str, object]:
    return {"or_filter": {"filters": list(filters)}}


def _share(runtime_key: str, percent: float) -> dict[str, object]:
    """By chance, and not by the request id, which clients may choose; a running Envoy can be told another share."""
    millionths = {"numerator": round(percent * 10_000), "denominator": "MILLION"}
    return {"runtime_filter": {"runtime_key": runtime_key, "percent_sampled": millionths, "use_independent_randomness": True}}


def _status_from(status: int) -> dict[str, object]:
    comparison = {"op": "GE", "value": {"default_value": status, "runtime_key": "access_log.status"}}
    return {"status_code_filter": {"comparison": comparison}}
