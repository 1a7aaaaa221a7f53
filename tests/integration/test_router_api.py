"""RouterService over real gRPC: tokens, answers, errors, and what watchers are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from dataflow.routing.v1 import routing_pb2 as pb
from kernel.ids import TenantId, hash_of, parse_key
from kernel.process.journal import FileJournal, Signer
from router.api import service
from router.placement import codec
from router.placement.table import Table, Topology, empty
from tests.support.edge_room import EU, FOLLOWER, OPERATOR, Directory, TinyCell, directory
from tests.support.processes import eventually
from tests.support.router_words import cell, tenant

SIGNER = Signer(b"d" * 32)
CELLS = [TinyCell(cell("a1")), TinyCell(cell("b1", 7_100))]


@pytest.fixture
async def served() -> AsyncIterator[Directory]:
    """A directory whose cells nobody calls."""
    async with directory(CELLS, SIGNER) as made:
        yield made


async def reason_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status code and ErrorInfo reason of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = rpc_status.from_call(cast("Any", raised.value))
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert info.domain == "dataflow"
    return raised.value.code(), info.reason


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a caller."""
    return (("authorization", f"Bearer {token}"),)


class Watcher:
    """A follower that applies what it is sent."""

    def __init__(self, served: Directory, after: int = 0, table: Table | None = None) -> None:
        self.table = table or empty(EU)
        self.updates: list[pb.Update] = []
        self._served = served
        self._after = after

    async def run(self) -> None:
        verifier = FileJournal(cast("Any", None), SIGNER.public_key)
        call = self._served.stub.Watch(pb.WatchRequest(after_revision=self._after), metadata=bearer(FOLLOWER))
        async for signed in call:
            assert verifier.verify(cast("Any", signed))
            self.updates.append(pb.Update.FromString(signed.update))
            self.table = self.table.apply(codec.parse_update(signed.update))


async def test_tokens_decide_who_may_what(served: Directory) -> None:
    """Law: no token, a wrong one, and a follower's outside Watch are refused; health needs none."""
    request, stub = pb.ListTenantsRequest(), served.stub
    assert await reason_of(stub.ListTenants(request)) == (grpc.StatusCode.UNAUTHENTICATED, "NO_CREDENTIAL")
    assert await reason_of(stub.ListTenants(request, metadata=bearer("guess"))) == (grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY")
    assert await reason_of(stub.ListTenants(request, metadata=bearer(FOLLOWER))) == (grpc.StatusCode.PERMISSION_DENIED, "WRONG_KEY_KIND")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in stub.Watch(pb.WatchRequest(), metadata=bearer("guess")):
            pass
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await stub.ListTenants(request, metadata=bearer(OPERATOR))).revision == 1
    async with grpc.aio.insecure_channel(served.address) as channel:
        probe: Any = health_pb2_grpc.HealthStub(channel)
        answer = await probe.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_tenant_is_placed_and_its_keys_are_shown_once(served: Directory) -> None:
    """Law: keys are minted for the zone, kept as hashes only; slugs are public; a tenant resolves to where it was placed."""
    made = await served.call("CreateTenant", name="acme", pinned_cell="b1", plan=pb.Plan(events_per_second=10))
    assert (made.cell, made.epoch, made.plan.events_per_second, made.plan.spread) == ("b1", 1, 10, 1)
    first = await served.call("CreateSource", tenant="acme", name="web")
    key = parse_key(first.write_key)
    assert key is not None
    assert (key.kind, key.zone, key.hash) == ("wk", "eu", first.source.write_keys[0].hash)
    assert first.source.slug.startswith("eu-")
    read = parse_key((await served.call("CreateReadKey", tenant="acme")).read_key)
    assert read is not None
    assert read.kind == "rk"
    revoked = await served.call("RevokeKey", hash=key.hash)
    listed = await served.call("ListTenants")
    assert listed.revision == revoked.revision == 5
    assert [(c.hash, c.revoked) for c in listed.tenants[0].sources[0].write_keys] == [(key.hash, True)]
    assert [c.hash for c in listed.tenants[0].read_keys] == [read.hash]
    assert first.write_key not in str(listed)
    resolved = await served.call("Resolve", tenant="acme")
    assert (resolved.cell, resolved.epoch, resolved.revision) == ("b1", 1, 5)
    assert (await served.call("SuspendTenant", tenant="acme", suspended=True)).suspended
    assert await reason_of(served.call("Resolve", tenant="acme")) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_SUSPENDED")


