"""The states of a move, as a table. Pure.

    registered --begin--> copying --fence--> fenced --switch--> switched --finish--> erasing --erased--> settled
        |                  ^   |  <-unfence-   |                    |
        |                  |   |               |                    +--roll back--> copying, in the other direction
        |                  +---|---------------|--------------------+
        +--abort--> aborted    +----abort------+--> aborting --erased--> aborted
                               +--join--> joining --joined--> settled

- **registered**: it waits for its turn.
- **copying**: the target takes a copy of what the source has, and catches up; the source is the tenant's home and goes on.
- **joining**: of a move that joins a standby to its home: the target folds what the home accepts from here on, and takes the rest of the
  copy, up to where it began to; then it is settled. It has neither fence nor switch, and the others have no `join`.
- **fenced**: the source takes no write of the tenant any more, applies what it has, and gives the rest.
- **switched**: the target is the home; the source is kept up to date, so that the move can be rolled back.
- **erasing**: what the source keeps of the tenant is removed.
- **settled**: it is done.
- **aborting**: what the target has taken is removed; the source is the home. **aborted**: that is done.

Whatever lets somebody take writes again raises the epoch, so that nobody takes them at an epoch that was fenced: `switch`, `unfence` and
an `abort` of a fenced move. At every moment the tenant has one home, which alone answers; its standby folds what the home accepts,
at the same epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from router.placement.table import MoveState

Turn = Literal["begin", "fence", "unfence", "switch", "roll back", "finish", "abort", "erased", "join", "joined"]

TURNS: Final[Mapping[tuple[MoveState, Turn], MoveState]] = {
    ("registered", "begin"): "copying",
    ("registered", "abort"): "aborted",
    ("copying", "fence"): "fenced",
    ("copying", "abort"): "aborting",
    ("fenced", "switch"): "switched",
    ("fenced", "unfence"): "copying",
    ("fenced", "abort"): "aborting",
    ("copying", "join"): "joining",
    ("joining", "joined"): "settled",
    ("joining", "abort"): "aborting",
    ("switched", "finish"): "erasing",
    ("switched", "roll back"): "copying",
    ("erasing", "erased"): "settled",
    ("aborting", "erased"): "aborted",
}
"""From a state, by a turn, to the next state. What is not here is refused."""
