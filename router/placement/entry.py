"""What a zone's directory keeps, one entry after another: whatever a step changed, so that another site keeps it without any rule of
placement, and the port of a site's disk. The names are Raft's (Ongaro and Ousterhout, 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from kernel.chain import Link
from kernel.clock import Micros
from kernel.errors import Failure, Reason
from router.placement.store import Deed
from router.placement.table import Tenant, Topology

WITNESS: Final = "witness"
"""The name of the site that is no region: it looks and votes, and keeps nothing of the zone."""
FORM: Final = 1
"""Raised with every change of what an entry holds: a site that does not know a form keeps nothing of it, instead of a part."""
ENTRIES_KEPT: Final = 10_000
ENTRIES_READ_MAX: Final = 200


class Place(NamedTuple):
    """Where an entry stands: the term of the leader that had it agreed on, and its number. The greater one is the newer one."""

    term: int
    number: int


NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was answered, so that it is answered alike when it is repeated: with the tenant as it was then."""

    id: str
    fingerprint: bytes
    at: Micros
    revision: int
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class Entry:
    """What one step of the zone changed: entry `number`, after which the zone is at `revision`. `tenant` is what it was right after, None
    when there was nothing new of it; `topology` is the zone's new one, if that changed."""

    number: int
    revision: int
    tenant: Tenant | None = None
    topology: Topology | None = None
    deed: Link[Deed] | None = None
    request: Request | None = None
    form: int = FORM


def encode(entry: Entry) -> bytes:
    """As JSON, as sites tell and keep it."""
    return msgspec.json.encode(entry)


def decode(data: bytes | str) -> Entry:
    """Raises ValueError; Failure(STORE_UNAVAILABLE) for a form that only a newer version knows."""
    return _known(msgspec.json.decode(data, type=Entry))


def encode_all(entries: Sequence[Entry]) -> bytes:
    """Several."""
    return msgspec.json.encode(entries)


def decode_all(data: bytes | str) -> tuple[Entry, ...]:
    """As `decode`."""
    return tuple(map(_known, msgspec.json.decode(data, type=tuple[Entry, ...])))


def _known(entry: Entry) -> Entry:
    if entry.form > FORM:
        raise Failure(Reason.STORE_UNAVAILABLE, f"an entry of form {entry.form}, of which this version knows {FORM}")
    return entry


def left_of(entries: Sequence[Entry], settled: Place) -> Sequence[Entry]:
    """Those of a leader's entries that are not settled, if they follow what is."""
    left = [entry for entry in entries if entry.number > settled.number]
    return left if left and left[0].number == settled.number + 1 else []


def still_held(place: Place, entries: Sequence[Entry], settled: Place) -> Sequence[Entry]:
    """Those of entries that were held up to `place` which are not settled. None when something else is settled in the place of the first
    ones: then a newer leader's entries have taken theirs."""
    begun = bool(entries) and entries[0].number <= settled.number
    return [] if begun and settled.term > place.term else left_of(entries, settled)


def check_follows(entry: Entry, number: int, revision: int, head: bytes) -> None:
    """Raises ValueError when an entry does not follow what is settled: sites have come apart, and nobody may hide that."""
    step = int(entry.tenant is not None or entry.topology is not None)
    if (entry.number, entry.revision) != (number + 1, revision + step):
        raise ValueError(f"entry {entry.number} to revision {entry.revision} does not follow entry {number} at revision {revision}")
    if entry.deed is not None and entry.deed.prev_hash != head:
        raise ValueError(f"the deed of entry {entry.number} does not follow the audit chain")


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a site must never forget: the newest term that it heard of, for whom it voted in that, and its newest entry, settled or not."""

    term: int = 0
    voted_for: str = ""
    last: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a whole copy of the zone. The first has its place, revision and topology, and no other has."""

    place: Place | None = None
    revision: int = 0
    topology: Topology | None = None
    tenants: tuple[Tenant, ...] = ()
    deeds: tuple[Link[Deed], ...] = ()
    requests: tuple[Request, ...] = ()
