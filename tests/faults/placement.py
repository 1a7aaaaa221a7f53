"""Who sends in a session: tenants with their keys, and the signed placement that every role boots from. No directory is needed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cells.eventlog.log import partition_of
from dataflow.routing.v1 import routing_pb2
from gitops.fleet import EU
from kernel.ids import CellId, TenantId, hash_of, mint_key
from kernel.process.journal import FileJournal, Signer
from tests.support.records import CELL

PARTITIONS: Final = 4
_SPREAD: Final = 4


@dataclass(frozen=True)
class Party:
    """A tenant and its keys. `spread` is over how many partitions its users' events are spread."""

    name: TenantId
    write_key: str
    read_key: str
    spread: int = 1
    dedicated: bool = False

    def partition(self, user: str) -> int:
        """Where the log keeps the events of `user`."""
        return partition_of(self.name, user, self.spread, PARTITIONS)


def parties() -> tuple[Party, ...]:
    """Five tenants: together they use every partition, one is spread over all of them, one has a schema of its own."""
    made = tuple(
        Party(TenantId(name), _key("wk"), _key("rk"), spread, dedicated)
        for name, spread, dedicated in (
            ("globex-sso", 1, False),
            ("live-scores", 1, False),
            ("tiny-quota", 1, False),
            ("clinic-north", 1, True),
            ("acme-retail", _SPREAD, False),
        )
    )
    assert {party.partition("") for party in made if party.spread == 1} == set(range(PARTITIONS)), "a partition is idle"
    return made


def _key(kind: str) -> str:
    return mint_key("wk" if kind == "wk" else "rk", EU, secrets.token_bytes(32)).text


@dataclass(frozen=True)
class Placement:
    """The parties' signed placement below `folder`."""

    folder: Path
    parties: tuple[Party, ...]
    signer: Signer
    cell: CellId = CELL

    @property
    def public_key_file(self) -> Path:
        """What the placement is verified with."""
        return self.folder / "public-key"

    @property
    def token_file(self) -> Path:
        """The token of a directory that nobody runs."""
        return self.folder / "follower-token"

    def journal(self, role: str) -> Path:
        """The file that `role` boots from; written now."""
        path = self.folder / f"{role}.journal"
        FileJournal(path, self.signer.public_key).restart(self.signer.sign(self._update()))
        return path

    def _update(self) -> bytes:
        tenants = [
            routing_pb2.Tenant(
                name=party.name,
                zone=EU,
                cell=self.cell,
                epoch=1,
                plan=routing_pb2.Plan(spread=party.spread),
                dedicated_schema=party.dedicated,
                sources=[
                    routing_pb2.Source(
                        name="web", slug=f"{party.name}-web", write_keys=[routing_pb2.Credential(hash=hash_of(party.write_key))]
                    )
                ],
                read_keys=[routing_pb2.Credential(hash=hash_of(party.read_key))],
            )
            for party in self.parties
        ]
        return routing_pb2.Update(zone=EU, from_revision=0, to_revision=1, tenants=tenants).SerializeToString()


def placed(folder: Path) -> Placement:
    """A placement of fresh parties, with its files in `folder`."""
    made = Placement(folder, parties(), Signer(secrets.token_bytes(32)))
    made.public_key_file.write_text(made.signer.public_key.hex())
    made.token_file.write_text("nobody-listens-here")
    return made
