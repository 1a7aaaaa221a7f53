"""The environment and command line of every process: the one place that knows the settings' names of router and cells. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli.local.certificates import edge_files
from cli.local.layout import Layout, Place
from gitops.fleet.log import LOG
from kernel.ids import CellId, ZoneName
from kernel.residency import Fleet

CELL_ROLES: Final = {
    "owner_dsn": "df_owner",
    "apply_dsn": "df_apply",
    "query_dsn": "df_query",
    "audit_dsn": "df_audit",
}
LOG_ROLE: Final = "df_log"
DIRECTORY_ROLE: Final = "df_directory"
CELLS_FILE: Final = "cells.json"
ZONES_FILE: Final = "zones.json"


@dataclass(frozen=True)
class Ground:
    """What the layout alone does not know. `dsn(owner, role)` is a database URL, the superuser's for role ""; `inherited` is passed on;
    `extra` are settings (by field name) that every process of cell and router is given besides its own."""

    layout: Layout
    dsn: Callable[[str, str], str]
    secret_file: Callable[[str, str], Path]
    inherited: Mapping[str, str]
    otlp_endpoint: str = ""
    log_level: str = "info"
    extra: Mapping[str, str] = field(default_factory=dict)


def inherit(environ: Mapping[str, str]) -> dict[str, str]:
    """What a process takes over from ours: nothing that configures Python, DataFlow or a proxy."""
    return {name: environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if name in environ} | {"PYTHONUNBUFFERED": "1"}


def command(place: Place, layout: Layout) -> tuple[str, ...]:
    """The command line of a Python process. PostgreSQL, Kafka and Envoy have their own."""
    python = (sys.executable, "-m")
    if place.kind == "cell":
        return (*python, "cells.app", "--role", "all")
    if place.kind == "directory":
        return (*python, "router.app", "--role", "directory")
    if place.kind == "agent":
        return (*python, "router.app", "--role", "agent")
    if place.kind == "witness":
        return (*python, "router.app", "--role", "witness")
    edges = [f"{layout.ports[f'edge/{r}']},{layout.ports[f'edge-admin/{r}']},/ready" for r in layout.regions_of(place.zone)]
    return (*python, "cli.local.balancer", str(place.port), str(layout.ports[f"zone-status/{place.zone}"]), *edges)


def environment(place: Place, ground: Ground) -> dict[str, str]:
    """All variables of one process."""
    settings: dict[str, str] = {}
    if place.kind == "cell":
        settings = _cell(place, ground)
    elif place.kind == "directory":
        settings = _directory(place, ground)
    elif place.kind == "agent":
        settings = _agent(place, ground)
    elif place.kind == "witness":
        settings = _witness(place, ground)
    settings = {**settings, **ground.extra} if settings else settings
    return {**ground.inherited, **{f"DATAFLOW_{name.upper()}": value for name, value in settings.items()}}


def provision_environment(cell: str, ground: Ground) -> dict[str, str]:
    """For `cells.provision`: the only process of a cell that is told the superuser's URL."""
    shape = LOG.on_one_machine(ground.layout.brokers)
    settings = {
        "admin_dsn": ground.dsn(cell, ""),
        **{name: ground.dsn(cell, role) for name, role in CELL_ROLES.items()},
        **_log(CellId(cell), ground),
        "log_partitions": str(shape.partitions),
        "log_replication": str(shape.replication),
        "log_min_in_sync": str(shape.min_in_sync),
    }
    return {**ground.inherited, **{f"DATAFLOW_{name.upper()}": value for name, value in settings.items()}}


def _cell(place: Place, ground: Ground) -> dict[str, str]:
    cell = ground.layout.fleet.cells[CellId(place.owner)]
    ports = ground.layout.ports
    roles = {name: ground.dsn(place.owner, role) for name, role in CELL_ROLES.items() if name != "owner_dsn"}
    return {
        **_follower(place, ground),
        **roles,
        **_log(cell.name, ground),
        "cell": cell.name,
        "region": cell.region,
        "grpc_address": _local(ports[f"cell-grpc/{cell.name}"]),
        "http_address": _local(ports[f"cell-http/{cell.name}"]),
        "peers": ",".join(f"{name}={_local(ports[f'cell-grpc/{name}'])}" for name in _peers(cell.name, ground.layout.fleet)),
    }


def _peers(cell: CellId, fleet: Fleet) -> list[CellId]:
    """The cell that stands by for this one, and those that this one stands by for."""
    standing_by = {other.name for other in fleet.cells.values() if other.peer == cell}
    mine = fleet.cells[cell].peer
    return sorted(standing_by | ({mine} if mine is not None else set()))


