"""SQL at home in .sql files: `-- name: x` begins a statement, one or more comment lines describe it, the rest is its text. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_HEAD: Final = re.compile(r"^-- name: (\w+)\n((?:-- .*\n)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """A named statement."""

    name: str
    description: str
    text: str


def parse(text: str) -> dict[str, Query]:
    """The statements of a file by name. Raises ValueError: two of a name, or one without a description."""
    heads = list(_HEAD.finditer(text))
    if len(heads) != text.count("-- name: "):
        raise ValueError("a query without a description")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found: dict[str, Query] = {}
    for head, end in zip(heads, ends, strict=True):
        if head[1] in found:
            raise ValueError(f"two queries named {head[1]}")
        description = " ".join(line.removeprefix("-- ") for line in head[2].splitlines())
        found[head[1]] = Query(head[1], description, text[head.end() : end].strip().rstrip(";"))
    return found
