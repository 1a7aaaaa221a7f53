"""A cell's settings: environment variables `DATAFLOW_<FIELD>`, parsed once (kernel.process.settings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cells.eventlog.access import Access, Mechanism, Security
from kernel.ids import CellId, is_name
from kernel.process import settings
from kernel.process.settings import BadSettings

Role = Literal["all", "ingest", "processing", "storage"]
ROLES: tuple[Role, ...] = ("all", "ingest", "processing", "storage")
_STORE = ("apply_dsn", "query_dsn", "audit_dsn")


@dataclass(frozen=True, kw_only=True)
class _LogFields:
    """Where the cell's event log is: `log_dsn` for PostgreSQL, `kafka_*` for Kafka. Secrets are files, for variables are inherited."""

    log_kind: Literal["postgres", "kafka"] = "postgres"
    log_dsn: str = ""
    kafka_bootstrap: str = ""
    kafka_topic: str = ""
    kafka_security: Security = "PLAINTEXT"
    kafka_sasl_mechanism: Mechanism = "SCRAM-SHA-512"
    kafka_user: str = ""
    kafka_password_file: str = ""
    kafka_ca_file: str = ""
    kafka_cert_file: str = ""
    kafka_key_file: str = ""
    kafka_aws_region: str = ""


@dataclass(frozen=True, kw_only=True)
class Config(_LogFields):
    """`*_dsn` are PostgreSQL URLs of the services' own roles, password included; `cells.provision` has made them.

    `storage_address` is where a separate processing role finds storage. `peers` are the cells that this one replicates from and to, as
    `cell=host:port` of whatever process reads their log, separated by commas.
    """

    cell: str
    zone: str
    region: str
    journal_path: Path
    public_key_file: Path
    directory_address: str
    follower_token_file: Path
    apply_dsn: str = ""
    query_dsn: str = ""
    audit_dsn: str = ""
    grpc_address: str = "127.0.0.1:7501"
    http_address: str = "127.0.0.1:7500"
    storage_address: str = ""
    peers: str = ""
    log_bytes_max: int = 20 * 1024 * 1024 * 1024
    inflight_bytes_max: int = 64 * 1024 * 1024
    record_format: Literal["columns", "envelopes"] = "columns"
    otlp_endpoint: str = ""
    log_level: str = "info"


@dataclass(frozen=True, kw_only=True)
class ProvisionConfig(_LogFields):
    """What `cells.provision` needs: a superuser's URL of the cell's database, which may not exist yet, and those of its roles.

    With Kafka the `kafka_*` fields are an administrator's, who may create the topic; `log_replication` and `log_min_in_sync` are
    for Kafka alone.
    """

    admin_dsn: str
    owner_dsn: str
    apply_dsn: str
    query_dsn: str
    audit_dsn: str
    log_partitions: int = 4
    log_replication: int = 3
    log_min_in_sync: int = 2


def load(environ: Mapping[str, str], role: Role) -> Config:
    """The settings of a cell's process with this role. Raises BadSettings with every problem: what is missing, what is not understood, and
    what the role or the log's kind needs besides. A PostgreSQL URL names server, database and role: nothing is taken from elsewhere.
    """
    found: Config | None = None
    try:
        found = settings.load(Config, environ)
        problems = [] if found.log_kind == "postgres" or role == "storage" else _problems_of_kafka(found)
    except BadSettings as error:
        problems = error.problems
    problems += _missing(environ, role)
    problems += _problems_of_peers(environ)
    problems += [f"{_variable(name)}: {why}" for name in ("grpc_address", "http_address") if (why := _address(environ, name))]
    if problems or found is None:
        raise BadSettings(problems)
    return found


def peers_of(text: str) -> dict[CellId, str]:
    """Where the logs of other cells are read, by cell. Raises ValueError."""
    found: dict[CellId, str] = {}
    for part in filter(None, text.split(",")):
        cell, _, address = part.partition("=")
        host, _, port = address.rpartition(":")
        if not (is_name(cell) and host and port.isdecimal() and int(port) < 1 << 16) or cell in found:
            raise ValueError(f"{part!r} is not cell=host:port, or its cell is named twice")
        found[CellId(cell)] = address
    return found


