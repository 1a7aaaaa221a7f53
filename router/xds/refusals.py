"""What the edge itself answers: the JSON body of HTTP and the status details of gRPC, of the same vocabulary as a cell's answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from kernel.errors import Reason

DOMAIN = "dataflow"
RETRY_AFTER_SECONDS = 1


def body(reason: Reason, detail: str = "") -> str:
    """The JSON object that every error body is."""
    return json.dumps({"code": reason.name, "message": message(reason, detail)}, separators=(",", ":"))


def message(reason: Reason, detail: str = "") -> str:
    """What the sender reads."""
    return f"{reason.spec.client}: {detail}" if detail else reason.spec.client


def details(reason: Reason, detail: str = "", metadata: Mapping[str, str] | None = None) -> str:
    """`grpc-status-details-bin`: google.rpc.Status with an ErrorInfo, in base64 without padding as gRPC sends it.

    Its message must be the one of `grpc-message`: clients compare them.
    """
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason.name, domain=DOMAIN, metadata=dict(metadata or {})))
    status = status_pb2.Status(code=int(reason.spec.grpc), message=message(reason, detail), details=[info])
    return base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("=")
