"""Whether a copy is what its home keeps. Pure."""

from __future__ import annotations

from kernel.errors import Failure, Reason
from router.evacuation.cells import Gap, Offsets, Part, Totals


def same(what: str, home: Totals, copy: Totals) -> None:
    """Raises Failure(COPY_DIFFERS) with the counts, which tell more than sums do."""
    if home == copy:
        return
    counts = ((one.events, one.records, one.others) for one in (home, copy))
    said = "; ".join(
        f"{side} {events} events, {records} records, {others} others"
        for side, (events, records, others) in zip(("the home keeps", "the copy"), counts, strict=True)
    )
    raise Failure(Reason.COPY_DIFFERS, f"{what}: {said}{', of which some differ' if _counts(home) == _counts(copy) else ''}")


def covers(given: Offsets, ends: Offsets) -> bool:
    """Whether everything that lies before these ends is given."""
    return all(given.get(partition, 0) >= end for partition, end in ends.items())


def reaches(part: Part, ends: Offsets, *, whole: bool) -> bool:
    """Whether a copy has everything that lies before these ends once it has taken this part; `whole` asks for all that has changed of
    people until then as well. Others' records go on coming: nobody waits until nothing is more."""
    return part.past and covers(part.given, ends) and (not whole or covers(part.settled, ends))


def keeps(gap: Gap, ends: Offsets) -> bool:
    """Whether a cell keeps another's log up to `ends`."""
    until = {one.partition: one.until for one in gap.kept}
    return all(until.get(partition, 0) >= end for partition, end in ends.items())


def applies(gap: Gap, ends: Offsets) -> bool:
    """Whether a cell has applied its own log up to `ends`."""
    until = {one.partition: one.until for one in gap.own}
    return all(until.get(partition, 0) >= end for partition, end in ends.items())


def lag_records(given: Offsets, ends: Offsets) -> int:
    """Log records of all tenants that lie between."""
    return sum(max(0, end - given.get(partition, 0)) for partition, end in ends.items())


def _counts(totals: Totals) -> tuple[int, int, int]:
    return totals.events, totals.records, totals.others
