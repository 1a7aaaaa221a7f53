"""Cells as a failover sees them: which ones answer, and what each keeps of another's log. No tests in here."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel.clock import SECOND, Micros
from kernel.errors import Failure, Reason
from kernel.ids import CellId
from router.evacuation.cells import Gap, Kept
from tests.support.clock import START

SILENT_SECONDS = 7


@dataclass
class ToldPeers:
    """`router.evacuation.cells.Peers`: what it is told. Everybody keeps all but three records of everybody's log."""

    answering: set[CellId] = field(default_factory=set)
    away: set[CellId] = field(default_factory=set)
    asked: list[tuple[CellId, CellId]] = field(default_factory=list)

    async def answers(self, cell: CellId) -> bool:
        """See the port."""
        return cell in self.answering

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        """See the port."""
        if cell in self.away:
            raise Failure(Reason.CELL_UNAVAILABLE, cell)
        self.asked.append((cell, origin))
        return gap_at(cell)


def gap_at(cell: CellId) -> Gap:
    """What any cell keeps."""
    return Gap(cell, (Kept(0, 40, 40), Kept(1, 7, 10)), START, Micros(START + SILENT_SECONDS * SECOND))
