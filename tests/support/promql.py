"""PromQL expressions as far as their names go; promtool parses them for good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from regproxy.telemetry.metrics import Metrics

# Labels that Prometheus or its configuration puts on every sample of a target.
TARGET_LABELS = frozenset({"cluster", "namespace", "job", "instance"})
_KEYWORDS = frozenset({"and", "or", "unless", "offset", "bool", "inf", "nan"})
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r'([a-zA-Z_:][\w:]*)\s*\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}')
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()")
_LABEL_MADE = re.compile(r'label_replace\([^"]*"(\w+)"')


@dataclass(slots=True)
class Names:
    """`metrics`: the labels that each is selected by. `grouped`: labels that results are grouped by."""

    metrics: dict[str, set[str]] = field(default_factory=dict)
    grouped: set[str] = field(default_factory=set)


def names_of(expression: str) -> Names:
    """Return the metrics and labels that an expression names; Grafana's `$variables` may be in it."""
    found = Names()
    for match in _GROUPING.finditer(expression):
        found.grouped |= {label.strip() for label in match[1].split(",") if label.strip()}
    rest = _GROUPING.sub(" ", expression)
    for match in _SELECTOR.finditer(rest):
        found.metrics.setdefault(match[1], set()).update(_MATCHER.findall(match[2]))
    rest = _STRING.sub(" ", _SELECTOR.sub(" ", rest))
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    for name in _NAME.findall(rest):
        if name.lower() not in _KEYWORDS:
            found.metrics.setdefault(name, set())
    return found


def faults_of(expression: str, known: dict[str, frozenset[str]]) -> Iterator[str]:
    """Tell which names of an expression are none of `known` metrics, or no label of that metric."""
    names = names_of(expression)
    for metric, labels in names.metrics.items():
        if metric not in known:
            yield f"{metric}: no such metric"
        else:
            yield from (f"{metric}: no label {label}" for label in sorted(labels - known[metric]))
    given = {label for metric in names.metrics for label in known.get(metric, ())}
    given |= set(_LABEL_MADE.findall(expression))
    yield from (f"grouped by {label}, which nothing has" for label in sorted(names.grouped - given))


def declared() -> dict[str, frozenset[str]]:
    """Return every series name that regproxy exports, with its labels and those of its target."""
    registry = CollectorRegistry()
    Metrics(registry, version="0")
    found: dict[str, frozenset[str]] = {}
    for collector in registry._collector_to_names:
        labels = frozenset(getattr(collector, "_labelnames", ())) | TARGET_LABELS
        for family in getattr(collector, "describe", list)():
            if family.type == "counter":
                found[f"{family.name}_total"] = labels
            elif family.type == "histogram":
                found[f"{family.name}_bucket"] = labels | {"le"}
                found[f"{family.name}_sum"] = found[f"{family.name}_count"] = labels
            else:
                found[family.name] = labels
    return found
