"""Named queries from a .sql file: `-- name: x` begins one, comment lines after it describe it."""

from __future__ import annotations

import re
from pathlib import Path


def load(path: Path) -> dict[str, str]:
    """Query text by name. Raises ValueError on a repeated name or a query without a description."""
    found: dict[str, str] = {}
    for part in re.split(r"^-- name: ", path.read_text(), flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("\n")
        if name.strip() in found:
            raise ValueError(f"{path.name}: {name} is defined twice")
        if not text.startswith("-- "):
            raise ValueError(f"{path.name}: {name} has no description")
        found[name.strip()] = text.strip().rstrip(";")
    return found
