"""Metrics of storage."""

from __future__ import annotations

from typing import Final

from kernel.metrics import Metric

APPLIED_EVENTS: Final = Metric(
    "dataflow_storage_applied_events_total",
    "counter",
    "events of applies by what became of them: stored, duplicate, quarantined, held",
    "quarantined rising: see the dead letters' reasons; held rising: a claim is missing",
    ("outcome",),
)
APPLIES: Final = Metric(
    "dataflow_storage_applies_total",
    "counter",
    "applies by outcome: applied, duplicate, fenced, failed",
    "fenced: the tenant moved or two cells claim it; failed: see PostgreSQL",
    ("outcome",),
)
APPLY_SECONDS: Final = Metric(
    "dataflow_storage_apply_seconds", "histogram", "one apply transaction, waits included", "rising: see PostgreSQL's locks and disk"
)
CONFLICTS: Final = Metric(
    "dataflow_storage_conflicts_total",
    "counter",
    "duplicates whose content differed from the first write's",
    "a client reuses message ids: the first write won",
)
IDENTITY_DROPPED: Final = Metric(
    "dataflow_storage_identity_claims_dropped_total",
    "counter",
    "identity claims that would have made a person of too many nodes",
    "a client shares one id among many people, for example a kiosk's anonymous id",
)
CONVERTED: Final = Metric(
    "dataflow_storage_converted_events_total",
    "counter",
    "events of the previous version's table that were moved to records, or dropped as a duplicate of one that is stored",
    "growing: the previous version still applies, or its events are still being moved; queries see each once it is moved",
    ("outcome",),
)
QUERIES: Final = Metric(
    "dataflow_storage_queries_total",
    "counter",
    "questions by action and answer: ok or the error's code",
    "STORE_UNAVAILABLE: see PostgreSQL",
    ("action", "outcome"),
)
QUERY_SECONDS: Final = Metric(
    "dataflow_storage_query_seconds",
    "histogram",
    "one question, its audit entry included",
    "rising: a filter without an index over a long time, or the audit log is slow",
    ("action",),
)
AUDIT_ENTRIES: Final = Metric(
    "dataflow_storage_audit_entries_total", "counter", "durable entries of the audit chain", "compare with the queries: every read has one"
)

METRICS: Final = (APPLIED_EVENTS, APPLIES, APPLY_SECONDS, CONFLICTS, IDENTITY_DROPPED, CONVERTED, QUERIES, QUERY_SECONDS, AUDIT_ENTRIES)
