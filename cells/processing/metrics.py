"""What processing says of itself."""

from __future__ import annotations

from typing import Final

from kernel.metrics import Metric

LAG_RECORDS: Final = Metric(
    "dataflow_processing_lag_records",
    "gauge",
    "records in the log that are not applied yet",
    "growing: the store is slow, or processing is stopped",
    ("partition",),
)
LAG_SECONDS: Final = Metric(
    "dataflow_processing_lag_seconds",
    "gauge",
    "age of the oldest record that is not applied yet",
    "above 1 s: the store is slow, or processing is stopped",
    ("partition",),
)
EVENTS_STORED: Final = Metric("dataflow_processing_stored_events_total", "counter", "events that became queryable", "compare with accepted")
EVENTS_DUPLICATE: Final = Metric(
    "dataflow_processing_duplicate_events_total", "counter", "events known already", "clients retry; a sudden rise follows a fault"
)
EVENTS_QUARANTINED: Final = Metric(
    "dataflow_processing_quarantined_events_total",
    "counter",
    "events kept as dead letters",
    "see the dead letters' reasons; redrive after the fix",
)
EVENTS_HELD: Final = Metric(
    "dataflow_processing_held_events_total",
    "counter",
    "events kept because the claim did not hold",
    "the tenant is moving, or the directory and the store disagree",
)
CONFLICTS: Final = Metric(
    "dataflow_processing_conflict_events_total",
    "counter",
    "duplicates whose content differs from the first write",
    "a client reuses message ids",
)
APPLY_SECONDS: Final = Metric(
    "dataflow_processing_apply_seconds", "histogram", "length of one apply transaction", "rising: PostgreSQL is busy"
)
APPLY_FAILURES: Final = Metric(
    "dataflow_processing_apply_failures_total", "counter", "applies that failed and were repeated", "see the store", ("reason",)
)
METRICS: Final = (
    LAG_RECORDS,
    LAG_SECONDS,
    EVENTS_STORED,
    EVENTS_DUPLICATE,
    EVENTS_QUARANTINED,
    EVENTS_HELD,
    CONFLICTS,
    APPLY_SECONDS,
    APPLY_FAILURES,
)
