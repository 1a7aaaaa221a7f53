"""The closed vocabularies as data: every metric that is declared, every use of one, every use of a reason."""

from __future__ import annotations

import ast
import importlib
from typing import Final, NamedTuple

from kernel.metrics import Metric
from tests.house.rules import dotted
from tests.house.tree import SHIPPED, Module, modules, nodes

_VERBS: Final = {"add": "counter", "set": "gauge", "observe": "histogram"}


class Recorded(NamedTuple):
    """A call that records: where, by which verb, which metric, with which labels (None when they are not written out)."""

    place: str
    verb: str
    metric: Metric
    labels: frozenset[str] | None


def declared() -> dict[str, dict[str, Metric]]:
    """Module name -> constant -> metric, of every `metrics.py`."""
    found: dict[str, dict[str, Metric]] = {}
    for module in modules(*SHIPPED):
        if module.stem == "metrics":
            name = module.path.removesuffix(".py").replace("/", ".")
            values = vars(importlib.import_module(name))
            found[name] = {key: value for key, value in values.items() if isinstance(value, Metric)}
    return found


def all_metrics() -> list[Metric]:
    """Every metric once, by name."""
    return sorted({metric.name: metric for group in declared().values() for metric in group.values()}.values(), key=lambda m: m.name)


def named_in(module: Module, vocabulary: dict[str, dict[str, Metric]]) -> dict[str, Metric]:
    """How `module` may say each metric: `metrics.APPLIES` or `APPLIES`, as its imports have it."""
    said: dict[str, Metric] = {}
    froms = (node for node in nodes(module) if isinstance(node, ast.ImportFrom))
    for source, alias in ((node.module or "", alias) for node in froms for alias in node.names):
        here = alias.asname or alias.name
        said |= {f"{here}.{name}": metric for name, metric in vocabulary.get(f"{source}.{alias.name}", {}).items()}
        if (metric := vocabulary.get(source, {}).get(alias.name)) is not None:
            said[here] = metric
    return said


def mentioned(module: Module, vocabulary: dict[str, dict[str, Metric]]) -> set[str]:
    """Names of the metrics that the module's code mentions, its imports apart."""
    said = named_in(module, vocabulary)
    names = (node for node in nodes(module) if isinstance(node, ast.Attribute | ast.Name))
    return {said[text].name for node in names if (text := dotted(node)) in said}


def recorded(module: Module, vocabulary: dict[str, dict[str, Metric]]) -> list[Recorded]:
    """Calls of a meter in the module whose metric is written out."""
    said = named_in(module, vocabulary)
    found: list[Recorded] = []
    for node in nodes(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _VERBS and node.args:
            metric = said.get(dotted(node.args[0]))
            if metric is not None:
                labels = [keyword.arg for keyword in node.keywords if keyword.arg != "value"]
                written = None if None in labels else frozenset(label for label in labels if label is not None)
                found.append(Recorded(f"{module.path}:{node.lineno}", node.func.attr, metric, written))
    return found


def wrongly_recorded(module: Module, vocabulary: dict[str, dict[str, Metric]]) -> list[str]:
    """Calls whose verb or labels are not the metric's."""
    return [
        f"{call.place}: {call.metric.name}"
        for call in recorded(module, vocabulary)
        if _VERBS[call.verb] != call.metric.kind or (call.labels is not None and call.labels != frozenset(call.metric.labels))
    ]


def reasons_in(module: Module) -> set[str]:
    """Members of `Reason` that the module names."""
    return {node.attr for node in nodes(module) if isinstance(node, ast.Attribute) and dotted(node.value) in ("Reason", "errors.Reason")}
