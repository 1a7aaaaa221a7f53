"""Where everything of a one-machine fleet lies: folders, ports and processes, derived from the fleet's declaration. Pure.

A zone's files lie below `zones/<zone>` alone: logs, databases, snapshots, secrets. Ports are blocks of ten above the base, one block
per purpose, so that the map of a fleet does not move when another cell is added at the end of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from cli.errors import Unable
from kernel.ids import CellId, RegionName, ZoneName
from kernel.residency import Cell, Fleet

PORT_BASE: Final = 7400
_BLOCK: Final = 10
_ZONE_PORTS: Final = ("zone", "zone-status", "directory-grpc", "directory-http", "directory-postgres")
_REGION_PORTS: Final = ("edge", "edge-admin", "agent-xds", "agent-http")
_CELL_PORTS: Final = ("cell-grpc", "cell-http", "cell-postgres")
PORTS_TOTAL: Final = _BLOCK * (len(_ZONE_PORTS) + len(_REGION_PORTS) + len(_CELL_PORTS))

Kind = Literal["postgres", "directory", "cell", "agent", "envoy", "endpoint"]


@dataclass(frozen=True)
class Place:
    """One process: its kind, whose it is, where its files lie, its main port, what must be ready before it.

    Cells and agents do not wait for the directory: from the second start on they serve from their own snapshots without it.
    """

    name: str
    kind: Kind
    zone: ZoneName
    owner: str
    folder: Path
    log: Path
    port: int
    after: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The fleet on this machine. `ports` is keyed `<purpose>/<zone, region or cell>`."""

    fleet: Fleet
    state: Path
    port_base: int
    ports: Mapping[str, int]

    def zone_folder(self, zone: ZoneName) -> Path:
        """Everything of a zone lies below it."""
        return self.state / "zones" / zone

    def regions_of(self, zone: ZoneName) -> tuple[RegionName, ...]:
        """The zone's regions that have cells, in name order."""
        return tuple(sorted({cell.region for cell in self.fleet.cells_of(zone)}))

    def zone_url(self, zone: ZoneName) -> str:
        """The zone's public endpoint on this machine."""
        return f"http://127.0.0.1:{self.ports[f'zone/{zone}']}"

    def places(self) -> tuple[Place, ...]:
        """All processes of the fleet."""
        found: list[Place] = []
        for zone in sorted(self.fleet.zones):
            found += self._zone_places(zone)
        return tuple(found)

    def _zone_places(self, zone: ZoneName) -> list[Place]:
        folder = self.zone_folder(zone)

        def place(name: str, kind: Kind, where: str, port: str, *after: str) -> Place:
            owner = name.split("/", 1)[1]
            log = folder / "logs" / f"{name.replace('/', '-')}.log"
            return Place(name, kind, zone, owner, folder / where, log, self.ports[port], after)

        found = [
            place(f"postgres/{zone}", "postgres", "directory/postgres", f"directory-postgres/{zone}"),
            place(f"directory/{zone}", "directory", "directory", f"directory-grpc/{zone}", f"postgres/{zone}"),
        ]
        for cell in self.fleet.cells_of(zone):
            where = f"cells/{cell.name}"
            found.append(place(f"postgres/{cell.name}", "postgres", f"{where}/postgres", f"cell-postgres/{cell.name}"))
            found.append(place(f"cell/{cell.name}", "cell", where, f"cell-grpc/{cell.name}", f"postgres/{cell.name}"))
        edges = []
        for region in self.regions_of(zone):
            where = f"regions/{region}"
            found.append(place(f"agent/{region}", "agent", where, f"agent-xds/{region}"))
            found.append(place(f"envoy/{region}", "envoy", where, f"edge/{region}", f"agent/{region}"))
            edges.append(f"envoy/{region}")
        found.append(place(f"endpoint/{zone}", "endpoint", "endpoint", f"zone/{zone}", *edges))
        return found


def lay_out(fleet: Fleet, state: Path, port_base: int = PORT_BASE) -> Layout:
    """The layout of a whole fleet. Raises Unable: a wrong declaration, more than ten of a kind, ports outside 1024..65535."""
    if fleet.problems:
        raise Unable(f"the fleet's declaration is wrong: {'; '.join(fleet.problems)}", "correct gitops/fleet")
    regions = {cell.region for cell in fleet.cells.values()}
    kinds: tuple[tuple[Sequence[str], Sequence[str]], ...] = (
        (_ZONE_PORTS, sorted(fleet.zones)),
        (_REGION_PORTS, sorted(regions)),
        (_CELL_PORTS, sorted(fleet.cells)),
    )
    if max(len(owners) for _, owners in kinds) > _BLOCK:
        raise Unable(f"one machine takes at most {_BLOCK} zones, regions and cells", "start some of the cells with --cell")
    if not 1_024 <= port_base <= 65_536 - PORTS_TOTAL:
        raise Unable(f"port base {port_base} leaves no room for {PORTS_TOTAL} ports", f"choose 1024 to {65_536 - PORTS_TOTAL}")
    ports: dict[str, int] = {}
    block = port_base
    for purposes, owners in kinds:
        for purpose in purposes:
            ports.update({f"{purpose}/{owner}": block + index for index, owner in enumerate(owners)})
            block += _BLOCK
    return Layout(fleet, state, port_base, MappingProxyType(ports))


def select(fleet: Fleet, cells: Sequence[str]) -> Fleet:
    """The fleet with these cells only (all when none are named); a peer that is left out is no peer. Raises Unable: unknown cell."""
    if not cells:
        return fleet
    unknown = [name for name in cells if name not in fleet.cells]
    if unknown:
        raise Unable(f"there is no cell {', '.join(unknown)}", f"there are {', '.join(sorted(fleet.cells))}")
    chosen: dict[CellId, Cell] = {}
    for cell in fleet.cells.values():
        if cell.name in cells:
            chosen[cell.name] = cell if cell.peer in cells else replace(cell, peer=None)
    zones = {cell.zone for cell in chosen.values()}
    return Fleet({name: zone for name, zone in fleet.zones.items() if name in zones}, chosen)
