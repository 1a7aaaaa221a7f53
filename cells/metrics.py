"""All metrics of a cell's process."""

from __future__ import annotations

from typing import Final

from cells.admission import metrics as admission
from cells.ingest import metrics as ingest
from cells.processing import metrics as processing
from cells.storage import metrics as storage
from kernel.metrics import PROCESS

METRICS: Final = (*PROCESS, *admission.METRICS, *ingest.METRICS, *processing.METRICS, *storage.METRICS)
