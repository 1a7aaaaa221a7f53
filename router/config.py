"""The settings of the router's three roles, each from the environment: field `zone` from DATAFLOW_ZONE, and so on.

Files instead of values hold secrets and lists. `host:port` everywhere; port 0 is not for these.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from kernel.ids import CellId, RegionName, ZoneName
from kernel.limits import CELL_EVENTS_PER_SECOND_MAX
from kernel.process import settings
from router.api.tokens import TOKEN_BYTES_MIN, Principal, Role, Tokens, tokens_of
from router.placement.entry import WITNESS
from router.placement.table import CellEndpoint, Topology
from router.quorum.settings import Sites, sites_of

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Quorum:
    """How a site agrees with the others: where it serves them, and the token of all."""

    sites: Sites
    address: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """DATAFLOW_ZONE, DATAFLOW_GRPC_ADDRESS (gRPC), DATAFLOW_DIRECTORY_DSN (postgres://, its role owns the database),
    DATAFLOW_CELLS_FILE (JSON list of {cell, region, grpc_address, http_address, storage_address = grpc_address, weight = 1,
    capacity = 25,000, peer}), DATAFLOW_ZONES_FILE (JSON object from each zone to its public URL), DATAFLOW_SIGNING_KEY_FILE
    (Ed25519 private key, 32 bytes in hex),
    DATAFLOW_OPERATOR_TOKEN_FILE, DATAFLOW_FOLLOWER_TOKEN_FILE (text, 16 characters or more), DATAFLOW_PRINCIPALS_FILE (JSON list of
    {name, role: operator | viewer, token}; default nobody else), DATAFLOW_HTTP_ADDRESS (/healthz,
    /readyz, /status, /metrics), DATAFLOW_FAILOVER_AFTER_SECONDS (how long a majority of the zone's sites must not reach a cell until it is
    failed over; default 0: a person does it), DATAFLOW_LOG_LEVEL (default info). A directory that is kept at several sites has
    DATAFLOW_SITES (`site=host:port,...`: where each one's QuorumService is; the first one may found the zone, one is `witness`; default
    none: this process is alone), DATAFLOW_SITE (which of them it is), DATAFLOW_QUORUM_ADDRESS (where it serves QuorumService) and
    DATAFLOW_QUORUM_TOKEN_FILE (text, 16 characters or more); it serves gRPC while it leads.
    """

    zone: ZoneName
    grpc_address: str
    directory_dsn: str
    cells_file: Path
    zones_file: Path
    signing_key_file: Path
    operator_token_file: Path
    follower_token_file: Path
    http_address: str
    principals_file: str = ""
    failover_after_seconds: float = 0.0
    sites: str = ""
    site: str = ""
    quorum_address: str = ""
    quorum_token_file: str = ""
    log_level: str = "info"

    def quorum(self) -> Quorum | None:
        """How it agrees with other sites; None when it is alone. Raises BadSettings."""
        if self.sites and self.site == WITNESS:
            raise settings.BadSettings([f"DATAFLOW_SITE: a directory is no {WITNESS}"])
        return _quorum(self.sites, self.site, self.quorum_address, self.quorum_token_file) if self.sites else None

    def topology(self) -> Topology:
        """The zone's cells and all zones. Raises BadSettings."""
        cells = _read(self.cells_file, lambda text: msgspec.json.decode(text, type=list[_Cell]))
        zones = _read(self.zones_file, lambda text: msgspec.json.decode(text, type=dict[str, str]))
        if self.zone not in zones:
            raise settings.BadSettings([f"{self.zones_file}: lacks this directory's zone {self.zone}"])
        return Topology(
            tuple(c.endpoint() for c in cells),
            tuple(sorted((ZoneName(zone), url) for zone, url in zones.items())),
        )

    def tokens(self) -> Tokens:
        """Who may call. Raises BadSettings."""
        operator = _read(self.operator_token_file, str.strip)
        follower = _read(self.follower_token_file, str.strip)
        more = _read(Path(self.principals_file), _principals) if self.principals_file else ()
        try:
            return tokens_of(operator, follower, more)
        except ValueError as error:
            raise settings.BadSettings([str(error)]) from error

    def signing_key(self) -> bytes:
        """32 bytes. Raises BadSettings."""
        return _key(self.signing_key_file)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """DATAFLOW_EDGE_NAME, DATAFLOW_ZONE, DATAFLOW_REGION, DATAFLOW_DIRECTORY_ADDRESS, DATAFLOW_FOLLOWER_TOKEN_FILE,
    DATAFLOW_PUBLIC_KEY_FILE (the zone's Ed25519 public key, 32 bytes in hex), DATAFLOW_JOURNAL_PATH (written; its folder is
    made), DATAFLOW_XDS_ADDRESS (loopback), DATAFLOW_HTTP_ADDRESS (/healthz, /readyz, /status, /metrics), DATAFLOW_EDGE_ADDRESS
    (Envoy's listener, a numeric host), DATAFLOW_EDGE_ADMIN_ADDRESS (Envoy's admin page, on loopback), DATAFLOW_BOOTSTRAP_PATH
    (Envoy's, as JSON; written before anything is served), DATAFLOW_OTLP_ENDPOINT (http://host:port of a collector beside the
    edge, which takes Envoy's spans; default none), DATAFLOW_TRACE_PERCENT (how many of a hundred requests leave spans, here
    and in the cell; default 100), DATAFLOW_HEADERS_SECONDS (how long a client may take to send a request's headers, default 10),
    DATAFLOW_EDGE_TRANSPORT (tls, clear, or both on one port; default tls), DATAFLOW_EDGE_CERT_FILE and DATAFLOW_EDGE_KEY_FILE (PEM;
    without them only `clear`; Envoy reads them again when one in their folder is replaced by a rename), DATAFLOW_ACCESS_LOG_PERCENT
    (how many of a hundred requests are told in Envoy's access log; default 1), DATAFLOW_LOG_LEVEL (default info).
    """

    edge_name: str
    zone: ZoneName
    region: RegionName
    directory_address: str
    follower_token_file: Path
    public_key_file: Path
    journal_path: Path
    xds_address: str
    http_address: str
    edge_address: str
    edge_admin_address: str
    bootstrap_path: Path
    otlp_endpoint: str = ""
    trace_percent: float = 100.0
    headers_seconds: float = 10.0
    edge_transport: Literal["tls", "clear", "both"] = "tls"
    edge_cert_file: str = ""
    edge_key_file: str = ""
    access_log_percent: float = 1.0
    log_level: str = "info"

    def certificate(self) -> tuple[Path, Path] | None:
        """Envoy's certificate and its key; None in the clear. Raises BadSettings."""
        if self.edge_transport == "clear":
            return None
        found = {"DATAFLOW_EDGE_CERT_FILE": self.edge_cert_file, "DATAFLOW_EDGE_KEY_FILE": self.edge_key_file}
        problems = [f"{name} is required by DATAFLOW_EDGE_TRANSPORT {self.edge_transport}" for name, path in found.items() if not path]
        problems += [f"{name}: there is no file {path}" for name, path in found.items() if path and not Path(path).is_file()]
        if not problems:
            problems = _problems_of_pair(Path(self.edge_cert_file), Path(self.edge_key_file))
        if problems:
            raise settings.BadSettings(problems)
        return Path(self.edge_cert_file).absolute(), Path(self.edge_key_file).absolute()

    def follower_token(self) -> str:
        """The token for Watch. Raises BadSettings."""
        return _read(self.follower_token_file, str.strip)

    def collector(self) -> tuple[str, int] | None:
        """Where Envoy sends its spans. Raises BadSettings: in the clear only, since a collector stands beside each edge."""
        if not self.otlp_endpoint:
            return None
        scheme, _, where = self.otlp_endpoint.rstrip("/").partition("://")
        if scheme != "http":
            raise settings.BadSettings([f"DATAFLOW_OTLP_ENDPOINT: {self.otlp_endpoint!r} is not http://host:port"])
        return address(where)

    def public_key(self) -> bytes:
        """32 bytes. Raises BadSettings."""
        return _key(self.public_key_file)


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """DATAFLOW_ZONE, DATAFLOW_DIRECTORY_ADDRESS, DATAFLOW_FOLLOWER_TOKEN_FILE, DATAFLOW_HTTP_ADDRESS (/healthz, /readyz, /status,
    /metrics), DATAFLOW_LOG_LEVEL (default info). Where the directory is kept at several sites: DATAFLOW_SITES, DATAFLOW_QUORUM_ADDRESS and
    DATAFLOW_QUORUM_TOKEN_FILE, as the directory has them, and DATAFLOW_BALLOT_PATH (written; its folder is made).
    """

    zone: ZoneName
    directory_address: str
    follower_token_file: Path
    http_address: str
    sites: str = ""
    quorum_address: str = ""
    quorum_token_file: str = ""
    ballot_path: str = ""
    log_level: str = "info"

    def quorum(self) -> Quorum | None:
        """How it votes; None when the directory is one process. Raises BadSettings."""
        if not self.sites:
            return None
        if not self.ballot_path:
            raise settings.BadSettings(["DATAFLOW_BALLOT_PATH is required by DATAFLOW_SITES"])
        return _quorum(self.sites, WITNESS, self.quorum_address, self.quorum_token_file)

    def follower_token(self) -> str:
        """The token for what it says. Raises BadSettings."""
        return _read(self.follower_token_file, str.strip)


class _Cell(msgspec.Struct, forbid_unknown_fields=True):
    cell: str
    region: str
    grpc_address: str
    http_address: str
    weight: float = 1.0
    capacity: float = CELL_EVENTS_PER_SECOND_MAX
    peer: str = ""
    storage_address: str = ""

    def endpoint(self) -> CellEndpoint:
        """Typed."""
        addresses = (self.grpc_address, self.http_address)
        peer = CellId(self.peer) if self.peer else None
        return CellEndpoint(CellId(self.cell), RegionName(self.region), *addresses, self.weight, self.capacity, peer, self.storage_address)


class _Principal(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    role: Literal["operator", "viewer"]
    token: str


def directory(environ: Mapping[str, str]) -> DirectorySettings:
    """Raises BadSettings with every problem."""
    return settings.load(DirectorySettings, environ)


def agent(environ: Mapping[str, str]) -> AgentSettings:
    """Raises BadSettings with every problem."""
    return settings.load(AgentSettings, environ)


def witness(environ: Mapping[str, str]) -> WitnessSettings:
    """Raises BadSettings with every problem."""
    return settings.load(WitnessSettings, environ)


def address(text: str) -> tuple[str, int]:
    """Host and port. Raises BadSettings."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise settings.BadSettings([f"{text!r} is not host:port"])
    return host, int(port)


def _quorum(sites: str, own: str, bind: str, token_file: str) -> Quorum:
    problems = [
        f"DATAFLOW_{name} is required by DATAFLOW_SITES"
        for name, text in (("QUORUM_ADDRESS", bind), ("QUORUM_TOKEN_FILE", token_file))
        if not text
    ]
    try:
        found = sites_of(sites, own)
    except ValueError as error:
        problems.append(f"DATAFLOW_SITES: {error}")
    if problems:
        raise settings.BadSettings(problems)
    token = _read(Path(token_file), str.strip)
    if len(token.encode()) < TOKEN_BYTES_MIN:
        raise settings.BadSettings([f"{token_file}: a token has at least {TOKEN_BYTES_MIN} characters"])
    return Quorum(found, bind, token)


def _key(path: Path) -> bytes:
    def parse(text: str) -> bytes:
        key = bytes.fromhex(text.strip())
        if len(key) != 32:
            raise ValueError("32 bytes in hex are needed")
        return key

    return _read(path, parse)


def _principals(text: str) -> tuple[Principal, ...]:
    return tuple(Principal(one.name, Role(one.role), one.token) for one in msgspec.json.decode(text, type=list[_Principal]))


def _problems_of_pair(certificate: Path, key: Path) -> list[str]:
    """Of a certificate and its key. Envoy watches one folder for both."""
    if certificate.absolute().parent != key.absolute().parent:
        return [f"DATAFLOW_EDGE_KEY_FILE: {key} is not in the folder of {certificate}"]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        return [f"DATAFLOW_EDGE_CERT_FILE: {certificate} and {key} are no certificate and its key: {error}"]
    return []


def _read(path: Path, parse: Callable[[str], Value]) -> Value:
    try:
        return parse(path.read_text())
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise settings.BadSettings([f"{path}: {error}"]) from error
