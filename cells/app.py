"""Builds and runs a cell's process: `python -m cells.app --role all|ingest|processing|storage`.

The story: read the settings, boot the admission table from disk, open log and store, serve, follow the directory; on SIGTERM
turn readiness off, let requests in flight end, stop the consumer between two applies, close.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import AsyncExitStack

import click
import structlog

from cells import ops, roles
from cells.admission.directory import GrpcDirectory
from cells.admission.follow import Follower
from cells.config import ROLES, Config, Role, load
from cells.defects import HttpShell, Report
from cells.metrics import METRICS
from cells.pace import Pace
from cells.process import Process, cancelled
from cells.server import REQUEST_BYTES_MAX, GrpcServer, HttpServer
from cells.tracing import Spans
from kernel.errors import Failure
from kernel.ids import ZoneName
from kernel.limits import APPLY_BYTES_MAX, DRAIN_SECONDS_MAX
from kernel.process import logs, settings, telemetry
from kernel.process.clock import SystemClock
from kernel.process.journal import FileJournal
from kernel.process.lifecycle import Health, run


async def serve(config: Config, role: Role, stop: asyncio.Event) -> None:
    """One process, from start to drained."""
    log = logs.configure(f"cell-{role}", config.log_level).bind(cell=config.cell)
    meter, health = telemetry.PrometheusMeter(METRICS), Health()

    def report(where: str, defect: BaseException) -> None:
        log.error("a defect", where=where, exc_info=defect)

    async with AsyncExitStack() as stack:
        process = _process(config, role, meter, report, stack)
        log.info("booted", from_disk=process.follower.boot(), revision=process.follower.current.revision)
        _start(process, "follow the directory", asyncio.create_task(process.follower.follow()), log, stop)
        if not await process.follower.wait_until_placed(stop):
            return
        await _add_roles(process, role)
        process.tasks["watch the loop"] = lambda: telemetry.watch_loop(meter, process.clock)
        for name, task in process.tasks.items():
            _start(process, name, asyncio.ensure_future(task()), log, stop)
        probes = ops.routes(lambda: health.problems, meter.exposition, lambda: process.degraded)
        http = HttpServer(HttpShell([*process.routes, *probes], report), config.http_address)
        await process.grpc.start(process.services)
        await http.start()
        health.set("start", None)
        await process.grpc.set_ready(True)
        log.info("ready", grpc=config.grpc_address, http=config.http_address, revision=process.follower.current.revision)
        await stop.wait()
        log.info("draining")
        health.set("drain", "draining")
        await _drain(process, http)
    log.info("stopped")


def _process(config: Config, role: Role, meter: telemetry.PrometheusMeter, report: Report, stack: AsyncExitStack) -> Process:
    clock = SystemClock()
    journal = FileJournal(config.journal_path, bytes.fromhex(config.public_key_file.read_text().strip()))
    directory = GrpcDirectory(config.directory_address, config.follower_token_file.read_text().strip(), config.cell)
    follower = Follower(ZoneName(config.zone), journal, directory, clock, meter, random.random)
    attributes = {"dataflow.cell": config.cell, "cloud.region": config.region}
    tracing = telemetry.tracing(f"cell-{role}", attributes, config.otlp_endpoint)
    stack.push_async_callback(tracing.close)
    server = GrpcServer(config.grpc_address, report, APPLY_BYTES_MAX if role == "storage" else REQUEST_BYTES_MAX)
    return Process(config, clock, meter, Spans(tracing.tracer), follower, server, stack, Pace(clock))


async def _add_roles(process: Process, role: Role) -> None:
    """In the order in which an event walks, but that the store opens first: processing needs it."""
    store = await roles.open_store(process) if role in ("all", "storage") else None
    log = await roles.open_log(process, role) if role != "storage" else None
    if log is not None and role in ("all", "ingest"):
        roles.add_ingest(process, log)
    if log is not None and role in ("all", "processing"):
        keeper = store or roles.remote_store(process)
        roles.add_processing(process, log, keeper, store)
        roles.add_replication(process, log, keeper)
    if store is not None:
        roles.add_query(process, store, log)
        roles.add_copies(process)
    if role == "storage" and store is not None:
        roles.add_apply_service(process, store)


async def _drain(process: Process, http: HttpServer) -> None:
    """Requests in flight may end, until the deadline at the latest."""
    await process.grpc.set_ready(False)
    deadline = process.clock.monotonic() + DRAIN_SECONDS_MAX
    await asyncio.gather(*(drain(deadline) for drain in process.drains))
    await asyncio.gather(process.grpc.stop(max(0.0, deadline - process.clock.monotonic())), http.stop())


def _start(process: Process, name: str, task: asyncio.Future[None], log: structlog.stdlib.BoundLogger, stop: asyncio.Event) -> None:
    """Every background task has an owner: one that fails is a defect, is logged and ends the process."""

    def ended(done: asyncio.Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("a task failed", task=name, exc_info=error)
            stop.set()

    task.add_done_callback(ended)
    process.stack.push_async_callback(cancelled, task)


@click.command()
@click.option("--role", type=click.Choice(ROLES), default="all", show_default=True, help="what this process does")
def main(role: Role) -> None:
    """A cell's process. Settings come from DATAFLOW_* variables (docs/configuration.md)."""
    try:
        config = load(os.environ, role)
        run(lambda stop: serve(config, role, stop))
    except (settings.BadSettings, Failure, OSError, RuntimeError, ValueError) as error:
        logs.configure("cell").error("cannot go on", why=str(error))
        sys.exit(f"cell: {error}")


if __name__ == "__main__":
    main()
