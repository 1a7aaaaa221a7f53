"""How many requests of a tenant one edge takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.xds.rate import RATES, rate_of


@given(st.floats(min_value=1e-9, max_value=float(RATES[-1])))
def test_a_plan_gets_what_it_says_and_less_than_twice_of_it(requests_per_second: float) -> None:
    """Law: the smallest of the sizes that is no less; a plan of less than one a second has one."""
    rate = rate_of(requests_per_second)
    assert rate in RATES
    assert requests_per_second <= rate < max(2.0, 2 * requests_per_second)


@given(st.floats(min_value=float(RATES[-1]), max_value=1e300))
def test_a_plan_above_all_sizes_gets_the_largest(requests_per_second: float) -> None:
    """Law: no plan is without a bucket."""
    assert rate_of(requests_per_second) == RATES[-1]
