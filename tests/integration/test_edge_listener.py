"""The real Envoy's door: TLS and what a client may speak through it, and what operators see and switch there."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from cli.local import certificates
from dataflow.routing.v1 import routing_pb2
from kernel.process.journal import Signer
from router.xds import tls
from router.xds.listener import Listen
from router.xds.rate import BURST_SECONDS, rate_of
from tests.support.edge_room import SAY, Room, running_edge
from tests.support.processes import eventually

pytestmark = pytest.mark.envoy
SIGNER = Signer(bytes(range(32)))
CANARY = "canary-of-a-customer"


def _certified(folder: Path) -> Path:
    """A certificate of this edge, where Envoy looks for it; the file that says where."""
    certificates.certify(folder, "eu", "edge-test", folder)
    secret = folder / "certificate.json"
    secret.write_text(json.dumps(tls.secret(*certificates.edge_files(folder))))
    return secret


def _trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.authority_file(folder))


async def _post(room: Room, context: ssl.SSLContext) -> dict[str, Any]:
    """One request over a connection of its own; the cell's echo."""
    url = f"https://localhost:{room.ports.edge}/v1/batch"
    headers = {"x-api-key": room.keys["acme"]}
    async with aiohttp.ClientSession() as session, session.post(url, headers=headers, ssl=context) as answer:
        assert answer.status == 200
        return dict(await answer.json())


async def _protocol(room: Room, context: ssl.SSLContext, *offered: str) -> str | None:
    """What ALPN chooses among what a client offers."""
    context.set_alpn_protocols(list(offered))
    _, writer = await asyncio.open_connection("localhost", room.ports.edge, ssl=context)
    chosen: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    return chosen


