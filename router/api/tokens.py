"""Who calls the directory: operators may do all, followers may watch. Tokens are compared in constant time."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from kernel.errors import Failure, Reason

TOKEN_BYTES_MIN = 16
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two secrets of one directory."""

    operator: str = field(repr=False)
    follower: str = field(repr=False)

    def __post_init__(self) -> None:
        if min(len(self.operator), len(self.follower)) < TOKEN_BYTES_MIN or self.operator == self.follower:
            raise ValueError(f"tokens have at least {TOKEN_BYTES_MIN} characters and differ")

    def check(self, authorization: str | None, watching: bool) -> None:
        """Lets an operator through, and a follower that watches. Raises Failure: NO_CREDENTIAL, UNKNOWN_KEY, WRONG_KEY_KIND."""
        if not authorization or not authorization.lower().startswith(_SCHEME):
            raise Failure(Reason.NO_CREDENTIAL, "metadata `authorization: Bearer <token>` is needed")
        token = authorization[len(_SCHEME) :].strip().encode()
        operator = hmac.compare_digest(token, self.operator.encode())
        follower = hmac.compare_digest(token, self.follower.encode())
        if operator or (follower and watching):
            return
        raise Failure(Reason.WRONG_KEY_KIND, "a follower's token can only watch") if follower else Failure(Reason.UNKNOWN_KEY, "token")
