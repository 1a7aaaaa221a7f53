"""The agent's map: what a signed update must pass before the journal holds it and Envoy is shown it. No I/O but the journal's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernel.errors import Failure, Reason
from kernel.follow import Shelf
from kernel.ids import ZoneName
from kernel.journal import Journal, Signed
from router.placement import codec
from router.placement.table import Table, Update, empty
from router.xds.compile import Compiled, compile_change, compile_whole
from router.xds.listener import Listen


@dataclass(frozen=True, slots=True)
class Booted:
    """What the disk held: the map of `revision` (0: none); `refused` is why reading stopped early, if it did."""

    revision: int
    refused: Failure | None


class Keeper:
    """Holds the last good table, compiled. An update is verified, applied, compiled and checked; then it counts, and is journalled."""

    def __init__(self, zone: ZoneName, journal: Journal, listen: Listen) -> None:
        self._zone = zone
        self._listen = listen
        self.shelf = Shelf(journal)
        self.compiled: Compiled | None = None

    @property
    def table(self) -> Table:
        """The table that is served."""
        return self.compiled.table if self.compiled else empty(self._zone)

    @property
    def resume_after(self) -> int:
        """The revision to ask the directory from; 0, for a whole map, when there is none yet or the disk needs it."""
        return self.shelf.resume_after(self.table.revision)

    def boot(self) -> Booted:
        """Reads the disk. Entries after one that is refused are left out; with none there is simply no map yet."""
        updates, refused = _parsed(self.shelf.load())
        table, stopped = _prefix(empty(self._zone), updates)
        refused = refused or stopped
        if refused:
            self.shelf.spoil()
        if table.revision:
            self.compiled = compile_whole(table, self._listen)
        return Booted(table.revision, refused)

    def take(self, signed: Signed) -> Update:
        """Takes an update of the directory, or raises Failure (BAD_SIGNATURE, SNAPSHOT_REFUSED) and keeps everything as it was."""
        if not self.shelf.verify(signed):
            raise Failure(Reason.BAD_SIGNATURE)
        update = codec.parse_update(signed.update)
        table = self.table.apply(update)
        if update.whole:
            compiled = compile_whole(table, self._listen, self.compiled)
        elif self.compiled is None:
            raise Failure(Reason.SNAPSHOT_REFUSED, "a change came before any whole map")
        else:
            compiled = compile_change(self.compiled, table, [tenant.name for tenant in update.tenants])
        self.compiled = compiled
        self.shelf.keep(signed, whole=update.whole)
        return update


def _parsed(entries: Sequence[Signed]) -> tuple[list[Update], Failure | None]:
    updates: list[Update] = []
    for signed in entries:
        try:
            updates.append(codec.parse_update(signed.update))
        except Failure as failure:
            return updates, failure
    return updates, None


def _prefix(table: Table, updates: Sequence[Update]) -> tuple[Table, Failure | None]:
    """As far as the updates lead: all at once when they are good, which is cheaper, else one by one."""
    try:
        return table.apply_all(updates), None
    except Failure as failure:
        refused = failure
    for update in updates:
        try:
            table = table.apply(update)
        except Failure:
            break
    return table, refused
