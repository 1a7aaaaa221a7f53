"""The layout of a fleet on one machine, and the pure decisions of its supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.errors import Unable
from cli.local import probe
from cli.local.layout import PORTS_TOTAL, Layout, lay_out, select
from cli.local.order import QUICK_DEATHS_MAX, Spec, count_death, restart_delay, waves
from gitops.fleet import FLEET
from gitops.fleet.log import LOG, LogShape
from kernel.ids import CellId, RegionName, ZoneName
from kernel.residency import Cell, Fleet, Zone

LAYOUT = lay_out(FLEET, Path("/state"), 7400)
KAFKA = lay_out(FLEET, Path("/state"), 7400, "kafka")
THREE = lay_out(FLEET, Path("/state"), 7400, "kafka", 3)
SITES = lay_out(FLEET, Path("/state"), 7400, "kafka", 3, sites=True)


def spec(name: str, *after: str) -> Spec:
    return Spec(name, ("/bin/true",), {}, Path("/log"), probe.tcp(1), 1, after)


@pytest.mark.parametrize("layout", [LAYOUT, KAFKA, THREE, SITES], ids=["postgres", "kafka", "three", "sites"])
def test_ports_are_distinct_and_inside_the_stated_range(layout: Layout) -> None:
    """No two purposes share a port, and a fleet beside another needs only another base."""
    ports = list(layout.ports.values())
    assert len(set(ports)) == len(ports)
    assert min(ports) == 7400
    assert max(ports) < 7400 + PORTS_TOTAL
    other = lay_out(FLEET, Path("/other"), 7400 + PORTS_TOTAL, layout.log, layout.brokers, layout.sites)
    assert not set(ports) & set(other.ports.values())
    assert layout.ports.items() >= LAYOUT.ports.items()


def test_every_cell_region_and_zone_has_its_processes() -> None:
    """Per cell a PostgreSQL and a cell; per region an agent and an Envoy; per zone a PostgreSQL, a directory, a witness and an
    endpoint."""
    names = {place.name for place in LAYOUT.places()}
    cells = set(FLEET.cells)
    regions = {cell.region for cell in FLEET.cells.values()}
    expected = {f"{kind}/{cell}" for cell in cells for kind in ("postgres", "cell")}
    expected |= {f"{kind}/{region}" for region in regions for kind in ("agent", "envoy")}
    expected |= {f"{kind}/{zone}" for zone in FLEET.zones for kind in ("postgres", "directory", "witness", "endpoint")}
    assert names == expected


def test_every_cell_has_a_kafka_of_its_own_before_it() -> None:
    """With Kafka a cell starts after all of its own brokers, whose last one waits for the rest: the log is made behind it."""
    for layout in (KAFKA, THREE):
        places = {place.name: place for place in layout.places()}
        for cell in FLEET.cells:
            brokers = [f"kafka/{cell}"] if layout.brokers == 1 else [f"kafka/{cell}/{node}" for node in (1, 2, 3)]
            assert places[f"cell/{cell}"].after == (f"postgres/{cell}", *brokers)
            assert [places[name].node for name in brokers] == list(range(1, layout.brokers + 1))
            assert {places[name].owner for name in brokers} == {cell}
            assert places[brokers[-1]].after == (f"postgres/{cell}", *brokers[:-1])
            assert layout.kafka_bootstrap(cell) == ",".join(f"127.0.0.1:{places[name].port}" for name in brokers)
        assert len({place.folder for place in places.values() if place.kind == "kafka"}) == len(FLEET.cells) * layout.brokers
    assert {place.name for place in KAFKA.places() if place.kind != "kafka"} == {place.name for place in LAYOUT.places()}


def test_with_sites_every_region_keeps_its_zones_directory() -> None:
    """Each has a directory and a PostgreSQL of its own, and the zone has none; a zone of one region cannot have it so."""
    names = {place.name for place in SITES.places()}
    for zone in FLEET.zones:
        assert SITES.directories(zone) == SITES.regions_of(zone)
        assert f"directory/{zone}" not in names
        assert {f"{kind}/{region}" for region in SITES.regions_of(zone) for kind in ("directory", "postgres")} <= names
    with pytest.raises(Unable, match="one region"):
        lay_out(select(FLEET, ["eu-west-1-a"]), Path("/state"), sites=True)


@pytest.mark.parametrize("layout", [LAYOUT, THREE, SITES], ids=["postgres", "three", "sites"])
def test_nothing_of_a_zone_lies_in_another(layout: Layout) -> None:
    """Folders and logs of a process lie below its own zone, and it waits for processes of its own zone only."""
    places = {place.name: place for place in layout.places()}
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
    """More than ten of a kind, a port base without room, two brokers and a wrong declaration are errors before anything starts."""
    zone = ZoneName("eu")
    many = {CellId(f"c-{n}"): Cell(CellId(f"c-{n}"), zone, RegionName("eu-west-1")) for n in range(11)}
    with pytest.raises(Unable, match="at most 10"):
        lay_out(Fleet({zone: Zone(zone, "https://x")}, many), Path("/state"))
    with pytest.raises(Unable, match="port base 65530"):
        lay_out(FLEET, Path("/state"), 65_530)
    with pytest.raises(Unable, match="cannot have 2 brokers"):
        lay_out(FLEET, Path("/state"), 7400, "kafka", 2)
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


@pytest.mark.parametrize(("brokers", "kept"), [(1, (1, 1)), (3, (3, 2)), (5, (3, 2))])
def test_one_machine_keeps_what_its_brokers_allow(brokers: int, kept: tuple[int, int]) -> None:
    """Never more copies than brokers, never fewer in sync than that one of three may die, never more than is declared."""
    shape = LOG.on_one_machine(brokers)
    assert (shape.replication, shape.min_in_sync) == kept
    assert shape.partitions <= LOG.partitions
    assert (LOG.replication, LOG.min_in_sync) == (3, 2)


@pytest.mark.parametrize("wrong", [(0, 3, 2), (12, 3, 4), (12, 3, 0)])
def test_a_log_that_cannot_be_is_refused(wrong: tuple[int, int, int]) -> None:
    """A log has partitions, and at least one and at most all of its copies in sync."""
    with pytest.raises(ValueError, match="no log can be"):
        LogShape(*wrong)
