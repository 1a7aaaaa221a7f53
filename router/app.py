"""Builds the router's processes: `python -m router.app --role directory|agent|witness`. Settings are read by router/config.py."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.metrics import Meter
from kernel.process import lifecycle, logs
from kernel.process.clock import SystemClock
from kernel.process.journal import FileJournal, Signer
from kernel.process.settings import BadSettings
from kernel.process.telemetry import PrometheusMeter
from router import config, metrics, probes
from router.agent.api_observe import GrpcSights
from router.agent.follow import Follower
from router.agent.keeper import Keeper
from router.agent.observe import Observer
from router.api import server as api
from router.api.client import DirectoryFeed
from router.api.mirror import Mirror, open_mirror
from router.api.service import RouterService
from router.api.tokens import Tokens
from router.evacuation.api_cells import GrpcCells
from router.evacuation.cells import Cells
from router.evacuation.execute import Executor
from router.evacuation.failover import Failovers
from router.evacuation.joins import Joins
from router.evacuation.lookout import Lookout
from router.evacuation.make import Log, Wiring
from router.placement.entry import WITNESS
from router.placement.postgres import open_store
from router.placement.postgres_replica import PostgresReplica, open_replica
from router.placement.steps import standby_of
from router.placement.store import Store
from router.placement.table import Tenant, Topology
from router.quorum import api_grpc as quorum_api
from router.quorum.api_client import GrpcPeer
from router.quorum.api_grpc import QuorumGrpc
from router.quorum.ballot_file import BallotFile
from router.quorum.election import Election
from router.quorum.site import Site
from router.quorum.voter import Voter
from router.xds import server as xds
from router.xds.bootstrap import EdgeIdentity, bootstrap
from router.xds.listener import Listen
from router.xds.tls import secret

DRAIN_SECONDS = 2.0
_NO_MAP = "neither the disk nor the directory has given a map yet"


@dataclass
class _Directory:
    """What a directory process has for as long as it runs; `mirror` while it leads."""

    own: config.DirectorySettings
    topology: Topology
    tokens: Tokens
    signer: Signer
    log: Log
    meter: PrometheusMeter = field(default_factory=lambda: PrometheusMeter(metrics.DIRECTORY))
    health: lifecycle.Health = field(default_factory=lifecycle.Health)
    mirror: Mirror | None = None
    site: Site | None = None
    stop: asyncio.Event | None = None

    def problems(self) -> dict[str, str]:
        """Why it is not ready."""
        found = dict(self.health.problems)
        if self.stop is not None and self.stop.is_set():
            found["drain"] = "stopping"
        if self.site is not None and not self.site.hears:
            found["leader"] = "this site hears no leader, and no majority would have it lead"
        return found

    def status(self) -> dict[str, object]:
        """For a person."""
        told = {"role": "directory", "zone": self.own.zone, "leads": self.mirror is not None}
        if self.site is not None:
            told |= _heard(self.site)
        if self.mirror is not None:
            told |= {"revision": self.mirror.table.revision, "tenants": len(self.mirror.table.tenants)}
        return told


def _heard(voter: Voter) -> dict[str, object]:
    """What a site knows of its zone's directory, for a person."""
    return {"site": voter.name, "leader": voter.leader if voter.hears else "", "term": voter.told.term, "entry": voter.told.number}


async def run_directory(own: config.DirectorySettings, stop: asyncio.Event) -> None:
    """The zone's directory, or one site's part of it."""
    log = logs.configure("directory", own.log_level).bind(zone=own.zone)
    quorum = own.quorum()
    parts = _Directory(own, own.topology(), own.tokens(), Signer(own.signing_key()), log, stop=stop)
    pages = probes.application(parts.problems, parts.status, parts.meter.exposition)
    if quorum is None:
        async with open_store(own.directory_dsn, own.zone) as store, probes.serving(pages, *config.address(own.http_address)):
            await _lead(parts, store, stop)
    else:
        async with open_replica(own.directory_dsn, own.zone) as replica, probes.serving(pages, *config.address(own.http_address)):
            await _agree(parts, quorum, replica, stop)
    log.info("drained")


