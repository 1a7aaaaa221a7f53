"""Pieces of which configuration is described as JSON, before protobuf checks it."""

from __future__ import annotations

from typing import Any, Final

ADS: Final = {"ads": {}, "resource_api_version": "V3"}


def type_of(message: Any) -> str:
    """The type URL of a message class, which is imported by being named: the parser must know it."""
    return f"type.googleapis.com/{message.DESCRIPTOR.full_name}"
