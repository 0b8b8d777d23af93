"""Medians, ratios to several peers, and what becomes of targets."""

from __future__ import annotations

import pytest

from bench.figures import Figure, Side, Spread, Target, Verdict

FIVE = (1.0, 2.0, 3.0, 4.0, 5.0)
NGINX, SQUID = Side("nginx", (2.0, 2.0, 2.0, 2.0, 2.0)), Side("squid", (10.0, 10.0, 10.0, 10.0, 0.0))
FIGURE = Figure("S1", "CPU", "s/GB", FIVE, (NGINX, SQUID))
FEW = Figure("S1", "CPU", "s/GB", FIVE[:4], ())

VERDICTS = [
    (FIGURE, Target("value", "<=", 3), Verdict.MET),
    (FIGURE, Target("value", "<=", 2.9), Verdict.MISSED),
    (FIGURE, Target("value", ">=", 3), Verdict.MET),
    (FIGURE, Target("value", ">=", 3.1), Verdict.MISSED),
    (FIGURE, Target("ratio", "<=", 1.5), Verdict.MET),
    (FIGURE, Target("ratio", "<=", 1.4), Verdict.MISSED),
    (FIGURE, Target("ratio", "<=", 0.25, "squid"), Verdict.MET),
    (FIGURE, Target("ratio", "<=", 0.24, "squid"), Verdict.MISSED),
    (FIGURE, Target("ratio", "<=", 1, "trafficserver"), Verdict.ALONE),
    (FIGURE, Target("value", "<=", 1, openssl="3.5"), Verdict.OTHER),
    (FIGURE, Target("value", "<=", 1, openssl="3.0"), Verdict.MISSED),
    (FEW, Target("value", "<=", 9), Verdict.FEW),
    (FEW, Target("ratio", "<=", 9), Verdict.ALONE),
]


@pytest.mark.parametrize("figure, target, verdict", VERDICTS, ids=str)
def test_verdicts(figure: Figure, target: Target, verdict: Verdict) -> None:
    assert figure.verdict(target, "3.0.19") == verdict


def test_ratios_are_of_one_round_each() -> None:
    assert FIGURE.ratio() == FIGURE.ratio("nginx") == Spread(1.5, 0.5, 2.5)


def test_a_peer_that_gave_nothing_in_a_round_has_no_ratio_there() -> None:
    assert FIGURE.ratio("squid") == Spread(0.25, 0.1, 0.4)


@pytest.mark.parametrize(
    "target, text",
    [
        (Target("value", "<=", 0.4, openssl="3.5"), "<= 0.4 with OpenSSL 3.5"),
        (Target("ratio", ">=", 1.5, "nginx"), ">= 1.5 x nginx"),
        (Target("ratio", "<=", 1), "<= 1 x"),
    ],
    ids=str,
)
def test_targets_as_text(target: Target, text: str) -> None:
    assert str(target) == text
