"""What callers of the directory ask, checked: wire -> domain, or Failure(INVALID_NAME, INVALID_FIELD)."""

from __future__ import annotations

import math

from dataflow.routing.v1 import routing_pb2 as pb
from kernel import limits
from kernel.errors import Failure, Reason
from kernel.ids import is_name
from kernel.limits import Plan
from router.placement import codec
from router.placement.table import Pin


def name(text: str) -> str:
    """A name."""
    if not is_name(text):
        raise Failure(Reason.INVALID_NAME)
    return text


def plan(message: pb.Plan) -> Plan:
    """A plan within the hard limits."""
    plan = codec.parse_plan(message)
    fits = (
        0 < plan.events_per_second < math.inf
        and 1 <= plan.burst_events < math.inf
        and plan.batch_bytes_max <= limits.BATCH_BYTES_HARD_MAX
        and plan.batch_events_max <= limits.APPLY_EVENTS_MAX
        and plan.spread <= limits.LOG_PARTITIONS
        and 0 < plan.requests_per_second < math.inf
    )
    if not fits:
        raise Failure(Reason.INVALID_FIELD, "plan: above the hard limits")
    return plan


def rate(field: str, value: float) -> float:
    """A rate that is one."""
    if not 0 <= value < math.inf:
        raise Failure(Reason.INVALID_FIELD, f"{field}: {value} is no rate")
    return value


def pin(message: pb.Pin) -> Pin:
    """A pin that says why."""
    if not message.reason or len(message.reason) > limits.PIN_REASON_CHARS_MAX or not message.reason.isprintable():
        raise Failure(Reason.INVALID_FIELD, f"pin.reason: 1 to {limits.PIN_REASON_CHARS_MAX} printable characters say why")
    return codec.parse_pin(message)


def request_id(intent: pb.Intent) -> str:
    """A request's name, which may be empty."""
    if len(intent.request_id) > limits.REQUEST_ID_CHARS_MAX or not intent.request_id.isprintable():
        raise Failure(Reason.INVALID_FIELD, f"intent.request_id: at most {limits.REQUEST_ID_CHARS_MAX} printable characters")
    return intent.request_id


def reason(field: str, text: str) -> str:
    """Why something is asked for."""
    if not text or len(text) > limits.MOVE_REASON_CHARS_MAX or not text.isprintable():
        raise Failure(Reason.INVALID_FIELD, f"{field}: 1 to {limits.MOVE_REASON_CHARS_MAX} printable characters say why")
    return text


def keep(seconds: int | None) -> int:
    """For how many seconds a move can be rolled back."""
    if seconds is not None and seconds > limits.MOVE_KEEP_SECONDS_MAX:
        raise Failure(Reason.INVALID_FIELD, f"keep_seconds: at most {limits.MOVE_KEEP_SECONDS_MAX}")
    return limits.MOVE_KEEP_SECONDS if seconds is None else seconds