async def _agree(parts: _Directory, quorum: config.Quorum, replica: PostgresReplica, stop: asyncio.Event) -> None:
    """A site's part: it votes, keeps what the leader offers, and leads when it is elected."""
    zone, sites = parts.own.zone, quorum.sites
    peers = {name: GrpcPeer(zone, name, address, quorum.token) for name, address in sites.others.items()}
    site = parts.site = Site(sites.own, replica, peers, SystemClock())
    election = Election(site, sites.own == sites.founder, random.random, parts.meter, parts.log)
    replica.agrees = election
    server = await quorum_api.serve(QuorumGrpc(zone, quorum.token, site, replica), quorum.address)
    parts.health.set("start", None)
    parts.log.info("serving sites", bind=quorum.address, site=sites.own)
    await election.run(lambda over: _lead(parts, replica, over), stop)
    await server.stop(0)
    for peer in peers.values():
        await peer.close()


async def _lead(parts: _Directory, store: Store, stop: asyncio.Event) -> None:
    """Until `stop`: mirror, moves and gRPC; drained in the opposite order."""
    own, log, meter, clock = parts.own, parts.log, parts.meter, SystemClock()
    try:
        revision = await store.adopt(parts.topology)
    except Failure as failure:
        if failure.reason is not Reason.SNAPSHOT_REFUSED or parts.site is None:
            raise
        # The other site knew of more cells. Whoever is left has to lead with what all agreed on.
        revision = await store.revision()
        log.error("leads with the cells that are known, not with those of its file", why=str(failure))
    mirror = parts.mirror = await open_mirror(store, meter)
    cells = GrpcCells(lambda name: mirror.table.cells.get(name), parts.signer, clock)
    moves = Executor(_moving(store, cells, clock, meter, log, mirror))
    joins = Joins(store, lambda: mirror.table, lambda: f"join-{secrets.token_hex(6)}", mirror.refresh, clock, meter)
    failovers = Failovers(store, cells, clock, lambda: mirror.table, mirror.refresh)
    lookout = Lookout(failovers, clock, meter, log, own.failover_after_seconds)
    service = RouterService(store, mirror, parts.signer, meter, clock, secrets.token_bytes, lookout, moves.making.progress)
    following = asyncio.create_task(_all(mirror.follow(stop), moves.run(stop), lookout.run(stop), joins.run(stop)))
    try:
        server = await api.serve(service, parts.tokens, meter, own.grpc_address)
        meter.set(metrics.DIRECTORY_LEADS, 1.0)
        parts.health.set("start", None)
        log.info("serving", bind=own.grpc_address, revision=revision, tenants=len(mirror.table.tenants))
        await _until(stop, following)
        await server.drain(DRAIN_SECONDS)
    finally:
        parts.mirror = None
        meter.set(metrics.DIRECTORY_LEADS, 0.0)
        stop.set()
        await following
        await cells.close()


def _moving(store: Store, cells: Cells, clock: Clock, meter: Meter, log: Log, mirror: Mirror) -> Wiring:
    def known(name: TenantId) -> Tenant | None:
        return mirror.table.tenants.get(name)

    def peer_of(cell: CellId) -> CellId | None:
        return standby_of(cell, mirror.table.cells.values())

    return Wiring(store, cells, clock, meter, log, mirror.refresh, known, peer_of)


async def run_agent(own: config.AgentSettings, stop: asyncio.Event) -> None:
    """One edge's agent: Envoy's bootstrap, then the map from disk, xDS, probes and the directory."""
    log = logs.configure("edge-agent", own.log_level).bind(edge=own.edge_name, zone=own.zone)
    meter = PrometheusMeter(metrics.AGENT)
    _write_for_envoy(own)
    ads = xds.AdsServer(meter)
    keeper = Keeper(own.zone, FileJournal(own.journal_path, own.public_key()), _listen(own))
    feed = DirectoryFeed(own.directory_address, own.follower_token(), own.edge_name)
    follower = Follower(keeper, feed, ads, meter, log, random.random)
    follower.boot()

    def problems() -> dict[str, str]:
        found = {"drain": "stopping"} if stop.is_set() else {}
        return found if keeper.compiled is not None else {**found, "map": _NO_MAP}

    def status() -> dict[str, object]:
        told = {
            "role": "agent",
            "edge": own.edge_name,
            "zone": own.zone,
            "revision": keeper.table.revision,
            "connected": follower.connected,
        }
        return {**told, "refused": follower.last_refusal, "envoy": asdict(ads.status)}

    server = await xds.serve(ads, own.xds_address)
    sights = GrpcSights(own.directory_address, own.follower_token())
    observer = Observer(own.region, sights, SystemClock())
    async with probes.serving(probes.application(problems, status, meter.exposition), *config.address(own.http_address)):
        following = asyncio.create_task(_all(follower.run(stop), observer.run(stop)))
        log.info("serving", xds=own.xds_address, revision=keeper.table.revision)
        await _until(stop, following)
        await following
        await server.stop(0)  # Envoy goes on with what it has
    await sights.close()
    log.info("drained")


