"""The real Envoy when a cell is lost: its peer takes what the cell would have taken, with the cell's stamp, and the cell's answers never
go there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest

from docs import generate
from kernel.limits import BATCH_BYTES_HARD_MAX
from kernel.process.journal import Signer
from router.placement.table import CellEndpoint
from router.xds.headers import STAMP
from router.xds.listener import Listen
from router.xds.lua import WRITE_SECONDS
from tests.support.edge_room import Room, running_edge
from tests.support.edge_traffic import Said, Traffic, one, steady
from tests.support.processes import eventually
from tests.support.tiny_cell import LoneCell, TinyCell, endpoint_of, has_ipv6, lone_cell, tiny_cell

pytestmark = pytest.mark.envoy
SIGNER = Signer(bytes(range(32)))
HOME, PEER = "eu-west-1-a", "eu-central-1-a"
PROTOCOLS = ("http", "grpc")
LOST_SECONDS = 1.0  # within which a cell is found lost: two health checks, and two that are not answered
IN_FLIGHT = 60  # of each protocol: far above what may be asked again where there is no peer


@dataclass
class Pair:
    """An edge, a cell that can be killed, and its peer. The tenant `acme` lives in the one, `globex` in the other."""

    room: Room
    home: LoneCell
    peer: TinyCell

    async def is_served_by(self, cell: str, tenant: str = "acme") -> bool:
        """Whether both protocols' requests go there now."""
        return [(await one(self.room, tenant, protocol)).cell for protocol in PROTOCOLS] == [cell, cell]

    async def wait_until_served_by(self, cell: str) -> None:
        """Waits until they do."""
        await eventually(lambda: self.is_served_by(cell), f"{cell} serves")

    async def is_found_lost(self) -> bool:
        """Whether the home fails Envoy's health checks, and its peer passes them."""
        addresses = {"http": self.home.endpoint.http_address, "grpc": self.home.endpoint.grpc_address}
        return all([await self.room.envoy.lost(f"{HOME}/{name}") == {int(addresses[name].rpartition(":")[2])} for name in PROTOCOLS])


@asynccontextmanager
async def paired(folder: Path, listen: Listen | None = None, host: str = "127.0.0.1", peered: bool = True) -> AsyncIterator[Pair]:
    """A pair, and a home that serves."""
    async with AsyncExitStack() as stack:
        home = stack.enter_context(lone_cell(endpoint_of(HOME, peer=PEER if peered else None, host=host)))
        peer = await stack.enter_async_context(tiny_cell(PEER, endpoint_of(PEER, host=host)))
        peer.let_go.set()
        pair = Pair(await stack.enter_async_context(running_edge(folder, SIGNER, listen, [home, peer])), home, peer)
        await pair.wait_until_served_by(HOME)
        peer.asked.clear()
        yield pair


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A pair."""
    async with paired(tmp_path) as made:
        yield made


def stamped(said: Said) -> tuple[str, ...]:
    """The stamp that the cell got."""
    return tuple(said.headers[name] for name in STAMP)


async def wait_until_answered(traffic: Traffic, cell: str, count: int, after: int) -> None:
    """Waits until this cell has answered so often, of the answers after the first `after`."""
    await eventually(lambda: len(traffic.of(cell, after)) >= count, f"{cell} answers", WRITE_SECONDS + 10)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_killed_cells_requests_go_to_its_peer_and_come_home_again(tmp_path: Path, host: str) -> None:
    """Law: over the kill of a cell under steady requests, and its return, no request fails and nobody waits long; what its peer gets bears
    the cell's stamp. Cells may be told by address or by name."""
    if host == "localhost" and not has_ipv6():
        pytest.skip("localhost is an address that is not there")
    async with paired(tmp_path, host=host) as pair, steady(pair.room, "acme") as traffic:
        await wait_until_answered(traffic, HOME, 300, 0)
        killed = len(traffic.said)
        pair.home.kill()
        await wait_until_answered(traffic, PEER, 600, killed)
        await eventually(pair.is_found_lost, "it is found lost", LOST_SECONDS)
        back = len(traffic.said)
        pair.home.start()
        await wait_until_answered(traffic, HOME, 300, back)
        await pair.wait_until_served_by(HOME)
    print(f"SIGKILL: {len(traffic.failures)} of {len(traffic.said) - killed} failed, worst {traffic.worst_seconds(killed) * 1e3:.0f} ms")
    assert traffic.failures == []
    assert traffic.worst_seconds(killed) < LOST_SECONDS
    assert {stamped(said) for said in traffic.said} == {("acme", HOME, "1")}
    assert {said.protocol for said in traffic.of(PEER)} == set(PROTOCOLS)


