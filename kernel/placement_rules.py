"""What a step of a zone's placement must be to be believed: one rule set for the edge's table and the cell's (router.md, rule 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import TenantId, ZoneName

SHRINK_TENANTS_FREE: Final = 10
SHRINK_SHARE_MAX: Final = 0.5


class Homed(Protocol):
    """A tenant, as far as the rules look."""

    @property
    def name(self) -> TenantId:
        """Its name."""
        ...

    @property
    def epoch(self) -> Epoch:
        """The ownership number of its home."""
        ...


class Held(Protocol):
    """The table before the step. At revision 0 nothing was heard yet."""

    @property
    def zone(self) -> ZoneName:
        """Whose placement it is."""
        ...

    @property
    def revision(self) -> int:
        """How far it is."""
        ...

    @property
    def tenants(self) -> Mapping[TenantId, Homed]:
        """Everybody in it."""
        ...


class Step(Protocol):
    """An update: whole when it is from revision 0, which replaces everything, else a change of exactly `from_revision`."""

    @property
    def zone(self) -> ZoneName:
        """Whose placement it is."""
        ...

    @property
    def from_revision(self) -> int:
        """What it builds on."""
        ...

    @property
    def to_revision(self) -> int:
        """Where it leads."""
        ...

    @property
    def tenants(self) -> Sequence[Homed]:
        """Whom it names."""
        ...


def check(held: Held, step: Step) -> None:
    """Raises Failure(SNAPSHOT_REFUSED): of another zone, older, with a gap, empty, sharply shrunk, or an epoch falls."""
    if step.zone != held.zone:
        raise refused(f"it is of zone {step.zone}, this is {held.zone}")
    if step.from_revision == 0:
        _check_whole(held, step)
    else:
        _check_change(held, step)
    for tenant in step.tenants:
        before = held.tenants.get(tenant.name)
        if before is not None and tenant.epoch < before.epoch:
            raise refused(f"the epoch of tenant {tenant.name} falls from {before.epoch} to {tenant.epoch}")


def refused(why: str) -> Failure:
    """The failure of a step that is not believed."""
    return Failure(Reason.SNAPSHOT_REFUSED, why)


def _check_whole(held: Held, step: Step) -> None:
    """The revision that is held may come again: a follower may ask for it to renew its journal."""
    if step.to_revision < max(held.revision, 1):
        raise refused(f"revision {step.to_revision} is older than {held.revision}")
    had, lost = len(held.tenants), len(held.tenants) - len(step.tenants)
    if had and not step.tenants:
        raise refused(f"it is empty, {had} tenants are held")
    if lost > max(SHRINK_TENANTS_FREE, SHRINK_SHARE_MAX * had):
        raise refused(f"it would drop {lost} of {had} tenants")


def _check_change(held: Held, step: Step) -> None:
    if step.to_revision <= held.revision:
        raise refused(f"revision {step.to_revision} is not newer than {held.revision}")
    if step.from_revision != held.revision:
        raise refused(f"it builds on revision {step.from_revision}, this is {held.revision}")
