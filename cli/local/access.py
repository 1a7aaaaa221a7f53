"""How to reach a fleet that runs (or ran) in a state directory: endpoints, database URLs, tokens, keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.directory import Directory
from cli.errors import Unable
from cli.local import certificates
from cli.local.kafka import Kafka, Ports
from cli.local.layout import Layout, Place, lay_out, select
from cli.local.postgres import Postgres
from cli.local.state import StateFolder
from cli.query import Query
from gitops.fleet import FLEET
from kernel.ids import CellId, ZoneName
from kernel.residency import Fleet

_KEY_SPREADS_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Access:
    """Reads the layout and the secrets; starts nothing."""

    layout: Layout
    state: StateFolder
    postgres_url: str = ""

    def zones(self) -> tuple[ZoneName, ...]:
        """The fleet's zones in name order."""
        return tuple(sorted(self.layout.fleet.zones))

    def zone_endpoint(self, zone: str) -> str:
        """`http://127.0.0.1:<port>` of the zone's endpoint. HTTP and gRPC are on the same port."""
        return f"http://{self.zone_address(zone)}"

    def authority_file(self, zone: str) -> Path:
        """What a client trusts who speaks TLS with the zone's endpoint: `https://` on the same port. PEM."""
        return certificates.authority_file(self.layout.zone_folder(self.zone(zone)))

    def zone_address(self, zone: str) -> str:
        """`127.0.0.1:<port>`, for gRPC channels."""
        return f"127.0.0.1:{self.layout.ports[f'zone/{self.zone(zone)}']}"

    def zone(self, name: str) -> ZoneName:
        """The zone of this name. Raises Unable."""
        if name not in self.layout.fleet.zones:
            raise Unable(f"there is no residency zone {name}", f"there are {', '.join(self.zones())}")
        return ZoneName(name)

    def zone_of_cell(self, cell: str) -> ZoneName:
        """The residency zone that a cell lies in. Raises Unable."""
        found = self.layout.fleet.cells.get(CellId(cell))
        if found is not None:
            return found.zone
        raise Unable(f"there is no cell {cell}", "`dataflow cells list` shows all")

    def postgres(self, owner: str) -> Postgres:
        """The server of a cell, or of a zone's directory when `owner` is a zone. Its `dsn()` is the superuser's."""
        for place in self.layout.places():
            if place.kind == "postgres" and place.owner == owner:
                return Postgres(place.folder, place.port, self.state.secret(place.zone, f"postgres-{owner}"))
        raise Unable(f"no cell and no zone is called {owner}")

    def kafka(self, place: Place) -> Kafka:
        """The node of a cell's Kafka that has this place."""
        ports, names = self.layout.ports, self.layout.broker_names(CellId(place.owner))
        nodes = tuple(Ports(ports[f"cell-kafka/{name}"], ports[f"cell-kafka-controller/{name}"]) for name in names)
        return Kafka(place.folder, place.owner, nodes, place.node)

    def admin_dsn(self, owner: str) -> str:
        """The superuser's URL of the database of a cell, or of a zone's directory."""
        database = "cell" if owner in self.layout.fleet.cells else "directory"
        if self.postgres_url:
            return f"{self.postgres_url.rstrip('/')}/{database}_{owner.replace('-', '_')}"
        return self.postgres(owner).dsn(database)

    def operator_token(self, zone: str) -> str:
        """May do everything in the zone's directory."""
        return self.state.secret(self.zone(zone), "operator-token")

    def follower_token(self, zone: str) -> str:
        """May watch the zone's placement."""
        return self.state.secret(self.zone(zone), "follower-token")

    def sites(self, zone: str) -> list[tuple[str, int]]:
        """Who keeps the zone's directory, and the witness, each with the port of its pages. One process alone has the zone's name."""
        name, ports = self.zone(zone), self.layout.ports
        found = [(owner, ports[f"directory-http/{owner}"]) for owner in self.layout.directories(name)]
        return [*found, ("witness", ports[f"witness-http/{name}"])]

    def directory(self, zone: str) -> Directory:
        """A client of the zone's directory; close it."""
        ports = (self.layout.ports[f"directory-grpc/{owner}"] for owner in self.layout.directories(self.zone(zone)))
        return Directory([f"127.0.0.1:{port}" for port in ports], self.operator_token(zone))

    async def query(self, zone: str, tenant: str) -> Query:
        """A client that reads the tenant's events through its zone's endpoint; close it.

        Its read key is minted when first asked for and kept with the zone's secrets.
        """
        name = f"read-key-{tenant}"
        if self.state.has(self.zone(zone), name):
            return Query(self.zone_address(zone), self.state.keep(zone, name, str))
        async with self.directory(zone) as directory:
            fresh = await directory.create_read_key(tenant)
        return Query(self.zone_address(zone), self.state.keep(zone, name, lambda: fresh), _KEY_SPREADS_SECONDS)


def attach(path: Path, fleet: Fleet = FLEET) -> Access:
    """The access to the fleet that was last started in `path`. Raises Unable when there was none."""
    state = StateFolder(path)
    started = state.started()
    layout = lay_out(select(fleet, started.cells), path, started.port_base, started.log, started.brokers, started.sites)
    return Access(layout, state, started.postgres_url)
