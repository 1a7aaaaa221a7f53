"""Small placements and random ones, for the router's suites. No tests in here."""

from __future__ import annotations

from hypothesis import strategies as st

from kernel.epoch import Epoch
from kernel.ids import CellId, RegionName, SourceId, TenantId, ZoneName, hash_of
from router.placement.table import CellEndpoint, Credential, Source, Table, Tenant

EU = ZoneName("eu")
ZONES = {EU: "https://eu.ingest.test", ZoneName("us"): "https://us.ingest.test"}


def cell(name: str, port: int = 7_000, weight: float = 1.0, peer: str | None = None, host: str = "10.0.0.1") -> CellEndpoint:
    """A cell on two ports."""
    addresses = (f"{host}:{port}", f"{host}:{port + 1}")
    return CellEndpoint(CellId(name), RegionName("eu-west-1"), *addresses, weight, peer=CellId(peer) if peer else None)


def source(name: str, *keys: str, revoked: bool = False) -> Source:
    """A source whose keys are the hashes of `keys`."""
    return Source(SourceId(name), f"eu-{name}", tuple(Credential(hash_of(key), revoked) for key in keys))


def tenant(name: str, home: str = "a1", epoch: int = 1, *sources: Source, suspended: bool = False, demand: float = 1.0) -> Tenant:
    """A tenant."""
    return Tenant(TenantId(name), EU, CellId(home), Epoch(epoch), suspended=suspended, sources=sources, demand=demand)


def table(revision: int, tenants: tuple[Tenant, ...], cells: tuple[CellEndpoint, ...]) -> Table:
    """A table of zone eu."""
    return Table(EU, revision, {t.name: t for t in tenants}, {c.cell: c for c in cells}, ZONES)


@st.composite
def tables(draw: st.DrawFn, tenants_max: int = 8) -> Table:
    """A consistent table: some cells with distinct addresses and peers in the zone, out of it and of no such name, tenants in them, keys of
    all states."""
    names = [f"c{number}-a" for number in range(draw(st.integers(1, 4)))]
    peers, hosts = st.none() | st.sampled_from([*names, "us-a", "nowhere-a"]), st.sampled_from(["10.0.0.1", "cells.eu.internal"])
    cells = tuple(cell(name, 7_000 + 2 * number, 1.0, draw(peers), draw(hosts)) for number, name in enumerate(names))
    tenants = []
    for number in range(draw(st.integers(0, tenants_max))):
        sources = tuple(
            Source(
                SourceId(f"s{index}"),
                f"eu-t{number}s{index}",
                tuple(Credential(hash_of(f"{number}/{index}/{key}"), draw(st.booleans())) for key in range(draw(st.integers(0, 2)))),
            )
            for index in range(draw(st.integers(0, 2)))
        )
        home = draw(st.sampled_from(cells)).cell
        epoch = draw(st.integers(1, 9))
        tenants.append(tenant(f"tenant-{number}", home, epoch, *sources, suspended=draw(st.booleans())))
    return table(draw(st.integers(1, 1_000)), tuple(tenants), cells)
