"""Who sends: from a request's credentials to a source of a tenant. Pure.

The cell authenticates again what the edge routed by (router.md, rule 15): the edge's word is a hint, the key is the proof.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from cells.admission.table import Admission, Tenant
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyKind, SourceId, TenantId, hash_of, zone_prefix
from kernel.limits import Plan


@dataclass(frozen=True, slots=True)
class Sender:
    """An authenticated source."""

    tenant: Tenant
    source: SourceId


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request brought: the key of its headers, the key of its body, the public slug of its path."""

    header_key: str | None = None
    body_key: str | None = None
    slug: str | None = None


def key_of_headers(authorization: str | None, api_key: str | None) -> str | None:
    """The key in `x-api-key`, a Basic user name (a missing colon is tolerated) or a bearer token; None when there is none."""
    if api_key:
        return api_key
    if not authorization:
        return None
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() == "basic":
        try:
            user = base64.b64decode(rest.strip() + "=" * (-len(rest.strip()) % 4)).decode()
        except (binascii.Error, ValueError):
            return None
        return user.partition(":")[0] or None
    return None


def authenticate_sender(credentials: Credentials, admission: Admission) -> Sender:
    """The sender, or Failure: NO_CREDENTIAL, KEY_MISMATCH, UNKNOWN_KEY, REVOKED_KEY, FOREIGN_ZONE, KEY_OF_OTHER_SOURCE..."""
    header, body = credentials.header_key, credentials.body_key
    if header and body and header != body:
        raise Failure(Reason.KEY_MISMATCH)
    key = header or body
    if not key:
        raise Failure(Reason.NO_CREDENTIAL)
    tenant, source = _look_up(key, "wk", admission)
    if credentials.slug is not None and admission.slugs.get(credentials.slug) != (tenant.name, source):
        raise Failure(Reason.KEY_OF_OTHER_SOURCE)
    if tenant.suspended:
        raise Failure(Reason.TENANT_SUSPENDED)
    return Sender(tenant, source)


def plan_of_slug(slug: str | None, admission: Admission) -> Plan:
    """What a body may be before its key is read: the plan of the tenant whose source the path names, or the default one."""
    named = admission.slugs.get(slug) if slug else None
    return admission.tenants[named[0]].plan if named else Plan()


def authenticate_reader(key: str | None, admission: Admission) -> Tenant:
    """The tenant that a read key reads."""
    if not key:
        raise Failure(Reason.NO_CREDENTIAL)
    return _look_up(key, "rk", admission)[0]


def reader_of(headers: Mapping[str, str], admission: Admission, cell: CellId) -> tuple[TenantId, str]:
    """The tenant that a request to `cell` may read, and who asks, for the audit log: the key by the start of its hash."""
    key = key_of_headers(headers.get("authorization"), headers.get("x-api-key"))
    tenant = authenticate_reader(key, admission)
    if tenant.cell != cell:
        raise Failure(Reason.MOVED, f"epoch {tenant.epoch}", retry_after_seconds=1)
    return tenant.name, f"read-key {hash_of(key or '')[:12]}"


def _look_up(key: str, kind: KeyKind, admission: Admission) -> tuple[Tenant, SourceId]:
    zone = zone_prefix(key)
    if zone is not None and zone != admission.zone:
        raise Failure(Reason.FOREIGN_ZONE, endpoint=admission.zone_urls.get(zone))
    found = admission.keys.get(hash_of(key))
    if found is None:
        raise Failure(Reason.UNKNOWN_KEY)
    name, credential = found
    if credential.revoked:
        raise Failure(Reason.REVOKED_KEY)
    if credential.kind != kind:
        raise Failure(Reason.WRONG_KEY_KIND)
    return admission.tenants[name], credential.source
