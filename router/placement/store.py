"""The port of the directory's store, and its specification. One contract suite runs on every adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import msgspec

from kernel.chain import Link
from kernel.clock import Micros
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from router.placement.steps import Step
from router.placement.table import Move, Table, Tenant, Topology

CHANGES_KEPT: Final = 10_000
REPLAY_CHANGES_MAX: Final = 1_000
AUDIT_ENTRIES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Intent:
    """Who asks for a step, when, and how.

    A `request_id` that was used within REQUESTS_KEPT_SECONDS gives the first answer again; `fingerprint` tells whether it really is
    the same request. With `if_revision` the tenant must not have changed since that revision (0: there must be none). With `dry_run`
    everything is checked and nothing is kept.
    """

    actor: str
    at: Micros
    request_id: str = ""
    fingerprint: bytes = b""
    if_revision: int | None = None
    dry_run: bool = False

    def check(self, held: Tenant | None) -> None:
        """Raises Failure(STALE_REVISION) when the tenant is not as whoever asks has seen it."""
        since = 0 if held is None else held.since
        if self.if_revision is not None and since != self.if_revision:
            raise Failure(Reason.STALE_REVISION, f"it was changed at revision {since}, not {self.if_revision}")


@dataclass(frozen=True, slots=True)
class Done:
    """The tenant right after the step, and the zone's revision then. `repeated` when an earlier request had done it."""

    tenant: Tenant
    revision: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """The step to `revision` from the one before it; `tenant` is what it was right after, None when the topology changed."""

    revision: int
    tenant: Tenant | None


class Deed(NamedTuple):
    """What was done, for the audit chain: `action` is the step's name, `what` the step itself as JSON. No key stands in it, only hashes."""

    at: Micros
    actor: str
    request_id: str
    action: str
    tenant: str
    revision: int
    what: str


def deed_of(step: Step, after: Tenant, intent: Intent) -> Deed:
    """What to enter into the audit chain."""
    what = msgspec.json.encode(step).decode()
    return Deed(intent.at, intent.actor, intent.request_id, type(step).__name__, after.name, after.since, what)


def answered(fingerprint: bytes, done: Done, intent: Intent) -> Done:
    """The first answer again. Raises Failure(REQUEST_REUSED) when it was another request."""
    if fingerprint != intent.fingerprint:
        raise Failure(Reason.REQUEST_REUSED, intent.request_id)
    return replace(done, repeated=True)


class Store(Protocol):
    """The truth of one residency zone.

    Every change raises the zone's revision by exactly one, logs the changed tenant whole and enters the deed into the audit chain, in one
    transaction: revisions become visible in order and without gaps. The last CHANGES_KEPT changes are kept; the audit chain is kept
    whole, each entry chained to the one before it (`kernel.chain`). What raises Failure changes nothing.
    """

    async def revision(self) -> int:
        """The present revision; 0 before the first `adopt`. Raises Failure(STORE_UNAVAILABLE), as everything here does."""
        ...

    async def adopt(self, topology: Topology) -> int:
        """Takes the zone's topology. Nothing happens when it is what is held. Returns the revision.

        Raises Failure(SNAPSHOT_REFUSED) when it lacks the home of a tenant, or a cell that one is on its way from or to.
        """
        ...

    async def table(self) -> Table:
        """Everything, at one revision. Each tenant's `since` is the revision of its last change."""
        ...

    async def tenant(self, name: TenantId) -> Tenant:
        """One tenant. Raises Failure(UNKNOWN_TENANT)."""
        ...

    async def moving(self) -> Sequence[tuple[TenantId, Move]]:
        """The moves that are under way, in the order in which they began."""
        ...

    async def change(self, step: Step, intent: Intent) -> Done:
        """Takes a step. One that asks for what is so already is no change and raises no revision.

        Raises Failure: what the step raises, KEY_EXISTS, STALE_REVISION, REQUEST_REUSED for a `request_id` of another request.
        """
        ...

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """The next changes after revision `after`, at most `limit`, gapless and in order; empty when there are none.

        None when they cannot be told: `after` lies in the future, or so far back that the log is trimmed.
        """
        ...

    async def audit(self, after: int = 0, limit: int = AUDIT_ENTRIES_MAX) -> Sequence[Link[Deed]]:
        """What was done, oldest first: the entries after number `after`."""
        ...
