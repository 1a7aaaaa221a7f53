"""Log entries <-> `dataflow.replication.v1`."""

from __future__ import annotations

from cells.eventlog.log import Entry, Record
from dataflow.replication.v1 import replication_pb2 as pb
from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.ids import CellId, SourceId, TenantId


def record_message(entry: Entry) -> pb.Record:
    """An entry on its way."""
    record = entry.record
    return pb.Record(
        offset=entry.offset,
        appended_at=entry.appended_at,
        tenant=record.tenant,
        source=record.source,
        cell=record.cell,
        epoch=record.epoch,
        received_at=record.received_at,
        events=record.events,
        trace=record.trace,
        body=record.body,
    )


def entry_of(message: pb.Record) -> Entry:
    """The inverse."""
    record = Record(
        TenantId(message.tenant),
        SourceId(message.source),
        CellId(message.cell),
        Epoch(message.epoch),
        Micros(message.received_at),
        message.events,
        message.trace,
        message.body,
    )
    return Entry(message.offset, Micros(message.appended_at), record)
