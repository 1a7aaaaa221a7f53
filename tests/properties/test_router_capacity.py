"""Properties of placing with room: no cell is promised more than it can carry, its own and its peer's, and placing stays stable."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import Failure, Reason
from kernel.ids import CellId, RegionName, TenantId
from router.placement.capacity import Loads, carries, loads_of, room
from router.placement.place import place, ranked
from router.placement.table import CellEndpoint, Tenant
from tests.support.router_words import tenant

Cells = tuple[CellEndpoint, ...]


@st.composite
def zones(draw: st.DrawFn) -> Cells:
    """Cells of all sizes, some with a peer; a cell may stand by for several."""
    names = [CellId(f"cell-{number}") for number in range(draw(st.integers(1, 5)))]
    found = []
    for name in names:
        peer = draw(st.none() | st.sampled_from(names))
        capacity = draw(st.sampled_from([10.0, 50.0, 100.0]))
        weight = draw(st.sampled_from([0.0, 1.0, 3.0]))
        found.append(CellEndpoint(name, RegionName("r"), "", "", weight, capacity, None if peer == name else peer))
    return tuple(found)


demands = st.lists(st.sampled_from([0.0, 0.5, 5.0, 20.0]), max_size=30)


def tried(name: TenantId, cells: Cells, loads: Loads, demand: float, pin: CellId | None = None) -> CellId | Reason:
    """The home, or why there is none."""
    try:
        return place(name, cells, loads, demand, pin)
    except Failure as failure:
        return failure.reason


def placed(cells: Cells, wanted: list[float]) -> tuple[list[Tenant], list[int]]:
    """The tenants that found a home one after the other, and the numbers of those that found none."""
    tenants: list[Tenant] = []
    refused: list[int] = []
    for number, demand in enumerate(wanted):
        name = TenantId(f"tenant-{number}")
        home = tried(name, cells, loads_of(tenants), demand)
        if isinstance(home, Reason):
            assert home is Reason.ZONE_EXHAUSTED
            refused.append(number)
        else:
            tenants.append(tenant(name, home, demand=demand))
    return tenants, refused


@given(zones(), demands)
def test_whichever_cell_is_lost_its_standby_can_carry_it(cells: Cells, wanted: list[float]) -> None:
    """Law: after any placing, each cell can carry its own tenants and those of any one cell that it stands by for. The loss is played
    here, tenant by tenant, not asked of what decides."""
    tenants, _ = placed(cells, wanted)
    for lost in (None, *(cell.cell for cell in cells)):
        peer = {cell.cell: cell.peer for cell in cells}
        homes = [peer[one.cell] if one.cell == lost and peer[one.cell] is not None else one.cell for one in tenants]
        for cell in cells:
            assert sum(one.demand for one, home in zip(tenants, homes, strict=True) if home == cell.cell) <= cell.capacity


@given(zones(), demands)
def test_who_is_refused_fits_nowhere(cells: Cells, wanted: list[float]) -> None:
    """Law: a zone is exhausted for a tenant only when putting it into any cell that takes tenants would break the promise."""
    tenants, refused = placed(cells, wanted)
    loads = loads_of(tenants)
    for number in refused:
        for cell in ranked(TenantId(f"tenant-{number}"), cells):
            more = Loads({**loads, cell.cell: loads.get(cell.cell, 0.0) + wanted[number]})
            assert any(carries(other, cells, more) > other.capacity for other in cells)


@given(zones(), st.lists(st.integers(0, 10_000), min_size=1, max_size=50, unique=True))
def test_with_room_enough_it_is_rendezvous_hashing(cells: Cells, numbers: list[int]) -> None:
    """Law: tenants that need next to nothing are where they would be without any bound, so one cell more moves only those it wins."""
    for number in numbers:
        name = TenantId(f"tenant-{number}")
        order = ranked(name, cells)
        if order:
            assert place(name, cells) == order[0].cell
            assert all(room(cell, cells, Loads({})) >= 0 for cell in order)


@given(zones(), demands, st.sampled_from([0.5, 5.0]))
def test_a_pin_is_held_to_the_same_room(cells: Cells, wanted: list[float], demand: float) -> None:
    """Law: a pin into a cell is refused exactly when there is no room for it; its weight does not matter."""
    loads = loads_of(placed(cells, wanted)[0])
    for cell in cells:
        found = tried(TenantId("pinned"), cells, loads, demand, cell.cell)
        assert found == (cell.cell if room(cell, cells, loads) >= demand else Reason.CELL_FULL)
