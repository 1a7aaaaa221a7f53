"""Who is the same person: claims merged into components of the identity graph. Pure.

A component is named after its smallest node, so that the name does not depend on the order of claims. Merging is commutative
and idempotent as long as no component outgrows its bound; beyond it a claim is dropped and counted, and which one is dropped
depends on what came first. Within one merge claims are taken in sorted order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernel.limits import IDENTITY_NODES_MAX


@dataclass(frozen=True, slots=True)
class Merged:
    """`changed` maps each node whose component is new to that component; `dropped` counts claims beyond the bound."""

    changed: dict[str, str]
    dropped: int


def merge(known: Mapping[str, str], claims: Iterable[tuple[str, str]], nodes_max: int = IDENTITY_NODES_MAX) -> Merged:
    """Merges one tenant's claims. `known` maps node to component and holds every member of each component that a claim touches.

    A claim whose two sides are the same node merely makes the node known.
    """
    component = dict(known)
    members: dict[str, set[str]] = {}
    for node, name in known.items():
        members.setdefault(name, set()).add(node)
    dropped = 0
    for left, right in sorted(set(claims)):
        one, other = component.get(left, left), component.get(right, right)
        if one == other and left in component and right in component:
            continue
        nodes = members.get(one, {left}) | members.get(other, {right})
        if len(nodes) > nodes_max:
            dropped += 1
            continue
        members.pop(one, None)
        members.pop(other, None)
        name = min(nodes)
        members[name] = nodes
        component.update(dict.fromkeys(nodes, name))
    changed = {node: name for node, name in component.items() if known.get(node) != name}
    return Merged(changed, dropped)


def news(known: Mapping[str, str], claims: Iterable[tuple[str, str]]) -> bool:
    """Whether `merge` could change anything. Components only ever grow together, so a stale `known` never hides a settled claim."""
    return any(left not in known or right not in known or known[left] != known[right] for left, right in claims)