def _problems_of_peers(environ: Mapping[str, str]) -> list[str]:
    try:
        peers_of(environ.get(_variable("peers"), ""))
    except ValueError as error:
        return [f"{_variable('peers')}: {error}"]
    return []


def _missing(environ: Mapping[str, str], role: Role) -> list[str]:
    """What PostgreSQL URLs and addresses the role lacks."""
    wanted = dict.fromkeys(_STORE, f"role {role}") if role in ("all", "storage") else {}
    if role != "storage" and environ.get(_variable("log_kind"), "postgres") == "postgres":
        wanted["log_dsn"] = "log_kind postgres"
    problems = []
    for name, why in wanted.items():
        text = environ.get(_variable(name), "")
        parts = urlsplit(text)
        if not text:
            problems.append(f"{_variable(name)} is required by {why}")
        elif parts.scheme not in ("postgres", "postgresql") or not (parts.hostname and parts.username and database_of(text)):
            problems.append(f"{_variable(name)}: it is not postgresql://role:password@host:port/database")
    if role == "processing" and not environ.get(_variable("storage_address")):
        problems.append(f"{_variable('storage_address')} is required by role processing")
    return problems


def _address(environ: Mapping[str, str], name: str) -> str | None:
    text = environ.get(_variable(name), "127.0.0.1:0")
    host, _, port = text.rpartition(":")
    return None if host and port.isdecimal() and int(port) < 1 << 16 else f"{text!r} is not host:port"


def _problems_of_kafka(config: Config) -> list[str]:
    try:
        kafka_access(config)
    except BadSettings as error:
        return error.problems
    return []


def kafka_access(config: Config | ProvisionConfig) -> Access:
    """The way to Kafka that the settings describe. Raises BadSettings naming every variable that is missing or out of place."""
    wanted: dict[str, str] = {"kafka_bootstrap": "log_kind kafka", "kafka_topic": "log_kind kafka"}
    sasl, tls = config.kafka_security.startswith("SASL"), config.kafka_security.endswith("SSL")
    if sasl and config.kafka_sasl_mechanism == "AWS_MSK_IAM":
        wanted["kafka_aws_region"] = "AWS_MSK_IAM"
    elif sasl:
        if config.kafka_sasl_mechanism != "OAUTHBEARER":
            wanted["kafka_user"] = config.kafka_sasl_mechanism
        wanted["kafka_password_file"] = config.kafka_sasl_mechanism
    if config.kafka_cert_file:
        wanted["kafka_key_file"] = "a client's certificate"
    problems = [f"{_variable(name)} is required by {why}" for name, why in wanted.items() if not getattr(config, name)]
    if not tls and (config.kafka_ca_file or config.kafka_cert_file):
        problems.append(f"{_variable('kafka_security')}: {config.kafka_security} is not encrypted and has no use for certificates")
    if sasl and not tls and config.kafka_sasl_mechanism == "AWS_MSK_IAM":
        problems.append(f"{_variable('kafka_security')}: AWS_MSK_IAM needs SASL_SSL")
    if problems:
        raise BadSettings(problems)
    return Access(
        config.kafka_bootstrap,
        config.kafka_topic,
        config.kafka_security,
        config.kafka_sasl_mechanism,
        config.kafka_user,
        config.kafka_password_file,
        config.kafka_ca_file,
        config.kafka_cert_file,
        config.kafka_key_file,
        config.kafka_aws_region,
    )


def _variable(name: str) -> str:
    return f"DATAFLOW_{name.upper()}"


def role_and_password(dsn: str) -> tuple[str, str]:
    """The role and the password in a PostgreSQL URL. Raises ValueError when one is missing."""
    parts = urlsplit(dsn)
    if not parts.username or not parts.password:
        raise ValueError("a PostgreSQL URL needs a role and a password")
    return parts.username, parts.password


def database_of(dsn: str) -> str:
    """The database in a PostgreSQL URL."""
    return urlsplit(dsn).path.lstrip("/")
