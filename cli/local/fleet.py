"""A whole fleet on this machine: prepares its folders and secrets, runs its processes, ends them.

async with LocalFleet(Path("/tmp/f"), port_base=8400) as fleet:
    await fleet.wait_until_ready(120)
    fleet.kill("cell/eu-west-1-a")
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.errors import Unable
from cli.local import binaries, certificates, probe
from cli.local.access import Access
from cli.local.databases import own_database
from cli.local.environment import (
    DIRECTORY_ROLE,
    Ground,
    bootstrap_path,
    command,
    environment,
    inherit,
    provision_environment,
    topology_files,
)
from cli.local.layout import PORT_BASE, Layout, Log, Place, lay_out, select
from cli.local.order import Spec
from cli.local.ports import check_ports
from cli.local.postgres import Postgres, check_disk
from cli.local.state import StateFolder
from cli.local.supervisor import Status, Supervisor
from gitops.fleet import FLEET
from kernel.ids import ZoneName
from kernel.residency import Fleet

READY_SECONDS: Final = 180.0
_PROVISION_SECONDS: Final = 60.0
_ENVOY_FLAGS: Final = ("--log-level", "warning", "--concurrency", "1", "--disable-hot-restart")
Watcher = Callable[[Mapping[str, Status]], None]


class LocalFleet:
    """One fleet in one state directory. Start it on the main thread. `access` knows endpoints, database URLs and tokens.

    `log` keeps each cell's events: its PostgreSQL, or a Kafka of its own with `brokers` nodes, 1 or 3. With `sites` each region keeps its
    zone's directory. `settings` (by field name, e.g.
    headers_seconds) are given to every process of cell and router besides its own.
    """

    def __init__(
        self,
        state: Path,
        port_base: int = PORT_BASE,
        *,
        fleet: Fleet = FLEET,
        cells: Sequence[str] = (),
        log: Log = "postgres",
        brokers: int = 1,
        sites: bool = False,
        postgres_url: str = "",
        otlp_endpoint: str = "",
        settings: Mapping[str, str] | None = None,
        watcher: Watcher = lambda _: None,
    ) -> None:
        self.layout = lay_out(select(fleet, cells), state, port_base, log, brokers, sites)
        self.state = StateFolder(state)
        self.access = Access(self.layout, self.state, postgres_url)
        self._postgres_url = postgres_url
        self._otlp_endpoint = otlp_endpoint
        self._settings = dict(settings or {})
        self._watcher = watcher
        self._supervisor: Supervisor | None = None
        self._provisioned: set[str] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """Checks the machine and begins to start processes; `wait_until_ready` follows. Raises Unable, having started nothing."""
        binaries.check_platform()
        binaries.envoy()
        binaries.postgres_bin()
        layout = self.layout
        if layout.log == "kafka":
            binaries.java()
            binaries.kafka_libs()
        self.state.acquire()
        try:
            self.state.check_log(layout.log, layout.brokers)
            self.state.check_sites(layout.sites)
            check_disk(self.layout.state)
            await check_ports(self._ports())
            specs = await asyncio.to_thread(self._specs)
            cells = tuple(sorted(layout.fleet.cells))
            shape = (layout.log, layout.brokers, layout.sites)
            self.state.write_ports(self._ports(), cells, layout.port_base, self._postgres_url, *shape)
            if self._postgres_url:
                directories = [owner for zone in self.access.zones() for owner in layout.directories(ZoneName(zone))]
                for owner in (*directories, *(cells if layout.log == "postgres" else ())):
                    await self._database_of(owner, self._ground())()
            self._supervisor = Supervisor(specs, self._changed)
            self._supervisor.start()
        except BaseException:
            self.state.release()
            raise

    async def wait_until_ready(self, seconds: float = READY_SECONDS, names: Sequence[str] = ()) -> None:
        """Until all processes, or those named, are ready. Raises Unable naming the process and its problem."""
        await self._running.wait_until_ready(seconds, names)

    async def wait_until_failed(self) -> str:
        """Which process was given up, and why."""
        return await self._running.wait_until_failed()

    @property
    def statuses(self) -> Mapping[str, Status]:
        """All processes by name, in start order."""
        return self._running.statuses

    def pid(self, name: str) -> int:
        """Its process id. Raises Unable when it does not run."""
        return self._running.pid(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signals one process, e.g. `cell/<cell>`, `postgres/<cell>`, `kafka/<cell>` (of three brokers `kafka/<cell>/2`); it is restarted
        unless held. Its former id."""
        return self._running.kill(name, number)

    def hold(self, name: str) -> None:
        """Once it ends it stays down, until `release`."""
        self._running.hold(name)

    def release(self, name: str) -> None:
        """It is started again."""
        self._running.release(name)

    async def stop(self) -> None:
        """Drains everything and leaves no process; then the state directory is free."""
        if self._supervisor is not None:
            await self._supervisor.stop()
            self._supervisor = None
        self.state.release()

    async def abort(self) -> None:
        """SIGKILL to everything; `stop` afterwards finds nothing to drain."""
        await self._running.abort()

    def dsn(self, owner: str, role: str = "") -> str:
        """The database URL of a cell, or of a zone's directory, for one of its roles; the superuser's for role ""."""
        return role_dsn(self.access, owner, role)

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise Unable("the fleet is not started")
        return self._supervisor

    def _ports(self) -> dict[str, int]:
        return {name: port for name, port in self.layout.ports.items() if not (self._postgres_url and "postgres" in name)}

    def _changed(self, statuses: Mapping[str, Status]) -> None:
        self.state.write_processes(statuses)
        self._watcher(statuses)

    def _ground(self) -> Ground:
        return Ground(
            self.layout,
            dsn=self.dsn,
            secret_file=partial(_secret_file, self.state),
            inherited=inherit(os.environ),
            otlp_endpoint=self._otlp_endpoint,
            extra=self._settings,
        )

    def _specs(self) -> list[Spec]:
        """Makes folders and secrets, then one specification for each place."""
        ground = self._ground()
        places = [place for place in self.layout.places() if not (self._postgres_url and place.kind == "postgres")]
        known = {place.name for place in places}
        for place in places:
            _lay_files(self.layout, place)
        return [self._spec(place, ground, tuple(name for name in place.after if name in known)) for place in places]

    def _spec(self, place: Place, ground: Ground, after: tuple[str, ...]) -> Spec:
        if place.kind == "kafka":
            return self._kafka_spec(place, ground, after)
        if place.kind == "postgres":
            server: Postgres = self.access.postgres(place.owner)
            makes = place.owner not in self.layout.fleet.cells or self.layout.log == "postgres"
            return Spec(
                place.name,
                tuple(server.argv()),
                server.env(),
                place.log,
                server.probe,
                place.port,
                after,
                stop_signal=signal.SIGINT,
                stop_seconds=30.0,
                death_signal=signal.SIGINT,
                user=binaries.service_user(),
                prepare=partial(asyncio.to_thread, server.prepare),
                finish=self._database_of(place.owner, ground) if makes else None,
            )
        if place.kind == "envoy":
            argv = (str(binaries.envoy()), "-c", str(bootstrap_path(place)), *_ENVOY_FLAGS)
            return Spec(place.name, argv, inherit(os.environ), place.log, _ready(self.layout, place), place.port, after)
        env = environment(place, ground)
        return Spec(place.name, command(place, self.layout), env, place.log, _ready(self.layout, place), place.port, after)

    def _kafka_spec(self, place: Place, ground: Ground, after: tuple[str, ...]) -> Spec:
        """Behind the last node of a cell's Kafka everything is ready in which its database and its log are made."""
        node = self.access.kafka(place)
        last = place.node == self.layout.brokers
        return Spec(
            place.name,
            tuple(node.argv()),
            node.env(),
            place.log,
            node.probe,
            place.port,
            after,
            prepare=partial(asyncio.to_thread, node.prepare),
            finish=self._database_of(place.owner, ground) if last else None,
        )

    def _database_of(self, owner: str, ground: Ground) -> Callable[[], Awaitable[None]]:
        """What makes the database (and the log) of a cell, or the database of a zone's directory, where all that it takes is ready."""
        if owner not in self.layout.fleet.cells:
            return partial(self._own_directory_database, owner)
        return partial(self._provision_once, owner, provision_environment(owner, ground))

    async def _provision_once(self, cell: str, env: Mapping[str, str]) -> None:
        """A restarted PostgreSQL finds its database as it was."""
        if cell not in self._provisioned:
            await _provision(cell, env)
            self._provisioned.add(cell)

    async def _own_directory_database(self, zone: str) -> None:
        """A directory migrates itself, in a database that it owns."""
        own = urlsplit(self.dsn(zone, DIRECTORY_ROLE))
        server, _, database = self.access.admin_dsn(zone).rpartition("/")
        await own_database(f"{server}/postgres", database, own.username or "", own.password or "")