async def _certificate(room: Room, context: ssl.SSLContext) -> bytes:
    """What the edge shows now."""
    _, writer = await asyncio.open_connection("localhost", room.ports.edge, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


async def test_one_port_speaks_every_protocol_encrypted_and_in_the_clear(tmp_path: Path) -> None:
    """Law: HTTP/1.1, HTTP/2 and gRPC reach the cell by ALPN over TLS; where it is allowed the same port takes them in the clear. The stamp
    is the same either way."""
    async with running_edge(tmp_path, SIGNER, Listen("", 0, secret_path=str(_certified(tmp_path)), clear=True)) as room:
        context = _trusting(tmp_path)
        encrypted = await _post(room, context)
        clear = (await room.http.post("/v1/batch", headers={"x-api-key": room.keys["acme"]})).json()
        stamps = [{k: v for k, v in one["headers"].items() if k.startswith("x-dataflow")} for one in (encrypted, clear)]
        assert stamps[0] == stamps[1]
        assert stamps[0]["x-dataflow-tenant"] == "acme"
        assert [await _protocol(room, context, *offered) for offered in (("h2", "http/1.1"), ("http/1.1",))] == ["h2", "http/1.1"]
        credentials = grpc.ssl_channel_credentials(certificates.authority_file(tmp_path).read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{room.ports.edge}", credentials) as channel:
            call: Any = channel.unary_unary(SAY)
            answer = json.loads(await call(b"", metadata=(("x-api-key", room.keys["globex"]),), timeout=5))
        assert answer["headers"]["x-dataflow-tenant"] == "globex"
        assert (await room.say(x_api_key=room.keys["globex"]))["cell"] == answer["cell"]


async def test_without_leave_nothing_is_said_in_the_clear(tmp_path: Path) -> None:
    """Law: an edge that is encrypted alone closes a connection in the clear, speaks no TLS older than 1.2, and shows a certificate that
    only its zone's authority vouches for."""
    async with running_edge(tmp_path, SIGNER, Listen("", 0, secret_path=str(_certified(tmp_path)))) as room:
        assert (await _post(room, _trusting(tmp_path)))["headers"]["x-dataflow-tenant"] == "acme"
        with pytest.raises(aiohttp.ClientError):
            await room.http.post("/v1/batch", headers={"x-api-key": room.keys["acme"]})
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("localhost", room.ports.edge, ssl=ssl.create_default_context())
        old = _trusting(tmp_path)
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", room.ports.edge, ssl=old)


async def test_a_renewed_certificate_is_shown_and_no_connection_ends(tmp_path: Path) -> None:
    """Law: the files are replaced by renames, as a cluster's secrets are; new connections see the new certificate, an open one goes on."""
    async with running_edge(tmp_path, SIGNER, Listen("", 0, secret_path=str(_certified(tmp_path)))) as room:
        context = _trusting(tmp_path)
        before = await _certificate(room, context)
        reader, writer = await asyncio.open_connection("localhost", room.ports.edge, ssl=context)

        async def sent() -> bytes:
            head = f"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-api-key: {room.keys['acme']}\r\n\r\n"
            writer.write(head.encode())
            return (await reader.readuntil(b"}"))[:15]

        assert await sent() == b"HTTP/1.1 200 OK"
        _renew(tmp_path)

        async def renewed() -> bool:
            return await _certificate(room, context) != before

        await eventually(renewed, "the new certificate is shown", 10)
        assert await sent() == b"HTTP/1.1 200 OK"
        writer.close()


def _renew(folder: Path) -> None:
    fresh = folder / "fresh"
    fresh.mkdir()
    for path in folder.glob("authority.*"):
        (fresh / path.name).write_bytes(path.read_bytes())
    certificates.certify(fresh, "eu", "edge-test", fresh)
    for made, old in zip(certificates.edge_files(fresh), certificates.edge_files(folder), strict=True):
        made.rename(old)


async def test_a_damaged_pair_is_not_taken(tmp_path: Path) -> None:
    """Law: while certificate and key do not belong together the last good pair is shown, and the failure counted; the next good pair is
    taken."""
    async with running_edge(tmp_path, SIGNER, Listen("", 0, secret_path=str(_certified(tmp_path)))) as room:
        context = _trusting(tmp_path)
        before = await _certificate(room, context)
        key = certificates.edge_files(tmp_path)[1]
        good = key.read_bytes()
        (tmp_path / "fresh.key").write_bytes((tmp_path / "authority.key").read_bytes())
        (tmp_path / "fresh.key").rename(key)

        async def counted() -> bool:
            return any(count > 0 for count in (await room.envoy.stats("sds.*key_rotation_failed")).values())

        await eventually(counted, "the failure is counted", 10)
        assert await _certificate(room, context) == before
        (tmp_path / "fresh.key").write_bytes(good)
        (tmp_path / "fresh.key").rename(key)
        _renew(tmp_path)

        async def renewed() -> bool:
            return await _certificate(room, context) != before

        await eventually(renewed, "the next good pair is taken", 10)


@asynccontextmanager
async def _admin(room: Room) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{room.ports.admin}") as session:

        async def ask(method: str, path: str, **query: str) -> str:
            async with session.request(method, path, params=query) as answer:
                assert answer.status == 200
                return await answer.text()

        yield ask


async def test_faults_are_switched_on_and_off_while_it_runs(tmp_path: Path) -> None:
    """Law: chaos experiments fail a share of requests by a switch on the admin page, in the shape of a lost cell; off is off."""
    async with running_edge(tmp_path, SIGNER) as room, _admin(room) as ask:
        headers = {"x-api-key": room.keys["acme"]}
        assert (await room.http.post("/v1/batch", headers=headers)).status_code == 200
        await ask("POST", "/runtime_modify", **{"fault.http.abort.abort_percent": "100", "fault.http.abort.http_status": "503"})
        failed = await room.http.post("/v1/batch", headers=headers)
        assert (failed.status_code, failed.json()["code"], failed.headers["retry-after"]) == (503, "CELL_UNAVAILABLE", "1")
        assert (await room.refusal(x_api_key=room.keys["acme"]))[:2] == (grpc.StatusCode.UNAVAILABLE, "CELL_UNAVAILABLE")
        await ask("POST", "/runtime_modify", **{"fault.http.abort.abort_percent": "", "fault.http.abort.http_status": ""})
        assert (await room.http.post("/v1/batch", headers=headers)).status_code == 200


async def test_the_access_log_tells_what_went_on_and_nothing_of_tenants_data(tmp_path: Path) -> None:
    """Law: a line of JSON for each request, with its id, tenant, cell, status and times; no key, path, query, user agent or address."""
    async with running_edge(tmp_path, SIGNER, Listen("", 0, access_percent=100.0)) as room:
        key = room.keys["acme"]
        headers = {"x-api-key": key, "x-request-id": "the-one", "user-agent": CANARY, "referer": CANARY, "x-forwarded-for": CANARY}
        await room.http.post(f"/v1/events/{CANARY}?user={CANARY}", headers=headers, content=CANARY.encode())
        await room.http.post("/v1/batch", headers={**headers, "x-api-key": "wk_eu_unknown", "x-request-id": "the-other" + "!" * 1_000})
        await room.say(x_api_key=key)
        await eventually(lambda: len(_lines(tmp_path)) >= 3, "three lines", 15)
        lines = _lines(tmp_path)
        told = {line["request_id"]: line for line in lines}
        one = told["the-one"]
        assert (one["tenant"], one["cell"], one["upstream"], one["status"]) == ("acme", "eu-west-1-a", "eu-west-1-a/http", 200)
        assert one["millis"] >= one["first_byte_millis"] >= 0
        [other] = [line for name, line in told.items() if name.startswith("the-other")]
        assert (other["tenant"], other["status"]) == (None, 401)
        assert [line["grpc_status"] for line in lines if line["protocol"] == "HTTP/2"] == [0]
        assert all(len(str(value)) <= 64 for line in lines for value in line.values())
        assert key not in (tmp_path / "envoy.log").read_text()
        for word in (CANARY, "127.0.0.1"):
            assert word not in json.dumps(lines)


async def test_failures_are_told_more_often_than_successes(tmp_path: Path) -> None:
    """Law: calls as well, whose status stands behind an HTTP status of 200."""
    async with running_edge(tmp_path, SIGNER, Listen("", 0, access_percent=0.0)) as room, _admin(room) as ask:
        await ask("POST", "/runtime_modify", **{"access_log.failed_percent": "1000000"})
        key = room.keys["acme"]
        assert (await room.http.post("/v1/batch", headers={"x-api-key": key})).status_code == 200
        await room.say(x_api_key=key)
        await ask("POST", "/runtime_modify", **{"fault.http.abort.abort_percent": "100", "fault.http.abort.http_status": "503"})
        assert (await room.http.post("/v1/batch", headers={"x-api-key": key})).status_code == 503
        await room.refusal(x_api_key=key)
        await eventually(lambda: len(_lines(tmp_path)) >= 2, "two lines", 15)
        assert sorted((line["status"], line["grpc_status"]) for line in _lines(tmp_path)) == [(200, 14), (503, None)]


def _lines(folder: Path) -> list[dict[str, Any]]:
    """What Envoy's access log says."""
    return [json.loads(line) for line in (folder / "envoy.log").read_text().splitlines() if line.startswith("{")]


async def test_calls_are_counted_by_method_and_by_no_name_that_a_client_made_up(tmp_path: Path) -> None:
    """Law: the public services' methods have counters; any other method has none."""
    async with running_edge(tmp_path, SIGNER) as room:
        for method in (SAY, "/dataflow.ingest.v1.IngestService/Ingest"):
            await room.say(method, x_api_key=room.keys["acme"])
        counted = await room.envoy.stats("grpc.*(Ingest|Say)")
        assert counted["cluster.eu-west-1-a/grpc.grpc.dataflow.ingest.v1.IngestService.Ingest.success"] == 1
        assert not [name for name in counted if "Say" in name]


async def test_a_tenant_asks_no_more_often_than_its_plan_says(tmp_path: Path) -> None:
    """Law: all keys of a tenant share one bucket, whichever protocol; above it the answer is 429 with Retry-After, or RESOURCE_EXHAUSTED;
    another tenant does not notice, and another plan counts at once."""
    async with running_edge(tmp_path, SIGNER) as room:
        keys = [room.keys["acme"], (await room.directory.call("CreateWriteKey", tenant="acme", source="web")).write_key]
        await room.directory.call("SetPlan", tenant="acme", plan=routing_pb2.Plan(requests_per_second=3.0))
        await room.live()
        answers = [await room.http.post("/v1/batch", headers={"x-api-key": keys[number % 2]}) for number in range(40)]
        served = sum(answer.status_code == 200 for answer in answers)
        assert rate_of(3.0) * BURST_SECONDS <= served < 20
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {(one.status_code, one.json()["code"], one.headers["retry-after"]) for one in refused} == {(429, "QUOTA_EXCEEDED", "1")}

        async def too_often() -> bool:
            try:
                await room.say(x_api_key=keys[0])
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        await eventually(too_often, "gRPC is refused as well", 5)
        others = [await room.http.post("/v1/batch", headers={"x-api-key": room.keys["globex"]}) for _ in range(40)]
        assert {answer.status_code for answer in others} == {200}
        await room.directory.call("SetPlan", tenant="acme", plan=routing_pb2.Plan(requests_per_second=300.0))
        await room.live()
        assert [(await room.http.post("/v1/batch", headers={"x-api-key": keys[0]})).status_code for _ in range(40)] == [200] * 40


async def test_what_a_cell_answers_takes_it_out_for_nobody(tmp_path: Path) -> None:
    """Law: whatever its status, however often: a cell that sheds or fails requests is not lost while it answers health checks."""
    async with running_edge(tmp_path, SIGNER) as room:
        headers = {"x-api-key": room.keys["acme"]}
        for status in (429, 500, 502, 503, 504):
            answers = await asyncio.gather(*(room.http.post(f"/v1/answer/{status}", headers=headers) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {status}
        assert (await room.http.post("/v1/batch", headers=headers)).status_code == 200
