"""The last good placement on disk: a whole signed update and the signed changes after it.

Followers (edges and cells) boot from it alone. The port hands over bytes; what they mean is the follower's business.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Signed(NamedTuple):
    """A serialized update and the directory's Ed25519 signature over exactly these bytes."""

    update: bytes
    signature: bytes


class Journal(Protocol):
    """Keeps signed updates in order. Nothing unsigned or wrongly signed ever comes out of `load`.

    `restart` and `append` raise OSError when the disk does not take it; then everything before is as it was, and the next one may
    succeed.
    """

    def load(self) -> list[Signed]:
        """All entries, in order; empty when there is no file. Stops before the first torn, damaged or forged entry."""
        ...

    def verify(self, signed: Signed) -> bool:
        """Whether the directory signed this."""
        ...

    def restart(self, whole: Signed) -> None:
        """Replaces everything by one whole update, atomically and durably."""
        ...

    def append(self, change: Signed) -> None:
        """Adds one change, durably."""
        ...
