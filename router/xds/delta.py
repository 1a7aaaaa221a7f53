"""One delta-xDS stream as a pure state machine: requests and snapshots go in, the next response comes out.

Make before break (rule 8): clusters and endpoints first, then listener, scopes and routes once those are acknowledged, which
Envoy does when a new cluster is warm; only then is anything removed. Endpoints do not wait for the clusters' ACK, since Envoy
withholds it until they came. A refused response stops the wave until another snapshot is offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from router.xds.snapshot import CDS, EDS, LDS, ORDER, RDS, SRDS, Resource, Snapshot

_WILDCARD_TYPES: Final = frozenset({LDS, CDS, SRDS})
_UNSURE: Final = "?"
_REMOVAL_ORDER: Final = (SRDS, RDS, LDS, CDS, EDS)


@dataclass(frozen=True, slots=True)
class Request:
    """What Envoy says: a change of its subscriptions, an ACK (`nonce`) or a NACK (`nonce` and `error`)."""

    kind: str
    nonce: str = ""
    error: str | None = None
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What Envoy is told about one type."""

    kind: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Acked:
    """Envoy took it."""

    kind: str


@dataclass(frozen=True, slots=True)
class Nacked:
    """Envoy refused it and keeps what it had."""

    kind: str
    error: str
    snapshot: Snapshot


@dataclass
class _Subscription:
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)  # name -> version that Envoy holds, maybe _UNSURE; "" when it knows of the absence
    waiting: tuple[Response, Snapshot] | None = None


class Stream:
    """The state of one connection of one Envoy."""

    def __init__(self) -> None:
        self._of: dict[str, _Subscription] = {}
        self._nonces = 0
        self._refused: Snapshot | None = None

    def receive(self, request: Request) -> Acked | Nacked | None:
        """Takes a request of Envoy's. Requests of types that this server does not speak are not to come here."""
        first = request.kind not in self._of
        of = self._of.setdefault(request.kind, _Subscription())
        if first:
            of.wildcard = request.kind in _WILDCARD_TYPES and not request.subscribe
            of.known.update(request.initial_versions)
        for name in request.subscribe:
            if name == "*":
                of.wildcard = True
                continue
            of.names.add(name)
            if not first:
                of.known.pop(name, None)  # asking again means: send again
        for name in request.unsubscribe:
            of.names.discard(name)
            of.known.pop(name, None)
        return self._answered(request, of)

    def send(self, snapshot: Snapshot) -> Response | None:
        """The next response on the way to `snapshot`; None when Envoy has all of it, or must answer first."""
        if snapshot is self._refused:
            return None
        for kind in ORDER:
            if kind in (LDS, SRDS, RDS) and self._waits_for(CDS, EDS):
                return None
            of = self._of.get(kind)
            if of is None or of.waiting is not None:
                continue
            fresh = self._fresh(of, snapshot.types.get(kind, {}))
            if fresh:
                return self._respond(kind, snapshot, fresh, ())
        if self._waits_for(*ORDER):
            return None
        return self._removal(snapshot)

    def settled(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has listeners and routes, and has acknowledged all of `snapshot`. Ask after `send` returned None."""
        return snapshot is not self._refused and LDS in self._of and RDS in self._of and not self._waits_for(*ORDER)

    def _answered(self, request: Request, of: _Subscription) -> Acked | Nacked | None:
        if of.waiting is None or of.waiting[0].nonce != request.nonce:
            return None
        response, snapshot = of.waiting
        of.waiting = None
        if request.error is None:
            for one in response.resources:
                of.known[one.name] = one.version
            for name in response.removed:
                of.known[name] = ""
            return Acked(request.kind)
        for one in response.resources:
            of.known[one.name] = _UNSURE  # some of it may have been taken: put all of these right again
        self._refused = snapshot
        return Nacked(request.kind, request.error, snapshot)

    def _waits_for(self, *kinds: str) -> bool:
        return any(kind in self._of and self._of[kind].waiting is not None for kind in kinds)

    def _fresh(self, of: _Subscription, held: Mapping[str, Resource]) -> tuple[Resource, ...]:
        wanted = held if of.wildcard else (name for name in sorted(of.names) if name in held)
        return tuple(held[name] for name in wanted if of.known.get(name) != held[name].version)

    def _removal(self, snapshot: Snapshot) -> Response | None:
        for kind in _REMOVAL_ORDER:
            of = self._of.get(kind)
            if of is None:
                continue
            held = snapshot.types.get(kind, {})
            gone = [name for name, version in of.known.items() if version and name not in held]
            missing = [name for name in of.names if name not in held and name not in of.known]
            if gone or missing:
                return self._respond(kind, snapshot, (), tuple(sorted({*gone, *missing})))
        return None

    def _respond(self, kind: str, snapshot: Snapshot, fresh: tuple[Resource, ...], removed: tuple[str, ...]) -> Response:
        self._nonces += 1
        response = Response(kind, str(self._nonces), fresh, removed)
        self._of[kind].waiting = (response, snapshot)
        if kind == CDS and EDS in self._of:
            for one in fresh:
                self._of[EDS].known.pop(one.name, None)  # a changed cluster waits for its endpoints again
        return response
