"""All metrics of a cell's process."""

from __future__ import annotations

from typing import Final

from cells.admission import metrics as admission
from cells.ingest import metrics as ingest
from cells.processing import metrics as processing
from cells.replication import metrics as replication
from cells.storage import metrics as storage
from kernel.metrics import PROCESS, Metric

CELL_DEGRADED: Final = Metric(
    "dataflow_cell_degraded",
    "gauge",
    "1 while a part of this process does not work although it serves the rest, e.g. the event log",
    "`/readyz` says why, under `degraded`; see the runbook kafka-is-away",
    ("part",),
)
METRICS: Final = (CELL_DEGRADED, *PROCESS, *admission.METRICS, *ingest.METRICS, *processing.METRICS, *replication.METRICS, *storage.METRICS)
