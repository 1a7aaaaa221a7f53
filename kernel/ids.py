"""Names of things, and the write keys and read keys that lead to them.

A key is `<kind>_<zone>_<secret>_<checksum>`: kind `wk` (write key of a source) or `rk` (read key of a tenant), the residency
zone's name, 43 base64url characters (256 random bits) and the first 6 hex digits of the SHA-256 of what precedes them, so that
a typo is told from an unknown key without a look-up. Keys are stored and routed by their SHA-256 alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NewType

TenantId = NewType("TenantId", str)
SourceId = NewType("SourceId", str)
CellId = NewType("CellId", str)
ZoneName = NewType("ZoneName", str)
RegionName = NewType("RegionName", str)
KeyHash = NewType("KeyHash", str)

KeyKind = Literal["wk", "rk"]

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")
_KEY: Final = re.compile(r"(wk|rk)_([a-z][a-z0-9-]{0,14})_([A-Za-z0-9_-]{43})_([0-9a-f]{6})")
SECRET_BYTES: Final = 32
MESSAGE_KEY_BYTES: Final = 16
UNREADABLE: Final = TenantId("(unreadable)")
"""Whom a log's records belong to that nobody can read: every cell's own, and no name that a tenant may have."""


def is_name(text: str) -> bool:
    """Whether `text` may name a tenant, a source or a cell: 2 to 63 lower-case letters, digits and hyphens (RFC 1123 label)."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Key:
    """A credential in the clear. It never reaches a log, a table or a snapshot; its `hash` does."""

    kind: KeyKind
    zone: ZoneName
    text: str

    @property
    def hash(self) -> KeyHash:
        """64 hex digits of SHA-256 over the key's text."""
        return hash_of(self.text)

    def __repr__(self) -> str:
        return f"Key({self.kind}_{self.zone}_...)"


def hash_of(text: str) -> KeyHash:
    """SHA-256 of a key or a source slug, 64 hex digits: what the edge and the cell look up."""
    return KeyHash(hashlib.sha256(text.encode()).hexdigest())


def message_keys(tenant: TenantId, message_ids: Iterable[str]) -> list[bytes]:
    """16 bytes each that name an event of any tenant: BLAKE2b over the tenant, a NUL and the message id (UTF-8).

    A tenant's name holds no NUL, so no two tenants share a key, whatever message ids they choose.
    """
    of_tenant = hashlib.blake2b(f"{tenant}\0".encode(), digest_size=MESSAGE_KEY_BYTES)
    keys = []
    for message_id in message_ids:
        state = of_tenant.copy()
        state.update(message_id.encode("utf-8", "surrogatepass"))
        keys.append(state.digest())
    return keys


def mint_key(kind: KeyKind, zone: ZoneName, secret: bytes) -> Key:
    """The key of `secret` (exactly 32 random bytes, the caller's)."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a key takes {SECRET_BYTES} random bytes, got {len(secret)}")
    body = f"{kind}_{zone}_{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"
    return Key(kind, zone, f"{body}_{_checksum(body)}")


def parse_key(text: str) -> Key | None:
    """The key that `text` is, or None when its shape or its checksum is wrong."""
    found = _KEY.fullmatch(text)
    if found is None or _checksum(text[:-7]) != found[4]:
        return None
    kind: KeyKind = "wk" if found[1] == "wk" else "rk"
    return Key(kind, ZoneName(found[2]), text)


def zone_prefix(text: str) -> ZoneName | None:
    """The zone that a key-shaped `text` claims, checksum unseen: enough to refuse a foreign key and to say where to go."""
    found = re.match(r"(?:wk|rk)_([a-z][a-z0-9-]{0,14})_", text)
    return ZoneName(found[1]) if found else None


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:6]
