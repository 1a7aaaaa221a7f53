"""What the cell makes of a request's headers: the edge's stamp, and who may read."""

from __future__ import annotations

import pytest

from cells.ingest.authenticate import reader_of
from cells.ingest.stamp import CELL as CELL_HEADER
from cells.ingest.stamp import EPOCH, TENANT, stamp_of
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId, hash_of
from tests.support.cell import KEY, READ_KEY, fixture_admission
from tests.support.records import CELL


@pytest.mark.parametrize("epoch", ["²", "٣", "1_0", "-1", "1.0", "9" * 19, "9" * 5_000])
def test_an_epoch_that_is_no_number_of_ours_is_half_a_stamp(epoch: str) -> None:
    """Law: whatever a header holds, the stamp is read or refused; it never raises anything but a Failure."""
    with pytest.raises(Failure) as caught:
        stamp_of({TENANT: "t", CELL_HEADER: "c", EPOCH: epoch})
    assert caught.value.reason is Reason.INTERNAL


def test_a_reader_is_known_to_the_audit_log_by_the_start_of_its_keys_hash() -> None:
    """Law: the tenant, and who asks; never the key."""
    tenant, who = reader_of({"authorization": f"Bearer {READ_KEY}"}, fixture_admission(), CELL)
    assert (tenant, who) == (TenantId("acme-retail"), f"read-key {hash_of(READ_KEY)[:12]}")


@pytest.mark.parametrize(
    ("key", "cell", "reason"),
    [("", CELL, Reason.NO_CREDENTIAL), (KEY, CELL, Reason.WRONG_KEY_KIND), (READ_KEY, CellId("eu-central-1-a"), Reason.MOVED)],
)
def test_a_reader_is_refused_with_a_reason(key: str, cell: CellId, reason: Reason) -> None:
    """Law: a cell answers for the tenants that live in it, to those who hold a read key."""
    with pytest.raises(Failure) as caught:
        reader_of({"x-api-key": key}, fixture_admission(), cell)
    assert caught.value.reason is reason
