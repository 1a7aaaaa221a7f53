"""Storage's words to and from its proto messages. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from cells.storage.query import Asked
from cells.storage.store import Profile, Stored, Traced
from cells.storage.wire import decode_effects, encode_effects
from dataflow.storage.v1 import query_pb2, storage_pb2
from kernel.clock import SECOND, Micros
from kernel.effects import Applied, Apply, Duplicate, Fenced, Outcome
from kernel.epoch import Claim, Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId

_FIRST_SECOND: Final = -62_135_596_800
_LAST_SECOND: Final = 253_402_300_799
_PLACES: Final = {
    "unknown": query_pb2.TraceEventResponse.PLACE_UNKNOWN,
    "log": query_pb2.TraceEventResponse.PLACE_LOG,
    "stored": query_pb2.TraceEventResponse.PLACE_STORED,
    "dead_letter": query_pb2.TraceEventResponse.PLACE_DEAD_LETTER,
    "held": query_pb2.TraceEventResponse.PLACE_HELD,
}


def asked_of(proto: query_pb2.EventFilter) -> Asked:
    """Empty fields do not filter. Raises Failure(INVALID_QUESTION)."""
    return Asked(
        since=_micros(proto.since) if proto.HasField("since") else None,
        until=_micros(proto.until) if proto.HasField("until") else None,
        type=proto.type or None,
        name=proto.name or None,
        user_id=proto.user_id or None,
        anonymous_id=proto.anonymous_id or None,
        source=proto.source or None,
    )


def event_proto(stored: Stored) -> query_pb2.StoredEvent:
    """An event; absent fields are empty."""
    row, record = stored.row, stored.record
    return query_pb2.StoredEvent(
        message_id=stored.envelope.message_id,
        timestamp=timestamp(row.event_at),
        received_at=timestamp(record.received_at),
        stored_at=timestamp(stored.stored_at),
        type=row.type,
        name=row.name or "",
        user_id=row.user_id or "",
        anonymous_id=row.anonymous_id or "",
        source=row.source,
        cell=record.cell,
        epoch=record.epoch,
        payload_json=stored.envelope.payload,
        partition=row.partition,
        offset=row.offset,
        ordinal=row.ordinal,
    )


def profile_proto(profile: Profile) -> query_pb2.Profile:
    """A person."""
    traits = msgspec.json.encode({name: msgspec.Raw(value.encode()) for name, value in profile.traits.items()})
    return query_pb2.Profile(user_ids=profile.user_ids, anonymous_ids=profile.anonymous_ids, traits_json=traits)


def trace_proto(traced: Traced) -> query_pb2.TraceEventResponse:
    """Where an event is."""
    return query_pb2.TraceEventResponse(
        place=_PLACES[traced.place],
        why=traced.why,
        partition=traced.partition,
        offset=traced.offset,
        ordinal=traced.ordinal,
        event=event_proto(traced.stored) if traced.stored else None,
    )


def timestamp(moment: Micros) -> Timestamp:
    """Exact; a bucket that begins before year 1 is said to begin with it."""
    seconds, micros = divmod(moment, SECOND)
    return Timestamp(seconds=max(seconds, _FIRST_SECOND), nanos=micros * 1_000)


def _micros(proto: Timestamp) -> Micros:
    if not (_FIRST_SECOND <= proto.seconds <= _LAST_SECOND and 0 <= proto.nanos < 1_000_000_000):
        raise Failure(Reason.INVALID_QUESTION, "a time lies outside the years 1 to 9999")
    return Micros(proto.seconds * SECOND + proto.nanos // 1_000)


def apply_request(apply: Apply) -> storage_pb2.ApplyRequest:
    """One apply, with the claim to whom it names: a cell has very many tenants."""
    effects, claimed = apply.effects, apply.claim.epochs
    named = {tenant for tenant, _ in effects.accepted}
    named |= {claim.tenant for claim in effects.identities} | {claim.tenant for claim in effects.traits}
    return storage_pb2.ApplyRequest(
        partition=apply.effects.partition,
        expected=apply.expected,
        next=apply.next,
        cell=apply.claim.cell,
        epochs={str(tenant): int(claimed[tenant]) for tenant in sorted(named) if tenant in claimed},
        effects=encode_effects(apply.effects),
    )


def apply_of(proto: storage_pb2.ApplyRequest) -> Apply:
    """The inverse. Raises ValueError for effects that are not understood or belong to another partition."""
    effects = decode_effects(proto.effects)
    if effects.partition != proto.partition:
        raise ValueError("the effects belong to another partition")
    epochs = {TenantId(tenant): Epoch(epoch) for tenant, epoch in proto.epochs.items()}
    return Apply(effects, Claim(CellId(proto.cell), epochs), proto.expected, proto.next)


def apply_response(outcome: Outcome) -> storage_pb2.ApplyResponse:
    """What became of an apply."""
    match outcome:
        case Applied(stored, duplicate, quarantined, held, conflicts):
            counts = storage_pb2.Applied(stored=stored, duplicate=duplicate, quarantined=quarantined, held=held, conflicts=conflicts)
            return storage_pb2.ApplyResponse(applied=counts)
        case Duplicate(position):
            return storage_pb2.ApplyResponse(duplicate=storage_pb2.Duplicate(position=position))
        case Fenced(tenants):
            return storage_pb2.ApplyResponse(fenced=storage_pb2.Fenced(tenants=sorted(tenants)))


def outcome_of(proto: storage_pb2.ApplyResponse) -> Outcome:
    """The inverse. Raises ValueError for an answer of a newer storage."""
    match proto.WhichOneof("outcome"):
        case "applied":
            done = proto.applied
            return Applied(done.stored, done.duplicate, done.quarantined, done.held, done.conflicts)
        case "duplicate":
            return Duplicate(proto.duplicate.position)
        case "fenced":
            return Fenced(frozenset(TenantId(tenant) for tenant in proto.fenced.tenants))
        case _:
            raise ValueError("an outcome that this version does not know")
