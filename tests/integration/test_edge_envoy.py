"""The real Envoy behind the real agent and directory: what an edge promises to clients, and what it survives."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest
from envoy.config.route.v3 import route_pb2

from kernel.ids import TenantId, ZoneName, mint_key
from kernel.process.journal import Signer
from router import metrics
from router.placement.decide import Routed, decide
from router.xds.headers import STAMP
from router.xds.lua import HTTP_SECONDS, WRITE_SECONDS
from router.xds.snapshot import RDS, Snapshot, resource
from tests.support.edge_room import Ports, Room, agent, directory, envoy, http_client, running_edge
from tests.support.processes import eventually, free_port
from tests.support.tiny_cell import tiny_cell

pytestmark = pytest.mark.envoy
SIGNER = Signer(bytes(range(32)))


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    """One running edge."""
    async with running_edge(tmp_path, SIGNER) as made:
        yield made


def basic(user: str, colon: str = ":") -> dict[str, str]:
    """A Basic header."""
    return {"authorization": "Basic " + base64.b64encode(f"{user}{colon}".encode()).decode()}


async def test_every_way_to_name_a_key_reaches_its_cell(room: Room) -> None:
    """Law: a request reaches the home cell of its key's tenant with the directory's stamp, wherever the key stands."""
    table = room.directory.mirror.table
    for tenant, key in room.keys.items():
        home = decide(TenantId(tenant), table)
        assert isinstance(home, Routed)
        ways = [basic(key), basic(key, ""), basic(key, ":secret"), {"authorization": f"Bearer {key}"}, {"x-api-key": key}]
        answers = [await room.http.post("/v1/batch", headers=headers, content=b"{}") for headers in ways]
        answers.append(await room.http.post(f"/s/{room.slugs[tenant]}/v1/batch", content=b"{}"))
        answers.append(
            await room.http.post(f"/s/{room.slugs[tenant]}/v1/batch", content=b"{}", headers={"authorization": "Bearer eyJ.a.b"})
        )
        echoes = [answer.json() for answer in answers] + [await room.say(authorization=f"Bearer {key}"), await room.say(x_api_key=key)]
        for echo in echoes:
            assert echo["cell"] == home.cell
            assert echo["headers"]["x-dataflow-tenant"] == tenant
            assert echo["headers"]["x-dataflow-cell"] == home.cell
            assert echo["headers"]["x-dataflow-epoch"] == str(home.epoch)
            assert {name for name in echo["headers"] if name.startswith("x-dataflow-")} == set(STAMP)
        assert answers[-2].json()["path"] == f"/s/{room.slugs[tenant]}/v1/batch"


async def test_what_only_the_edge_may_say_is_stripped(room: Room) -> None:
    """Law (rule 10): a client's own x-dataflow-* headers change nothing, on HTTP and gRPC."""
    other = room.cells[1].endpoint.cell
    forged = {"x-dataflow-tenant": "globex", "x-dataflow-cell": other, "x-dataflow-epoch": "99", "x-dataflow-revision": "99"}
    forged |= {"x-dataflow-lookup": "0" * 64, "x-dataflow-shard": "00", "x-dataflow-of-tomorrow": "1"}
    answer = (await room.http.post("/v1/batch", headers={**forged, "x-api-key": room.keys["acme"]})).json()
    call = await room.say(**forged, x_api_key=room.keys["acme"])
    for echo in (answer, call):
        assert echo["cell"] == room.cells[0].endpoint.cell
        assert {name: echo["headers"][name] for name in STAMP} == dict(zip(STAMP, ("acme", echo["cell"], "1"), strict=True))
        assert {name for name in echo["headers"] if name.startswith("x-dataflow-")} == set(STAMP)
    assert (await room.http.post("/v1/batch", headers=forged)).json()["code"] == "NO_CREDENTIAL"


async def test_how_long_a_request_may_take_is_the_edges_to_say(room: Room) -> None:
    """Law: an answer over HTTP has to come within a bound, a call may stream, an attempt at a write has a bound of its own; what a client
    says of timeouts and more attempts is gone."""
    own = ("upstream-rq-timeout-ms", "upstream-rq-per-try-timeout-ms", "expected-rq-timeout-ms", "retry-on", "max-retries", "retry-grpc-on")
    said = {f"x-envoy-{name}": "7" for name in own}
    headers = {**said, "x-api-key": room.keys["acme"]}
    write, whole = f"{WRITE_SECONDS * 1_000:.0f}", str(HTTP_SECONDS * 1_000)
    cases = [
        ((await room.http.post("/v1/batch", headers=headers)).json(), write),
        ((await room.http.get("/v1/events", headers=headers)).json(), whole),
        (await room.say(**headers), write),
        (await room.say("/dataflow.storage.v1.QueryService/ListEvents", **headers), None),
    ]
    for echo, bound in cases:
        assert echo["headers"].get("x-envoy-expected-rq-timeout-ms") == bound
        assert "7" not in [value for name, value in echo["headers"].items() if name.startswith("x-envoy-")]


