"""Cells of a local fleet with a Kafka of their own."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

from cli.errors import Unable
from cli.local import probe
from cli.local.access import attach
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL
from cli.local.ports import free_block
from kernel.ids import CellId
from tests.support.fleet import Running
from tests.support.postgres import temporary_folder
from tests.support.processes import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.fleet, pytest.mark.xdist_group("fleet")]
CELL = CellId("eu-west-1-a")
UP_SECONDS = 90.0


@asynccontextmanager
async def fleet_of(state: Path, brokers: int) -> AsyncIterator[LocalFleet]:
    fleet = LocalFleet(state, free_block(PORTS_TOTAL), cells=(CELL,), log="kafka", brokers=brokers)
    async with fleet:
        await fleet.wait_until_ready(UP_SECONDS)
        yield fleet


async def test_a_cell_has_its_broker_which_comes_back() -> None:
    """Law: a broker is a process of the fleet like the others: killed, it is started again, and every acknowledged event is stored once.
    A stop leaves none of it; the state keeps its kind of log."""
    state = temporary_folder()
    try:
        async with fleet_of(state, brokers=1) as fleet, aiohttp.ClientSession() as web:
            running = Running(fleet, web)
            shop = await running.add("shop", CELL)
            before, after = ([f"{when}-{number}" for number in range(50)] for when in ("before", "after"))
            await running.send_until_taken(shop, before)
            first = fleet.kill(f"kafka/{CELL}")
            await running.send_until_taken(shop, after)
            await fleet.wait_until_ready(UP_SECONDS)
            await running.wait_until_stored(shop, [*before, *after])
            second = fleet.pid(f"kafka/{CELL}")
            assert first != second
            assert attach(state).layout.kafka_bootstrap(CELL) == f"127.0.0.1:{fleet.statuses[f'kafka/{CELL}'].port}"
        assert not psutil.pid_exists(second)
        with pytest.raises(Unable, match="keeps its events in kafka"):
            await LocalFleet(state, free_block(PORTS_TOTAL), cells=(CELL,)).start()
    finally:
        shutil.rmtree(state, ignore_errors=True)


async def test_a_cell_with_three_brokers_loses_one() -> None:
    """Law: with three brokers a held one is missed by the two others within seconds, events are taken and stored all the same, and it is
    taken in again when it is released."""
    state = temporary_folder()
    try:
        async with fleet_of(state, brokers=3) as fleet, aiohttp.ClientSession() as web:
            running = Running(fleet, web)
            shop = await running.add("shop", CELL)
            names = [f"kafka/{CELL}/{node}" for node in (1, 2, 3)]
            assert [fleet.statuses[name].state for name in names] == ["ready"] * 3
            node = fleet.access.kafka(next(place for place in fleet.layout.places() if place.name == names[0]))

            async def missed() -> bool:
                said = await probe.kafka(node.ports.client, node.id, 2)()
                return said == "node 2 is not among the brokers [1, 3]"

            fleet.hold(names[1])
            fleet.kill(names[1])
            await running.send_until_taken(shop, ["one", "two"])
            await eventually(missed, "the others miss it", 15)
            await running.send_until_taken(shop, ["three"])
            await running.wait_until_stored(shop, ["one", "two", "three"])
            fleet.release(names[1])
            await fleet.wait_until_ready(UP_SECONDS)
            assert not await missed()
    finally:
        shutil.rmtree(state, ignore_errors=True)
