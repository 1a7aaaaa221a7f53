"""One word, one meaning: the words that are not ours, and where each may stand all the same."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Final

from tests.house.rules import Found
from tests.house.tree import Module, nodes


@dataclass(frozen=True)
class Banned:
    """`words` are not used; `instead` is. Files that fit `allowed` speak of something else, as `because` says."""

    words: tuple[str, ...]
    instead: str
    allowed: tuple[str, ...] = ()
    because: str = ""


BANNED: Final = (
    Banned(("account", "accounts", "workspace", "workspaces", "organisation", "organization", "org", "acct"), "tenant"),
    Banned(
        ("customer", "customers"),
        "tenant",
        ("tests/e2e/test_telemetry.py",),
        "customer data, what a tenant's customers sent, is the one thing that is called so",
    ),
    Banned(("pod", "pods"), "cell"),
    Banned(
        ("shard", "shards"),
        "cell",
        ("router/xds/*", "tests/*/test_router_*", "tests/*/test_edge_*"),
        "a shard of routes is Envoy's, not ours",
    ),
    Banned(("cluster", "clusters"), "cell", ("router/xds/*", "tests/*/test_router_*", "tests/*/test_edge_*"), "a cluster is Envoy's word"),
    Banned(("dlq",), "dead letter"),
    Banned(("reprocess", "reprocessing"), "replay or redrive"),
    Banned(("whitelist", "blacklist", "master", "slave"), "allowed, refused, primary, replica"),
    Banned(("sleep_until", "await_until"), "wait_until_<state>"),
)
# In prose: phrases that promise or mean something else, in docs/ and README.md.
BANNED_PROSE: Final = (
    ("exactly once", "effectively once: at least once, and an idempotent apply"),
    ("exactly-once", "effectively once"),
    ("availability zone", "AZ; a zone is always a residency zone"),
    ("multi-tenant account", "tenant"),
    ("workspace", "tenant"),
    ("dead-letter queue", "dead letter"),
    ("blacklist", "refused"),
    ("whitelist", "allowed"),
)


def parts_of(identifier: str) -> list[str]:
    """The words of `snake_case`, `CamelCase` and `UPPER_CASE` names, in lower case."""
    return re.findall(r"[a-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", identifier).lower())


def _defined(module: Module) -> Found:
    """(line, name) of every name that the module gives to something."""
    for node in nodes(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
            yield from ((argument.lineno, argument.arg) for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def one_word_one_meaning(module: Module) -> Found:
    """Names are made of the glossary's words; BANNED says which words have another one."""
    banned = {w: entry for entry in BANNED for w in entry.words if not any(fnmatch(module.path, pattern) for pattern in entry.allowed)}
    for line, name in _defined(module):
        for word in parts_of(name):
            if word in banned:
                yield line, f"{name}: {word!r} is {banned[word].instead!r} here"


def waits_name_their_state(module: Module) -> Found:
    """A function that waits for something is `wait_until_<state>`."""
    for node in nodes(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match(r"_?wait_(?!until_)|_?await_", node.name):
            yield node.lineno, f"{node.name} is wait_until_<state>"


def prose_findings(path: str, text: str) -> list[str]:
    """Banned phrases in a page. A phrase that is quoted with "nobody claims" or in the glossary's table of banned words is a mention."""
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        for phrase, instead in BANNED_PROSE:
            if phrase in line.lower() and "~~" not in line:
                found.append(f"{path}:{number}: {phrase!r}: say {instead}")
    return found


WORD_RULES: Final = (one_word_one_meaning, waits_name_their_state)
