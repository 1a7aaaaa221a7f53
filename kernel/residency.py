"""Residency: a zone is a legal area, a region lies in exactly one zone, a cell lies in one region."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel.ids import CellId, RegionName, ZoneName
from kernel.limits import CELL_EVENTS_PER_SECOND_MAX


@dataclass(frozen=True, slots=True)
class Zone:
    """A residency zone: its public endpoint may be named anywhere, its cells only inside it."""

    name: ZoneName
    endpoint: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One isolated copy of ingest, processing and storage. `weight` is its share of tenants relative to its zone's other cells, `capacity`
    the events per second that it was tested for."""

    name: CellId
    zone: ZoneName
    region: RegionName
    weight: float = 1.0
    peer: CellId | None = None
    capacity: float = CELL_EVENTS_PER_SECOND_MAX


@dataclass(frozen=True)
class Fleet:
    """Zones and cells by name. Cell and region names are unique in the whole fleet; a peer lies in the same zone, elsewhere, and is one in
    return."""

    zones: dict[ZoneName, Zone]
    cells: dict[CellId, Cell]
    problems: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", tuple(_problems(self)))

    def cells_of(self, zone: ZoneName) -> tuple[Cell, ...]:
        """The zone's cells in name order."""
        return tuple(sorted((c for c in self.cells.values() if c.zone == zone), key=lambda c: c.name))


def _problems(fleet: Fleet) -> list[str]:
    found: list[str] = []
    zone_of_region: dict[RegionName, ZoneName] = {}
    for cell in fleet.cells.values():
        if cell.zone not in fleet.zones:
            found.append(f"cell {cell.name}: unknown zone {cell.zone}")
        if zone_of_region.setdefault(cell.region, cell.zone) != cell.zone:
            found.append(f"region {cell.region} lies in two zones")
        if cell.weight <= 0:
            found.append(f"cell {cell.name}: weight must be positive")
        if cell.capacity <= 0:
            found.append(f"cell {cell.name}: capacity must be positive")
        if cell.peer is not None and (wrong := _wrong_peer(cell, fleet.cells.get(cell.peer))):
            found.append(f"cell {cell.name}: {wrong}")
    return found


def _wrong_peer(cell: Cell, peer: Cell | None) -> str:
    """Why a cell's peer cannot stand by for it."""
    if peer is None:
        return f"unknown peer {cell.peer}"
    if peer.zone != cell.zone:
        return f"peer {cell.peer} lies in another residency zone"
    if peer.region == cell.region:
        return f"peer {cell.peer} lies in the same region"
    return "" if peer.peer == cell.name else f"peer {cell.peer} has another peer: two cells stand by for each other"
