"""Who reads which partition: each member keeps what it has, up to its fair share, and what is free goes to whoever has least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def share(partitions: int, held: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """Member -> its partitions, in order. Every partition is given to one member; two members' numbers differ by one at most.

    `held` is what each member says that it reads now; where two claim the same partition the first by name keeps it.
    """
    least, more = divmod(partitions, len(held))
    given: dict[str, list[int]] = {}
    free = set(range(partitions))
    for member in sorted(held):
        # `more` members may have one above the least; whoever holds that many already comes first.
        kept = sorted(free.intersection(held[member]))[: least + 1 if more else least]
        more -= len(kept) > least
        given[member] = kept
        free.difference_update(kept)
    for partition in sorted(free):
        poorest = min(given, key=lambda member: (len(given[member]), member))
        given[poorest].append(partition)
    return {member: sorted(numbers) for member, numbers in given.items()}
