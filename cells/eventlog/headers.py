"""A record's fields as Kafka keeps them: key = tenant, value = body, and one header with all the others.

The header is named `dataflow`. Its first byte is the layout's version; version 1 goes on with epoch (unsigned), received_at (signed),
8 bytes each, events (4 bytes), all big-endian, then source, cell and trace in UTF-8, each behind its length in 2 bytes. Whoever changes
anything takes the next version: a reader refuses what it does not know, and never guesses. So readers learn a version before writers
use it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from cells.eventlog.log import Record
from kernel.clock import DAY, Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, SourceId, TenantId, is_name
from kernel.limits import RECORD_EVENTS_MAX

NAME: Final = "dataflow"
VERSION: Final = 1
# What Kafka adds to a body at most: the batch's head, the record's, key and header with the longest names.
OVERHEAD_BYTES_MAX: Final = 4_096
_FIXED: Final = struct.Struct(">BQqI")
_LENGTH: Final = struct.Struct(">H")
_OLDEST_DAYS: Final = 366
_EPOCH_MAX: Final = 2**63 - 1

Headers = Sequence[tuple[str, bytes | None]]


def pack(record: Record) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """Key and headers of a record."""
    parts = [_FIXED.pack(VERSION, record.epoch, record.received_at, record.events)]
    for text in (record.source, record.cell, record.trace):
        data = text.encode()
        parts += (_LENGTH.pack(len(data)), data)
    return record.tenant.encode(), [(NAME, b"".join(parts))]


def unpack(key: bytes | None, value: bytes | None, headers: Headers, where: str) -> Record:
    """The inverse of `pack`. Raises Failure(UNDECODABLE_RECORD) naming `where` when the record is not ours or of a newer layout."""
    header = next((data for name, data in headers if name == NAME), None)
    if key is None or value is None or not header:
        raise Failure(Reason.UNDECODABLE_RECORD, f"{where} was not written by DataFlow: somebody else writes to the log")
    if header[0] != VERSION:
        raise Failure(Reason.UNDECODABLE_RECORD, f"{where} has layout {header[0]}, known is {VERSION}: a newer release wrote it")
    try:
        _, epoch, received_at, events = _FIXED.unpack_from(header)
        source, cell, trace = _texts(header)
        tenant = key.decode()
    except (struct.error, ValueError) as error:
        raise Failure(Reason.UNDECODABLE_RECORD, f"{where} has a damaged header") from error
    return Record(TenantId(tenant), SourceId(source), CellId(cell), Epoch(epoch), Micros(received_at), events, trace, value)


def forged(record: Record, now: Micros) -> str | None:
    """Why a record that can be unpacked is none of ours all the same: no cell writes it, and none could keep it. None when it is. The day
    of its reception becomes a day of the store: it is no stranger's to choose.
    """
    if not is_name(record.tenant):
        return "its key is no tenant's name"
    if not 1 <= record.events <= RECORD_EVENTS_MAX:
        return f"its header says that it holds {record.events} events"
    if not plausible(record.received_at, now):
        return "its header says that it was received more than a year ago, or more than a day from now"
    return "its header has an epoch beyond all numbers" if record.epoch > _EPOCH_MAX else None


def plausible(received_at: Micros, now: Micros) -> bool:
    """Whether what is read at `now` can have been received then: the log keeps it for days, and clocks differ by less."""
    return now - _OLDEST_DAYS * DAY <= received_at <= now + DAY


def _texts(header: bytes) -> tuple[str, str, str]:
    found = []
    at = _FIXED.size
    for _ in range(3):
        (length,) = _LENGTH.unpack_from(header, at)
        at += _LENGTH.size + length
        if at > len(header):
            raise ValueError("the header ends too early")
        found.append(header[at - length : at].decode())
    return found[0], found[1], found[2]
