"""The dashboards: what Grafana's dashboard-linter asks for, no overlaps, and every metric shown.

The rules are those of github.com/grafana/dashboard-linter (docs/index.md there), for Prometheus.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support import mixin
from tests.support.promql import declared, names_of

DASHBOARDS = mixin.dashboards()
# Of Grafana's units (packages/grafana-data/src/valueFormats/categories.ts) those that are used here
UNITS = {"short", "percentunit", "reqps", "ops", "Bps", "bytes", "s"}
KINDS = {"stat", "timeseries", "table", "row"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RANGE = re.compile(r"\b(\w+)\((\w+)(?:\{[^}]*\})?\[([^\]]+)\]")
# What is one hour by its title
FIXED = {("increase", "1h")}

Dashboard = dict[str, Any]


@pytest.fixture(params=DASHBOARDS)
def dashboard(request: pytest.FixtureRequest) -> Dashboard:
    return DASHBOARDS[request.param]


def panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Dashboard) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def test_dashboards_are_told_apart() -> None:
    for field in ("uid", "title"):
        assert len({dashboard[field] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) > 2


def test_a_dashboard_is_one_of_grafana_10(dashboard: Dashboard) -> None:
    assert dashboard["schemaVersion"] >= 38
    assert dashboard["id"] is None and dashboard["editable"] is False
    assert re.fullmatch(r"[a-z-]{1,40}", dashboard["uid"])


def test_variables(dashboard: Dashboard) -> None:
    found = variables(dashboard)
    source = found["datasource"]
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")
    assert {"cluster", "job", "instance"} <= set(found)
    for name, variable in found.items():
        if name == "datasource":
            continue
        assert variable["datasource"] == SOURCE
        assert (variable["type"], variable["refresh"]) == ("query", 2), name
        assert (variable["multi"], variable["includeAll"]) == (True, True), name
        assert variable["label"] == name.capitalize()
        assert variable["allValue"] == (".*" if name == "cluster" else ".+")
        metric = re.match(r"label_values\((\w+)", variable["query"]["query"])
        assert metric and metric[1] in declared(), variable["query"]


def test_panels(dashboard: Dashboard) -> None:
    for panel in panels(dashboard):
        assert panel["type"] in KINDS
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == SOURCE
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        overridden = [
            item["value"] for each in panel["fieldConfig"]["overrides"] for item in each["properties"]
        ]
        assert set(overridden) <= UNITS
        ids = [target["refId"] for target in panel["targets"]]
        assert ids and len(set(ids)) == len(ids)
        assert all(target["datasource"] == SOURCE for target in panel["targets"])


def test_nothing_overlaps(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_queries_are_limited_to_what_was_chosen(dashboard: Dashboard) -> None:
    """Recorded series have no instance."""
    for title, expression in mixin.queries(dashboard):
        for metric, labels in names_of(expression).metrics.items():
            wanted = {"job"} if ":" in metric else {"job", "instance"}
            assert wanted <= labels, (title, metric)


def test_counters_are_counted(dashboard: Dashboard) -> None:
    """Never shown as they are, and by intervals that follow the dashboard's."""
    for title, expression in mixin.queries(dashboard):
        ranged = RANGE.findall(expression)
        counters = {name for name in names_of(expression).metrics if name.endswith(("_total", "_bucket"))}
        assert counters == {name for function, name, _ in ranged if function in ("rate", "increase")}, title
        for function, _, window in ranged:
            assert window == "$__rate_interval" or (function, window) in FIXED, title


def test_legends_name_labels_that_there_are(dashboard: Dashboard) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= names_of(target["expr"]).grouped, panel["title"]


def test_every_metric_is_shown() -> None:
    """In one dashboard or another; of a histogram its buckets."""
    shown = {
        name
        for dashboard in DASHBOARDS.values()
        for _, expression in mixin.queries(dashboard)
        for name in names_of(expression).metrics
    }
    exported = {name for name in declared() if not name.endswith(("_sum", "_count"))}
    assert exported - shown == set()
