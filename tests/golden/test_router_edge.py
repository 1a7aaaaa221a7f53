"""The rendered configuration of a small table, as a golden directory: a change of what Envoy is told is seen in review.

`UPDATE_GOLDEN=1` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2, scoped_route_pb2
from google.protobuf import json_format

from kernel.ids import RegionName, hash_of
from router.xds.bootstrap import EdgeIdentity, bootstrap
from router.xds.compile import compile_whole
from router.xds.listener import Listen, listener
from router.xds.render import routes_name
from router.xds.snapshot import CDS, EDS, LDS, RDS, SRDS
from router.xds.tls import secret
from tests.support.router_words import EU, cell, source, table, tenant

GOLDEN = Path(__file__).parent.parent / "golden" / "router_edge"
KINDS: dict[str, tuple[str, Any]] = {
    "cluster": (CDS, cluster_pb2.Cluster),
    "endpoints": (EDS, endpoint_pb2.ClusterLoadAssignment),
    "listener": (LDS, listener_pb2.Listener),
    "scope": (SRDS, scoped_route_pb2.ScopedRouteConfiguration),
    "routes": (RDS, route_pb2.RouteConfiguration),
}


def resources() -> dict[str, object]:
    """The listener, one cell's cluster and endpoints, one scope, and the routes of what has an entry."""
    tenants = (
        tenant("acme", "a1", 3, source("web", "key of acme")),
        tenant("initech", "a1", 1, source("app", "key of initech"), suspended=True),
        tenant("globex", "b1", 1, source("old", "key of globex", revoked=True)),
    )
    compiled = compile_whole(table(42, tenants, (cell("a1", peer="b1"), cell("b1", 7_100))), Listen("127.0.0.1", 8_080))
    snapshot = compiled.snapshot
    shown = {"cluster": ["a1/grpc", "a1/http"], "endpoints": ["a1/grpc"], "listener": ["edge"], "scope": ["scope-00"]}
    keys = [hash_of(f"key of {name}") for name in ("acme", "initech", "globex")]
    shown["routes"] = [routes_name("-"), routes_name("00"), *(routes_name(key[:2]) for key in keys)]
    encrypted = listener(compiled.edge, Listen("127.0.0.1", 8_443, secret_path="/etc/edge/certificate.json", clear=True))
    found: dict[str, object] = {
        "listener-both": json_format.MessageToDict(encrypted, preserving_proto_field_name=True),
        "secret": secret(Path("/etc/edge/tls/edge.pem"), Path("/etc/edge/tls/edge.key")),
    }
    found |= {"bootstrap": bootstrap(EdgeIdentity("edge-1", EU, RegionName("eu-west-1")), "127.0.0.1", 9_000, 9_001)}
    for kind, names in shown.items():
        url, message = KINDS[kind]
        for name in names:
            parsed = message.FromString(snapshot.types[url][name].body)
            found[f"{kind}-{name.replace('/', '-')}"] = json_format.MessageToDict(parsed, preserving_proto_field_name=True)
    return found


@pytest.mark.parametrize("name", sorted(resources()))
def test_the_rendered_configuration_is_the_reviewed_one(name: str) -> None:
    """Law: what Envoy is told changes only together with its golden file."""
    text = json.dumps(resources()[name], indent=1, sort_keys=True) + "\n"
    file = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert file.read_text() == text


def test_no_golden_file_is_left_over() -> None:
    """Law: every golden file belongs to a resource."""
    assert {file.stem for file in GOLDEN.glob("*.json")} == resources().keys()
