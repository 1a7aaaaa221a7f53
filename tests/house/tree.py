"""The working tree as the house tests see it: source files of the rooms, parsed once."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
SHIPPED: Final = ("kernel", "router", "cells", "gitops", "slo", "chaos", "cli")
ROOMS: Final = (*SHIPPED, "tests", "bench", "docs")
_GENERATED: Final = "proto/gen/"
_SKIPPED: Final = {"__pycache__", "node_modules"}


class Finding(NamedTuple):
    """A place that breaks a rule. `place` is the path, with `:line` when there is one line."""

    rule: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}: {self.what}"


@dataclass(frozen=True)
class Module:
    """A Python file. `path` is relative to the repository's root."""

    path: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The top-level folder."""
        return self.path.split("/", 1)[0]

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.rsplit("/", 1)[-1].removesuffix(".py")


def module_of(path: str, text: str) -> Module:
    """A module from text: the tree's own, or one that a negative control makes up."""
    return Module(path, text, ast.parse(text, path))


@cache
def modules(*rooms: str) -> tuple[Module, ...]:
    """All Python files of the rooms, generated code apart."""
    return tuple(module_of(path, (ROOT / path).read_text()) for path in files(*rooms) if path.endswith(".py"))


@cache
def files(*rooms: str) -> tuple[str, ...]:
    """Paths of all files below the rooms, relative to the root, in order. Generated code and caches apart."""
    found = (path.relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("*") if path.is_file())
    kept = (path for path in found if not _SKIPPED & set(path.parts) and not any(part.startswith(".") for part in path.parts))
    return tuple(sorted(path.as_posix() for path in kept if not path.as_posix().startswith(_GENERATED)))


@cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    """Every node of the module's tree."""
    return tuple(ast.walk(module.tree))


@cache
def imports_of(module: Module) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that the module imports, inside functions too. `from a import b` names `a.b`."""
    found: list[tuple[int, str]] = []
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found
