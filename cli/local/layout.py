"""Where everything of a one-machine fleet lies: folders, ports and processes, derived from the fleet's declaration. Pure.

A zone's files lie below `zones/<zone>` alone: logs, databases, snapshots, secrets. Ports are blocks of ten above the base, one block
per purpose, so that the map of a fleet does not move when another cell is added at the end of its kind. Kafka's come last.
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
_ZONE_PORTS: Final = ("zone", "zone-status", "directory-grpc", "directory-http", "directory-postgres", "witness-http")
_REGION_PORTS: Final = ("edge", "edge-admin", "agent-xds", "agent-http")
_CELL_PORTS: Final = ("cell-grpc", "cell-http", "cell-postgres")
_BROKER_PORTS: Final = ("cell-kafka", "cell-kafka-controller")
# One broker keeps a cell's log, or three of which any one may die; two would be lost with either.
BROKERS: Final = (1, 3)
# Of a fleet whose directories are kept at several sites; last, so that the others stay where they are.
_SITE_PORTS: Final = ("directory-grpc", "directory-http", "directory-postgres", "quorum")
_KINDS_OF_PORTS: Final = len(_ZONE_PORTS) + len(_REGION_PORTS) + len(_CELL_PORTS) + max(BROKERS) * len(_BROKER_PORTS) + len(_SITE_PORTS) + 1
PORTS_TOTAL: Final = _BLOCK * _KINDS_OF_PORTS

Kind = Literal["postgres", "kafka", "directory", "cell", "agent", "envoy", "endpoint", "witness"]
Log = Literal["postgres", "kafka"]
LOGS: Final[tuple[Log, ...]] = ("postgres", "kafka")


@dataclass(frozen=True)
class Place:
    """One process: its kind, whose it is, where its files lie, its main port, what must be ready before it; of a Kafka, which node.

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
    node: int = 1


@dataclass(frozen=True)
class Layout:
    """The fleet on this machine. `ports` is keyed `<purpose>/<zone, region or cell>`; of one among several brokers
    `<purpose>/<cell>/<node>`.

    `log` keeps each cell's events: its PostgreSQL, or a Kafka of `brokers` nodes of its own. With `sites` each region of a zone keeps its
    directory, and the zone's witness votes; else one process does, which is the zone's own.
    """

    fleet: Fleet
    state: Path
    port_base: int
    ports: Mapping[str, int]
    log: Log = "postgres"
    brokers: int = 1
    sites: bool = False

    def zone_folder(self, zone: ZoneName) -> Path:
        """Everything of a zone lies below it."""
        return self.state / "zones" / zone

    def regions_of(self, zone: ZoneName) -> tuple[RegionName, ...]:
        """The zone's regions that have cells, in name order."""
        return tuple(sorted({cell.region for cell in self.fleet.cells_of(zone)}))

    def zone_url(self, zone: ZoneName) -> str:
        """The zone's public endpoint on this machine."""
        return f"http://127.0.0.1:{self.ports[f'zone/{zone}']}"

    def directories(self, zone: ZoneName) -> tuple[str, ...]:
        """Who keeps the zone's directory: its regions, or the zone itself."""
        return self.regions_of(zone) if self.sites else (zone,)

    def sites_of(self, zone: ZoneName) -> tuple[str, ...]:
        """Who agrees on the zone's directory: its regions, and the zone's witness under the zone's name. None when it is one process."""
        return (*self.regions_of(zone), zone) if self.sites else ()

    def broker_names(self, cell: CellId) -> tuple[str, ...]:
        """The cell's own name for one broker, `<cell>/<node>` for several; none without Kafka."""
        return _broker_names(cell, self.brokers) if self.log == "kafka" else ()

    def kafka_bootstrap(self, cell: CellId) -> str:
        """`host:port,...` of the cell's brokers."""
        return ",".join(f"127.0.0.1:{self.ports[f'cell-kafka/{name}']}" for name in self.broker_names(cell))

    def places(self) -> tuple[Place, ...]:
        """All processes of the fleet."""
        found: list[Place] = []
        for zone in sorted(self.fleet.zones):
            found += self._zone_places(zone)
        return tuple(found)

    def _zone_places(self, zone: ZoneName) -> list[Place]:
        folder = self.zone_folder(zone)

        def place(name: str, kind: Kind, where: str, port: str, *after: str) -> Place:
            owner = name.split("/")[1]
            log = folder / "logs" / f"{name.replace('/', '-')}.log"
            return Place(name, kind, zone, owner, folder / where, log, self.ports[port], after)

        found = []
        for owner in self.directories(zone):
            where = f"regions/{owner}/directory" if self.sites else "directory"
            found.append(place(f"postgres/{owner}", "postgres", f"{where}/postgres", f"directory-postgres/{owner}"))
            found.append(place(f"directory/{owner}", "directory", where, f"directory-grpc/{owner}", f"postgres/{owner}"))
        found.append(place(f"witness/{zone}", "witness", "witness", f"witness-http/{zone}"))
        for cell in self.fleet.cells_of(zone):
            where = f"cells/{cell.name}"
            found.append(place(f"postgres/{cell.name}", "postgres", f"{where}/postgres", f"cell-postgres/{cell.name}"))
            needed = [f"postgres/{cell.name}"]
            for number, broker in enumerate(self.broker_names(cell.name), 1):
                # The last one is the one behind which a log can be made: everything that this takes is ready before it.
                after = needed if number == self.brokers else ()
                one = place(f"kafka/{broker}", "kafka", f"{where}/kafka/{number}", f"cell-kafka/{broker}", *after)
                found.append(replace(one, node=number))
                needed.append(one.name)
            found.append(place(f"cell/{cell.name}", "cell", where, f"cell-grpc/{cell.name}", *needed))
        edges = []
        for region in self.regions_of(zone):
            where = f"regions/{region}"
            found.append(place(f"agent/{region}", "agent", where, f"agent-xds/{region}"))
            found.append(place(f"envoy/{region}", "envoy", where, f"edge/{region}", f"agent/{region}"))
            edges.append(f"envoy/{region}")
        found.append(place(f"endpoint/{zone}", "endpoint", "endpoint", f"zone/{zone}", *edges))
        return found


