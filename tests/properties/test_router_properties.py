"""Properties of placing and compiling: stability, residency (rule 12), agreement (rule 20), and cheap changes that equal whole ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.router.cluster_specifiers.matcher.v3 import matcher_pb2 as specifier_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.errors import Reason
from kernel.ids import CellId, KeyHash, TenantId, hash_of
from router.placement import codec
from router.placement.decide import Refused, Routed, decide
from router.placement.place import place
from router.placement.table import Table, Update, empty
from router.xds.compile import compile_change, compile_whole
from router.xds.headers import LOOKUP
from router.xds.ir import PROTOCOLS, Protocol, shard_of
from router.xds.listener import Listen
from router.xds.lower import SLUG_PREFIX
from router.xds.render import routes_name
from router.xds.snapshot import CDS, EDS, RDS, SRDS, Snapshot, consistent, references, resource
from router.xds.upstream import cluster, endpoints, uses_eds
from tests.support.router_words import EU, cell, tables, tenant
from tests.support.router_words import table as table_of

LISTEN = Listen("127.0.0.1", 8_080)
NAMES = [TenantId(f"tenant-{number}") for number in range(400)]
FEW = settings(max_examples=15)


@given(count=st.integers(1, 8), newcomer=st.integers(100, 10_000))
def test_a_new_cell_takes_its_share_and_moves_nobody_else(count: int, newcomer: int) -> None:
    """Law (rule 19): with one more cell, tenants move to that cell only, and about 1/(n+1) of them do."""
    cells = [cell(f"cell-{number}") for number in range(count)]
    fresh = cell(f"new-{newcomer}")
    before = {name: place(name, cells) for name in NAMES}
    after = {name: place(name, [*cells, fresh]) for name in NAMES}
    moved = [name for name in NAMES if before[name] != after[name]]
    assert all(after[name] == fresh.cell for name in moved)
    expected = len(NAMES) / (count + 1)
    assert len(moved) < expected + 5 * expected**0.5 + 1


@given(weight=st.sampled_from([1.0, 2.0, 4.0]))
def test_shares_follow_weights(weight: float) -> None:
    """Law: a cell's share of tenants is its weight's."""
    cells = [cell("light-1"), cell("heavy-1", weight=weight)]
    heavy = sum(place(name, cells) == "heavy-1" for name in NAMES)
    share = weight / (1 + weight)
    assert abs(heavy / len(NAMES) - share) < 0.12


@given(table=tables(), stranger=st.text(max_size=20))
def test_decide_names_only_homes_in_the_zone(table: Table, stranger: str) -> None:
    """Law: what is routed goes to the tenant's own home, one of the zone's cells; every other name is refused."""
    for name in [*table.tenants, TenantId(stranger)]:
        outcome = decide(name, table)
        if isinstance(outcome, Routed):
            assert outcome.cell in table.cells
            assert (outcome.cell, outcome.epoch) == (table.tenants[name].cell, table.tenants[name].epoch)
        else:
            assert name not in table.tenants or table.tenants[name].suspended


@FEW
@given(table=tables())
def test_no_upstream_lies_out_of_the_zone(table: Table) -> None:
    """Law (rule 12): every address and cluster anywhere in the compiled configuration is one of the zone's cells'."""
    snapshot = compile_whole(table, LISTEN).snapshot
    allowed = {address for c in table.cells.values() for address in (c.grpc_address, c.http_address)}
    clusters = {f"{name}/{protocol}" for name in table.cells for protocol in PROTOCOLS}
    assert snapshot.types[CDS].keys() == clusters
    for kind in (CDS, EDS):
        for one in snapshot.types[kind].values():
            assert one.refers <= allowed
    for one in snapshot.types[RDS].values():
        found = frozenset(references(route_pb2.RouteConfiguration.FromString(one.body)))
        assert found == one.refers <= clusters


@FEW
@given(table=tables())
def test_a_cluster_leads_to_its_cell_and_then_to_its_peer_in_the_zone(table: Table) -> None:
    """Law (rule 12): priority 0 is the cell, priority 1 its peer's same port if that is another cell of the zone, and there is no third."""
    snapshot = compile_whole(table, LISTEN).snapshot
    for held in table.cells.values():
        peer = table.cells.get(held.peer) if held.peer and held.peer != held.cell else None
        for protocol in PROTOCOLS:
            places = [one.grpc_address if protocol == "grpc" else one.http_address for one in (held, peer) if one]
            assert _led(snapshot, f"{held.cell}/{protocol}") == list(enumerate(places))


