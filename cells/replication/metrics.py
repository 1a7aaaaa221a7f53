"""What a cell says of the logs that it replicates."""

from __future__ import annotations

from typing import Final

from kernel.metrics import Metric

REPLICA_LAG_RECORDS: Final = Metric(
    "dataflow_replication_lag_records",
    "gauge",
    "records of the other cell's log that are not kept here yet: what a failover now would miss until that cell is back",
    "growing: the other cell cannot be reached, or this cell's log is slow",
    ("origin", "partition"),
)
REPLICA_LAG_SECONDS: Final = Metric(
    "dataflow_replication_lag_seconds",
    "gauge",
    "how long ago everything that the other cell had was kept here",
    "above 1 s: as for dataflow_replication_lag_records; while the other cell is lost it grows by one every second",
    ("origin",),
)
REPLICATED_EVENTS: Final = Metric(
    "dataflow_replication_events_total",
    "counter",
    "events that were accepted by another cell and are kept here",
    "compare with what the other cell accepted",
    ("origin",),
)
REPLICATION_FAILURES: Final = Metric(
    "dataflow_replication_failures_total",
    "counter",
    "turns of the replication that failed and come again",
    "see the reason; PEER_REFUSED pages, and so do OFFSET_OUT_OF_RANGE, when the other cell has dropped what was not kept here yet, and"
    " LOG_REPLACED, when its log was made anew",
    ("origin", "reason"),
)
METRICS: Final = (REPLICA_LAG_RECORDS, REPLICA_LAG_SECONDS, REPLICATED_EVENTS, REPLICATION_FAILURES)
