"""One rule set, two tables: whatever an edge believes of its zone's placement, a cell believes too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.admission import table as cell_table
from kernel.epoch import Epoch
from kernel.errors import Failure
from kernel.ids import CellId, TenantId, ZoneName
from kernel.limits import Plan
from router.placement import table as edge_table
from tests.support.router_words import EU, ZONES, cell

HOME = CellId("a1")
TOPOLOGY = edge_table.Topology((cell(HOME),), tuple(ZONES.items()))
Epochs = dict[TenantId, Epoch]


class Told(NamedTuple):
    """An update in neither table's words."""

    zone: ZoneName
    start: int
    end: int
    epochs: Epochs


class Believed(NamedTuple):
    """A table in neither one's words."""

    revision: int
    epochs: Epochs


def as_edge(steps: list[Told]) -> Believed:
    """Where the edge's table stands after the steps. Raises Failure."""
    table = edge_table.empty(EU)
    for zone, start, end, epochs in steps:
        tenants = tuple(edge_table.Tenant(name, EU, HOME, epoch) for name, epoch in epochs.items())
        table = table.apply(edge_table.Update(zone, start, end, tenants, None if start else TOPOLOGY))
    return Believed(table.revision, {name: tenant.epoch for name, tenant in table.tenants.items()})


def as_cell(steps: list[Told]) -> Believed:
    """Where the cell's table stands after the steps. Raises Failure."""
    table = cell_table.Admission(EU)
    for zone, start, end, epochs in steps:
        tenants = tuple(cell_table.Tenant(name, HOME, epoch, Plan()) for name, epoch in epochs.items())
        table = table.apply(cell_table.Update(zone, start, end, tenants, dict(ZONES)))
    return Believed(table.revision, {name: tenant.epoch for name, tenant in table.tenants.items()})


def verdict(table: Callable[[list[Told]], Believed], steps: list[Told]) -> Believed | str:
    """What is believed, or why not."""
    try:
        return table(steps)
    except Failure as failure:
        return str(failure)


def named(count: int, epoch: int = 3) -> Epochs:
    return {TenantId(f"t{number}"): Epoch(epoch) for number in range(count)}


NAMES = st.sampled_from([TenantId(f"t{number}") for number in range(30)])
EPOCHS = st.dictionaries(NAMES, st.integers(1, 4).map(Epoch), max_size=30)
STEPS = st.builds(Told, st.sampled_from([EU, EU, EU, EU, ZoneName("us")]), st.integers(0, 4), st.integers(0, 5), EPOCHS)
HELD = st.integers(0, 30).map(lambda count: Told(EU, 0, 3, named(count)))


@given(HELD, st.lists(STEPS, min_size=1, max_size=3))
def test_edge_and_cell_believe_the_same(held: Told, steps: list[Told]) -> None:
    """Law: over any steps both tables stand at the same revision and epochs, or refuse in the same words."""
    assert verdict(as_edge, [held, *steps]) == verdict(as_cell, [held, *steps])


@given(HELD, STEPS)
def test_what_is_believed_goes_forward(held: Told, step: Told) -> None:
    """Law: a believed step is the zone's own, never older, never lowers an epoch, and never empties or halves a larger table."""
    before, after = as_cell([held]), verdict(as_cell, [held, step])
    if isinstance(after, str):
        return
    assert step.zone == EU
    assert after.revision >= before.revision
    assert all(after.epochs[name] >= epoch for name, epoch in before.epochs.items() if name in after.epochs)
    assert len(after.epochs) >= min(len(before.epochs) / 2, len(before.epochs) - 10)
    assert after.epochs or not before.epochs


@pytest.mark.parametrize("table", [as_edge, as_cell])
@pytest.mark.parametrize(
    ("step", "why"),
    [
        (Told(ZoneName("us"), 0, 9, named(4)), "of zone us"),
        (Told(EU, 0, 4, named(4)), "older than 5"),
        (Told(EU, 0, 9, {}), "empty"),
        (Told(EU, 0, 9, named(4, 2)), "epoch of tenant t0 falls from 3 to 2"),
        (Told(EU, 5, 6, named(1, 2)), "epoch of tenant t0 falls from 3 to 2"),
        (Told(EU, 5, 5, named(1)), "not newer than 5"),
        (Told(EU, 6, 7, named(1)), "builds on revision 6"),
        (Told(EU, 4, 7, named(1)), "builds on revision 4"),
    ],
)
def test_what_breaks_a_rule_is_believed_by_nobody(table: Callable[[list[Told]], Believed], step: Told, why: str) -> None:
    """Law (rule 4, I3): few tenants protect as many do; a table of four is not emptied, and no epoch in it falls."""
    assert why in str(found := verdict(table, [Told(EU, 0, 5, named(4)), step]))
    assert str(found).startswith("SNAPSHOT_REFUSED")
