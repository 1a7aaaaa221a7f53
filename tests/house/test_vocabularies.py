"""Errors, metrics and limits are closed vocabularies: every word is walked here, and each check finds a planted misuse."""

from __future__ import annotations

import ast
from typing import Final

import pytest

from kernel import limits
from kernel.errors import Grpc, Reason, Retry, Spec
from kernel.metrics import Metric
from tests.house.tree import ROOT, SHIPPED, module_of, modules, nodes
from tests.house.vocabulary import all_metrics, declared, mentioned, reasons_in, wrongly_recorded

_FAMILIES: Final = ("API-4", "API-5", "DB-2", "DR-3")
# gRPC code -> the HTTP statuses that may say the same.
_SAME: Final = {
    Grpc.INVALID_ARGUMENT: {400, 405, 413, 415},
    Grpc.DEADLINE_EXCEEDED: {408, 504},
    Grpc.NOT_FOUND: {404},
    Grpc.ALREADY_EXISTS: {409},
    Grpc.PERMISSION_DENIED: {403},
    Grpc.RESOURCE_EXHAUSTED: {429},
    Grpc.FAILED_PRECONDITION: {421},
    Grpc.ABORTED: {409},
    Grpc.INTERNAL: {500},
    Grpc.UNAVAILABLE: {503},
    Grpc.UNAUTHENTICATED: {401},
}
_LATER: Final = {408, 409, 429, 500, 503}
# Reasons that no code gives yet, and who will.
_UNGIVEN: Final[dict[str, str]] = {
    "EDGE_NACK": "the agent counts and shows Envoy's refusals; an alert will name this reason",
}
_UNITS: Final = ("_total", "_seconds", "_bytes", "_events", "_records")
# Gauges of what has no unit: a revision is a version, the others count the thing that they name.
_UNITLESS: Final = {"_revision", "_watchers", "_envoys", "_connected", "_degraded", "_running", "_leads"}
_PRIVATE_LABELS: Final = {"user", "user_id", "anonymous_id", "message_id", "email", "ip", "key", "source"}


def _wrong(name: str, spec: Spec) -> list[str]:
    """What is inconsistent in one row."""
    found: list[str] = []
    family, _, digits = spec.number.partition("-")
    if not spec.number.startswith(_FAMILIES) or len(digits) != 4 or not digits.isdecimal():
        found.append(f"{name}: {spec.number} is of no family")
    if family == "API" and digits[:1] != str(spec.http)[0]:
        found.append(f"{name}: {spec.number} answers {spec.http}")
    if spec.http not in _SAME[spec.grpc]:
        found.append(f"{name}: HTTP {spec.http} does not say {spec.grpc.name}")
    if spec.retry is Retry.LATER and spec.http not in _LATER:
        found.append(f"{name}: HTTP {spec.http} is not sent again")
    if spec.retry is Retry.NEVER and spec.http in {408, 429, 503}:
        found.append(f"{name}: SDKs send HTTP {spec.http} again")
    if (spec.retry is Retry.ELSEWHERE) != (spec.grpc is Grpc.FAILED_PRECONDITION):
        found.append(f"{name}: ELSEWHERE and FAILED_PRECONDITION go together")
    if (
        not spec.client
        or not spec.operator
        or spec.client.endswith(".")
        or (spec.client[0].isupper() and not spec.client.startswith("Envoy"))
    ):
        found.append(f"{name}: messages are fragments in lower case without a full stop")
    return found


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_a_reason_says_one_thing_in_both_protocols(reason: Reason) -> None:
    """Law: number, HTTP status, gRPC code and retry class of a reason agree."""
    assert _wrong(reason.name, reason.spec) == []


@pytest.mark.parametrize(
    "spec",
    [
        Spec("API-9999", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "a", "b"),
        Spec("API-5001", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "a", "b"),
        Spec("API-4001", 400, Grpc.UNAVAILABLE, Retry.NEVER, "a", "b"),
        Spec("API-4001", 400, Grpc.INVALID_ARGUMENT, Retry.LATER, "a", "b"),
        Spec("API-4291", 429, Grpc.RESOURCE_EXHAUSTED, Retry.NEVER, "a", "b"),
        Spec("API-4001", 400, Grpc.INVALID_ARGUMENT, Retry.ELSEWHERE, "a", "b"),
        Spec("API-4001", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "A sentence.", "b"),
    ],
    ids=lambda spec: f"{spec.number}-{spec.http}-{spec.grpc.name}-{spec.retry.name}",
)
def test_an_inconsistent_reason_is_found(spec: Spec) -> None:
    """Law: each of the consistency checks can fail."""
    assert _wrong("PLANTED", spec)


def test_numbers_are_never_shared() -> None:
    """Law: a number names one reason, for ever."""
    numbers = [reason.spec.number for reason in Reason]
    assert len(set(numbers)) == len(numbers)


def test_every_reason_is_given_somewhere() -> None:
    """Law: a word that nobody says is no part of the vocabulary, unless _UNGIVEN tells who will say it."""
    given = set().union(*(reasons_in(module) for module in modules(*SHIPPED)))
    assert {reason.name for reason in Reason} - given == set(_UNGIVEN)
    assert reasons_in(module_of("cells/x.py", "raise Failure(Reason.MOVED)")) == {"MOVED"}


