"""SQL at home: `queries.sql` holds every statement by name, `migrations/` the schema's history."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from kernel.queries import Query, parse

_MIGRATION: Final = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema's history. `checksum` is SHA-256 in hex: an applied file may not change any more."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Over the text's UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def queries() -> dict[str, Query]:
    """All queries of `queries.sql`. A text may hold `{home}`, the quoted tenant schema."""
    return parse(files(__name__).joinpath("queries.sql").read_text("utf-8"))


@cache
def sql(name: str, home: str = "tenants") -> str:
    """The statement `name` over the tenant schema `home`. Raises KeyError."""
    return queries()[name].text.replace("{home}", '"' + home.replace('"', '""') + '"')


def migrations() -> list[Migration]:
    """The schema's history in order. Raises ValueError when numbers are missing or double."""
    found = []
    for file in files(__name__).joinpath("migrations").iterdir():
        match = _MIGRATION.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations are not numbered 1, 2, 3 ...")
    return found
