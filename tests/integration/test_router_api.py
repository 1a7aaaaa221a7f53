"""RouterService over real gRPC: tokens, answers, errors, and what watchers are sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from dataflow.routing.v1 import routing_pb2 as pb
from kernel.clock import Micros
from kernel.ids import TenantId, hash_of, parse_key
from kernel.limits import Plan
from kernel.process.journal import FileJournal, Signer
from router.api import service
from router.api.mirror import Mirror
from router.placement import codec
from router.placement.memory import MemoryStore
from router.placement.steps import CreateTenant
from router.placement.store import REPLAY_CHANGES_MAX, Change, Intent
from router.placement.table import Table, Topology, empty
from tests.support.edge_room import EU, FOLLOWER, OPERATOR, VIEWER, Directory, directory
from tests.support.processes import eventually
from tests.support.router_words import cell
from tests.support.tiny_cell import TinyCell

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
        (served.call("GetTenant", tenant="ghost"), "UNKNOWN_TENANT"),
        (served.call("CreateTenant", name="other", demand=-1), "INVALID_FIELD"),
        (served.call("CreateTenant", name="other", demand=float("inf")), "INVALID_FIELD"),
        (served.call("CreateTenant", name="other", demand=float("nan")), "INVALID_FIELD"),
        (served.call("CreateTenant", name="other", demand=1e9), "ZONE_EXHAUSTED"),
        (served.call("CreateTenant", name="other", plan=pb.Plan(events_per_second=float("nan"))), "INVALID_FIELD"),
        (served.call("CreateTenant", name="other", pin=pb.Pin(cell="a1")), "INVALID_FIELD"),
        (served.call("CreateTenant", name="other", demand=1e9, pin=pb.Pin(cell="a1", reason="why")), "CELL_FULL"),
        (served.call("PinTenant", tenant="acme", pin=pb.Pin(cell="us-1", reason="why")), "UNKNOWN_CELL"),
        (served.call("PinTenant", tenant="acme", pin=pb.Pin(cell="b1", reason="why", expires_at=1)), "INVALID_FIELD"),
        (served.call("PinTenant", tenant="acme", pin=pb.Pin(cell="b1", reason="w" * 201)), "INVALID_FIELD"),
        (served.call("SetDemand", tenant="acme", demand=-1), "INVALID_FIELD"),
        (served.call("SetPlan", tenant="acme", plan=pb.Plan(spread=1_000)), "INVALID_FIELD"),
        (served.call("CreateWriteKey", tenant="acme", source="web"), "UNKNOWN_SOURCE"),
        (served.call("SuspendTenant", tenant="acme", intent=pb.Intent(request_id="r" * 65)), "INVALID_FIELD"),
        (served.call("SuspendTenant", tenant="acme", intent=pb.Intent(request_id="r\n")), "INVALID_FIELD"),
        (served.call("SuspendTenant", tenant="acme", intent=pb.Intent(if_revision=1)), "STALE_REVISION"),
        (served.call("FailOverCell", cell="a1"), "INVALID_FIELD"),
        (served.call("FailOverCell", cell="", reason="why"), "INVALID_NAME"),
        (served.call("FailOverCell", cell="us-1", reason="why"), "UNKNOWN_CELL"),
        (served.call("ReportView", site="us-east-1"), "INVALID_FIELD"),
    ]
    before = await served.call("ListTenants")
    for call, reason in cases:
        assert (await reason_of(call))[1] == reason
    assert await served.call("ListTenants") == before


async def test_who_only_looks_changes_nothing(served: Directory) -> None:
    """Law: every method is a viewer's or an operator's alone, but for what followers do: Watch, and say what they see."""
    followed = {"Watch", "ReportView"}
    everything = [method.name for method in pb.DESCRIPTOR.services_by_name["RouterService"].methods if method.name not in followed]
    reading = {"GetTenant", "ListTenants", "ListCells", "ListAudit", "ListMoves", "Resolve"}
    for method in everything:
        for token, may in ((VIEWER.token, method in reading), (FOLLOWER, False)):
            found = await reason_of(served.call(method, token)) if not (may and method.startswith("List")) else (None, "")
            assert (found[1] != "WRONG_KEY_KIND") == may, (method, token)


async def test_moves_over_the_wire(served: Directory) -> None:
    """Law: a move is started, changed and listed by operators, entered into the audit chain, with who and why."""
    await served.call("CreateTenant", name="acme", pinned_cell="a1")
    await served.call("PinTenant", tenant="acme")
    cases = [
        (served.call("StartMove", tenant="acme", target="b1"), "INVALID_FIELD"),
        (served.call("StartMove", tenant="acme", target="a1", reason="why"), "INVALID_FIELD"),
        (served.call("StartMove", tenant="acme", target="us-1", reason="why"), "UNKNOWN_CELL"),
        (served.call("StartMove", tenant="acme", reason="why", keep_seconds=10**9), "INVALID_FIELD"),
        (served.call("StartMove", tenant="stranger", reason="why"), "UNKNOWN_TENANT"),
        (served.call("ChangeMove", tenant="acme", change=pb.MOVE_CHANGE_ABORT, reason="why"), "NOT_MOVING"),
        (served.call("EvacuateCell", cell="us-1", reason="why"), "UNKNOWN_CELL"),
    ]
    for call, reason in cases:
        assert (await reason_of(call))[1] == reason
    planned = await served.call("EvacuateCell", cell="a1", reason="why", intent=pb.Intent(dry_run=True))
    assert [(one.tenant, one.move.target) for one in planned.moves] == [("acme", "b1")]
    assert not (await served.call("ListMoves", ended=True)).moves
    begun = await served.call("StartMove", tenant="acme", reason="why", intent=pb.Intent(request_id="r1"))
    assert (begun.move.source, begun.move.target, begun.move.state, begun.move.keep_seconds) == ("a1", "b1", "registered", 3_600)
    again = await served.call("StartMove", tenant="acme", reason="why", intent=pb.Intent(request_id="r1"))
    assert again.move.id == begun.move.id
    assert (await reason_of(served.call("StartMove", tenant="acme", reason="why")))[1] == "TENANT_MOVING"
    listed = await served.call("ListMoves")
    assert [(one.tenant, one.move) for one in listed.moves] == [("acme", begun.move)]
    assert not (await served.call("EvacuateCell", cell="a1", reason="why")).moves, "who is on the way out is left to its move"
    paused = await served.call("ChangeMove", tenant="acme", change=pb.MOVE_CHANGE_PAUSE, reason="look first")
    assert (paused.move.paused, paused.move.remark) == (True, "look first")
    assert (await reason_of(served.call("ChangeMove", tenant="acme", reason="why")))[1] == "INVALID_FIELD"
    assert (await reason_of(served.call("ChangeMove", tenant="acme", change=pb.MOVE_CHANGE_FINISH, reason="why")))[1] == "MOVE_NOT_NOW"
    ended = await served.call("ChangeMove", tenant="acme", change=pb.MOVE_CHANGE_ABORT, reason="no more")
    assert (ended.move.state, ended.move.paused, ended.cell, ended.epoch) == ("aborted", False, "a1", 1)
    assert not (await served.call("ListMoves")).moves
    entries = (await served.call("ListAudit")).entries
    assert [entry.action for entry in entries][-3:] == ["StartMove", "PauseMove", "TurnMove"]


async def test_a_repeated_request_shows_no_key_twice(served: Directory) -> None:
    """Law: the same request again is answered as at first but for the key, which only the one that minted it shows; a request of another
    text may not have its name; who asked stands in the audit chain."""
    intent = pb.Intent(request_id="r1")
    await served.call("CreateTenant", name="acme", demand=5)
    first = await served.call("CreateSource", tenant="acme", name="web", intent=intent)
    again = await served.call("CreateSource", tenant="acme", name="web", intent=intent)
    assert (again.source, again.write_key) == (first.source, "")
    other = served.call("CreateSource", tenant="acme", name="app", intent=intent)
    assert (await reason_of(other))[1] == "REQUEST_REUSED"
    tried = await served.call("CreateWriteKey", tenant="acme", source="web", intent=pb.Intent(dry_run=True))
    assert (len(tried.source.write_keys), tried.write_key) == (2, "")
    second = await served.call("CreateWriteKey", tenant="acme", source="web")
    assert [key.hash for key in second.source.write_keys] == [first.source.write_keys[0].hash, hash_of(second.write_key)]
    held = await served.call("GetTenant", tenant="acme")
    assert (held.demand, held.revision, list(held.sources)) == (5, 4, [second.source])
    entries = (await served.call("ListAudit")).entries
    assert [(one.actor, one.action, one.request_id) for one in entries] == [
        ("operator", "CreateTenant", ""),
        ("operator", "AddSource", "r1"),
        ("operator", "AddWriteKey", ""),
    ]
    assert [one.seq for one in (await served.call("ListAudit", after=1, limit=1)).entries] == [2]


async def test_cells_say_how_much_room_they_have(served: Directory) -> None:
    """Law: what is expected of their tenants is taken from what they were tested for."""
    before = {cell.cell: cell for cell in (await served.call("ListCells")).cells}
    await served.call("CreateTenant", name="acme", demand=1_000, pin=pb.Pin(cell="b1", reason="why"))
    after = {cell.cell: cell for cell in (await served.call("ListCells")).cells}
    assert (after["b1"].demand, after["b1"].tenants, after["b1"].room) == (1_000, 1, before["b1"].room - 1_000)
    assert after["a1"] == before["a1"]


async def test_followers_are_told_nothing_of_operators_words(served: Directory) -> None:
    """Law: demand, pins and their reasons stay in the directory."""
    await served.call("CreateTenant", name="acme", demand=1_000, pin=pb.Pin(cell="b1", reason="between us"))
    watcher = Watcher(served)
    task = asyncio.create_task(watcher.run())
    await eventually(lambda: watcher.table.revision == 2, "the whole map arrives")
    await served.call("SetDemand", tenant="acme", demand=2_000)
    await eventually(lambda: watcher.table.revision == 3, "the change arrives")
    for update in watcher.updates:
        (told,) = update.tenants
        assert (told.demand, told.HasField("pin"), told.revision) == (0, False, 0)
    task.cancel()


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
    assert set(watcher.table.tenants) == set(served.mirror.table.tenants)
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
    await served.store.change(CreateTenant(TenantId("quiet"), Plan(), 1.0), Intent("another process", Micros(0)))
    await eventually(lambda: TenantId("quiet") in watcher.table.tenants, "the change is found")
    stop.set()
    await following
    task.cancel()


class Busy(MemoryStore):
    """A store in which another process commits a change whenever somebody asks who does not hold the directory's table still."""

    mirror: Mirror | None = None
    left = 3

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """See the port."""
        if self.mirror is not None and not self.mirror._reading.locked() and self.left:
            self.left -= 1
            await self.change(CreateTenant(TenantId(f"other-{self.left}"), Plan(), 1.0), Intent("another process", Micros(0)))
        return await super().changes(after, limit)


async def test_a_store_ahead_of_the_directory_makes_no_watcher_start_afresh() -> None:
    """Law: whoever watches is told each change once and in order, however far the store is ahead of the table; with many tenants a whole
    map for every change is more than a directory can send."""
    store = Busy(EU)
    async with directory(CELLS, SIGNER, store) as served:
        watcher = Watcher(served)
        task = asyncio.create_task(watcher.run())
        await eventually(lambda: watcher.table.revision == 1, "the whole map arrives")
        store.mirror = served.mirror
        served.mirror._recent = deque(maxlen=0)  # as one that has just been started: it has to ask the store
        for name in ("one", "two", "three"):
            await served.call("CreateTenant", name=name)
            await eventually(lambda name=name: TenantId(name) in watcher.table.tenants, "the change arrives")
        assert store.left < 3
        await served.mirror.refresh()
        await eventually(lambda: watcher.table.revision == served.mirror.table.revision, "everything arrives")
        assert not task.done()
        task.cancel()
        assert [(u.from_revision, u.to_revision) for u in watcher.updates] == [
            (0, 1),
            *((n, n + 1) for n in range(1, len(watcher.updates))),
        ]