async def test_what_is_in_flight_to_a_killed_cell_is_sent_to_its_peer(pair: Pair) -> None:
    """Law: all of it at once, however much: the bound of second attempts is there for cells that are asked twice."""
    sent = [asyncio.create_task(one(pair.room, "acme", protocol, x_test_hold="1")) for protocol in PROTOCOLS for _ in range(IN_FLIGHT)]

    async def under_way() -> bool:
        active = await pair.room.envoy.stats(f"cluster.{HOME}/(http|grpc).upstream_rq_active$")
        return list(active.values()) == [IN_FLIGHT, IN_FLIGHT]

    await eventually(under_way, "all are held")
    pair.home.kill()
    said = await asyncio.gather(*sent)
    assert [one.failure for one in said if one.failure] == []
    assert {(one.cell, stamped(one)) for one in said} == {(PEER, ("acme", HOME, "1"))}
    assert len(pair.peer.asked) == 2 * IN_FLIGHT


async def test_a_cell_that_stands_still_keeps_nobody_waiting(pair: Pair) -> None:
    """Law: SIGSTOP is found by health checks: from then on the peer answers at once. Who was caught waits for WRITE_SECONDS, and is
    answered by the peer; a cell that goes on gets its requests again."""
    async with steady(pair.room, "acme") as traffic:
        await wait_until_answered(traffic, HOME, 100, 0)
        stopped = len(traffic.said)
        pair.home.tell(signal.SIGSTOP)
        await eventually(pair.is_found_lost, "it is found lost", LOST_SECONDS + 0.5)
        fresh = [await one(pair.room, "acme", protocol) for protocol in PROTOCOLS]
        assert [said.cell for said in fresh] == [PEER, PEER]
        assert max(said.seconds for said in fresh) < LOST_SECONDS
        await wait_until_answered(traffic, PEER, 100, stopped)
        back = len(traffic.said)
        pair.home.tell(signal.SIGCONT)
        await wait_until_answered(traffic, HOME, 100, back)
    print(f"SIGSTOP: {len(traffic.failures)} of {len(traffic.said) - stopped} failed, worst {traffic.worst_seconds(stopped):.2f} s")
    assert traffic.failures == []
    assert traffic.worst_seconds(stopped) < WRITE_SECONDS + 1


async def test_what_a_cell_answers_goes_to_nobody_else(tmp_path: Path) -> None:
    """Law: neither a shed request nor any other answer of the cell, nor a slow one, over either protocol, brings the peer a request."""
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(tiny_cell(HOME, endpoint_of(HOME, peer=PEER)))
        peer = await stack.enter_async_context(tiny_cell(PEER))
        room = await stack.enter_async_context(running_edge(tmp_path, SIGNER, None, [home, peer]))
        headers = {"x-api-key": room.keys["acme"]}
        for status in (408, 421, 429, 500, 502, 503, 504):
            answers = await asyncio.gather(*(room.http.post(f"/v1/answer/{status}", headers=headers) for _ in range(10)))
            assert {answer.status_code for answer in answers} == {status}
        for code in grpc.StatusCode:
            if code is not grpc.StatusCode.OK:
                assert await told(room, code) is code
        slow = [asyncio.create_task(one(room, "acme", protocol, x_test_hold="1")) for protocol in PROTOCOLS for _ in range(10)]
        await eventually(lambda: home.held == len(slow), "the cell holds them")
        before = await probes_of(room)

        async def probed() -> bool:
            return min(now - then for now, then in zip(await probes_of(room), before, strict=True)) >= 10

        await eventually(probed, "the cell passes health checks meanwhile")
        home.let_go.set()
        assert {(said.cell, said.failure) for said in await asyncio.gather(*slow)} == {(HOME, "")}
        assert home.held == len(slow)
        assert peer.asked == []


async def told(room: Room, code: grpc.StatusCode) -> grpc.StatusCode | None:
    """How a call ends that the cell answers with `code`."""
    try:
        await room.say(x_api_key=room.keys["acme"], x_test_status=code.name)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def probes_of(room: Room) -> list[int]:
    """How many health checks of the home's two clusters went well."""
    return list((await room.envoy.stats(f"cluster.{HOME}/(http|grpc).health_check.success")).values())


