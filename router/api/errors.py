"""Failures of the vocabulary as google.rpc.Status, both ways."""

from __future__ import annotations

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from kernel.errors import Failure, Retry

DOMAIN = "dataflow"
_RETRY_SECONDS = 1.0


def status_of(failure: Failure) -> status_pb2.Status:
    """The rich status: ErrorInfo (the reason's name) and, where a retry helps, RetryInfo."""
    spec = failure.reason.spec
    metadata = {"endpoint": failure.endpoint} if failure.endpoint else {}
    details = [_packed(error_details_pb2.ErrorInfo(reason=failure.reason.name, domain=DOMAIN, metadata=metadata))]
    if spec.retry is Retry.LATER:
        delay = failure.retry_after_seconds if failure.retry_after_seconds is not None else _RETRY_SECONDS
        details.append(
            _packed(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=int(delay), nanos=int(delay % 1 * 1e9))))
        )
    return status_pb2.Status(code=int(spec.grpc), message=failure.message, details=details)


def _packed(detail: object) -> any_pb2.Any:
    message = any_pb2.Any()
    message.Pack(detail)  # type: ignore[arg-type]  # any detail of google.rpc
    return message
