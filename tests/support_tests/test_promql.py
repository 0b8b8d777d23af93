"""The names in PromQL: what is found in expressions, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from tests.support.promql import declared, faults_of, names_of

KNOWN = {"a_total": frozenset({"job", "code"}), "b": frozenset({"job"}), "job:c:rate5m": frozenset({"job"})}


@pytest.mark.parametrize(
    "expression, metrics, grouped",
    [
        ("a_total", {"a_total": set()}, set()),
        (
            'sum by (job) (rate(a_total{code=~"2..|x{1}", job!="$job"}[$__rate_interval]))',
            {"a_total": {"code", "job"}},
            {"job"},
        ),
        (
            "job:c:rate5m offset 1d < 0.5 * b and on (job) b > 1e10",
            {"job:c:rate5m": set(), "b": set()},
            {"job"},
        ),
        ('label_replace(b, "day", "1", "", "") or time() - b', {"b": set()}, set()),
        ("predict_linear(b[6h], 96 * 3600) < +Inf", {"b": set()}, set()),
    ],
)
def test_names(expression: str, metrics: dict[str, set[str]], grouped: set[str]) -> None:
    found = names_of(expression)
    assert (found.metrics, found.grouped) == (metrics, grouped)


@pytest.mark.parametrize(
    "expression, faults",
    [
        ('sum by (code) (rate(a_total{job="x"}[5m]))', []),
        ("a", ["a: no such metric"]),
        ('a_total{status="200"}', ["a_total: no label status"]),
        ("sum by (code) (b)", ["grouped by code, which nothing has"]),
        ('avg by (job, day) (label_replace(b, "day", "1", "", ""))', []),
    ],
)
def test_faults(expression: str, faults: list[str]) -> None:
    assert list(faults_of(expression, KNOWN)) == faults


def test_what_regproxy_exports() -> None:
    found = declared()
    assert {"registry", "type", "cache", "code", "job"} <= found["regproxy_requests_total"]
    assert "le" in found["regproxy_request_duration_seconds_bucket"]
    assert "le" not in found["regproxy_request_duration_seconds_sum"]
    assert "regproxy_requests_created" not in found
