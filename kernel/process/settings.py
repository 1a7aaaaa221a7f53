"""The environment, parsed once into a frozen dataclass; every problem is reported at the same time."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import TypeVar

import msgspec

Config = TypeVar("Config")


class BadSettings(Exception):
    """One line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the settings are wrong:\n" + "\n".join(f"  {p}" for p in problems))
        self.problems = problems


def load(cls: type[Config], environ: Mapping[str, str], prefix: str = "DATAFLOW_") -> Config:
    """An instance of the dataclass `cls`, its field `log_dsn` from `DATAFLOW_LOG_DSN` and so on.

    Fields without a default are required; comma-separated text becomes a tuple. A variable that no field names is not looked
    at, since several roles share one environment. Raises BadSettings.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, object] = {}
    problems: list[str] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # any dataclass: mypy has no bound for it
        name = prefix + field.name.upper()
        text = environ.get(name)
        if text is None:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                problems.append(f"{name} is required")
            continue
        try:
            values[field.name] = _convert(text, hints[field.name])
        except (msgspec.ValidationError, ValueError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise BadSettings(problems)
    return cls(**values)


def _convert(text: str, hint: object) -> object:
    is_tuple = typing.get_origin(hint) is tuple
    raw: object = [part for part in text.split(",") if part] if is_tuple else text
    return msgspec.convert(raw, hint, strict=False, dec_hook=lambda kind, value: kind(value))
