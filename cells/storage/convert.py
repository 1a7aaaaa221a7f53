"""Events of the table `event`, where each row held its own text, as the records and rows that they are kept as now. Pure.

A log record is put together again from the rows that are left of it, in as many pieces as it is met in. A piece must never lie where a
record of the log itself may come to lie, or one would be read for the other: so pieces stand under partitions below zero, which
no log has, and which say both the log's partition and which piece this is.

The previous version hashed a payload in another way: a hash is computed anew, so that an equal repeat is no conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Final, NamedTuple
from zlib import crc32

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.storage import dedup, tally
from kernel.clock import Micros, hour_of
from kernel.effects import EventRow, RecordRow
from kernel.ids import CellId, TenantId, message_keys

_PARTITIONS: Final = 1 << 16
_PIECES: Final = 1 << 15


# Of a piece, within its day: (place, offset).
Home = tuple[int, int]


class OldEvent(NamedTuple):
    """A row of the table `event`, in the order of the statement that reads it."""

    tenant: TenantId
    message_id: str
    received_day: date
    received_at: Micros
    event_at: Micros
    stored_at: Micros
    epoch: int
    offset: int
    content_hash: int
    partition: int
    ordinal: int
    type: str
    name: str | None
    user_id: str | None
    anonymous_id: str | None
    group_id: str | None
    source: str
    cell: CellId
    payload: str


class Piece(NamedTuple):
    """A record to be kept, when its events became queryable, and the rows that lead into it."""

    record: RecordRow
    stored_at: Micros
    rows: Sequence[EventRow]


@dataclass(frozen=True, slots=True)
class Plan:
    """`kept` events by the place that their piece would take, each list in the order of the log; `repeated` is what the ledger counts as
    stored and is stored under another row. `keys` names every event by (tenant, message id)."""

    kept: Mapping[Home, Sequence[OldEvent]]
    repeated: Counter[tally.TenantHour]
    keys: Mapping[tuple[TenantId, str], bytes]


def place_of(partition: int, piece: int) -> int:
    """The partition below zero under which a piece stands. Raises ValueError: no log has such a partition."""
    if not 0 <= partition < _PARTITIONS:
        raise ValueError(f"partition {partition} of a log")
    return -1 - partition - _PARTITIONS * (piece % _PIECES)


def partition_of(place: int) -> int:
    """The log's partition, of a piece as of a record that lies where the log says."""
    return (-1 - place) % _PARTITIONS if place < 0 else place


def next_place(place: int) -> int:
    """Where the piece stands when `place` is taken."""
    return place_of(partition_of(place), (-1 - place) // _PARTITIONS + 1)


def keys_of(events: Iterable[OldEvent]) -> dict[tuple[TenantId, str], bytes]:
    """The message key of each (tenant, message id)."""
    ids: dict[TenantId, list[str]] = {}
    for event in events:
        ids.setdefault(event.tenant, []).append(event.message_id)
    return {(tenant, one): key for tenant, some in ids.items() for one, key in zip(some, message_keys(tenant, some), strict=True)}


def plan(events: Sequence[OldEvent], keys: Mapping[tuple[TenantId, str], bytes], found: Iterable[dedup.Found]) -> Plan:
    """Which of the events, all of one received day, are kept, and where: by the rules of dedup as they were when each was stored, against
    what is `found` under their keys, which wins."""
    of_row: dict[bytes, OldEvent] = {keys[event.tenant, event.message_id]: event for event in events}
    known, fresh = list(found), []
    repeated: Counter[tally.TenantHour] = Counter()
    for begins, some in groupby(sorted(events, key=_stored_at), lambda event: dedup.window_begins(event.stored_at)):
        sifted = dedup.sift([_row(event, keys) for event in some], known, begins)
        known += [dedup.Found(row.message_key, row.received_day, row.content_hash) for row in sifted.fresh]
        fresh += [of_row[row.message_key] for row in sifted.fresh]
        repeated.update((row.tenant, hour_of(of_row[row.message_key].received_at)) for row in sifted.repeated)
    kept: dict[Home, list[OldEvent]] = {}
    for _, group in groupby(sorted(fresh, key=_of_record), _head):
        piece = list(group)
        place = place_of(piece[0].partition, piece[0].ordinal)
        while (place, piece[0].offset) in kept:
            place = next_place(place)
        kept[place, piece[0].offset] = piece
    return Plan(kept, repeated, keys)


def places_below(keys: Iterable[Home]) -> dict[Home, int]:
    """For what lies at these keys, in another cell, a place below zero of its own for each."""
    return avoid({key: key[0] if key[0] < 0 else place_of(key[0], 0) for key in keys}, frozenset())


def avoid(places: Mapping[Home, int], taken: Set[Home]) -> dict[Home, int]:
    """The places of pieces, moved on where one is taken or would be taken twice."""
    free: dict[Home, int] = {}
    used: set[Home] = set()
    for home, place in places.items():
        while (place, home[1]) in taken or (place, home[1]) in used:
            place = next_place(place)
        free[home] = place
        used.add((place, home[1]))
    return free


def pieces(planned: Plan, places: Mapping[Home, int]) -> Iterator[Piece]:
    """The pieces one by one, each encoded when it is asked for, with the place that it is given."""
    for home, events in planned.kept.items():
        yield _piece(places[home], events, planned.keys)


def without(piece: Piece, kept: Set[bytes]) -> Piece:
    """The piece as it is kept when of its rows only those with these keys were: its body stays, as that of a record does of which
    some events were stored before."""
    rows = [row for row in piece.rows if row.message_key in kept]
    return piece._replace(record=piece.record._replace(events=len(rows)), rows=rows)


def lost(before: Piece, after: Piece) -> list[tally.TenantHour]:
    """The tenant-hour of each row that a piece is without."""
    return [(before.record.tenant, hour_of(before.record.received_at))] * (len(before.rows) - len(after.rows))


def _piece(place: int, events: Sequence[OldEvent], keys: Mapping[tuple[TenantId, str], bytes]) -> Piece:
    first = events[0]
    body = codec.encode(Body(None, [_envelope(event) for event in events]))
    head = (first.received_at, first.epoch, first.cell, first.source)
    record = RecordRow(first.tenant, first.received_day, place, first.offset, *head, len(events), body)
    rows = [_row(event, keys)._replace(partition=place, ordinal=ordinal) for ordinal, event in enumerate(events)]
    return Piece(record, first.stored_at, rows)


def _envelope(event: OldEvent) -> Envelope:
    """What was not promoted to a column is in the payload alone."""
    ids = (event.user_id, event.anonymous_id, event.name, event.group_id)
    payload = event.payload.encode()
    return Envelope(event.message_id, event.type, payload, crc32(payload), *ids)


def _row(event: OldEvent, keys: Mapping[tuple[TenantId, str], bytes]) -> EventRow:
    return EventRow(
        event.tenant,
        keys[event.tenant, event.message_id],
        event.received_day,
        event.event_at,
        event.partition,
        event.offset,
        event.ordinal,
        crc32(event.payload.encode()),
        event.type,
        event.name,
        event.user_id,
        event.anonymous_id,
        event.group_id,
        event.source,
    )


def _stored_at(event: OldEvent) -> Micros:
    return event.stored_at


def _head(event: OldEvent) -> tuple[object, ...]:
    """What the events of one record have in common."""
    return event.partition, event.offset, event.tenant, event.received_at, event.epoch, event.cell, event.source, event.stored_at


def _of_record(event: OldEvent) -> tuple[object, ...]:
    return *_head(event), event.ordinal
