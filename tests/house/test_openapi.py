"""The description of the HTTP side says the same as the vocabularies. That it says what the server does is schemathesis' business."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # comes with schemathesis, without types

from cells.storage.query import TOKEN_CHARS_MAX
from kernel import limits
from kernel.errors import Reason
from tests.house.tree import ROOT

# Statuses that no reason has: success, and what the edge or the listener answers before a reason could be given.
OTHERS: Final = {200: "success", 204: "preflight", 431: "the listener's own bound on headers"}
SOURCE_CHARS: Final = 64  # more than any name of a source has: kernel.ids.is_name takes 63
_TEXT: Final = (ROOT / "cells" / "ingest" / "openapi.yaml").read_text()


def _values(node: Any, key: str) -> Iterator[Any]:
    """Every value of `key`, at any depth."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == key)
        for value in node.values():
            yield from _values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)


def unknown_statuses(document: dict[str, Any]) -> set[int]:
    """Statuses of answers that neither a reason nor OTHERS has."""
    said = {int(status) for responses in _values(document.get("paths", {}), "responses") for status in responses if str(status).isdigit()}
    return said - {reason.spec.http for reason in Reason} - OTHERS.keys()


def unknown_lengths(document: dict[str, Any]) -> set[int]:
    """Bounds on texts that are no bound of the kernel's."""
    known = {limits.MESSAGE_ID_CHARS_MAX, limits.ID_CHARS_MAX, limits.NAME_CHARS_MAX, TOKEN_CHARS_MAX, SOURCE_CHARS}
    return {length for length in _values(document, "maxLength") if isinstance(length, int)} - known


def test_the_description_answers_with_known_statuses_and_bounds() -> None:
    """Law: a status is a reason's, and a length is a limit's."""
    document = yaml.safe_load(_TEXT)
    assert unknown_statuses(document) == set()
    assert unknown_lengths(document) == set()


def test_the_description_quotes_the_limits() -> None:
    """Law: numbers in its prose are those of kernel/limits.py."""
    assert f"{limits.EVENT_BYTES_MAX // 1024} KiB per event" in _TEXT
    assert re.search(rf"{limits.BATCH_BYTES_MAX // 1024} KiB and\s+{limits.BATCH_EVENTS_MAX:,} events per request", _TEXT)


def test_a_strange_status_and_length_are_found() -> None:
    """Law: both checks can fail."""
    planted = {"paths": {"/x": {"get": {"responses": {"418": {}}}}}, "x": {"maxLength": 7}}
    assert unknown_statuses(planted) == {418}
    assert unknown_lengths(planted) == {7}