async def test_refusals_have_reasons(served: Directory) -> None:
    """Law: every refusal is a status of the vocabulary."""
    await served.call("CreateTenant", name="acme")
    cases = [
        (served.call("CreateTenant", name="acme"), "TENANT_EXISTS"),
        (served.call("CreateTenant", name="Not A Name"), "INVALID_NAME"),
        (served.call("CreateTenant", name="other", pinned_cell="us-1"), "UNKNOWN_CELL"),
        (served.call("CreateTenant", name="other", plan=pb.Plan(batch_bytes_max=2**31)), "INVALID_FIELD"),
        (served.call("CreateSource", tenant="ghost", name="web"), "UNKNOWN_TENANT"),
        (served.call("CreateSource", tenant="acme", name="W"), "INVALID_NAME"),
        (served.call("RevokeKey", hash="abc"), "INVALID_FIELD"),
        (served.call("RevokeKey", hash=hash_of("nobody's")), "UNKNOWN_KEY"),
        (served.call("Resolve", tenant="ghost"), "UNKNOWN_TENANT"),
    ]
    for call, reason in cases:
        assert (await reason_of(call))[1] == reason


async def test_watchers_get_a_whole_map_and_then_each_change(served: Directory) -> None:
    """Law: a new follower gets one whole signed update, then each change; one that returns gets only what it missed, or nothing."""
    await served.call("CreateTenant", name="acme")
    watcher = Watcher(served)
    task = asyncio.create_task(watcher.run())
    await eventually(lambda: watcher.table.revision == 2, "the whole map arrives")
    for name in ("web", "app"):
        await served.call("CreateSource", tenant="acme", name=name)
    await eventually(lambda: watcher.table.revision == 4, "the changes arrive")
    assert [(u.from_revision, u.to_revision) for u in watcher.updates] == [(0, 2), (2, 3), (3, 4)]
    assert watcher.table.tenants.keys() == served.mirror.table.tenants.keys()
    task.cancel()
    returned = Watcher(served, 3, replace(watcher.table, revision=3))
    current = Watcher(served, 4, watcher.table)
    tasks = [asyncio.create_task(one.run()) for one in (returned, current)]
    await eventually(lambda: returned.table.revision == 4, "the missed change arrives")
    await served.call("SuspendTenant", tenant="acme", suspended=True)
    await eventually(lambda: current.table.revision == 5, "the next change arrives")
    assert [(u.from_revision, u.to_revision) for u in returned.updates[:1]] == [(3, 4)]
    assert [(u.from_revision, u.to_revision) for u in current.updates] == [(4, 5)]
    for one in tasks:
        one.cancel()


async def test_watchers_too_far_behind_or_ahead_get_a_whole_map(served: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: who is further behind than can be replayed, who knows the future, and who missed a topology gets everything."""
    monkeypatch.setattr(service, "REPLAY_CHANGES_MAX", 2)
    for name in ("one", "two", "three", "four"):
        await served.call("CreateTenant", name=f"tenant-{name}")
    behind, ahead = Watcher(served, 1), Watcher(served, 99)
    tasks = [asyncio.create_task(one.run()) for one in (behind, ahead)]
    await eventually(lambda: behind.table.revision == ahead.table.revision == 5, "whole maps arrive")
    assert [u.from_revision for u in behind.updates + ahead.updates] == [0, 0]
    cells = (cell("a1", 7_500), CELLS[1].endpoint)
    await served.store.adopt(Topology(cells, (("eu", "http://eu.test"),)))  # type: ignore[arg-type]  # plain text stands for a zone
    await served.mirror.refresh()
    await eventually(lambda: behind.table.revision == 6, "the topology arrives")
    assert behind.updates[-1].from_revision == 0
    assert behind.table.cells[cells[0].cell].grpc_address == cells[0].grpc_address
    for one in tasks:
        one.cancel()


async def test_another_process_of_the_directory_is_heard(served: Directory) -> None:
    """Law: a change that another process committed reaches watchers by polling."""
    stop = asyncio.Event()
    following = asyncio.create_task(served.mirror.follow(stop))
    watcher = Watcher(served)
    task = asyncio.create_task(watcher.run())
    await eventually(lambda: watcher.table.revision == 1, "the whole map arrives")
    await served.store.create_tenant(tenant("quiet"))
    await eventually(lambda: TenantId("quiet") in watcher.table.tenants, "the change is found")
    stop.set()
    await following
    task.cancel()
