"""What the admission table says of itself."""

from __future__ import annotations

from typing import Final

from kernel.metrics import Metric

ADMISSION_REVISION: Final = Metric(
    "dataflow_admission_revision",
    "gauge",
    "revision of the placement that this cell admits by",
    "compare with the directory's; behind for minutes: is the directory reachable from here?",
)
ADMISSION_REFUSED: Final = Metric(
    "dataflow_admission_refused_total",
    "counter",
    "placement updates refused: forged, older, shrunk, of another zone",
    "pages: look at the directory's log before anything else; the last good table serves",
    ("why",),
)
ADMISSION_UNKEPT: Final = Metric(
    "dataflow_admission_unkept_total",
    "counter",
    "placement updates that serve from memory alone, since the disk did not take them",
    "free or mend the cell's disk: a restart without the directory would admit by an older placement",
)
METRICS: Final = (ADMISSION_REVISION, ADMISSION_REFUSED, ADMISSION_UNKEPT)
