"""What an event says about who is who, and about their traits. Pure; storage merges the claims."""

from __future__ import annotations

from typing import Final

import msgspec

from cells.eventlog.envelope import Envelope
from kernel.clock import Micros
from kernel.effects import IdentityClaim, TraitClaim
from kernel.ids import TenantId


class _Traits(msgspec.Struct):
    traits: dict[str, msgspec.Raw] | None = None


_decoder: Final = msgspec.json.Decoder(_Traits)


def identities(tenant: TenantId, envelope: Envelope) -> tuple[IdentityClaim, ...]:
    """What an event says when it names two identities: a user and its anonymous id, or an alias and what it replaces.

    The `previousId` of an alias is an anonymous id or a former user id (Segment's specification does not tell which): both are
    claimed, so that the history under either is found.
    """
    if envelope.type == "alias" and envelope.previous_id is not None:
        node = node_of(envelope)
        return (IdentityClaim(tenant, node, f"a:{envelope.previous_id}"), IdentityClaim(tenant, node, f"u:{envelope.previous_id}"))
    if envelope.user_id is not None and envelope.anonymous_id is not None:
        return (IdentityClaim(tenant, f"u:{envelope.user_id}", f"a:{envelope.anonymous_id}"),)
    return ()


def traits(tenant: TenantId, envelope: Envelope, at: Micros) -> tuple[TraitClaim, ...]:
    """The traits of an identify call, each as its own claim: a later call overwrites only what it names."""
    if envelope.type != "identify":
        return ()
    found = _decoder.decode(envelope.payload).traits or {}
    node = node_of(envelope)
    return tuple(
        TraitClaim(tenant, node, name, bytes(value).decode(), at, envelope.message_id)
        for name, value in found.items()
        if "\x00" not in name
    )


def node_of(envelope: Envelope) -> str:
    """The identity that an event speaks of: the known user when there is one."""
    return f"u:{envelope.user_id}" if envelope.user_id is not None else f"a:{envelope.anonymous_id}"
