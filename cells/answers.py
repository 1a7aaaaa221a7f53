"""How a Failure is said on the wire: JSON over HTTP, google.rpc.Status over gRPC. The cell's shells share it."""

from __future__ import annotations

import json
import math
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from kernel.errors import Failure, Reason, Retry
from kernel.limits import RETRY_AFTER_SECONDS_MAX

DOMAIN = "dataflow"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def http_answer(failure: Failure, extra: dict[str, object] | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and JSON body. Retry-After is whole seconds, 1 to 300, on everything that may be retried."""
    spec = failure.reason.spec
    headers = {"content-type": "application/json"}
    if (seconds := retry_after(failure)) is not None:
        headers["retry-after"] = str(math.ceil(seconds))
    if failure.endpoint:
        headers["x-residency-endpoint"] = failure.endpoint
    body = {"code": failure.reason.name, "message": failure.message, **(extra or {})}
    return spec.http, headers, json.dumps(body).encode()


def retry_after(failure: Failure) -> float | None:
    """Seconds to wait before the same request; None when it must not be repeated."""
    if failure.reason.spec.retry is not Retry.LATER:
        return None
    return min(float(RETRY_AFTER_SECONDS_MAX), max(1.0, failure.retry_after_seconds or 1.0))


def grpc_status(failure: Failure) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo, and RetryInfo when it may be retried."""
    status = status_pb2.Status(code=failure.reason.spec.grpc, message=failure.message)
    metadata = {"number": failure.reason.spec.number}
    if failure.endpoint:
        metadata["endpoint"] = failure.endpoint
    _add(status, error_details_pb2.ErrorInfo(reason=failure.reason.name, domain=DOMAIN, metadata=metadata))
    if (seconds := retry_after(failure)) is not None:
        _add(status, error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))))
    if failure.reason is Reason.QUOTA_EXCEEDED:
        violation = error_details_pb2.QuotaFailure.Violation(subject="tenant", description=failure.message)
        _add(status, error_details_pb2.QuotaFailure(violations=[violation]))
    return status


async def abort(context: grpc.aio.ServicerContext[object, object], failure: Failure) -> NoReturn:
    """Ends the RPC with the failure."""
    status = grpc_status(failure)
    await context.abort(
        _CODES[int(failure.reason.spec.grpc)],
        failure.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returns never")


def _add(
    status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.QuotaFailure
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