def lay_out(fleet: Fleet, state: Path, port_base: int = PORT_BASE, log: Log = "postgres", brokers: int = 1, sites: bool = False) -> Layout:
    """The layout of a whole fleet. Raises Unable: a wrong declaration, more than ten of a kind, ports outside 1024..65535, two brokers, a
    zone of one region whose directory is to be kept at several sites."""
    if brokers not in BROKERS:
        raise Unable(f"a cell's Kafka cannot have {brokers} brokers", f"it has {' or '.join(map(str, BROKERS))}")
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
    if log == "kafka":
        ports.update(_broker_ports(sorted(fleet.cells), block, brokers))
    if sites:
        ports.update(_site_ports(fleet, port_base + _BLOCK * (_KINDS_OF_PORTS - len(_SITE_PORTS) - 1)))
    return Layout(fleet, state, port_base, MappingProxyType(ports), log, brokers, sites)


def _site_ports(fleet: Fleet, block: int) -> dict[str, int]:
    """A block of regions for each purpose, and one of the zones' witnesses. Raises Unable: a zone of one region."""
    small = sorted(zone for zone in fleet.zones if len({cell.region for cell in fleet.cells_of(zone)}) < 2)
    if small:
        raise Unable(f"zone {small[0]} has one region: its directory cannot be kept at several sites", "start cells of two regions of it")
    ports: dict[str, int] = {}
    regions = sorted({cell.region for cell in fleet.cells.values()})
    for number, purpose in enumerate(_SITE_PORTS):
        ports.update({f"{purpose}/{region}": block + number * _BLOCK + index for index, region in enumerate(regions)})
    zones = block + len(_SITE_PORTS) * _BLOCK
    return ports | {f"quorum/{zone}": zones + index for index, zone in enumerate(sorted(fleet.zones))}


def _broker_names(cell: CellId, brokers: int) -> tuple[str, ...]:
    return (cell,) if brokers == 1 else tuple(f"{cell}/{node}" for node in range(1, brokers + 1))


def _broker_ports(cells: Sequence[CellId], block: int, brokers: int) -> dict[str, int]:
    """A block for each node's clients and one for its controller; a fleet of fewer nodes leaves those of the others free."""
    ports: dict[str, int] = {}
    for purpose in _BROKER_PORTS:
        for node in range(max(BROKERS)):
            names = [names[node] for cell in cells if node < len(names := _broker_names(cell, brokers))]
            ports.update({f"{purpose}/{name}": block + index for index, name in enumerate(names)})
            block += _BLOCK
    return ports


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
