"""One delta-xDS stream: order, patience, resumption, removal, refusal."""

from __future__ import annotations

from dataclasses import replace

from kernel.ids import TenantId
from router.placement.table import Topology, Update
from router.xds.compile import Compiled, compile_change, compile_whole
from router.xds.delta import Acked, Nacked, Request, Response, Stream
from router.xds.listener import Listen
from router.xds.snapshot import CDS, EDS, LDS, RDS, SRDS, Snapshot
from tests.support.router_words import EU, cell, source, table, tenant

LISTEN = Listen("127.0.0.1", 8_080)
CELLS = (cell("a1"), cell("b1", 7_100))
TABLE = table(3, (tenant("one", "a1", 1, source("web", "k1")),), CELLS)
COMPILED = compile_whole(TABLE, LISTEN)


def ack(stream: Stream, response: Response, error: str | None = None) -> Acked | Nacked | None:
    return stream.receive(Request(response.kind, response.nonce, error))


def connected(snapshot: Snapshot) -> Stream:
    """A stream of an Envoy that has taken all of a snapshot."""
    stream = Stream()
    for kind in (CDS, LDS, SRDS):
        stream.receive(Request(kind))
    stream.receive(Request(EDS, subscribe=tuple(snapshot.types[EDS])))
    stream.receive(Request(RDS, subscribe=tuple(snapshot.types[RDS])))
    while (response := stream.send(snapshot)) is not None:
        ack(stream, response)
    assert stream.settled(snapshot)
    return stream


def with_cells(*cells: str) -> Compiled:
    """The table with other cells, tenants in the first of them."""
    made = tuple(cell(name, 7_000 + 100 * number) for number, name in enumerate(cells))
    moved = tuple(replace(t, cell=made[0].cell, epoch=t.epoch) for t in TABLE.tenants.values())
    return compile_whole(TABLE.apply(Update(EU, 0, 9, moved, Topology(made, ()))), LISTEN)


def test_routes_wait_until_clusters_are_taken() -> None:
    """Law (rule 8): endpoints follow clusters at once; listener, scopes and routes wait for both ACKs."""
    stream = Stream()
    for kind in (RDS, SRDS, LDS, EDS, CDS):
        names = tuple(COMPILED.snapshot.types[kind]) if kind in (EDS, RDS) else ()
        stream.receive(Request(kind, subscribe=names))
    clusters, endpoints = stream.send(COMPILED.snapshot), stream.send(COMPILED.snapshot)
    assert clusters is not None
    assert endpoints is not None
    assert (clusters.kind, endpoints.kind) == (CDS, EDS)
    assert stream.send(COMPILED.snapshot) is None
    ack(stream, endpoints)
    assert stream.send(COMPILED.snapshot) is None
    ack(stream, clusters)
    kinds = []
    while (response := stream.send(COMPILED.snapshot)) is not None:
        kinds.append(response.kind)
        ack(stream, response)
    assert kinds == [LDS, SRDS, RDS]


def test_a_change_sends_its_shards_only() -> None:
    """Law (rule 5): one tenant's move is one response with the shards of its keys."""
    stream = connected(COMPILED.snapshot)
    moved = tenant("one", "b1", 2, source("web", "k1"))
    after = compile_change(COMPILED, TABLE.apply(Update(EU, 3, 4, (moved,))), [TenantId("one")])
    response = stream.send(after.snapshot)
    assert response is not None
    assert (response.kind, len(response.resources), response.removed) == (RDS, 2, ())
    ack(stream, response)
    assert stream.send(after.snapshot) is None


def test_nothing_is_broken_before_it_is_made() -> None:
    """Law (rule 8): a cell goes only after the routes that left it were taken; a changed cluster gets its endpoints again."""
    stream = connected(COMPILED.snapshot)
    after = with_cells("c1", "b1").snapshot
    kinds, removals = [], []
    while (response := stream.send(after)) is not None:
        kinds.append(response.kind)
        removals.append(response.removed)
        if response.kind == CDS and response.resources:
            stream.receive(Request(EDS, subscribe=tuple(one.name for one in response.resources)))
        ack(stream, response)
    assert kinds[:2] == [CDS, EDS]
    assert kinds.index(RDS) < kinds.index(CDS, 1)
    assert ("a1/grpc", "a1/http") in removals


def test_a_returning_envoy_is_sent_what_it_lacks() -> None:
    """Law: versions named on the first request are not sent again; another version is; names that are gone are removed."""
    stream, kept = Stream(), {name: one.version for name, one in COMPILED.snapshot.types[CDS].items()}
    stream.receive(Request(CDS, initial_versions={**kept, "old/grpc": "1", "a1/http": "stale"}))
    first = stream.send(COMPILED.snapshot)
    assert first is not None
    assert [one.name for one in first.resources] == ["a1/http"]
    ack(stream, first)
    second = stream.send(COMPILED.snapshot)
    assert second is not None
    assert second.removed == ("old/grpc",)


def test_asking_again_means_sending_again_and_absence_is_told_once() -> None:
    """Law: a repeated subscription is answered; a name that does not exist is answered as removed, once."""
    stream = connected(COMPILED.snapshot)
    stream.receive(Request(RDS, subscribe=("keys-00", "keys-nowhere")))
    first = stream.send(COMPILED.snapshot)
    assert first is not None
    assert [one.name for one in first.resources] == ["keys-00"]
    ack(stream, first)
    second = stream.send(COMPILED.snapshot)
    assert second is not None
    assert second.removed == ("keys-nowhere",)
    ack(stream, second)
    assert stream.send(COMPILED.snapshot) is None


def test_a_refusal_stops_the_wave() -> None:
    """Law (rule 9): after a NACK nothing more of that snapshot is sent; the last good one restores what was offered."""
    stream = connected(COMPILED.snapshot)
    bad = with_cells("c1", "b1").snapshot
    response = stream.send(bad)
    assert response is not None
    answer = ack(stream, response, "no such thing")
    assert answer == Nacked(CDS, "no such thing", bad)
    assert stream.send(bad) is None
    assert not stream.settled(bad)
    restored = stream.send(COMPILED.snapshot)
    assert restored is not None
    assert (restored.kind, restored.removed) == (CDS, tuple(sorted(one.name for one in response.resources)))


def test_a_stale_nonce_is_no_answer() -> None:
    """Law: only the newest response of a type can be answered."""
    stream = connected(COMPILED.snapshot)
    assert stream.receive(Request(CDS, "99")) is None
    assert stream.receive(Request(CDS, "99", "late")) is None
