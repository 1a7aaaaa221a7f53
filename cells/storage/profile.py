"""A person out of the nodes of a component and their traits. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cells.storage import traits
from cells.storage.store import Profile
from kernel.effects import TraitClaim


def profile_of(nodes: Iterable[str], claims: Iterable[TraitClaim]) -> Profile:
    """The profile: a node is `u:<userId>` or `a:<anonymousId>`."""
    known = sorted(nodes)
    users = tuple(node[2:] for node in known if node.startswith("u:"))
    anonymous = tuple(node[2:] for node in known if node.startswith("a:"))
    return Profile(users, anonymous, traits.of_person(claims))
