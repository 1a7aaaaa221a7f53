"""How a batch is cut into what one turn of the loop can bear."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cells.ingest.accept import slices
from kernel.limits import EVENT_BYTES_MAX, SLICE_BYTES_MAX, SLICE_EVENTS_MAX

sizes_of_batches = st.lists(st.integers(0, EVENT_BYTES_MAX), max_size=60) | st.integers(0, 3 * SLICE_EVENTS_MAX).map(lambda n: [600] * n)


@given(sizes_of_batches)
def test_slices_cover_a_batch_in_order_and_are_bounded(sizes: list[int]) -> None:
    """Nothing is left out or taken twice; a slice is bounded in events, and in bytes unless it is one event."""
    cut = list(slices(sizes))
    assert [number for start, end in cut for number in range(start, end)] == list(range(len(sizes)))
    for start, end in cut:
        assert end - start <= SLICE_EVENTS_MAX
        assert end - start <= 1 or sum(sizes[start:end]) <= SLICE_BYTES_MAX
