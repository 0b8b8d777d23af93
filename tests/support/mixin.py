"""The mixin in deploy/mixin, as it is rendered by jsonnet, with an operator's own settings if need be."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT
from tests.support.promql import TARGET_LABELS, declared, names_of

DEPLOY = ROOT / "deploy"
MIXIN = DEPLOY / "mixin"
RUNBOOKS = ROOT / "docs" / "runbooks"

Rule = dict[str, Any]


def rendered(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the mixin with `settings` over its `_config`: "alerts", "rules" and "dashboards".

    subprocess.CalledProcessError: jsonnet has refused it; its message is on stderr.
    """
    text = (
        f"local m = (import 'mixin.libsonnet') + {{ _config+:: {_overlay(settings or {})} }};"
        " { alerts: m.prometheusAlerts, rules: m.prometheusRules, dashboards: m.grafanaDashboards }"
    )
    done = subprocess.run(
        ["jsonnet", "-J", MIXIN, "-e", text], check=True, capture_output=True, text=True, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _overlay(value: Any) -> str:
    """Return jsonnet for `value` whose objects are laid over those that there are."""
    if not isinstance(value, dict):
        return json.dumps(value)
    fields = (
        f"{json.dumps(key)}{'+' if isinstance(item, dict) else ''}: {_overlay(item)}"
        for key, item in value.items()
    )
    return "{" + ", ".join(fields) + "}"


def files(made: dict[str, Any]) -> dict[Path, Any]:
    """Return what `make mixin` writes of a rendered mixin, by its place."""
    rules = {"alerts.yaml": made["alerts"], "rules.yaml": made["rules"]}
    return {DEPLOY / "prometheus" / name: document for name, document in rules.items()} | {
        DEPLOY / "grafana" / name: document for name, document in made["dashboards"].items()
    }


def committed(path: Path) -> Any:
    """Return a rendered file that is in the tree, parsed. (JSON is YAML, but that takes long.)"""
    return json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())


def rules_of(document: dict[str, Any]) -> list[Rule]:
    """Return the rules of a rule file."""
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Rule]:
    """Return the alerts that are in the tree, by name."""
    return {rule["alert"]: rule for rule in rules_of(committed(DEPLOY / "prometheus" / "alerts.yaml"))}


def recorded() -> list[Rule]:
    """Return the recording rules that are in the tree."""
    return rules_of(committed(DEPLOY / "prometheus" / "rules.yaml"))


def groups() -> list[str]:
    """Return the names of all groups of rules, those that record first."""
    names = ("rules.yaml", "alerts.yaml")
    documents = [committed(DEPLOY / "prometheus" / name) for name in names]
    return [group["name"] for document in documents for group in document["groups"]]


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the dashboards that are in the tree, by file name."""
    return {path.name: committed(path) for path in sorted((DEPLOY / "grafana").glob("*.json"))}


def queries(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (title of the panel, expression) of every query of a dashboard."""
    return [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def plain(expression: str) -> str:
    """Return a dashboard's expression with values for Grafana's variables."""
    for name, value in (
        ("$__rate_interval", "1m"),
        ("$cluster", ".*"),
        ("$job|", ".*"),
        ("$instance|", ".*"),
        ("$job", ".+"),
        ("$instance", ".+"),
        ("$registry", ".+"),
    ):
        expression = expression.replace(name, value)
    return expression


def known() -> dict[str, frozenset[str]]:
    """Return the names that expressions may use, with their labels: ours, recorded ones, Prometheus' own."""
    found = declared() | {"up": TARGET_LABELS}
    for rule in recorded():
        names = names_of(rule["expr"])
        whole = frozenset(label for metric in names.metrics for label in found[metric])
        found[rule["record"]] = frozenset(names.grouped) or whole
    given = {label for alert in alerts().values() for label in labels_of(alert, found)}
    found["ALERTS"] = frozenset({"alertname", "alertstate", "severity", *given})
    return found


def labels_of(alert: Rule, names: dict[str, frozenset[str]]) -> frozenset[str]:
    """Return the labels that an alert's series can have, by its expression."""
    used = names_of(alert["expr"])
    return frozenset(used.grouped) or frozenset(label for metric in used.metrics for label in names[metric])


def write(path: Path, document: Any) -> Path:
    """Write a document for programs that read YAML (of which JSON is a part); return its path."""
    path.write_text(json.dumps(document))
    return path
