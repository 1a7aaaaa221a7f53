"""The steps of a move: each a pure function from a tenant as it is to the tenant as it shall be (see `router.placement.steps`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.evacuation.states import TURNS, Turn
from router.placement.place import place
from router.placement.steps import View, standby_of
from router.placement.table import BEFORE_SWITCH, UNDER_WAY, Move, MoveState, Tenant


@dataclass(frozen=True, slots=True)
class StartMove:
    """Registers a move to `target`, or to the best other cell. UNKNOWN_TENANT, TENANT_MOVING, TENANT_PINNED, INVALID_FIELD when it lives
    there already, UNKNOWN_CELL, CELL_FULL, ZONE_EXHAUSTED."""

    weighs: ClassVar[bool] = True
    subject: TenantId
    id: str
    target: CellId | None
    reason: str
    at: Micros
    keep_seconds: int
    evacuation: str = ""

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        if held is None:
            raise Failure(Reason.UNKNOWN_TENANT, self.subject)
        before = held.move
        if before is not None and before.state in UNDER_WAY and not _gives_way(before):
            raise Failure(Reason.TENANT_MOVING, f"move {before.id} to cell {before.target} is {before.state}")
        if self.target == held.cell:
            raise Failure(Reason.INVALID_FIELD, f"target: the tenant lives in cell {held.cell}")
        if len(view.cells) == 1:
            raise Failure(Reason.ZONE_EXHAUSTED, "there is no other cell")
        target = place(self.subject, view.cells, view.others, held.demand, self.target, held.cell)
        if held.pinned is not None and held.pinned.cell != target and not held.pinned.over(self.at):
            raise Failure(Reason.TENANT_PINNED, f"to cell {held.pinned.cell}: {held.pinned.reason or 'no reason given'}")
        move = Move(self.id, held.cell, target, "registered", self.reason, self.at, self.at, self.keep_seconds, evacuation=self.evacuation)
        if before is not None and before.state in UNDER_WAY:  # what a standby that was not complete keeps is not wanted any more
            return replace(held, move=replace(move, standby=before.target), standby=None)
        return replace(held, move=move)


@dataclass(frozen=True, slots=True)
class JoinStandby:
    """Registers that the peer of the tenant's home is to stand by for it. UNKNOWN_TENANT, TENANT_MOVING; NO_STANDBY when the home has no
    peer. One that has a standby keeps it."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    id: str
    at: Micros

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        if held is None:
            raise Failure(Reason.UNKNOWN_TENANT, self.subject)
        if held.move is not None and held.move.state in UNDER_WAY:
            raise Failure(Reason.TENANT_MOVING, f"move {held.move.id} to cell {held.move.target} is {held.move.state}")
        if held.standby is not None:
            return held
        target = standby_of(held.cell, view.cells)
        if target is None:
            raise Failure(Reason.NO_STANDBY, f"cell {held.cell} has no peer")
        return replace(held, move=Move(self.id, held.cell, target, "registered", "nobody stands by", self.at, self.at, 0, joins=True))


