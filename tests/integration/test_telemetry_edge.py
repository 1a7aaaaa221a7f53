"""What Envoy is told of tracing, and that the real Envoy takes it."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import json_format

from kernel.ids import RegionName
from kernel.metrics import MemoryMeter
from kernel.process.settings import BadSettings
from router import config
from router.xds import server as xds
from router.xds.bootstrap import EdgeIdentity, bootstrap
from router.xds.compile import compile_whole
from router.xds.listener import Listen
from router.xds.snapshot import CDS, LDS
from tests.support.edge_room import http_client
from tests.support.envoy import Envoy
from tests.support.otlp import Collector, collecting
from tests.support.processes import eventually, free_port
from tests.support.router_words import EU, cell, source, table, tenant
from tests.support.tiny_cell import tiny_cell

KEY = "some key"


def test_tracing_is_in_the_listener_and_its_collector_in_the_bootstrap_alone() -> None:
    """Law: no tracing unless it is asked for; the collector is never among the clusters of the map, which are cells of the zone."""
    known = table(1, (tenant("acme", "a1", 1, source("web", KEY)),), (cell("a1"),))
    for percent in (0.0, 25.0):
        snapshot = compile_whole(known, Listen("127.0.0.1", 8_080, trace_percent=percent)).snapshot
        told = json_format.MessageToDict(listener_pb2.Listener.FromString(snapshot.types[LDS]["edge"].body))
        manager = told["filterChains"][0]["filters"][0]["typedConfig"]
        assert (manager.get("tracing", {}).get("randomSampling", {}).get("value"), set(snapshot.types[CDS])) == (
            percent or None,
            {"a1/grpc", "a1/http"},
        )
    identity = EdgeIdentity("edge", EU, RegionName("eu-west-1"))
    assert "traces" not in json.dumps(bootstrap(identity, "127.0.0.1", 1, 2))
    assert "otel.test" in json.dumps(bootstrap(identity, "127.0.0.1", 1, 2, ("otel.test", 4318)))


@pytest.mark.parametrize(
    ("endpoint", "expected"), [("", None), ("http://otel.test:4318", ("otel.test", 4318)), ("http://10.0.0.1:4318/", ("10.0.0.1", 4318))]
)
def test_the_collector_is_where_the_setting_says(endpoint: str, expected: tuple[str, int] | None) -> None:
    """Law: an address in the clear, or none."""
    assert settings(endpoint).collector() == expected


@pytest.mark.parametrize("endpoint", ["https://otel.test:4318", "otel.test:4318", "http://otel.test"])
def test_another_collector_is_refused_at_the_start(endpoint: str) -> None:
    """Law: a collector that Envoy could not reach is told at once."""
    with pytest.raises(BadSettings):
        settings(endpoint).collector()


def settings(endpoint: str) -> config.AgentSettings:
    """An agent's."""
    file = Path("/none")
    return config.AgentSettings(
        "edge", EU, RegionName("eu-west-1"), "d:1", file, file, file, "x:1", "h:1", "e:1", "a:1", file, otlp_endpoint=endpoint
    )


@pytest.mark.envoy
@pytest.mark.parametrize("percent", [100.0, 0.0001])
async def test_the_edge_begins_a_trace_and_leaves_the_path_out(tmp_path: Path, percent: float) -> None:
    """Law: the cell gets the edge's traceparent, in the client's own trace if it has one; the percentage, not the client, decides
    whether spans are made; no span names a path."""
    ports = {name: free_port() for name in ("xds", "edge", "admin")}
    word = secrets.token_hex(8)
    async with collecting(free_port()) as collector, tiny_cell("a1") as upstream:
        known = table(1, (tenant("acme", "a1", 1, source("web", KEY)),), (upstream.endpoint,))
        ads = xds.AdsServer(MemoryMeter())
        ads.publish(compile_whole(known, Listen("127.0.0.1", ports["edge"], trace_percent=percent)).snapshot)
        server = await xds.serve(ads, f"127.0.0.1:{ports['xds']}")
        path = tmp_path / "envoy.json"
        address = ("127.0.0.1", int(collector.endpoint.rpartition(":")[2]))
        identity = EdgeIdentity("edge", EU, RegionName("eu-west-1"))
        path.write_text(json.dumps(bootstrap(identity, "127.0.0.1", ports["xds"], ports["admin"], address)))
        envoy = Envoy(path, ports["admin"])
        envoy.start()
        try:
            await envoy.serving()
            await ask_and_look(ports["edge"], collector, word, percent)
        finally:
            envoy.stop()
            await server.stop(0)


async def ask_and_look(port: int, collector: Collector, word: str, percent: float) -> None:
    """One request without a traceparent, one with."""
    trace = secrets.token_hex(16)
    async with http_client(port) as http:

        async def is_healthy() -> bool:
            return (await http.get("/v1/x", {"x-api-key": KEY})).status_code == 200

        await eventually(is_healthy, "the cell is found healthy", 5)
        for headers in ({}, {"traceparent": f"00-{trace}-{'b' * 16}-01"}):
            answer = await http.get(f"/v1/events/{word}?userId={word}", {"x-api-key": KEY, **headers})
            assert answer.status_code == 200
            passed = answer.json()["headers"]["traceparent"]
            assert passed.endswith("-01") == (percent == 100.0)
    assert passed.split("-")[1] == trace

    def arrived() -> bool:
        return any(told.trace == trace and told.id == passed.split("-")[2] for told in collector.spans)

    if percent == 100.0:
        await eventually(arrived, "the edge's span arrives", 15)
    assert word.encode() not in b"".join(collector.bodies)
    assert b"/v1/events" not in b"".join(collector.bodies)