def _log(cell: CellId, ground: Ground) -> dict[str, str]:
    """Where the cell's event log is, and nothing of the other kind's."""
    if ground.layout.log == "postgres":
        return {"log_kind": "postgres", "log_dsn": ground.dsn(cell, LOG_ROLE)}
    return {"log_kind": "kafka", "kafka_bootstrap": ground.layout.kafka_bootstrap(cell), "kafka_topic": f"log.{cell}"}


def _follower(place: Place, ground: Ground) -> dict[str, str]:
    return {
        "zone": place.zone,
        "journal_path": str(place.folder / "placement.journal"),
        "public_key_file": str(ground.secret_file(place.zone, "public-key")),
        "directory_address": _directories(place.zone, ground.layout),
        "follower_token_file": str(ground.secret_file(place.zone, "follower-token")),
        "otlp_endpoint": ground.otlp_endpoint,
        "log_level": ground.log_level,
    }


def _directory(place: Place, ground: Ground) -> dict[str, str]:
    return {
        "zone": place.zone,
        "grpc_address": _local(place.port),
        "directory_dsn": ground.dsn(place.owner, DIRECTORY_ROLE),
        "http_address": _local(ground.layout.ports[f"directory-http/{place.owner}"]),
        "cells_file": str(place.folder / CELLS_FILE),
        "zones_file": str(place.folder / ZONES_FILE),
        "signing_key_file": str(ground.secret_file(place.zone, "signing-key")),
        "operator_token_file": str(ground.secret_file(place.zone, "operator-token")),
        "follower_token_file": str(ground.secret_file(place.zone, "follower-token")),
        "log_level": ground.log_level,
        **({**_quorum(place, ground), "site": place.owner} if ground.layout.sites else {}),
    }


def _quorum(place: Place, ground: Ground) -> dict[str, str]:
    """How a site agrees with the others of its zone; the zone's own port is its witness's."""
    layout, zone = ground.layout, place.zone
    named = [("witness" if owner == zone else owner, _local(layout.ports[f"quorum/{owner}"])) for owner in layout.sites_of(zone)]
    return {
        "sites": ",".join(f"{name}={address}" for name, address in named),
        "quorum_address": _local(layout.ports[f"quorum/{place.owner}"]),
        "quorum_token_file": str(ground.secret_file(zone, "quorum-token")),
    }


def _directories(zone: ZoneName, layout: Layout) -> str:
    """Wherever the zone's directory may answer."""
    return ",".join(_local(layout.ports[f"directory-grpc/{owner}"]) for owner in layout.directories(zone))


def _agent(place: Place, ground: Ground) -> dict[str, str]:
    ports = ground.layout.ports
    certificate, key = edge_files(place.folder)
    return {
        **_follower(place, ground),
        "edge_name": place.owner,
        "region": place.owner,
        "xds_address": _local(place.port),
        "http_address": _local(ports[f"agent-http/{place.owner}"]),
        "edge_address": _local(ports[f"edge/{place.owner}"]),
        "edge_transport": "both",
        "edge_cert_file": str(certificate),
        "edge_key_file": str(key),
        "edge_admin_address": _local(ports[f"edge-admin/{place.owner}"]),
        "bootstrap_path": str(bootstrap_path(place)),
    }


def _witness(place: Place, ground: Ground) -> dict[str, str]:
    return {
        "zone": place.zone,
        "directory_address": _directories(place.zone, ground.layout),
        "follower_token_file": str(ground.secret_file(place.zone, "follower-token")),
        "http_address": _local(place.port),
        "log_level": ground.log_level,
        **({**_quorum(place, ground), "ballot_path": str(place.folder / "ballot.json")} if ground.layout.sites else {}),
    }


def bootstrap_path(place: Place) -> Path:
    """Where a region's agent writes what its Envoy starts from."""
    return place.folder / "envoy.json"


def topology_files(place: Place, layout: Layout) -> dict[str, object]:
    """What the directory of `place` reads besides its environment, by file name, as JSON values."""
    cells = [
        {
            "cell": cell.name,
            "region": cell.region,
            "grpc_address": _local(layout.ports[f"cell-grpc/{cell.name}"]),
            "http_address": _local(layout.ports[f"cell-http/{cell.name}"]),
            "weight": cell.weight,
            "capacity": cell.capacity,
            "peer": cell.peer or "",
        }
        for cell in layout.fleet.cells_of(place.zone)
    ]
    return {CELLS_FILE: cells, ZONES_FILE: {zone: layout.zone_url(zone) for zone in sorted(layout.fleet.zones)}}


def _local(port: int) -> str:
    return f"127.0.0.1:{port}"