def test_every_given_reason_exists() -> None:
    """Law: code names reasons of the table only (a typo would be found when it is too late: while failing)."""
    given = set().union(*(reasons_in(module) for module in modules(*SHIPPED, "tests", "bench")))
    assert given - {reason.name for reason in Reason} == set()


def _wrong_metric(metric: Metric) -> list[str]:
    found: list[str] = []
    if not metric.name.startswith("dataflow_") or metric.name != metric.name.lower():
        found.append("metrics are called dataflow_<room>_<thing>_<unit>")
    if (metric.kind == "counter") != metric.name.endswith("_total"):
        found.append("counters, and they alone, end in _total")
    if not metric.name.endswith(_UNITS) and not any(metric.name.endswith(ending) for ending in _UNITLESS):
        found.append("the name does not end in a unit")
    if metric.kind == "histogram" and not metric.name.endswith(("_seconds", "_bytes", "_events")):
        found.append("a histogram measures something with a unit")
    if not metric.meaning or not metric.remedy:
        found.append("a metric has a meaning and a remedy")
    if _PRIVATE_LABELS & set(metric.labels):
        found.append("a label names a person or grows without bound")
    return [f"{metric.name}: {what}" for what in found]


@pytest.mark.parametrize("metric", all_metrics(), ids=lambda metric: metric.name)
def test_a_metric_is_well_named(metric: Metric) -> None:
    """Law: a metric's name ends in its unit, and what it means and what to do is written beside it."""
    assert _wrong_metric(metric) == []


@pytest.mark.parametrize(
    "metric",
    [
        Metric("ingest_events_total", "counter", "a", "b"),
        Metric("dataflow_ingest_events", "counter", "a", "b"),
        Metric("dataflow_ingest_size", "gauge", "a", "b"),
        Metric("dataflow_x_revision", "histogram", "a", "b"),
        Metric("dataflow_x_seconds", "histogram", "a", ""),
        Metric("dataflow_x_seconds", "histogram", "a", "b", ("user_id",)),
    ],
    ids=lambda metric: f"{metric.name}-{metric.kind}",
)
def test_a_badly_named_metric_is_found(metric: Metric) -> None:
    """Law: each of the naming checks can fail."""
    assert _wrong_metric(metric)


def test_metrics_are_declared_once_and_recorded() -> None:
    """Law: no two metrics share a name, and every one is mentioned by code that records it."""
    vocabulary = declared()
    names = [metric.name for group in vocabulary.values() for metric in group.values()]
    assert len(set(names)) == len(names)
    code = [module for module in modules(*SHIPPED) if module.stem != "metrics"]
    said = set().union(*(mentioned(module, vocabulary) for module in code))
    assert sorted(set(names) - said) == []


def test_metrics_are_recorded_as_declared() -> None:
    """Law: a counter is added to, a gauge set, a histogram observed, with exactly the declared labels."""
    vocabulary = declared()
    assert [wrong for module in modules(*SHIPPED) for wrong in wrongly_recorded(module, vocabulary)] == []
    head = "from cells.ingest import metrics\n"
    for planted in ("meter.set(metrics.EVENTS_ACCEPTED, 1, tenant=t)", "meter.add(metrics.EVENTS_ACCEPTED, 1, user=u)"):
        assert wrongly_recorded(module_of("cells/x.py", head + planted), vocabulary)
    assert not wrongly_recorded(module_of("cells/x.py", head + "meter.add(metrics.EVENTS_ACCEPTED, 1, tenant=t)"), vocabulary)


def _unit_of(name: str) -> bool:
    words = set(name.split("_"))
    units = {"BYTES", "EVENTS", "SECONDS", "DAYS", "CHARS", "RECORDS", "BATCHES", "SHARE", "NODES", "BUCKETS", "PARTITIONS", "MAX", "KIB"}
    return bool(words & units)


def test_limits_are_positive_numbers_with_units() -> None:
    """Law: a bound is a positive number whose name says of what."""
    bounds = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert len(bounds) > 20
    for name, value in bounds.items():
        assert isinstance(value, int | float), name
        assert value > 0, name
        assert _unit_of(name), name
    assert not _unit_of("BIG")


def test_every_limit_bounds_something() -> None:
    """Law: a limit that no code asks is a promise that nobody keeps."""
    bounds = {name for name in vars(limits) if name.isupper()} - {"KIB"}
    asked: set[str] = set()
    for module in modules(*SHIPPED):
        if module.path == "kernel/limits.py":
            asked |= {node.id for node in _in_plan(module.tree)}
            continue
        for node in nodes(module):
            if isinstance(node, ast.Attribute | ast.Name):
                asked.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    assert sorted(bounds - asked) == []


def _in_plan(tree: ast.Module) -> list[ast.Name]:
    """Names inside the default plan, which every tenant is bound by."""
    plans = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Plan"]
    return [node for plan in plans for node in ast.walk(plan) if isinstance(node, ast.Name)]


def test_limits_stand_in_one_file() -> None:
    """Law: relations between bounds are asserted where the bounds are, at import."""
    text = (ROOT / "kernel/limits.py").read_text()
    assert text.count("\nassert ") >= 5
    wrong = text.replace("EVENT_BYTES_MAX: Final = 32 * KIB", "EVENT_BYTES_MAX: Final = 9_000 * KIB")
    with pytest.raises(AssertionError):
        exec(wrong, {"__name__": "kernel.limits"})  # noqa: S102  # our own text with one number changed
