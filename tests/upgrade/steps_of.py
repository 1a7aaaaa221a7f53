"""A process that takes steps in a zone's directory with whatever version of the code is on its path: one command a line in, one answer a
line out, as JSON. Run as a script, so that the path decides.
"""

from __future__ import annotations

import asyncio
import json
import sys

from kernel.clock import Micros
from kernel.ids import CellId, TenantId, ZoneName
from kernel.limits import Plan
from router.placement.postgres import open_store
from router.placement.steps import CreateTenant, PinTenant, Step, Suspend
from router.placement.store import Intent
from router.placement.table import CellEndpoint, Pin, Tenant, Topology

ZONE = ZoneName("eu")
NOW = Micros(1_795_262_400_000_000)


def topology() -> Topology:
    """Two cells that stand by for each other."""
    pairs = (("a1", "b1"), ("b1", "a1"))
    cells = tuple(CellEndpoint(CellId(name), "eu-west-1", "10.0.0.1:1", "10.0.0.1:2", peer=CellId(peer)) for name, peer in pairs)  # type: ignore[arg-type]  # plain text is a name
    return Topology(cells, ((ZONE, "https://eu.test"),))


def step_of(what: str, name: str) -> list[Step]:
    """By name."""
    tenant = TenantId(name)
    if what == "create":
        return [CreateTenant(tenant, Plan(), 1.0, Pin(CellId("a1"), "")), PinTenant(tenant, None)]
    return [Suspend(tenant, what == "suspend")] if what in ("suspend", "resume") else []


async def main(dsn: str) -> None:
    """Until the input ends."""
    async with open_store(dsn, ZONE) as store:
        await store.adopt(topology())
        print(json.dumps(sorted(Tenant.__slots__)), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            for step in step_of(*json.loads(line)):
                await store.change(step, Intent("the previous code", NOW))
            table = await store.table()
            told = {str(name): [one.cell, one.epoch, one.suspended] for name, one in sorted(table.tenants.items())}
            print(json.dumps([table.revision, told]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
