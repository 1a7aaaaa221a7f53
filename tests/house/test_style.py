"""The style of the house, as rules over every file; and each rule finds what is planted for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import pytest

from tests.house import rules
from tests.house.drivers import DRIVER_RULES
from tests.house.exceptions import ENTRIES_MAX, EXCUSED, unexcused, unused
from tests.house.tree import ROOMS, Finding, Module, module_of, modules
from tests.house.words import WORD_RULES

RULES: Final = (*rules.RULES, *DRIVER_RULES, *WORD_RULES)
DOC: Final = '"""Doc."""\n'
_IFS: Final = "".join(" " * depth + "if x:\n" for depth in range(1, 5)) + " " * 5 + "pass"

# For each rule a text that breaks it and one that does not, with the paths where they stand.
CONTROLS: Final[dict[Callable[[Module], rules.Found], tuple[tuple[str, str], tuple[str, str]]]] = {
    rules.files_beside_exist: (
        ("cells/x.py", "F = Path(__file__).parent / 'sql' / 'none.sql'"),
        ("cells/storage/x.py", "F = Path(__file__).parent / 'sql' / 'queries.sql'"),
    ),
    rules.frozen_words: (
        ("kernel/x.py", "@dataclass(slots=True)\nclass Word: ..."),
        ("kernel/x.py", "@dataclass(frozen=True)\nclass Word: ...\n@dataclass\nclass _Own: ..."),
    ),
    rules.silent_about_people: (
        ("cells/x.py", "log.info('stored', user_id=user)"),
        ("cells/x.py", "log.info('stored', events=3, tenant=tenant)"),
    ),
    rules.servers_are_alone_on_their_port: (
        ("cells/server.py", "s = grpc.aio.server()"),
        ("tests/support/x.py", "s = grpc.aio.server()"),
    ),
    rules.documented: (("cells/x.py", DOC + "def f(): ..."), ("cells/x.py", DOC + "def _f(): ...")),
    rules.tests_state_their_law: (("tests/x.py", "def test_a(): ..."), ("tests/x.py", 'def test_a(): "It holds."')),
    rules.short_functions: (("cells/x.py", "def f():\n" + " x = 1\n" * 70), ("cells/x.py", "def f():\n" + " x = 1\n" * 69)),
    rules.short_modules: (("cells/x.py", "x = 1\n" * 401), ("cells/x.py", "x = 1\n" * 400)),
    rules.shallow: (
        ("cells/x.py", f"def f():\n{_IFS}"),
        ("cells/x.py", "def f():\n if a:\n  pass\n elif b:\n  pass\n elif c:\n  pass\n elif d:\n  with e:\n   if g:\n    pass"),
    ),
    rules.no_attics: (("cells/utils.py", ""), ("cells/user.py", "")),
    rules.narrow_excepts: (
        ("cells/x.py", "try:\n f()\nexcept (ValueError, Exception):\n pass"),
        ("cells/x.py", "try:\n f()\nexcept BaseException:\n close()\n raise"),
    ),
    rules.pure_cores: (("cells/ingest/admit.py", "import time"), ("cells/app.py", "import time")),
    rules.shells_take_the_clock: (
        ("cells/ingest/accept.py", "async def f(): await asyncio.sleep(1)"),
        ("cells/ingest/accept.py", "async def f(): await asyncio.sleep(0)"),
    ),
    rules.environment_at_the_door: (("cells/roles2.py", "x = os.environ['X']"), ("cells/app.py", "x = os.environ['X']")),
    rules.adapters_are_chosen_by_apps: (
        ("cells/ingest/accept.py", "from cells.eventlog.postgres import PostgresLog"),
        ("cells/roles.py", "from cells.eventlog.postgres import PostgresLog"),
    ),
    rules.tests_never_sleep: (("tests/x.py", "time.sleep(1)"), ("tests/x.py", "await_condition()")),
    rules.bounded_queues: (("cells/x.py", "q = asyncio.Queue()"), ("cells/x.py", "q = asyncio.Queue(MAX)")),
    rules.owned_tasks: (("cells/x.py", "asyncio.create_task(f())"), ("cells/x.py", "task = asyncio.create_task(f())")),
    rules.reasoned_ignores: (("cells/x.py", "x = f()  # type: ignore"), ("cells/x.py", "x = f()  # type: ignore[misc]  # it is untyped")),
    rules.no_leftovers: (("cells/x.py", "# TODO: later"), ("cells/x.py", "# to do justice")),
    rules.quiet_services: (("cells/x.py", "print('x')"), ("cli/x.py", "print('x')")),
    rules.durable: (("cells/x.py", "SET = {'synchronous_commit': 'off'}"), ("cells/x.py", "SET = {'synchronous_commit': 'on'}")),
    rules.cells_are_named_in_the_fleet: (("cells/x.py", "HOME = 'eu-west-1-a'"), ("gitops/x.py", "HOME = 'eu-west-1-a'")),
    DRIVER_RULES[0]: (("cells/ingest/accept.py", "import asyncpg"), ("cells/storage/postgres_read.py", "import asyncpg")),
    DRIVER_RULES[1]: (
        ("cells/ingest/accept.py", "from dataflow.ingest.v1 import ingest_pb2"),
        ("cells/ingest/codec_grpc.py", "from dataflow.ingest.v1 import ingest_pb2"),
    ),
    DRIVER_RULES[2]: (("kernel/x.py", "import msgspec"), ("kernel/x.py", "import json")),
    WORD_RULES[0]: (("cells/x.py", "def workspace_of(customerId): ..."), ("cells/x.py", "def tenant_of(accounted): ...")),
    WORD_RULES[1]: (("cells/x.py", "def wait_for_leader(): ..."), ("cells/x.py", "def wait_until_ready(): ...")),
    DRIVER_RULES[3]: (("router/x.py", "import cells.answers"), ("router/x.py", "import kernel.errors")),
}


@cache
def everything() -> tuple[Finding, ...]:
    """All findings in the tree."""
    return tuple(finding for rule in RULES for module in modules(*ROOMS) for finding in rules.findings(rule, module))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Callable[[Module], rules.Found]) -> None:
    """Law: the rule's docstring."""
    found = unexcused([finding for finding in everything() if finding.rule == rule.__name__])
    assert not found, "\n".join(["", str(rule.__doc__), *map(str, found)])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_is_planted_and_nothing_else(rule: Callable[[Module], rules.Found]) -> None:
    """Law: a rule that cannot fail is no rule."""
    planted, clean = CONTROLS[rule]
    assert rules.findings(rule, module_of(*planted))
    assert not rules.findings(rule, module_of(*clean))
    assert rule.__doc__


def test_exceptions_only_shrink() -> None:
    """Law: an excuse is for something that is still there, has a reason, and no new one comes in without a review of ENTRIES_MAX."""
    assert unused(list(everything())) == []
    assert len(EXCUSED) == ENTRIES_MAX
    assert all(len(entry.reason) > 20 for entry in EXCUSED)


def test_an_unneeded_exception_is_found() -> None:
    """Law: when nothing is found, every entry is unneeded."""
    assert unused([]) == list(EXCUSED)
    assert unexcused([Finding("durable", "cells/app.py:1", "fsync")])
