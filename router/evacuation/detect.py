"""Which cells of a zone are lost, by what its sites say. Pure; instants are seconds on a monotonic clock.

A site is a region with an edge, or the witness, which holds no tenant and only looks. Two regions alone cannot tell a cell's death from
a network that is cut between them: a cell is lost when a majority of all sites does not reach it, without a break for a while. A site
that says nothing counts for nobody, so that whoever is cut off from the others decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kernel.ids import CellId
from kernel.limits import VIEW_SECONDS_MAX


@dataclass(frozen=True, slots=True)
class View:
    """What a site said last: which cells it does not reach."""

    at: float
    unreached: frozenset[CellId]


@dataclass(frozen=True, slots=True)
class Doubts:
    """Since when a majority has not reached a cell, without a break."""

    since: Mapping[CellId, float] = field(default_factory=dict)

    def lost(self, now: float, after_seconds: float) -> frozenset[CellId]:
        """The cells that are lost: doubted for so long."""
        return frozenset(cell for cell, since in self.since.items() if now - since >= after_seconds)


def reached_by(cell: CellId, views: Mapping[str, View], now: float) -> tuple[int, int]:
    """(sites that reach the cell, sites that do not); those of which nothing was heard lately are neither."""
    fresh = [view for view in views.values() if now - view.at <= VIEW_SECONDS_MAX]
    unreached = sum(cell in view.unreached for view in fresh)
    return len(fresh) - unreached, unreached


def doubted(before: Doubts, cells: Iterable[CellId], views: Mapping[str, View], sites: int, now: float) -> Doubts:
    """The doubts after these views, of `sites` that there are. One look at which there is no majority ends a doubt."""
    majority = sites // 2 + 1
    return Doubts({cell: before.since.get(cell, now) for cell in cells if reached_by(cell, views, now)[1] >= majority})
