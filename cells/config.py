"""A cell's settings: environment variables `DATAFLOW_<FIELD>`, parsed once (kernel.process.settings)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Role = Literal["all", "ingest", "processing", "storage"]
ROLES: tuple[Role, ...] = ("all", "ingest", "processing", "storage")


@dataclass(frozen=True)
class Config:
    """`*_dsn` are PostgreSQL URLs of the services' own roles, password included; `cells.provision` has made them.

    `storage_address` is where a separate processing role finds storage.
    """

    cell: str
    zone: str
    region: str
    journal_path: Path
    public_key_file: Path
    directory_address: str
    follower_token_file: Path
    log_dsn: str = ""
    apply_dsn: str = ""
    query_dsn: str = ""
    audit_dsn: str = ""
    grpc_address: str = "127.0.0.1:7501"
    http_address: str = "127.0.0.1:7500"
    storage_address: str = ""
    log_bytes_max: int = 20 * 1024 * 1024 * 1024
    inflight_bytes_max: int = 64 * 1024 * 1024
    otlp_endpoint: str = ""
    log_level: str = "info"


@dataclass(frozen=True)
class ProvisionConfig:
    """What `cells.provision` needs: a superuser's URL of the cell's database, which may not exist yet, and those of its roles."""

    admin_dsn: str
    log_dsn: str
    owner_dsn: str
    apply_dsn: str
    query_dsn: str
    audit_dsn: str
    log_partitions: int = 4


def role_and_password(dsn: str) -> tuple[str, str]:
    """The role and the password in a PostgreSQL URL. Raises ValueError when one is missing."""
    parts = urlsplit(dsn)
    if not parts.username or not parts.password:
        raise ValueError("a PostgreSQL URL needs a role and a password")
    return parts.username, parts.password


def database_of(dsn: str) -> str:
    """The database in a PostgreSQL URL."""
    return urlsplit(dsn).path.lstrip("/")
