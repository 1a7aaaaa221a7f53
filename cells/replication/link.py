"""Who may replicate from whom. Pure: both ends of the link ask this of what the other end says."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.errors import Failure, Reason
from kernel.ids import CellId, ZoneName


@dataclass(frozen=True, slots=True)
class Link:
    """The cell `follower` reads the log of the cell `origin`; both are of `zone`."""

    zone: ZoneName
    origin: CellId
    follower: CellId


def check(said: Link, known: Link) -> None:
    """Raises Failure(PEER_REFUSED): what the other end says of the link is not what this end knows of it. The zone comes first: a byte that
    leaves its zone is the worst that can happen."""
    if said.zone != known.zone:
        raise Failure(Reason.PEER_REFUSED, f"residency zone {said.zone} is not {known.zone}")
    if said.origin != known.origin:
        raise Failure(Reason.PEER_REFUSED, f"this is not about cell {said.origin}")
    if said.follower != known.follower:
        raise Failure(Reason.PEER_REFUSED, f"cell {said.follower} is not wired to cell {known.origin}")
