"""Header names that only the edge may write: what it looks up by, and the stamp that cells check at door 1 (rule 10).

The stamp tells a tenant's home and nothing that changes more often: a new key of a tenant would else be a change of all its keys.
"""

from __future__ import annotations

from typing import Final

NO_SHARD: Final = "-"
LOOKUP: Final = "x-dataflow-lookup"
SHARD: Final = "x-dataflow-shard"
TENANT: Final = "x-dataflow-tenant"
STAMP: Final = (TENANT, "x-dataflow-cell", "x-dataflow-epoch")
PREFIX: Final = "x-dataflow-"
# Under which routes and endpoints say in their metadata whose they are.
METADATA: Final = "dataflow"
