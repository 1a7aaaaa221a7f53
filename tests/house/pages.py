"""What a page of docs/ claims, and which of its claims are false. Pure over the page's text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from cli.main import dataflow
from docs.generate import PREFIX, settings_classes, walk
from kernel.errors import Reason
from tests.house.tree import ROOT
from tests.house.vocabulary import all_metrics

_ROOMS: Final = "kernel|router|cells|gitops|slo|chaos|cli|tests|bench|docs|proto|locks"
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_PATH: Final = re.compile(rf"^(?:{_ROOMS})(?:/[\w.-]+)*/?$")
_TEST: Final = re.compile(r"\btests/[\w/]+\.py::(\w+)")
# Variables that are no setting of a service but of the command line.
_OWN_VARIABLES: Final = {"DATAFLOW_STATE", "DATAFLOW_POSTGRES_URL"}


def spans(text: str) -> Iterator[str]:
    """Everything that the page shows as code: spans, and the lines of blocks."""
    for block, span in _CODE.findall(text):
        yield from (line.strip() for line in block.splitlines() if line.strip()) if block else [span]


def broken_links(page: Path, text: str) -> list[str]:
    """Links to files that are not there."""
    targets = [target.partition("#")[0] for target in _LINK.findall(text) if "://" not in target and not target.startswith("#")]
    return [target for target in targets if not (page.parent / target).exists()]


def missing_paths(text: str) -> list[str]:
    """Paths of the repository that are named and not there, tests included."""
    paths = [span for span in spans(text) if _PATH.match(span) and ("/" in span.rstrip("/") or span.endswith("/"))]
    found = [path for path in paths if not (ROOT / path).exists()]
    for span in spans(text):
        for name in _TEST.findall(span):
            path = ROOT / span.partition("::")[0]
            if not path.exists() or f"def {name}(" not in path.read_text():
                found.append(span)
    return found


def wrong_targets(text: str) -> list[str]:
    """`make x` of a target that the Makefile has not."""
    makefile = (ROOT / "Makefile").read_text()
    asked = [match for span in spans(text) for match in re.findall(r"^make ([a-z][a-z-]*)", span)]
    return [target for target in asked if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def wrong_commands(text: str) -> list[str]:
    """`dataflow ...` lines that the command would refuse: no such subcommand, no such option."""
    known = dict(walk(dataflow, "dataflow"))
    found: list[str] = []
    for span in spans(text):
        words = span.split()
        if words[:1] != ["dataflow"] or len(words) == 1:
            continue
        path, rest = "dataflow", words[1:]
        while rest and f"{path} {rest[0]}" in known:
            path, rest = f"{path} {rest[0]}", rest[1:]
        options = {option for parameter in known[path].params if isinstance(parameter, click.Option) for option in parameter.opts}
        unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in options | {"--help"}]
        if unknown or (isinstance(known[path], click.Group) and rest):
            found.append(span)
    return found


def wrong_modules(text: str) -> list[str]:
    """`python -m x` of a module that is not there."""
    asked = [match for span in spans(text) for match in re.findall(rf"python -m ((?:{_ROOMS})[\w.]*)", span)]
    return [name for name in asked if not any((ROOT / (name.replace(".", "/") + end)).exists() for end in (".py", "/__main__.py"))]


def wrong_settings(text: str) -> list[str]:
    """DATAFLOW_* variables that nobody reads."""
    names = {f"{PREFIX}{field.upper()}" for cls in settings_classes() for field in cls.__dataclass_fields__} | _OWN_VARIABLES
    return [name for name in re.findall(rf"\b{PREFIX}[A-Z_]+\b", text) if name not in names]


def wrong_metrics(text: str) -> list[str]:
    """dataflow_* metrics that are not declared."""
    names = {metric.name for metric in all_metrics()}
    return [name for name in re.findall(r"\bdataflow_[a-z_]+\b", text) if name not in names]


def wrong_errors(text: str) -> list[str]:
    """Error numbers that no reason has, and code spans in capitals that no reason, status or limit is called."""
    numbers = {reason.spec.number for reason in Reason}
    return [number for number in re.findall(r"\b(?:API|DB|DR)-\d{4}\b", text) if number not in numbers]


def claims(page: Path, text: str) -> list[str]:
    """Everything on the page that is not so."""
    checks = (missing_paths, wrong_targets, wrong_commands, wrong_modules, wrong_settings, wrong_metrics, wrong_errors)
    return [f"{check.__name__}: {what}" for check in checks for what in check(text)] + [
        f"broken_links: {what}" for what in broken_links(page, text)
    ]