@FEW
@given(table=tables(), data=st.data())
def test_a_snapshot_that_leads_past_the_peer_is_seen(table: Table, data: st.DataObject) -> None:
    """Law (rules 9 and 12): another cell of the zone, one of another zone, one too few and one too many are problems."""
    compiled = compile_whole(table, LISTEN)
    up = data.draw(st.sampled_from(compiled.edge.upstreams))
    peer = compiled.edge.peer_of(up)
    stranger = up._replace(cell=CellId("us-a"), host="10.1.0.1")
    wrong = data.draw(st.sampled_from([one for one in (*compiled.edge.upstreams, stranger, None) if one != peer]))
    kind, made = (EDS, endpoints(up, wrong)) if uses_eds(up, wrong) else (CDS, cluster(up, wrong))
    planted = {**compiled.snapshot.types[kind], up.cluster: resource(up.cluster, made)}
    assert any(up.cluster in problem for problem in consistent(Snapshot(1, {**compiled.snapshot.types, kind: planted}), compiled.edge))


@FEW
@given(table=tables())
def test_the_directory_and_envoy_agree(table: Table) -> None:
    """Law (rule 20): for every tenant, key and slug the compiled route is what `decide` says, on both protocols."""
    snapshot = compile_whole(table, LISTEN).snapshot
    for name, held in table.tenants.items():
        outcome = decide(name, table)
        for source in held.sources:
            _agrees(snapshot, hash_of(SLUG_PREFIX + source.slug), outcome, name)
            for key in source.write_keys:
                _agrees(snapshot, key.hash, Refused(Reason.REVOKED_KEY) if key.revoked else outcome, name)
    _agrees(snapshot, hash_of("nobody's"), Refused(Reason.UNKNOWN_KEY), TenantId(""))


@FEW
@given(before=tables(), after=tables(), data=st.data())
def test_a_change_compiles_to_what_the_whole_does(before: Table, after: Table, data: st.DataObject) -> None:
    """Law (rule 5): compiling one change equals compiling everything, and leaves every shard that it does not touch alone."""
    told = [t for t in after.tenants.values() if t.cell in before.cells and t.epoch >= getattr(before.tenants.get(t.name), "epoch", 0)]
    update = Update(EU, before.revision, before.revision + 1, tuple(told))
    compiled = compile_whole(before, LISTEN)
    table = before.apply(update)
    changed = compile_change(compiled, table, [t.name for t in told])
    whole = compile_whole(table, LISTEN)
    assert {k: {n: r.version for n, r in v.items()} for k, v in changed.snapshot.types.items()} == {
        k: {n: r.version for n, r in v.items()} for k, v in whole.snapshot.types.items()
    }
    for name, one in changed.snapshot.types[RDS].items():
        if one.version == compiled.snapshot.types[RDS][name].version:
            assert one is compiled.snapshot.types[RDS][name]


@FEW
@given(table=tables(), victim=st.sampled_from([CDS, EDS, RDS, SRDS]))
def test_an_inconsistent_snapshot_is_seen(table: Table, victim: str) -> None:
    """Law (rule 9): a snapshot that lacks something another resource leads to has problems."""
    compiled = compile_whole(table, LISTEN)
    assert consistent(compiled.snapshot, compiled.edge) == ()
    used = {c for one in compiled.snapshot.types[RDS].values() for c in one.refers}
    if victim == SRDS or (victim == CDS and not used) or not compiled.snapshot.types[victim]:
        return
    lacking = Snapshot(1, {**compiled.snapshot.types, victim: {}})
    assert consistent(lacking, compiled.edge)


