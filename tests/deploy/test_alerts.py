"""Each alert fires when it should, and is silent otherwise: `promtool test rules`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.alert_cases import CASES, Case
from tests.support import mixin


def test_every_alert_has_cases_of_both_kinds() -> None:
    alerts = set(mixin.alerts())
    assert {case.alert for case in CASES if case.fires} == alerts
    assert {case.alert for case in CASES if not case.fires} == alerts


@pytest.mark.parametrize("step", sorted({case.step for case in CASES}))
def test_they_fire_and_are_silent(step: str, tmp_path: Path) -> None:
    """By what Prometheus says in ALERTS; all cases with that step in one run."""
    document = {
        "rule_files": [str(path) for path in sorted((mixin.DEPLOY / "prometheus").glob("*.yaml"))],
        "evaluation_interval": step,
        # What is recorded comes first: with ten minutes from one to the next, former values count no more.
        "group_eval_order": mixin.groups(),
        "tests": [as_test(case) for case in CASES if case.step == step],
    }
    tested = subprocess.run(
        ["promtool", "test", "rules", mixin.write(tmp_path / "cases.yaml", document)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def as_test(case: Case) -> dict[str, Any]:
    """Return a case in promtool's language."""
    matchers = {"alertname": case.alert, "alertstate": "firing", **case.labels}
    selector = ", ".join(f'{name}="{value}"' for name, value in matchers.items())
    return {
        "name": f"{case.alert}: {case.about}",
        "interval": case.step,
        "input_series": [{"series": name, "values": text} for name, text in case.samples.items()],
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{{selector}}})",
                "eval_time": case.at,
                "exp_samples": [{"value": case.fires}] if case.fires else [],
            }
        ],
    }
