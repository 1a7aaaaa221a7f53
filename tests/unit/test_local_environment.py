"""What the processes of a fleet are given is what they read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cells.config
import router.config
from cli.local.environment import Ground, command, environment, inherit, provision_environment, topology_files
from cli.local.layout import Layout, Place, lay_out
from gitops.fleet import FLEET
from kernel.ids import ZoneName
from kernel.process import settings

LAYOUT = lay_out(FLEET, Path("/state"), 7400)
KAFKA = lay_out(FLEET, Path("/state"), 7400, "kafka", 3)
SITES = lay_out(FLEET, Path("/state"), 7400, sites=True)


def ground_of(layout: Layout) -> Ground:
    return Ground(
        layout,
        dsn=lambda owner, role: f"postgresql://{role or 'postgres'}:secret@127.0.0.1:1/{owner}",
        secret_file=lambda zone, name: layout.zone_folder(zone) / "secrets" / name,  # type: ignore[arg-type]  # a zone's name
        inherited={"PATH": "/bin"},
    )


GROUND = ground_of(LAYOUT)
PLACES = {place.name: place for place in LAYOUT.places()}


def test_a_cell_reads_what_it_is_given() -> None:
    """Every cell's settings parse, name the cell, and give each role a database URL of its own."""
    for name in FLEET.cells:
        config = settings.load(cells.config.Config, environment(PLACES[f"cell/{name}"], GROUND))
        assert (config.cell, config.zone) == (name, FLEET.cells[name].zone)
        roles = [cells.config.role_and_password(dsn)[0] for dsn in (config.log_dsn, config.apply_dsn, config.query_dsn, config.audit_dsn)]
        assert len(set(roles)) == 4
        assert "postgres" not in roles


def test_a_cell_is_told_where_its_log_is() -> None:
    """With Kafka a cell and what makes its log read the same: the cell's own brokers, a topic of its own, what they can keep."""
    topics = set()
    for place in KAFKA.places():
        if place.kind != "cell":
            continue
        own = settings.load(cells.config.Config, environment(place, ground_of(KAFKA)))
        maker = settings.load(cells.config.ProvisionConfig, provision_environment(place.owner, ground_of(KAFKA)))
        access = cells.config.kafka_access(own)
        assert (own.log_kind, maker.log_kind) == ("kafka", "kafka")
        assert own.log_dsn == maker.log_dsn == ""
        assert access == cells.config.kafka_access(maker)
        assert access.bootstrap == KAFKA.kafka_bootstrap(own.cell)  # type: ignore[arg-type]  # a cell's name
        assert (maker.log_partitions, maker.log_replication, maker.log_min_in_sync) == (2, 3, 2)
        topics.add(access.topic)
    assert len(topics) == len(FLEET.cells)


def test_without_kafka_the_log_is_postgres() -> None:
    """No cell without Kafka is told of one, and its log has as many partitions as with Kafka."""
    for name in FLEET.cells:
        own = settings.load(cells.config.Config, environment(PLACES[f"cell/{name}"], GROUND))
        maker = settings.load(cells.config.ProvisionConfig, provision_environment(name, GROUND))
        assert (own.log_kind, own.kafka_bootstrap, maker.log_kind, maker.log_partitions) == ("postgres", "", "postgres", 2)


def test_a_directory_reads_what_it_is_given(tmp_path: Path) -> None:
    """Its settings parse; its files hold its own zone's cells, at the addresses that these are given, and every zone's endpoint."""
    place = PLACES["directory/eu"]
    own = router.config.directory(environment(place, GROUND))
    assert own.zone == "eu"
    files = topology_files(place, LAYOUT)
    listed = files[own.cells_file.name]
    assert isinstance(listed, list)
    given = {name: environment(PLACES[f"cell/{name}"], GROUND) for name in FLEET.cells}
    assert {row["cell"]: row["grpc_address"] for row in listed} == {
        cell.name: given[cell.name]["DATAFLOW_GRPC_ADDRESS"] for cell in FLEET.cells.values() if cell.zone == "eu"
    }
    assert json.loads(json.dumps(files[own.zones_file.name])) == {"eu": "http://127.0.0.1:7400", "us": "http://127.0.0.1:7401"}


def test_the_sites_of_a_zone_read_the_same() -> None:
    """Every site and the witness are told the same sites and the same token's file, each which of them it is; whoever follows the directory
    is told where all of them answer."""
    ground, zone = ground_of(SITES), ZoneName("eu")
    places = {place.name: place for place in SITES.places()}
    told = {}
    for region in SITES.regions_of(zone):
        own = router.config.directory(environment(places[f"directory/{region}"], ground))
        assert own.site == region
        told[own.site] = (own.sites, own.quorum_address, own.quorum_token_file, own.grpc_address)
    witness = router.config.witness(environment(places[f"witness/{zone}"], ground))
    assert witness.ballot_path.startswith(str(places[f"witness/{zone}"].folder))
    told["witness"] = (witness.sites, witness.quorum_address, witness.quorum_token_file, "")
    (sites,) = {one[0] for one in told.values()}
    assert sites.split(",") == [f"{name}={told[name][1]}" for name in (*sorted(set(told) - {"witness"}), "witness")]
    assert len({one[2] for one in told.values()}) == 1
    answering = ",".join(told[name][3] for name in sorted(set(told) - {"witness"}))
    followers = [places[f"cell/{cell.name}"] for cell in FLEET.cells.values() if cell.zone == zone]
    for place in (*followers, places["agent/eu-west-1"], places[f"witness/{zone}"]):
        assert environment(place, ground)["DATAFLOW_DIRECTORY_ADDRESS"] == answering


def test_an_agent_reads_what_it_is_given() -> None:
    """Its settings parse, and the balancer of its zone forwards to the edge that it configures."""
    place = PLACES["agent/eu-west-1"]
    own = router.config.agent(environment(place, GROUND))
    assert own.region == "eu-west-1"
    port, admin = (address.rpartition(":")[2] for address in (own.edge_address, own.edge_admin_address))
    assert f"{port},{admin},/ready" in command(PLACES["endpoint/eu"], LAYOUT)


@pytest.mark.parametrize(
    ("layout", "place"),
    [(layout, place) for layout in (KAFKA, SITES) for place in layout.places()],
    ids=lambda one: one.name if isinstance(one, Place) else "sites" if one.sites else "kafka",
)
def test_no_process_is_told_of_another_zone(layout: Layout, place: Place) -> None:
    """Neither the environment nor the command line of a process names a file or a port of another zone."""
    if place.kind in ("postgres", "kafka", "envoy"):
        return
    foreign = "us" if place.zone == "eu" else "eu"
    text = json.dumps([environment(place, ground_of(layout)), command(place, layout)])
    assert f"/zones/{foreign}/" not in text
    others = {str(port) for name, port in layout.ports.items() if name.split("/")[1].startswith(foreign)}
    assert not [port for port in others if f":{port}" in text or f'"{port}' in text]


def test_our_own_settings_are_not_inherited() -> None:
    """A DATAFLOW_ variable, a proxy or PYTHONPATH of the user's shell does not reach the processes."""
    kept = inherit({"PATH": "/bin", "DATAFLOW_ZONE": "x", "HTTP_PROXY": "y", "PYTHONPATH": "z"})
    assert kept == {"PATH": "/bin", "PYTHONUNBUFFERED": "1"}