async def run_witness(own: config.WitnessSettings, stop: asyncio.Event) -> None:
    """A zone's witness: it looks at the cells from a site of its own and says what it sees, and votes for who leads the directory."""
    log = logs.configure("witness", own.log_level).bind(zone=own.zone)
    meter, quorum = PrometheusMeter(metrics.WITNESS), own.quorum()
    sights = GrpcSights(own.directory_address, own.follower_token())
    observer = Observer(WITNESS, sights, SystemClock())
    voter = None if quorum is None else Voter(WITNESS, BallotFile(Path(own.ballot_path)), SystemClock())

    def problems() -> dict[str, str]:
        return {"drain": "stopping"} if stop.is_set() else {}

    def status() -> dict[str, object]:
        return {"role": "witness", "zone": own.zone, "cells": sorted(observer.cells)} | ({} if voter is None else _heard(voter))

    async with probes.serving(probes.application(problems, status, meter.exposition), *config.address(own.http_address)):
        server = None
        if voter is not None and quorum is not None:
            server = await quorum_api.serve(QuorumGrpc(own.zone, quorum.token, voter, None), quorum.address)
        observing = asyncio.create_task(observer.run(stop))
        log.info("looking", directory=own.directory_address)
        await _until(stop, observing)
        await observing
        if server is not None:
            await server.stop(0)
    await sights.close()
    log.info("drained")


async def _all(*tasks: Coroutine[None, None, None]) -> None:
    """Until the first of them fails, or all have ended."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)


async def _until(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Returns when the process is to stop, or raises what ended `task`."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, task}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        stop.set()
        task.result()


def _listen(own: config.AgentSettings) -> Listen:
    host, port = config.address(own.edge_address)
    return Listen(
        host,
        port,
        own.headers_seconds,
        own.trace_percent if own.collector() else 0.0,
        own.access_log_percent,
        "" if own.edge_transport == "clear" else str(_secret_path(own)),
        own.edge_transport != "tls",
    )


def _secret_path(own: config.AgentSettings) -> Path:
    return own.bootstrap_path.resolve().with_name("certificate.json")


def _write_for_envoy(own: config.AgentSettings) -> None:
    """What Envoy starts from: the bootstrap, and where its certificate is."""
    identity = EdgeIdentity(own.edge_name, own.zone, own.region)
    admin_port = config.address(own.edge_admin_address)[1]
    own.bootstrap_path.parent.mkdir(parents=True, exist_ok=True)
    if certificate := own.certificate():
        _write(_secret_path(own), secret(*certificate))
    _write(own.bootstrap_path, bootstrap(identity, *config.address(own.xds_address), admin_port, own.collector()))


def _write(path: Path, described: object) -> None:
    """Atomically: a supervisor may start Envoy as soon as the file is there."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(described, indent=1))
    fresh.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """0 after a drain; 2 for wrong settings; 1 when something that is needed fails."""
    parser = argparse.ArgumentParser(prog="python -m router.app", description="One process of the router.")
    parser.add_argument("--role", required=True, choices=("directory", "agent", "witness"))
    role = parser.parse_args(arguments).role
    try:
        if role == "directory":
            directory = config.directory(os.environ)
            lifecycle.run(lambda stop: run_directory(directory, stop))
        elif role == "witness":
            witness = config.witness(os.environ)
            lifecycle.run(lambda stop: run_witness(witness, stop))
        else:
            agent = config.agent(os.environ)
            lifecycle.run(lambda stop: run_agent(agent, stop))
    except BadSettings as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (Failure, OSError) as error:
        sys.stderr.write(f"{role} cannot go on: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
