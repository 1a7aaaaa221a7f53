"""The rules of style, each a pure function over one module. `test_style.py` plants a violation of each, which it must find."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from gitops.fleet import FLEET
from tests.house.places import place_of
from tests.house.tree import ROOT, Finding, Module, imports_of, nodes

Found = Iterator[tuple[int, str]]

FUNCTION_LINES_MAX: Final = 70
MODULE_LINES_MAX: Final = 400
NESTING_MAX: Final = 3
BANNED_NAMES: Final = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "core", "lib", "tools", "shared", "stuff"}
AMBIENT: Final = {"time", "random", "secrets", "uuid", "os", "socket", "subprocess", "logging", "threading", "signal", "tempfile", "shutil"}
_AMBIENT_CALLS: Final = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "asyncio.sleep", "datetime.datetime.now"}
_UNDURABLE: Final = re.compile(
    r"\b(fsync|full_page_writes|synchronous_commit)['\"]?\s*[=:,]?\s*['\"]?(off|false)\b|\bUNLOGGED\b", re.IGNORECASE
)
_LEFTOVER: Final = re.compile(r"#\s*(TODO|FIXME|XXX|HACK)\b")
_SILENCER: Final = re.compile(r"#\s*(type:\s*ignore(?=\[|\b)|noqa)(?P<named>\[[^\]]+\]|:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?(?P<rest>.*)$")
_LOSERS: Final = ("asyncio.create_task", "asyncio.ensure_future", "create_task", "loop.create_task")
_LOG_VERBS: Final = {"debug", "info", "warning", "error", "exception", "critical"}
_PRIVATE: Final = {
    *("payload", "body", "event", "events_text", "user", "user_id", "anonymous_id", "group_id", "traits", "properties", "context", "ip"),
    *("key", "write_key", "read_key", "token", "password", "dsn", "secret", "headers", "authorization", "message_id", "query", "path"),
}
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS: Final = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)
_TRANSPARENT: Final = (ast.With, ast.AsyncWith)


def findings(rule: Callable[[Module], Found], module: Module) -> list[Finding]:
    """Everything in `module` that breaks `rule`, whose name is its function's."""
    return [Finding(rule.__name__, f"{module.path}:{line}", what) for line, what in rule(module)]


def _test(module: Module) -> bool:
    return module.room == "tests"


@cache
def _calls(module: Module) -> tuple[tuple[ast.Call, str], ...]:
    """Calls of what has a plain name: `f(...)`, `a.f(...)`, `a.b.f(...)`."""
    calls = (node for node in nodes(module) if isinstance(node, ast.Call))
    return tuple((node, name) for node in calls if (name := dotted(node.func)))


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def documented(module: Module) -> Found:
    """Modules, classes, functions and methods that others see; functions inside functions are nobody's to see."""
    if module.tree.body and ast.get_docstring(module.tree) is None:
        yield 1, "the module has no docstring"
    if _test(module):
        return
    public: list[ast.stmt] = list(module.tree.body)
    while public:
        node = public.pop(0)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_") and not _overload(node):
            if ast.get_docstring(node) is None:
                yield node.lineno, f"{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                public += node.body


def _overload(node: ast.stmt) -> bool:
    return any("overload" in ast.unparse(d) or ".setter" in ast.unparse(d) for d in getattr(node, "decorator_list", []))


def tests_state_their_law(module: Module) -> Found:
    """A test's docstring says what must hold; its name is only where to find it."""
    if not _test(module):
        return
    for node in nodes(module):
        if isinstance(node, _FUNCTIONS) and node.name.startswith("test_") and ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} states no law"


def short_functions(module: Module) -> Found:
    """A function that does not fit a screen hides a second one."""
    for node in nodes(module):
        if isinstance(node, _FUNCTIONS) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def short_modules(module: Module) -> Found:
    """A module that outgrows this holds two subjects."""
    lines = module.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield MODULE_LINES_MAX, f"{lines} lines, at most {MODULE_LINES_MAX}"


def shallow(module: Module) -> Found:
    """Blocks inside blocks, counted inside one function. A `with` adds nothing, an `elif` stands beside its `if`."""
    for node in nodes(module):
        if isinstance(node, _FUNCTIONS) and (deep := _depth(node.body)) > NESTING_MAX:
            yield node.lineno, f"{node.name} nests {deep} blocks, at most {NESTING_MAX}"


