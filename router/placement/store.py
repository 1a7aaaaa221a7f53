"""The port of the directory's store, and its specification. One contract suite runs on every adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from kernel.ids import KeyHash, SourceId, TenantId
from router.placement.table import Credential, Source, Table, Tenant, Topology

CHANGES_KEPT: Final = 10_000
REPLAY_CHANGES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """The step to `revision` from the one before it; `tenant` is what it was right after, None when the topology changed."""

    revision: int
    tenant: Tenant | None


class Store(Protocol):
    """The truth of one residency zone.

    Every mutation raises the zone's revision by exactly one and logs the changed tenant whole, in one transaction: revisions
    become visible in order and without gaps. The last CHANGES_KEPT changes are kept. Mutations raise Failure and then change
    nothing, the revision included: UNKNOWN_TENANT, UNKNOWN_SOURCE, UNKNOWN_KEY, TENANT_EXISTS (a tenant's, source's, slug's or
    key's name is taken), STORE_UNAVAILABLE.
    """

    async def revision(self) -> int:
        """The present revision; 0 before the first `adopt`."""
        ...

    async def adopt(self, topology: Topology) -> int:
        """Takes the zone's topology. Nothing happens when it is what is held. Returns the revision.

        Raises Failure(SNAPSHOT_REFUSED) when it lacks the home of a tenant.
        """
        ...

    async def table(self) -> Table:
        """Everything, at one revision. Each tenant's `since` is the revision of its last change."""
        ...

    async def tenant(self, name: TenantId) -> Tenant:
        """One tenant."""
        ...

    async def create_tenant(self, tenant: Tenant) -> Tenant:
        """Adds a tenant as given, without sources and keys. Returns it as held."""
        ...

    async def suspend(self, name: TenantId, suspended: bool) -> Tenant:
        """Stops or resumes a tenant. Saying what is so already changes nothing, the revision included."""
        ...

    async def add_source(self, name: TenantId, source: Source) -> Tenant:
        """Adds a source with its keys."""
        ...

    async def add_write_key(self, name: TenantId, source: SourceId, key: Credential) -> Tenant:
        """Adds a key to a source, e.g. to rotate."""
        ...

    async def add_read_key(self, name: TenantId, key: Credential) -> Tenant:
        """Adds a read key."""
        ...

    async def revoke(self, key: KeyHash) -> int:
        """Marks a key as revoked, for ever. Returns the revision from which on it is; repeating it changes nothing."""
        ...

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """The next changes after revision `after`, at most `limit`, gapless and in order; empty when there are none.

        None when they cannot be told: `after` lies in the future, or so far back that the log is trimmed.
        """
        ...
