"""A process that changes a zone's directory with whatever version of the code is on its path: one command a line in, one answer a line
out, as JSON. Run as a script, so that the path decides.
"""

from __future__ import annotations

import asyncio
import json
import sys

from kernel.epoch import Epoch
from kernel.ids import CellId, SourceId, TenantId, ZoneName, hash_of
from router.placement.postgres import open_store
from router.placement.table import CellEndpoint, Credential, Source, Tenant, Topology

ZONE = ZoneName("eu")


def topology() -> Topology:
    """Two cells."""
    cells = tuple(CellEndpoint(CellId(name), "eu-west-1", "10.0.0.1:1", "10.0.0.1:2") for name in ("a1", "b1"))  # type: ignore[arg-type]  # plain text is a name
    return Topology(cells, ((ZONE, "https://eu.test"),))


async def main(dsn: str) -> None:
    """Until the input ends."""
    async with open_store(dsn, ZONE) as store:
        await store.adopt(topology())
        print(json.dumps(sorted(name for name in vars(type(store)) if not name.startswith("_"))), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, name = json.loads(line)
            tenant = TenantId(name)
            if what == "create":
                await store.create_tenant(Tenant(tenant, ZONE, CellId("a1"), Epoch(1)))  # type: ignore[attr-defined]  # of the previous version
            elif what == "source":
                await store.add_source(tenant, Source(SourceId("web"), f"eu-{name}", (Credential(hash_of(name)),)))  # type: ignore[attr-defined]  # as above
            elif what == "suspend":
                await store.suspend(tenant, True)  # type: ignore[attr-defined]  # as above
            table = await store.table()
            changes = await store.changes(1) or ()
            told = {str(key): [held.cell, held.suspended, len(held.sources)] for key, held in table.tenants.items()}
            print(json.dumps([table.revision, told, [change.revision for change in changes]]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
