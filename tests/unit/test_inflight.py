"""The count of request bytes in memory."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.ingest.inflight import Inflight
from kernel.errors import Failure, Reason
from kernel.ids import TenantId

A, B = TenantId("a"), TenantId("b")


@given(st.lists(st.tuples(st.integers(0, 4), st.one_of(st.integers(0, 150), st.sampled_from((A, B)))), max_size=60))
def test_whatever_requests_do_the_bounds_hold_and_everything_is_given_back(steps: list[tuple[int, int | TenantId]]) -> None:
    """Law: at most the total, at most its share for each tenant and for nobody, and nothing at the end."""
    heard: list[int] = []
    inflight = Inflight(100, heard.append)
    with ExitStack() as stack:
        requests = [stack.enter_context(inflight.holding()) for _ in range(5)]
        for number, step in steps:
            with suppress(Failure):
                if isinstance(step, int):
                    requests[number].resize(step)
                else:
                    requests[number].belong(step)
            assert inflight.total == sum(inflight.by_tenant.values()) <= 100
            assert all(0 < share <= 50 for share in inflight.by_tenant.values())
    assert (inflight.total, inflight.by_tenant) == (0, {})
    assert heard[-1] == 0


def test_a_request_that_found_its_tenant_counts_for_it_alone() -> None:
    """Law: who is known no longer takes from the share of those who are not."""
    inflight = Inflight(100, lambda total: None)
    with inflight.holding() as one, inflight.holding() as two:
        one.resize(50)
        with pytest.raises(Failure) as caught:
            two.resize(1)
        assert caught.value.reason is Reason.OVERLOADED
        one.belong(A)
        two.resize(50)
        assert inflight.by_tenant == {A: 50, None: 50}
