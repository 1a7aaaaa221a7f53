"""Who calls the directory and what they may: tokens, each a principal's, compared in constant time."""

from __future__ import annotations

import hmac
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from kernel.errors import Failure, Reason

TOKEN_BYTES_MIN: Final = 16
OPERATOR: Final = "operator"
FOLLOWER: Final = "follower"
_SCHEME: Final = "bearer "
_WATCHING: Final = frozenset({"Watch", "ReportView"})
_READING: Final = frozenset({"GetTenant", "ListTenants", "ListCells", "ListAudit", "ListMoves", "Resolve"})

caller: ContextVar[str] = ContextVar("caller")
"""The principal whose call is worked on."""


class Role(Enum):
    """What a principal may."""

    FOLLOWER = "follower"
    VIEWER = "viewer"
    OPERATOR = "operator"

    def may(self, method: str) -> bool:
        """Whether it may call a method of RouterService."""
        match self:
            case Role.FOLLOWER:
                return method in _WATCHING
            case Role.VIEWER:
                return method in _READING
            case Role.OPERATOR:
                return True


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with a token."""

    name: str
    role: Role
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Everybody who may call one directory. Raises ValueError for tokens that are too short or not different, and for a name twice."""

    principals: tuple[Principal, ...]

    def __post_init__(self) -> None:
        tokens = [principal.token for principal in self.principals]
        if not tokens or min(len(token.encode()) for token in tokens) < TOKEN_BYTES_MIN or len(set(tokens)) < len(tokens):
            raise ValueError(f"tokens have at least {TOKEN_BYTES_MIN} characters and differ")
        names = [principal.name for principal in self.principals]
        if len(set(names)) < len(names):
            raise ValueError("each principal has a name of its own")

    def check(self, authorization: str | None, method: str) -> Principal:
        """Whose token it is. Raises Failure: NO_CREDENTIAL, UNKNOWN_KEY, WRONG_KEY_KIND."""
        if not authorization or not authorization.lower().startswith(_SCHEME):
            raise Failure(Reason.NO_CREDENTIAL, "metadata `authorization: Bearer <token>` is needed")
        token = authorization[len(_SCHEME) :].strip().encode()
        found = [principal for principal in self.principals if hmac.compare_digest(token, principal.token.encode())]
        if not found:
            raise Failure(Reason.UNKNOWN_KEY, "token")
        if not found[0].role.may(method):
            raise Failure(Reason.WRONG_KEY_KIND, f"a {found[0].role.value}'s token may not call {method}")
        return found[0]


def tokens_of(operator: str, follower: str, more: tuple[Principal, ...] = ()) -> Tokens:
    """The two that every directory has, and others by name."""
    return Tokens((Principal(OPERATOR, Role.OPERATOR, operator), Principal(FOLLOWER, Role.FOLLOWER, follower), *more))