async def test_the_edge_refuses_in_one_shape(room: Room) -> None:
    """Law: what has no known key is refused at the edge, as JSON with a code, or as a gRPC status with an ErrorInfo."""
    unknown = mint_key("wk", ZoneName("eu"), bytes(32)).text
    created = await room.directory.call("CreateReadKey", tenant="acme")
    revoked = mint_key("wk", ZoneName("eu"), b"r" * 32)
    source = await room.directory.call("CreateSource", tenant="acme", name="old")
    await room.directory.call("RevokeKey", hash=source.source.write_keys[0].hash)
    await room.directory.call("CreateTenant", name="initech")
    suspended = (await room.directory.call("CreateSource", tenant="initech", name="web")).write_key
    await room.directory.call("SuspendTenant", tenant="initech", suspended=True)
    await room.live()
    assert (await room.http.get("/v1/events", headers=basic(created.read_key))).status_code == 200
    cases = [
        ("", 401, grpc.StatusCode.UNAUTHENTICATED, "NO_CREDENTIAL"),
        (unknown, 401, grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY"),
        (revoked.text, 401, grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY"),
        ("some text", 401, grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY"),
        (source.write_key, 401, grpc.StatusCode.UNAUTHENTICATED, "REVOKED_KEY"),
        (suspended, 403, grpc.StatusCode.PERMISSION_DENIED, "TENANT_SUSPENDED"),
        (f"s:{room.slugs['acme']}", 401, grpc.StatusCode.UNAUTHENTICATED, "NO_CREDENTIAL"),
        (mint_key("wk", ZoneName("mars"), bytes(32)).text, 421, grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_ZONE"),
    ]
    for key, status, code, reason in cases:
        answer = await room.http.post("/v1/batch", headers={"x-api-key": key}, content=b"x" * 1000)
        assert (answer.status_code, answer.json()["code"]) == (status, reason)
        assert answer.json()["message"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        assert (await room.refusal(x_api_key=key))[:2] == (code, reason)


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/readyz", "/livez", "/v1", "/v2/batch", "/s/x/metrics", "/", "/openapi.yaml.gz", "/metrics?x=/v1/", "/metrics/v1/x"],
)
async def test_of_a_cells_pages_the_api_alone_is_public(room: Room, path: str) -> None:
    """Law: a valid key leads to the API and its description; every other page of the cell is not there."""
    key = {"x-api-key": room.keys["acme"]}
    for public in ("/v1/batch", f"/s/{room.slugs['acme']}/v1/batch", "/openapi.yaml"):
        assert (await room.http.get(public, headers=key)).status_code == 200
    answer = await room.http.get(path, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (404, "NO_ROUTE")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "method",
    [
        "/dataflow.storage.v1.StorageService/Apply",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/dataflow.ingest.v1.IngestService/../../dataflow.storage.v1.StorageService/Apply",
        "/v1/batch",
    ],
)
async def test_of_a_cells_services_ingest_and_query_alone_are_public(room: Room, method: str) -> None:
    """Law: a valid key calls the two public services; every other service of the cell is not there."""
    key = room.keys["acme"]
    assert (await room.say("/dataflow.storage.v1.QueryService/ListEvents", x_api_key=key))["cell"]
    assert (await room.refusal(method, x_api_key=key))[:2] == (grpc.StatusCode.NOT_FOUND, "NO_ROUTE")


async def test_foreign_keys_are_told_where_to_go(room: Room) -> None:
    """Law: a key or slug of another zone is answered on the headers, with that zone's endpoint; no upstream sees a byte."""
    foreign = mint_key("wk", ZoneName("us"), bytes(32)).text
    before = await room.envoy.stats("upstream_rq_total")
    for headers in (basic(foreign), {"x-api-key": foreign}):
        answer = await room.http.post("/v1/batch?x=1", headers=headers, content=b"x" * 100_000)
        assert answer.status_code == 421
        assert "location" not in answer.headers
        assert answer.headers["x-residency-endpoint"] == "https://us.test"
        assert answer.json()["code"] == "FOREIGN_ZONE"
    assert (await room.http.post("/s/us-abcdefgh/v1/batch")).headers["x-residency-endpoint"] == "https://us.test"
    code, reason, error = await room.refusal(authorization=f"Bearer {foreign}")
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_ZONE")
    told = dict(error.trailing_metadata() or ()) | dict(error.initial_metadata() or ())
    assert told["x-residency-endpoint"] == "https://us.test"
    after = await room.envoy.stats("upstream_rq_total")
    assert {k: v for k, v in after.items() if "agent" not in k} == {k: v for k, v in before.items() if "agent" not in k}


async def test_browsers_may_send(room: Room) -> None:
    """Law: a preflight of any origin is answered without a key; answers and refusals carry the CORS headers; /healthz is open."""
    asks = {"origin": "https://shop.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = await room.http.ask("OPTIONS", "/v1/batch", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    beacon = {"origin": "https://shop.example", "content-type": "text/plain"}
    for path, headers in ((f"/s/{room.slugs['acme']}/v1/batch", beacon), ("/v1/batch", {**beacon, "x-api-key": "nobody's"})):
        answer = await room.http.post(path, headers=headers, content=b"{}")
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    health = await room.http.get("/healthz")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


async def test_traces_and_request_ids_pass(room: Room) -> None:
    """Law: traceparent reaches the cell untouched; a request id is kept, or made, and echoed."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-api-key": room.keys["acme"], "traceparent": trace, "x-request-id": "from-the-client"}
    answer = await room.http.post("/v1/batch", headers=headers)
    assert answer.json()["headers"]["traceparent"] == trace
    assert answer.json()["headers"]["x-request-id"] == answer.headers["x-request-id"] == "from-the-client"
    made = await room.http.post("/v1/batch", headers={"x-api-key": room.keys["acme"]})
    assert made.json()["headers"]["x-request-id"] == made.headers["x-request-id"] != ""


async def test_a_lost_cell_is_unavailable_and_a_shed_request_is_not_repeated(room: Room, tmp_path: Path) -> None:
    """Law: 429 passes untouched and is tried once; without its cell a tenant is answered 503 with Retry-After, never by another cell."""
    headers = {"x-api-key": room.keys["acme"]}
    before = await room.envoy.stats("upstream_rq_total")
    shed = await room.http.post("/v1/shed", headers=headers)
    after = await room.envoy.stats("upstream_rq_total")
    assert (shed.status_code, shed.headers["retry-after"], shed.json()["code"]) == (429, "2", "OVERLOADED")
    assert sum(after[k] - before[k] for k in after if "/http" in k) == 1
    dead = replace(room.cells[0].endpoint, grpc_address=f"127.0.0.1:{free_port()}", http_address=f"127.0.0.1:{free_port()}")
    topology = replace(room.directory.mirror.table.whole().topology, cells=(dead, room.cells[1].endpoint))  # type: ignore[type-var]  # a whole update has a topology
    await room.directory.store.adopt(topology)  # type: ignore[arg-type]  # likewise
    await room.directory.mirror.refresh()
    await room.live()

    async def lost() -> bool:
        return (await room.http.post("/v1/batch", headers=headers)).status_code == 503

    await eventually(lost, "the cell is found lost", 5)
    answer = await room.http.post("/v1/batch", headers=headers)
    assert (answer.json()["code"], answer.headers["retry-after"]) == ("CELL_UNAVAILABLE", "1")
    assert answer.headers["content-type"] == "application/json"
    code, reason, _ = await room.refusal(**headers)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_UNAVAILABLE")
    assert (await room.http.post("/v1/batch", headers={"x-api-key": room.keys["globex"]})).status_code == 200


async def test_a_new_key_is_live_within_a_second(room: Room) -> None:
    """Law: what the directory acknowledged works at the edge within a second, with one small resource per touched shard."""
    waits = []
    for number in range(10):
        sent = room.agent.meter.values[(metrics.EDGE_XDS_SENT.name, (("type", "RouteConfiguration"),))]
        started = time.perf_counter()
        key = (await room.directory.call("CreateSource", tenant="acme", name=f"app-{number}")).write_key
        while (await room.http.post("/v1/batch", headers={"x-api-key": key})).status_code != 200:
            assert time.perf_counter() - started < 1
        waits.append(time.perf_counter() - started)
        pushed = room.agent.meter.values[(metrics.EDGE_XDS_SENT.name, (("type", "RouteConfiguration"),))] - sent
        assert pushed < 100_000
    print(f"CreateSource to live at the edge: median {sorted(waits)[5] * 1e3:.0f} ms, worst {max(waits) * 1e3:.0f} ms")


async def test_a_refused_configuration_keeps_the_last_good_one(room: Room) -> None:
    """Law (rule 9): a NACK is counted and told, Envoy serves what it had, and the next good snapshot is taken."""
    good = room.agent.follower.keeper.compiled
    assert good is not None
    bad = route_pb2.RouteConfiguration(name="keys-00")
    for name in ("one", "two"):
        bad.virtual_hosts.add(name=name, domains=["*"])
    types = {**good.snapshot.types, RDS: {**good.snapshot.types[RDS], "keys-00": resource("keys-00", bad)}}
    room.agent.ads.publish(Snapshot(good.snapshot.revision + 1_000, types))
    await eventually(lambda: room.agent.ads.status.refusal is not None, "the NACK arrives")
    refusal = room.agent.ads.status.refusal
    assert refusal is not None
    assert refusal.kind == "RouteConfiguration"
    assert "keys-00" in refusal.message or "domain" in refusal.message
    assert room.agent.meter.values[(metrics.EDGE_XDS_NACKS.name, (("type", "RouteConfiguration"),))] == 1
    assert (await room.http.post("/v1/batch", headers={"x-api-key": room.keys["acme"]})).status_code == 200
    key = (await room.directory.call("CreateSource", tenant="acme", name="after")).write_key
    await room.live()
    assert (await room.http.post("/v1/batch", headers={"x-api-key": key})).status_code == 200
    assert room.agent.ads.status.refusal is None


async def test_the_edge_survives_its_control_planes(tmp_path: Path) -> None:
    """Law: agent lost - Envoy serves. Agent and Envoy restarted with no directory - the signed journal serves. A tampered
    journal serves no map. The directory back - the agent goes on from where it stood, and is sent nothing that it has."""
    ports, bind = Ports(free_port(), free_port(), free_port()), f"127.0.0.1:{free_port()}"
    async with contextlib.AsyncExitStack() as stack:
        cells = [await stack.enter_async_context(tiny_cell(name)) for name in ("eu-west-1-a", "eu-central-1-a")]
        http = await stack.enter_async_context(http_client(ports.edge))
        proxy = envoy(tmp_path, ports)
        stack.callback(proxy.stop)

        async def works(key: str) -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return (await http.post("/v1/batch", headers={"x-api-key": key})).status_code == 200
            return False

        async with directory(cells, SIGNER, bind=bind) as served:
            store = served.store
            await served.call("CreateTenant", name="acme", pinned_cell="eu-west-1-a")
            key = (await served.call("CreateSource", tenant="acme", name="web")).write_key
            async with agent(tmp_path, bind, SIGNER.public_key, ports) as running:
                proxy.start()
                await proxy.serving()
                second = (await served.call("CreateSource", tenant="acme", name="second")).write_key
                await eventually(lambda: works(second), "the change is live")
        # Neither agent nor directory.
        assert [await works(key) for _ in range(20)] == [True] * 20
        proxy.stop()
        async with agent(tmp_path, bind, SIGNER.public_key, ports) as running:
            proxy.start()
            await proxy.serving()
            await eventually(lambda: works(key), "the edge serves from disk", 5)
            assert await works(second)
            async with directory(cells, SIGNER, store, bind) as served:
                await eventually(lambda: running.follower.connected, "the agent is back", 5)
                third = (await served.call("CreateSource", tenant="acme", name="third")).write_key
                await eventually(lambda: works(third), "changes flow again")
                assert served.meter.values[("dataflow_directory_updates_sent_total", (("kind", "change"),))] == 1
                assert ("dataflow_directory_updates_sent_total", (("kind", "whole"),)) not in served.meter.values
        journal = tmp_path / "placement.journal"
        proxy.stop()
        damaged = bytearray(journal.read_bytes())
        damaged[100] ^= 1
        journal.write_bytes(bytes(damaged))
        async with agent(tmp_path, bind, SIGNER.public_key, ports) as running:
            assert running.follower.keeper.compiled is None
            proxy.start()
            await eventually(proxy.live, "Envoy is up")
            assert not await works(key)


async def test_an_envoy_that_comes_back_is_sent_nothing_that_it_has(tmp_path: Path, room: Room) -> None:
    """Law: a new stream that names the versions it holds gets no resource again."""
    sent = {k: v for k, v in room.agent.meter.values.items() if k[0] == metrics.EDGE_XDS_SENT.name}
    await room.agent.hang_up()
    await eventually(lambda: room.agent.ads.status.streams == 1, "Envoy is back")
    key = (await room.directory.call("CreateSource", tenant="acme", name="later")).write_key
    await room.live()
    assert (await room.http.post("/v1/batch", headers={"x-api-key": key})).status_code == 200
    again = {k: v for k, v in room.agent.meter.values.items() if k[0] == metrics.EDGE_XDS_SENT.name}
    grown = {k[1][0][1]: again[k] - sent.get(k, 0) for k in again if again[k] != sent.get(k, 0)}
    assert set(grown) == {"RouteConfiguration"}
    assert grown["RouteConfiguration"] < 50_000
