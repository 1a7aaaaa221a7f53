"""The directory's statements stand in their file."""

from __future__ import annotations

import re
from pathlib import Path

from kernel.queries import parse
from router.placement import postgres

ADAPTER = Path(postgres.__file__)


def test_every_statement_has_a_name_and_is_asked_by_it() -> None:
    """Law: the file holds what the adapter asks, no more and no less, and the adapter holds no statement of its own."""
    text = ADAPTER.read_text()
    assert set(parse((ADAPTER.parent / "sql" / "queries.sql").read_text())) == set(re.findall(r'_SQL\["(\w+)"\]', text))
    assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE)\b", text)
