"""A record as Kafka keeps it: nothing is lost on the way, and what is not ours or newer is refused, never guessed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.eventlog import headers
from cells.eventlog.log import Record
from cells.eventlog.topics import MESSAGE_BYTES_MAX
from kernel.clock import DAY, Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE, CellId, SourceId, TenantId
from kernel.limits import RECORD_BYTES_MAX
from tests.support.records import TODAY, blob

names = st.text(min_size=1, max_size=63)
records = st.builds(
    Record,
    names.map(TenantId),
    names.map(SourceId),
    names.map(CellId),
    st.integers(0, 2**63 - 1).map(Epoch),
    st.integers(-(2**63), 2**63 - 1).map(Micros),
    st.integers(0, 2**32 - 1),
    st.text(max_size=512),
    st.binary(),
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    """Law: unpack inverts pack, for every field."""
    key, packed = headers.pack(record)
    assert headers.unpack(key, record.body, packed, "here") == record


def test_other_headers_are_not_looked_at() -> None:
    """Law: what a mirror or a tracer adds changes nothing."""
    record = blob("x")
    key, packed = headers.pack(record)
    assert headers.unpack(key, record.body, [("before", b"1"), *packed, ("dataflow", b"\x63")], "here") == record


def test_a_newer_layout_is_named_and_refused() -> None:
    """Law: a reader that is behind says which layout it met and where."""
    key, [(name, data)] = headers.pack(blob("x"))
    with pytest.raises(Failure, match=r"offset 7 has layout 2, known is 1") as caught:
        headers.unpack(key, b"x", [(name, b"\x02" + (data or b"")[1:])], "offset 7")
    assert caught.value.reason is Reason.UNDECODABLE_RECORD


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        (None, b"x", headers.pack(blob("x"))[1]),
        (b"tenant", None, headers.pack(blob("x"))[1]),
        (b"tenant", b"x", []),
        (b"tenant", b"x", [("dataflow", b"")]),
        (b"tenant", b"x", [("dataflow", None)]),
    ],
)
def test_what_somebody_else_wrote_is_refused(key: bytes | None, value: bytes | None, held: headers.Headers) -> None:
    """Law: a record without our key, body or header is not taken for one of ours."""
    with pytest.raises(Failure, match="not written by DataFlow"):
        headers.unpack(key, value, held, "offset 7")


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": TenantId("No Tenant")},
        {"tenant": UNREADABLE},
        {"events": 0},
        {"events": 2**32 - 1},
        {"received_at": Micros(-1)},
        {"received_at": Micros(2**62)},
        {"epoch": Epoch(2**63)},
    ],
)
def test_what_no_cell_writes_is_told_from_what_one_does(fields: dict[str, Any]) -> None:
    """Law: a header whose numbers no store could keep, or whose tenant is none, is not taken for one of ours."""
    assert headers.forged(blob("x"), TODAY) is None
    assert headers.forged(dataclasses.replace(blob("x"), **fields), TODAY) is not None


def test_no_cut_is_taken_for_a_whole_header() -> None:
    """Law: wherever a header ends too early, it is damaged."""
    key, [(name, data)] = headers.pack(blob("x"))
    for length in range(1, len(data or b"")):
        with pytest.raises(Failure, match="damaged"):
            headers.unpack(key, b"x", [(name, (data or b"")[:length])], "offset 7")


def test_the_largest_record_fits_a_message() -> None:
    """Law: with the longest names a record of the largest body stays below what the topic takes, the batch's head included."""
    longest = dataclasses.replace(
        blob(""), tenant=TenantId("t" * 63), source=SourceId("s" * 63), cell=CellId("c" * 63), trace="x" * 512, body=b""
    )
    key, packed = headers.pack(longest)
    around = len(key) + sum(len(name) + len(data or b"") for name, data in packed)
    batch_head, record_head = 61, 40
    assert RECORD_BYTES_MAX + around + batch_head + record_head <= MESSAGE_BYTES_MAX


@pytest.mark.parametrize(("days", "well"), [(-365, True), (0, True), (1, True), (-400, False), (2, False), (10**6, False)])
def test_a_stranger_does_not_choose_the_days_of_the_store(days: int, well: bool) -> None:
    """Law: what says that it was received long ago, or in days to come, is none of ours."""
    record = dataclasses.replace(blob("x"), received_at=Micros(TODAY + days * DAY))
    assert (headers.forged(record, TODAY) is None) == well