@dataclass(frozen=True, slots=True)
class TurnMove:
    """Takes a move to its next state, and the tenant with it. NOT_MOVING when the present move is another one, MOVE_NOT_NOW when its state
    does not allow it, STALE_REVISION when the tenant is not at `epoch` any more: what was done for the turn was done for another fence.
    `remark` says why, or what went wrong. One that is not `asked` for by a person is not taken while the move is paused."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    id: str
    turn: Turn
    at: Micros
    epoch: Epoch | None = None
    remark: str = ""
    asked: bool = True

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        tenant, move = _moving(held, self.subject, self.id)
        state = TURNS.get((move.state, self.turn))
        if state is None or self.turn == ("fence" if move.joins else "join"):
            raise Failure(Reason.MOVE_NOT_NOW, f"it is {move.state}")
        if move.paused and not self.asked:
            raise Failure(Reason.MOVE_NOT_NOW, "it is paused")
        if self.epoch not in (None, tenant.epoch):
            raise Failure(Reason.STALE_REVISION, f"the tenant is at epoch {tenant.epoch}")
        if self.turn == "abort" and move.standby is not None:
            state = "aborting"  # from the first state as well: somebody keeps what is to be erased
        after = replace(move, state=state, changed_at=self.at, remark=self.remark, paused=False)
        return _turned(tenant, move, after, self.turn)


@dataclass(frozen=True, slots=True)
class FailOver:
    """The tenant's standby becomes its home, and its home, which is lost, its standby: what that one accepted and nobody else has comes
    back with its disks. A move that has not switched is given up; one whose source takes over ends, for no old home is left to keep up to
    date. UNKNOWN_TENANT; NOT_AT_HOME when it lives elsewhere by now; NO_STANDBY."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    lost: CellId
    reason: str
    at: Micros

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        if held is None:
            raise Failure(Reason.UNKNOWN_TENANT, self.subject)
        if held.cell != self.lost:
            raise Failure(Reason.NOT_AT_HOME, f"it lives in cell {held.cell}")
        move = held.move
        if held.standby is None or (move is not None and move.state == "joining"):
            raise Failure(Reason.NO_STANDBY, self.subject)
        if move is not None and (state := _without_home(move, held.standby)) is not None:
            move = replace(move, state=state, changed_at=self.at, remark=f"cell {self.lost} failed over: {self.reason}", paused=False)
        return replace(held, cell=held.standby, standby=self.lost, epoch=Epoch(held.epoch + 1), fenced=False, move=move)


@dataclass(frozen=True, slots=True)
class PauseMove:
    """Lets a move stand still, or go on. NOT_MOVING; MOVE_NOT_NOW when it has ended, or for a pause while writes are refused."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    id: str
    paused: bool
    remark: str = ""

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        tenant, move = _moving(held, self.subject, self.id)
        if move.state not in UNDER_WAY or (self.paused and tenant.fenced):
            raise Failure(Reason.MOVE_NOT_NOW, f"it is {move.state}")
        return replace(tenant, move=replace(move, paused=self.paused, remark=self.remark))


def _without_home(move: Move, standby: CellId) -> MoveState | None:
    """The state of a move whose tenant loses its home to `standby`; None: it goes on as it is."""
    if move.state in BEFORE_SWITCH:
        return "aborted" if move.state == "registered" and move.standby is None else "aborting"
    return "erasing" if move.state == "switched" and move.source == standby else None


def _turned(tenant: Tenant, move: Move, after: Move, turn: Turn) -> Tenant:
    """The tenant whose move takes this turn, to `after`."""
    match turn:
        case "join":
            return replace(tenant, move=after, standby=move.target)
        case "abort" if move.state == "joining":
            return replace(tenant, move=after, standby=None)
        case "fence":
            return replace(tenant, move=after, fenced=True)
        case "switch" if tenant.standby == move.target:
            return replace(tenant, move=after, fenced=False, epoch=Epoch(tenant.epoch + 1), cell=move.target, standby=move.source)
        case "switch":
            left = replace(after, standby=tenant.standby or move.standby)
            return replace(tenant, move=left, fenced=False, epoch=Epoch(tenant.epoch + 1), cell=move.target, standby=None)
        case "roll back":
            return replace(tenant, move=replace(after, source=move.target, target=move.source))
        case _ if tenant.fenced:
            return replace(tenant, move=after, fenced=False, epoch=Epoch(tenant.epoch + 1))
        case _:
            return replace(tenant, move=after)


def _gives_way(move: Move) -> bool:
    """Whether another move may begin before this one has ended: nobody waits for a standby that is not complete."""
    return move.joins and move.state in ("registered", "copying", "joining")


def _moving(held: Tenant | None, name: TenantId, move_id: str) -> tuple[Tenant, Move]:
    if held is None:
        raise Failure(Reason.UNKNOWN_TENANT, name)
    if held.move is None or held.move.id != move_id:
        raise Failure(Reason.NOT_MOVING, move_id)
    return held, held.move