def _depth(body: list[ast.stmt]) -> int:
    deepest = 0
    for node in body:
        if isinstance(node, _TRANSPARENT):
            deepest = max(deepest, _depth(node.body))
        elif isinstance(node, _BLOCKS):
            deepest = max(deepest, 1 + max(_depth(part) for part in _parts(node)))
    return deepest


def _parts(node: ast.stmt) -> list[list[ast.stmt]]:
    parts: list[list[ast.stmt]] = [getattr(node, name, []) for name in ("body", "finalbody")]
    parts += [handler.body for handler in getattr(node, "handlers", [])] + [case.body for case in getattr(node, "cases", [])]
    rest = getattr(node, "orelse", [])
    return [*parts, rest[0].body if len(rest) == 1 and isinstance(rest[0], ast.If) else rest]


def no_attics(module: Module) -> Found:
    """Names that say nothing attract everything."""
    for part in module.path.removesuffix(".py").split("/"):
        if part in BANNED_NAMES:
            yield 1, f"nothing is called {part!r}"


def narrow_excepts(module: Module) -> Found:
    """What is not expected is a defect and must be seen: a broad handler may only clean up and raise again."""
    for node in nodes(module):
        if isinstance(node, ast.ExceptHandler) and not _raises_again(node):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = [ast.unparse(kind) if kind else "everything" for kind in kinds]
            if {"everything", "Exception", "BaseException"} & set(broad):
                yield node.lineno, f"catches {', '.join(broad)}"


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def pure_cores(module: Module) -> Found:
    """Time, randomness and the environment are arguments; waiting is the shell's."""
    place = place_of(module.path)
    if place not in ("core", "port", "memory"):
        return
    banned = AMBIENT | ({"asyncio"} if place != "memory" else set())
    yield from ((line, f"a {place} imports {name}") for line, name in imports_of(module) if name.split(".")[0] in banned)
    yield from ((node.lineno, f"a {place} calls {name}") for node, name in _calls(module) if name in _AMBIENT_CALLS)
    if place == "core":
        yield from ((n.lineno, f"a core has async {n.name}") for n in nodes(module) if isinstance(n, ast.AsyncFunctionDef))


def shells_take_the_clock(module: Module) -> Found:
    """A shell waits and tells time through the `Clock` that it is given, so that a simulation can move it. `sleep(0)` only yields."""
    if place_of(module.path) != "shell":
        return
    yield from (
        (line, f"imports {name}") for line, name in imports_of(module) if name.split(".")[0] in {"time", "random", "uuid", "secrets"}
    )
    for node, name in _calls(module):
        if (name == "asyncio.sleep" and ast.unparse(node.args[0]) != "0") or name in _AMBIENT_CALLS - {"asyncio.sleep"}:
            yield node.lineno, f"calls {name}"


def environment_at_the_door(module: Module) -> Found:
    """Settings are read once, by app.py; everybody else is given them."""
    if place_of(module.path) == "app" or module.room in ("tests", "bench"):
        return
    for node in nodes(module):
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv"):
            yield node.lineno, f"reads {dotted(node)}"


def adapters_are_chosen_by_apps(module: Module) -> Found:
    """Cores, shells and ports name a port, never an adapter."""
    if place_of(module.path) not in ("core", "port", "shell"):
        return
    for line, name in imports_of(module):
        parts = name.split(".")
        if parts[0] in ("cells", "router") and any(part.startswith(("postgres", "kafka", "memory", "api_")) for part in parts):
            yield line, f"imports the adapter {name}"


def tests_never_sleep(module: Module) -> Found:
    """Waiting for a fixed time is slow when it works and wrong when it does not. Wait for a condition."""
    if not _test(module):
        return
    for node, name in _calls(module):
        if name == "time.sleep":
            yield node.lineno, "calls time.sleep"


def bounded_queues(module: Module) -> Found:
    """A queue without a bound is memory that somebody else fills."""
    for node, name in _calls(module):
        if name.endswith(("asyncio.Queue", "queue.Queue")) and not node.args and not node.keywords:
            yield node.lineno, "a queue without a bound"


def owned_tasks(module: Module) -> Found:
    """A background task that nobody holds is lost at the next collection, and its failure with it."""
    for node in nodes(module):
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and dotted(call.func) in _LOSERS:
            yield call.lineno, "nobody holds the task"


