"""The layout of a fleet on one machine, and the pure decisions of its supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.errors import Unable
from cli.local import probe
from cli.local.layout import PORTS_TOTAL, lay_out, select
from cli.local.order import QUICK_DEATHS_MAX, Spec, count_death, restart_delay, waves
from gitops.fleet import FLEET
from kernel.ids import CellId, RegionName, ZoneName
from kernel.residency import Cell, Fleet, Zone

LAYOUT = lay_out(FLEET, Path("/state"), 7400)


def spec(name: str, *after: str) -> Spec:
    return Spec(name, ("/bin/true",), {}, Path("/log"), probe.tcp(1), 1, after)


def test_ports_are_distinct_and_inside_the_stated_range() -> None:
    """No two purposes share a port, and a fleet beside another needs only another base."""
    ports = list(LAYOUT.ports.values())
    assert len(set(ports)) == len(ports)
    assert min(ports) == 7400
    assert max(ports) < 7400 + PORTS_TOTAL
    other = lay_out(FLEET, Path("/other"), 7400 + PORTS_TOTAL)
    assert not set(ports) & set(other.ports.values())


def test_every_cell_region_and_zone_has_its_processes() -> None:
    """Per cell a PostgreSQL and a cell; per region an agent and an Envoy; per zone a PostgreSQL, a directory and an endpoint."""
    names = {place.name for place in LAYOUT.places()}
    cells = set(FLEET.cells)
    regions = {cell.region for cell in FLEET.cells.values()}
    expected = {f"{kind}/{cell}" for cell in cells for kind in ("postgres", "cell")}
    expected |= {f"{kind}/{region}" for region in regions for kind in ("agent", "envoy")}
    expected |= {f"{kind}/{zone}" for zone in FLEET.zones for kind in ("postgres", "directory", "endpoint")}
    assert names == expected


def test_nothing_of_a_zone_lies_in_another() -> None:
    """Folders and logs of a process lie below its own zone, and it waits for processes of its own zone only."""
    places = {place.name: place for place in LAYOUT.places()}
    for place in places.values():
        home = Path("/state/zones") / place.zone
        assert home in place.folder.parents
        assert home in place.log.parents
        assert {places[name].zone for name in place.after} <= {place.zone}


def test_a_part_of_the_fleet_keeps_no_missing_peer() -> None:
    """With one cell chosen, its zone alone remains and the cell has no peer; an unknown cell is told with the known ones."""
    one = select(FLEET, ["eu-west-1-a"])
    assert set(one.zones) == {"eu"}
    assert one.cells[CellId("eu-west-1-a")].peer is None
    assert one.problems == ()
    assert select(FLEET, []) is FLEET
    with pytest.raises(Unable, match="there is no cell nowhere; there are eu-central-1-a"):
        select(FLEET, ["nowhere"])


def test_what_does_not_fit_is_told() -> None:
    """More than ten of a kind, a port base without room and a wrong declaration are errors before anything starts."""
    zone = ZoneName("eu")
    many = {CellId(f"c-{n}"): Cell(CellId(f"c-{n}"), zone, RegionName("eu-west-1")) for n in range(11)}
    with pytest.raises(Unable, match="at most 10"):
        lay_out(Fleet({zone: Zone(zone, "https://x")}, many), Path("/state"))
    with pytest.raises(Unable, match="port base 65530"):
        lay_out(FLEET, Path("/state"), 65_530)
    with pytest.raises(Unable, match="unknown zone eu"):
        lay_out(Fleet({}, {CellId("c-0"): many[CellId("c-0")]}), Path("/state"))


def test_processes_start_in_waves_of_their_dependencies() -> None:
    """A wave holds exactly what became possible by the waves before it."""
    order = waves([spec("c", "a", "b"), spec("b", "a"), spec("a"), spec("d")])
    assert [[one.name for one in wave] for wave in order] == [["a", "d"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("specs", "message"),
    [([spec("a", "b"), spec("b", "a")], "waits for itself"), ([spec("a", "b")], "does not exist"), ([spec("a"), spec("a")], "one name")],
)
def test_impossible_orders_are_refused(specs: list[Spec], message: str) -> None:
    """A cycle, an unknown dependency and a doubled name are told, not waited for."""
    with pytest.raises(Unable, match=message):
        waves(specs)


def test_restarts_back_off_and_end() -> None:
    """Delays never fall, stay bounded, and after enough quick deaths there is none."""
    delays = [restart_delay(deaths) for deaths in range(QUICK_DEATHS_MAX)]
    known = [delay for delay in delays if delay is not None]
    assert len(known) == QUICK_DEATHS_MAX
    assert known == sorted(known)
    assert known[-1] <= 5.0
    assert restart_delay(QUICK_DEATHS_MAX) is None


def test_only_unprovoked_quick_deaths_count() -> None:
    """A death that we caused or that came late starts the count anew; one while a need was away never leads to giving up."""
    assert count_death(3, 1.0, asked=False, blameless=False) == 4
    assert count_death(3, 1.0, asked=True, blameless=False) == 0
    assert count_death(3, 60.0, asked=False, blameless=False) == 0
    assert restart_delay(count_death(QUICK_DEATHS_MAX - 1, 1.0, asked=False, blameless=True)) is not None
