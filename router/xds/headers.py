"""Header names that only the edge may write: what it looks up by, and the stamp that cells check at door 1 (rule 10)."""

from __future__ import annotations

from typing import Final

NO_SHARD: Final = "-"
LOOKUP: Final = "x-dataflow-lookup"
SHARD: Final = "x-dataflow-shard"
TENANT: Final = "x-dataflow-tenant"
STAMP: Final = (TENANT, "x-dataflow-cell", "x-dataflow-epoch", "x-dataflow-revision")
INTERNAL: Final = (*STAMP, LOOKUP, SHARD)