@given(table=tables())
def test_updates_survive_the_wire(table: Table) -> None:
    """Law: what a follower parses is what the directory said."""
    parsed = empty(EU).apply(codec.parse_update(codec.update_bytes(table.whole())))
    strip = {name: (t.cell, t.epoch, t.suspended, t.sources, t.plan) for name, t in table.tenants.items()}
    assert {name: (t.cell, t.epoch, t.suspended, t.sources, t.plan) for name, t in parsed.tenants.items()} == strip
    assert (parsed.revision, parsed.cells, parsed.zones) == (table.revision, table.cells, table.zones)


@pytest.mark.parametrize(("home", "peer"), [("a1.internal", "b1.internal"), ("10.0.0.1", "b1.internal"), ("a1.internal", "10.0.0.1")])
def test_an_address_that_is_a_name_is_resolved_by_envoy(home: str, peer: str) -> None:
    """Law: with a host name among them a cluster's addresses come with the cluster, and not by EDS."""
    cells = (cell("a1", 7_000, peer="b1", host=home), cell("b1", 7_100, host=peer))
    snapshot = compile_whole(table_of(1, (tenant("one"),), cells), LISTEN).snapshot
    assert snapshot.types[EDS].keys() == ({"b1/grpc", "b1/http"} if peer == "10.0.0.1" else set())
    assert _led(snapshot, "a1/http") == [(0, f"{home}:7001"), (1, f"{peer}:7101")]


def _led(snapshot: Snapshot, name: str) -> list[tuple[int, str]]:
    """Priority and address of each endpoint of a cluster."""
    held = snapshot.types[EDS].get(name)
    if held is not None:
        assignment = endpoint_pb2.ClusterLoadAssignment.FromString(held.body)
    else:
        assignment = cluster_pb2.Cluster.FromString(snapshot.types[CDS][name].body).load_assignment
    addresses = [
        (places.priority, place.endpoint.address.socket_address) for places in assignment.endpoints for place in places.lb_endpoints
    ]
    return [(priority, f"{address.address}:{address.port_value}") for priority, address in addresses]


def _agrees(snapshot: Snapshot, key: KeyHash, outcome: Routed | Refused, name: TenantId) -> None:
    for protocol in PROTOCOLS:
        route, cluster = _route(snapshot, key, protocol)
        if isinstance(outcome, Routed):
            stamp = {option.header.key: option.header.value for option in route.request_headers_to_add}
            assert cluster == f"{outcome.cell}/{protocol}"
            assert (stamp["x-dataflow-tenant"], stamp["x-dataflow-cell"], stamp["x-dataflow-epoch"]) == (
                name,
                outcome.cell,
                str(outcome.epoch),
            )
        else:
            assert route.direct_response.status == outcome.reason.spec.http
            assert not route.HasField("route")


def _route(snapshot: Snapshot, key: KeyHash, protocol: Protocol) -> tuple[Any, str]:
    """What Envoy's matchers find for a key: the route, and the cluster that it leads to."""
    configuration = route_pb2.RouteConfiguration.FromString(snapshot.types[RDS][routes_name(shard_of(key))].body)
    headers = {LOOKUP: key, "content-type": "application/grpc" if protocol == "grpc" else "application/json"}
    action = _matched(configuration.virtual_hosts[0].matcher, headers)
    route = route_components_pb2.Route.FromString(action.value)
    specifiers = {one.extension.name: one.extension.typed_config for one in configuration.cluster_specifier_plugins}
    named = route.route.cluster_specifier_plugin
    if not named:
        return route, ""
    specifier = specifier_pb2.MatcherClusterSpecifier.FromString(specifiers[named].value)
    return route, specifier_pb2.ClusterAction.FromString(_matched(specifier.cluster_matcher, headers).value).cluster


def _matched(matcher: Any, headers: Mapping[str, str]) -> Any:
    """The action of a matcher tree, as Envoy walks it."""
    tree = matcher.matcher_tree
    text = headers[http_inputs_pb2.HttpRequestHeaderMatchInput.FromString(tree.input.typed_config.value).header_name]
    found = matcher.on_no_match
    if text in tree.exact_match_map.map:
        found = tree.exact_match_map.map[text]
    for prefix, target in tree.prefix_match_map.map.items():
        if text.startswith(prefix):
            found = target
    return _matched(found.matcher, headers) if found.HasField("matcher") else found.action.typed_config