def _comments(module: Module) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def reasoned_ignores(module: Module) -> Found:
    """Whoever silences a check says which and why, in a second comment on the line."""
    if "# type: ignore" not in module.text and "# noqa" not in module.text:
        return
    for number, comment in _comments(module):
        found = _SILENCER.search(comment)
        if found is not None and not (found["named"] and found["rest"].strip(" #")):
            yield number, "silences a check without naming it or saying why"


def no_leftovers(module: Module) -> Found:
    """Work that is left is an issue, not a comment."""
    if _LEFTOVER.search(module.text) is None:
        return
    yield from ((number, "a leftover") for number, comment in _comments(module) if _LEFTOVER.match(comment))


def quiet_services(module: Module) -> Found:
    """A service speaks through its log."""
    if module.room not in ("kernel", "router", "cells"):
        return
    yield from ((node.lineno, "prints") for node, name in _calls(module) if name in ("print", "pprint.pprint"))


def durable(module: Module) -> Found:
    """Nothing of PostgreSQL's durability is ever switched off, in tests either: what they prove would be another thing."""
    if module.path.startswith(("tests/house/", "docs/")):
        return
    for number, line in enumerate(module.text.splitlines(), 1):
        if (found := _UNDURABLE.search(line)) is not None:
            yield number, f"says {found[0]!r}"


def cells_are_named_in_the_fleet(module: Module) -> Found:
    """A cell's or region's name is data: only the fleet's declaration and tests know it."""
    if module.room in ("gitops", "tests", "bench", "docs"):
        return
    names = {*FLEET.cells, *(cell.region for cell in FLEET.cells.values())}
    for node in nodes(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names:
            yield node.lineno, f"names {node.value}"


def files_beside_exist(module: Module) -> Found:
    """A file that code finds beside itself (`Path(__file__).parent / "x"`) is there."""
    if "Path(__file__).parent /" not in module.text:
        return
    here = (ROOT / module.path).parent
    for node in nodes(module):
        if isinstance(node, ast.BinOp) and ast.unparse(node).startswith("Path(__file__).parent /"):
            names = re.findall(r"'([^']+)'", ast.unparse(node))
            if names and not here.joinpath(*names).exists():
                yield node.lineno, f"{'/'.join(names)} is not there"


def frozen_words(module: Module) -> Found:
    """What crosses between rooms is frozen: the kernel's words, and what a port takes and answers."""
    if place_of(module.path) != "port" and (module.room != "kernel" or module.path.startswith("kernel/process/")):
        return
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((node.lineno, f"{node.name} is a dataclass that can change") for d in node.decorator_list if _changeable(d))


def _changeable(decorator: ast.expr) -> bool:
    if isinstance(decorator, ast.Call):
        frozen = any(keyword.arg == "frozen" for keyword in decorator.keywords)
        return dotted(decorator.func).endswith("dataclass") and not frozen
    return dotted(decorator).endswith("dataclass")


def silent_about_people(module: Module) -> Found:
    """A log line holds ids of things, counts and reasons: nothing that a tenant's customers sent, and no secret."""
    for node, name in _calls(module):
        owner, _, verb = name.rpartition(".")
        if verb in _LOG_VERBS and owner.split(".")[-1] in ("log", "_log", "logger", "_logger", "logging"):
            said = {keyword.arg for keyword in node.keywords} & _PRIVATE
            yield from ((node.lineno, f"logs {word}") for word in sorted(map(str, said)))
            yield from ((node.lineno, "logs a text that is put together") for argument in node.args if isinstance(argument, ast.JoinedStr))


def servers_are_alone_on_their_port(module: Module) -> Found:
    """gRPC shares a port silently unless it is told not to, and its message limits are not ours: a server sets all three."""
    if module.room not in ("cells", "router"):
        return
    for node, name in _calls(module):
        if name.endswith("aio.server"):
            wanted = ("grpc.so_reuseport", "grpc.max_receive_message_length", "grpc.max_send_message_length")
            yield from ((node.lineno, f"a server without {option}") for option in wanted if option not in module.text)


RULES: Final = (
    frozen_words,
    silent_about_people,
    servers_are_alone_on_their_port,
    files_beside_exist,
    documented,
    tests_state_their_law,
    short_functions,
    short_modules,
    shallow,
    no_attics,
    narrow_excepts,
    pure_cores,
    shells_take_the_clock,
    environment_at_the_door,
    adapters_are_chosen_by_apps,
    tests_never_sleep,
    bounded_queues,
    owned_tasks,
    reasoned_ignores,
    no_leftovers,
    quiet_services,
    durable,
    cells_are_named_in_the_fleet,
)
