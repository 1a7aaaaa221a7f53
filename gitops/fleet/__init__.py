"""The fleet as typed data: the only place where a cell is named. Charts and waves are derived from it; so is the one-machine fleet."""

from __future__ import annotations

from typing import Final

from kernel.ids import CellId, RegionName, ZoneName
from kernel.residency import Cell, Fleet, Zone

EU: Final = ZoneName("eu")
US: Final = ZoneName("us")

FLEET: Final = Fleet(
    zones={
        EU: Zone(EU, "https://eu.ingest.dataflow.example"),
        US: Zone(US, "https://us.ingest.dataflow.example"),
    },
    cells={
        cell.name: cell
        for cell in (
            Cell(CellId("eu-west-1-a"), EU, RegionName("eu-west-1"), peer=CellId("eu-central-1-a")),
            Cell(CellId("eu-central-1-a"), EU, RegionName("eu-central-1"), peer=CellId("eu-west-1-a")),
            Cell(CellId("us-west-2-a"), US, RegionName("us-west-2"), peer=CellId("us-east-1-a")),
            Cell(CellId("us-east-1-a"), US, RegionName("us-east-1"), peer=CellId("us-west-2-a")),
        )
    },
)