async def test_without_cell_and_peer_a_tenant_is_told_to_come_again(tmp_path: Path) -> None:
    """Law: both lost is 503 with Retry-After, or UNAVAILABLE, soon and in our shape; a third cell of the zone is asked nothing."""
    async with AsyncExitStack() as stack:
        home, peer = (stack.enter_context(lone_cell(endpoint_of(name, peer=other))) for name, other in ((HOME, PEER), (PEER, HOME)))
        third = await stack.enter_async_context(tiny_cell("eu-south-1-a"))
        room = await stack.enter_async_context(running_edge(tmp_path, SIGNER, None, [home, peer, third]))
        pair = Pair(room, home, third)
        await pair.wait_until_served_by(HOME)
        peer.kill()
        home.kill()
        for _ in range(10):
            answer = await room.http.post("/v1/batch", headers={"x-api-key": room.keys["acme"]})
            assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "CELL_UNAVAILABLE", "1")
            assert answer.headers["content-type"] == "application/json"
            assert (await room.refusal(x_api_key=room.keys["acme"]))[:2] == (grpc.StatusCode.UNAVAILABLE, "CELL_UNAVAILABLE")
        assert third.asked == []
        peer.start()
        await eventually(lambda: pair.is_served_by(PEER), "the peer is back and takes the home's requests")


@asynccontextmanager
async def mute(endpoint: CellEndpoint) -> AsyncIterator[list[int]]:
    """A cell that is well over HTTP, and hangs up once a request is there. What it read: the bytes of each body."""
    heard: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if not head.startswith(b"get /readyz"):
                    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    heard.append(len(await reader.readexactly(length)))
                    break
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", int(endpoint.http_address.rpartition(":")[2]))
    async with server:
        yield heard


@pytest.mark.parametrize("body_bytes", [1, BATCH_BYTES_HARD_MAX])
async def test_a_write_that_a_cell_drops_is_sent_to_its_peer_whole(tmp_path: Path, body_bytes: int) -> None:
    """Law: a connection that ends before an answer, of a cell that passes its health checks, costs no request, however large; the peer is
    asked once."""
    async with AsyncExitStack() as stack:
        home = TinyCell(endpoint_of(HOME, peer=PEER))
        heard = await stack.enter_async_context(mute(home.endpoint))
        peer = await stack.enter_async_context(tiny_cell(PEER))
        room = await stack.enter_async_context(running_edge(tmp_path, SIGNER, None, [home, peer]))
        for count in range(1, 4):
            answer = await room.http.post("/v1/batch", headers={"x-api-key": room.keys["acme"]}, content=b"x" * body_bytes)
            echo = answer.json()
            assert (answer.status_code, echo["cell"], echo["body_bytes"]) == (200, PEER, body_bytes)
            assert [echo["headers"][name] for name in STAMP] == ["acme", HOME, "1"]
            assert (heard, len(peer.asked)) == ([body_bytes] * count, count)


async def test_operators_see_who_took_it(tmp_path: Path) -> None:
    """Law: the access log names the cell that took a request beside the one whose it was; Envoy counts the requests of each endpoint,
    and what docs/metrics.md names."""
    async with paired(tmp_path, Listen("", 0, access_percent=100.0)) as pair:
        pair.home.kill()
        await pair.wait_until_served_by(PEER)

        def logged() -> set[tuple[str, str]]:
            lines = (tmp_path / "envoy.log").read_text().splitlines()
            return {(line["cell"], line["taken_by"]) for line in map(json.loads, filter(lambda text: text.startswith("{"), lines))}

        await eventually(lambda: {(HOME, HOME), (HOME, PEER)} <= logged(), "both are logged", 15)
        url = f"http://127.0.0.1:{pair.room.ports.admin}/stats/prometheus"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        assert [name for name, *_ in generate.ENVOY if not any(line.startswith(f"{name}{{") for line in lines)] == []
        counted = [line for line in lines if line.startswith("envoy_cluster_endpoint_rq_total")]
        for address in (pair.peer.endpoint.http_address, pair.peer.endpoint.grpc_address):
            [taken] = [line for line in counted if address in line and f'envoy_cluster_name="{HOME}/' in line]
            assert int(taken.rpartition(" ")[2]) > 0
