"""The mixin: what is in the tree is what it renders, it names what there is, and it can be set otherwise."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, mixin
from tests.support.promql import faults_of

ALERTS = mixin.alerts()
DASHBOARDS = mixin.dashboards()
LABEL = re.compile(r"\$labels\.(\w+)")
SEVERITIES = {"critical", "warning", "info"}
HEADINGS = (
    "What it means",
    "What clients notice",
    "How to look",
    "What to do",
    "What not to do",
    "When it goes away",
)

known = cache(mixin.known)


def test_what_is_in_the_tree_is_what_it_renders() -> None:
    """By value, as versions of jsonnet lay YAML out in ways of their own."""
    files = mixin.files(mixin.rendered())
    there = {path for folder in ("prometheus", "grafana") for path in (mixin.DEPLOY / folder).iterdir()}
    assert there == set(files), "run: make mixin"
    for path, document in files.items():
        assert mixin.committed(path) == document, f"{path.relative_to(ROOT)} is not up to date: make mixin"


def test_sources_are_formatted() -> None:
    sources = sorted([*mixin.MIXIN.rglob("*.jsonnet"), *mixin.MIXIN.rglob("*.libsonnet")])
    assert sources
    checked = subprocess.run(
        ["jsonnetfmt", "--test", *sources], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, ""), "run: make mixin"


def test_promtool_has_nothing_to_say(tmp_path: Path) -> None:
    """About the rules; and about the queries of dashboards, which are given to it as rules, too."""
    check(*sorted((mixin.DEPLOY / "prometheus").glob("*.yaml")))
    expressions = {
        mixin.plain(expression)
        for dashboard in DASHBOARDS.values()
        for _, expression in mixin.queries(dashboard)
    }
    rules = [{"record": f"query:{at}", "expr": text} for at, text in enumerate(sorted(expressions))]
    check(mixin.write(tmp_path / "queries.yaml", {"groups": [{"name": "queries", "rules": rules}]}))


def check(*files: Path) -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    "rule", [*ALERTS.values(), *mixin.recorded()], ids=lambda rule: next(iter(rule.values()))
)
def test_rules_name_what_there_is(rule: mixin.Rule) -> None:
    assert list(faults_of(rule["expr"], known())) == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_name_what_there_is(name: str) -> None:
    faults = [
        (title, fault)
        for title, expression in mixin.queries(DASHBOARDS[name])
        for fault in faults_of(expression, known())
    ]
    assert faults == []


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_are_complete(name: str) -> None:
    alert = ALERTS[name]
    texts = alert["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url"}
    assert alert["labels"]["severity"] in SEVERITIES
    assert re.fullmatch(r"\d+[mhd]", alert["for"])
    named = set(LABEL.findall(texts["summary"] + texts["description"]))
    assert named <= mixin.labels_of(alert, known())


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_have_their_page(name: str) -> None:
    page = mixin.RUNBOOKS / f"{name}.md"
    assert ALERTS[name]["annotations"]["runbook_url"].rpartition("/")[2] == page.name
    text = page.read_text()
    assert text.startswith(f"# {name}\n")
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == HEADINGS
    assert f"({page.name})" in (mixin.RUNBOOKS / "README.md").read_text()


def test_pages_have_their_alert() -> None:
    assert {path.stem for path in mixin.RUNBOOKS.glob("*.md")} - {"README"} == set(ALERTS)


@pytest.mark.parametrize("page", sorted(mixin.RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_pages_name_what_there_is(page: Path) -> None:
    """PromQL in them is what is in blocks of that language."""
    for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            assert list(faults_of(line.partition("#")[0], known())) == [], line


class TestSettings:
    """`_config`: what an operator lays over it."""

    def test_selector_labels_and_pages(self) -> None:
        made = mixin.rendered(
            {
                "selector": 'job="a/b"',
                "clusterLabel": "k8s",
                "runbookBaseUrl": "https://wiki.example/x",
            }
        )
        text = str(made)
        assert 'job="regproxy"' not in text and "cluster=~" not in text and "git.example" not in text
        assert 'up{job="a/b"} == 0' in text and "by (k8s, namespace, job" in text
        assert "https://wiki.example/x/RegproxyDown.md" in text

    def test_of_one_alert(self) -> None:
        made = mixin.rendered(
            {
                "alerts": {
                    "RegproxyCircuitOpen": {"for": "1m", "severity": "critical", "labels": {"team": "a"}},
                    "RegproxyLeafExpiring": {"enabled": False},
                }
            }
        )
        rules = {rule["alert"]: rule for rule in mixin.rules_of(made["alerts"])}
        assert rules["RegproxyCircuitOpen"]["for"] == "1m"
        assert rules["RegproxyCircuitOpen"]["labels"] == {"severity": "critical", "team": "a"}
        assert set(ALERTS) - set(rules) == {"RegproxyLeafExpiring"}

    def test_of_an_alert_that_there_is_not(self) -> None:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            mixin.rendered({"alerts": {"RegproxyCircutOpen": {"for": "1m"}}})
        assert "there are not: RegproxyCircutOpen" in caught.value.stderr

    def test_every_number_can_be_set(self) -> None:
        """Each threshold of config.libsonnet is in the rules."""
        text = (mixin.MIXIN / "config.libsonnet").read_text()
        names = re.findall(r"^    (\w+): [\d.]+(?: \* \d+)?,$", text, re.MULTILINE)
        assert len(names) > 8
        values: dict[str, Any] = {name: 7001 + at for at, name in enumerate(names)}
        made = mixin.rendered(values)
        rules = str((made["alerts"], made["rules"]))
        assert {name for name, value in values.items() if str(value) not in rules} == set()
