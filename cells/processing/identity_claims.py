"""What an event says about who is who, and about their traits. Pure; storage merges the claims."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Final

import msgspec

from cells.eventlog.envelope import Columns
from kernel.clock import Micros
from kernel.effects import IdentityClaim, TraitClaim
from kernel.ids import TenantId


class _Traits(msgspec.Struct):
    traits: dict[str, msgspec.Raw] | None = None


_decoder: Final = msgspec.json.Decoder(_Traits)


def identities(tenant: TenantId, columns: Columns, but: Container[int] = ()) -> Iterator[IdentityClaim]:
    """What events say that name two identities: a user and its anonymous id, or an alias and what it replaces. What several of them
    say comes once. Those at the ordinals in `but` are not heard.

    The `previousId` of an alias is an anonymous id or a former user id (Segment's specification does not tell which): both are
    claimed, so that the history under either is found.
    """
    kinds = set(columns.types)
    heard: Iterable[tuple[str | None, str | None]] = zip(columns.user_ids, columns.anonymous_ids, strict=True)
    if but or "alias" in kinds:
        heard = (pair for ordinal, pair in enumerate(heard) if ordinal not in but and columns.types[ordinal] != "alias")
    for user_id, anonymous_id in dict.fromkeys(heard):
        if user_id is not None and anonymous_id is not None:
            yield IdentityClaim(tenant, f"u:{user_id}", f"a:{anonymous_id}")
    for ordinal in _ordinals(columns, "alias") if "alias" in kinds else ():
        node, previous_id = node_of(columns, ordinal), columns.previous_ids[ordinal]
        if ordinal not in but and previous_id is not None:
            yield IdentityClaim(tenant, node, f"a:{previous_id}")
            yield IdentityClaim(tenant, node, f"u:{previous_id}")


def with_traits(columns: Columns) -> list[int]:
    """The ordinals of events that may bring traits."""
    return _ordinals(columns, "identify") if "identify" in columns.types else []


def traits(tenant: TenantId, columns: Columns, ordinal: int, at: Micros) -> tuple[TraitClaim, ...]:
    """The traits of an identify call, each as its own claim: a later call overwrites only what it names."""
    found = _decoder.decode(columns.payloads[ordinal]).traits or {}
    node, message_id = node_of(columns, ordinal), columns.message_ids[ordinal]
    return tuple(
        TraitClaim(tenant, node, name, bytes(value).decode(), at, message_id) for name, value in found.items() if "\x00" not in name
    )


def node_of(columns: Columns, ordinal: int) -> str:
    """The identity that an event speaks of: the known user when there is one."""
    user_id = columns.user_ids[ordinal]
    return f"u:{user_id}" if user_id is not None else f"a:{columns.anonymous_ids[ordinal]}"


def _ordinals(columns: Columns, kind: str) -> list[int]:
    return [ordinal for ordinal, found in enumerate(columns.types) if found == kind]
