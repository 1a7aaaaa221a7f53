"""The table's rules: what an update must be, and what a refused one changes (nothing)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId, ZoneName
from router.placement.decide import Health, Refused, Routed, decide
from router.placement.place import place
from router.placement.table import Table, Topology, Update, empty
from tests.support.router_words import EU, ZONES, cell, table, tenant

CELLS = (cell("a1"), cell("b1", 7_100))
TOPOLOGY = Topology(CELLS, tuple(ZONES.items()))
HELD = table(7, tuple(tenant(f"t{number}") for number in range(30)), CELLS)


def change(start: int, end: int, *tenants: object) -> Update:
    return Update(EU, start, end, tenants)  # type: ignore[arg-type]  # plain text stands for a zone


@pytest.mark.parametrize(
    ("update", "why"),
    [
        (replace(change(7, 8, tenant("t1", "b1", 2)), zone=ZoneName("us")), "of zone us"),
        (change(6, 7, tenant("t1", "b1", 2)), "not newer"),
        (change(8, 9, tenant("t1", "b1", 2)), "builds on revision 8"),
        (change(6, 9, tenant("t1", "b1", 2)), "builds on revision 6"),
        (change(7, 8, replace(tenant("t1"), zone=ZoneName("us"))), "of zone us"),
        (change(7, 8, tenant("t1", "nowhere-1", 2)), "unknown cell"),
        (replace(change(7, 8, tenant("t1")), topology=TOPOLOGY), "no topology"),
        (Update(EU, 0, 6, tuple(HELD.tenants.values()), TOPOLOGY), "older than 7"),
        (Update(EU, 0, 9, (), TOPOLOGY), "empty"),
        (Update(EU, 0, 9, tuple(HELD.tenants.values())[:10], TOPOLOGY), "drop 20 of 30"),
        (Update(EU, 0, 9, tuple(HELD.tenants.values()), Topology((), ())), "no cell"),
        (Update(EU, 0, 9, tuple(HELD.tenants.values()), Topology(CELLS[1:], ())), "unknown cell a1"),
    ],
)
def test_updates_that_break_a_rule_are_refused(update: Update, why: str) -> None:
    """Law (rule 4): older, foreign, gapped, empty and sharply shrunk updates are refused, and so is what names no cell."""
    with pytest.raises(Failure, match=why) as raised:
        HELD.apply(update)
    assert raised.value.reason is Reason.SNAPSHOT_REFUSED


def test_epochs_never_fall() -> None:
    """Law (I3): no update, change or whole, lowers a tenant's epoch."""
    risen = HELD.apply(change(7, 8, tenant("t1", "b1", 5)))
    for update in (change(8, 9, tenant("t1", "a1", 4)), replace(HELD.whole(), to_revision=9)):
        with pytest.raises(Failure, match="epoch"):
            risen.apply(update)


def test_a_change_touches_its_tenants_only() -> None:
    """Law: after a change the others are the same objects, and the old table is as it was."""
    after = HELD.apply(change(7, 8, tenant("t1", "b1", 2), tenant("new")))
    assert (after.revision, len(after.tenants), after.tenants[TenantId("t1")].since) == (8, 31, 8)
    assert all(after.tenants[name] is HELD.tenants[name] for name in HELD.tenants if name != "t1")
    assert (HELD.revision, HELD.tenants[TenantId("t1")].cell) == (7, "a1")


def test_a_whole_update_that_says_nothing_new_changes_nothing() -> None:
    """Law: applying one's own whole again gives an equal table, and keeps every `since`."""
    once = empty(EU).apply(HELD.whole())
    assert once.apply(HELD.whole()) == once
    later = once.apply(replace(HELD.whole(), to_revision=20))
    assert {t.since for t in later.tenants.values()} == {7}


def test_many_updates_at_once_are_as_one_by_one() -> None:
    """Law: `apply_all` is `apply` repeated."""
    updates = [
        change(7, 8, tenant("t1", "b1", 2)),
        change(8, 9, tenant("t2")),
        replace(HELD.whole(), to_revision=9, tenants=(tenant("t1", "b1", 3),) * 1),
    ]
    one: Table = HELD
    for update in updates[:2]:
        one = one.apply(update)
    assert HELD.apply_all(updates[:2]) == one
    with pytest.raises(Failure):
        HELD.apply_all(updates)


def test_decide_fails_closed() -> None:
    """Law (rule 11): unknown and suspended tenants, lost homes and exhausted zones are refused; there is no default cell."""
    held = table(3, (tenant("one"), tenant("two", suspended=True)), CELLS)
    every = frozenset(c.cell for c in CELLS)
    assert decide(TenantId("one"), held) == Routed(CellId("a1"), held.tenants[TenantId("one")].epoch, 3)
    assert decide(TenantId("nobody"), held) == Refused(Reason.UNKNOWN_TENANT)
    assert decide(TenantId("two"), held) == Refused(Reason.TENANT_SUSPENDED)
    assert decide(TenantId("one"), held, Health(frozenset({CellId("a1")}))) == Refused(Reason.CELL_UNAVAILABLE)
    assert decide(TenantId("one"), held, Health(every)) == Refused(Reason.ZONE_EXHAUSTED)
    assert decide(TenantId("one"), replace(held, cells={CellId("b1"): CELLS[1]})) == Refused(Reason.CELL_UNAVAILABLE)


def test_pins_override_and_stay_inside_the_zone() -> None:
    """Law: a pin names one of the zone's cells; a zone without weight takes nobody."""
    assert place(TenantId("x"), CELLS, pin=CellId("b1")) == "b1"
    with pytest.raises(Failure, match="UNKNOWN_CELL"):
        place(TenantId("x"), CELLS, pin=CellId("us-1"))
    with pytest.raises(Failure, match="ZONE_EXHAUSTED"):
        place(TenantId("x"), (cell("a1", weight=0.0),))
