"""What ingest says of itself."""

from __future__ import annotations

from typing import Final

from kernel.metrics import Metric

EVENTS_ACCEPTED: Final = Metric(
    "dataflow_ingest_accepted_events_total",
    "counter",
    "events acknowledged as durable",
    "compare with stored: the difference is in flight",
    ("tenant",),
)
EVENTS_REJECTED: Final = Metric(
    "dataflow_ingest_rejected_events_total",
    "counter",
    "events permanently refused",
    "a client's bug: the reason names it",
    ("tenant", "reason"),
)
EVENTS_HANDOFF: Final = Metric(
    "dataflow_ingest_handoff_events_total",
    "counter",
    "events acknowledged for a tenant whose home, another cell, could not be reached",
    "rising: that cell is lost or restarts; see `dataflow cells list` and the runbook cell-is-lost",
    ("tenant",),
)
REQUESTS_REFUSED: Final = Metric(
    "dataflow_ingest_refused_requests_total",
    "counter",
    "whole requests refused, by reason",
    "429s: quota or overload; 401s: keys; see the reason's row in docs/errors.md",
    ("reason",),
)
APPEND_SECONDS: Final = Metric(
    "dataflow_ingest_append_seconds", "histogram", "from admission to a durable append", "rising: the log's disk or PostgreSQL is slow"
)
INFLIGHT_BYTES: Final = Metric(
    "dataflow_ingest_inflight_bytes",
    "gauge",
    "request bytes held in memory",
    "near the limit: the cell sheds; the log is slow or the load too high",
)
METRICS: Final = (EVENTS_ACCEPTED, EVENTS_HANDOFF, EVENTS_REJECTED, REQUESTS_REFUSED, APPEND_SECONDS, INFLIGHT_BYTES)
