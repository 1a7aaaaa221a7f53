"""The directory's statements stand in their file."""

from __future__ import annotations

import re
from pathlib import Path

from kernel.queries import parse
from router.placement import postgres
from router.placement.postgres_replica import FORGOTTEN

FOLDER = Path(postgres.__file__).parent
ADAPTERS = sorted(FOLDER.glob("postgres*.py"))


def test_every_statement_has_a_name_and_is_asked_by_it() -> None:
    """Law: the file holds what the adapters ask, no more and no less, and they hold no statement of their own."""
    text = "".join(path.read_text() for path in ADAPTERS)
    asked = set(re.findall(r'\bSQL\["(\w+)"\]', text)) | {f"forget_{what}" for what in FORGOTTEN}
    assert set(parse((FOLDER / "sql" / "queries.sql").read_text())) == asked
    assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE)\b", text)