async def _provision(cell: str, env: Mapping[str, str]) -> None:
    """Runs `cells.provision` to its end. Raises Unable with its last words."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cells.provision", env=dict(env), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_PROVISION_SECONDS):
            _, said = await running.communicate()
    except TimeoutError:
        running.kill()
        await running.wait()
        raise Unable(f"the database of {cell} was not made within {_PROVISION_SECONDS:.0f} s", "see its PostgreSQL's log") from None
    if running.returncode:
        raise Unable(f"the database of {cell} cannot be made: {said.decode(errors='replace').strip()[-500:]}")


def role_dsn(access: Access, owner: str, role: str) -> str:
    """See `LocalFleet.dsn`. On a foreign server roles are shared by all cells, so their passwords are too."""
    admin = access.admin_dsn(owner)
    if not role:
        return admin
    zone = next(place.zone for place in access.layout.places() if place.kind == "postgres" and place.owner == owner)
    secret = access.state.secret("shared", role) if access.postgres_url else access.state.secret(zone, f"{role}-{owner}")
    scheme, _, rest = admin.partition("://")
    return f"{scheme}://{role}:{secret}@{rest.rpartition('@')[2]}"


def _ready(layout: Layout, place: Place) -> probe.Probe:
    ports = layout.ports
    if place.kind == "envoy":
        return probe.http(ports[f"edge-admin/{place.owner}"], "/ready")
    purpose = {
        "cell": "cell-http",
        "directory": "directory-http",
        "agent": "agent-http",
        "endpoint": "zone-status",
        "witness": "witness-http",
    }[place.kind]
    return probe.http(ports[f"{purpose}/{place.owner}"])


def _secret_file(state: StateFolder, zone: str, name: str) -> Path:
    """The file that holds the secret, which is made when it is not there. The public key is derived from the signing key."""
    if name in ("signing-key", "public-key"):
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(state.signing_key(zone)))
        if name == "public-key":
            state.keep(zone, name, lambda: private.public_key().public_bytes_raw().hex())
    else:
        state.secret(zone, name)
    return state.path / "zones" / zone / "secrets" / name


def _lay_files(layout: Layout, place: Place) -> None:
    """The place's folder, its log's, its topology or its certificate. Others may pass through, not look: PostgreSQL may run as `nobody`."""
    for folder in (place.folder, place.log.parent):
        for one in [*reversed(folder.relative_to(layout.state).parents), folder.relative_to(layout.state)]:
            path = layout.state / one
            if not path.is_dir():
                path.mkdir(parents=True)
                path.chmod(0o711)
    if place.kind == "directory":
        for name, content in topology_files(place, layout).items():
            (place.folder / name).write_text(json.dumps(content, indent=1))
    if place.kind == "agent":
        certificates.certify(layout.zone_folder(place.zone), place.zone, place.owner, place.folder)


def erase(state: Path) -> None:
    """Removes everything of a fleet that does not run. Raises Unable when it runs, or when the folder is not a fleet's."""
    folder = StateFolder(state)
    if not state.exists():
        return
    if not (state / "lock").exists():
        raise Unable(f"{state} is not a fleet's state directory", "nothing was removed")
    folder.acquire()
    try:
        for name in ("zones", "ports.json", "processes.json", "postgres-url"):
            path = state / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    finally:
        folder.release()
