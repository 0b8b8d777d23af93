"""Figures in words."""

from __future__ import annotations

from regproxy.web.wording import ago, clock, percent, segment, short, span


def test_times() -> None:
    assert [span(each) for each in (0.5, 59, 60, 7200, 200_000)] == [
        *("less than 1 s", "59 s", "1 min", "2 h", "2 d"),
    ]
    assert (ago(0.0, 100.0), ago(40.0, 100.0), ago(160.0, 100.0)) == ("never", "1 min ago", "in 1 min")
    assert clock(0.0) == clock(float("inf")) == clock(-1.0) == clock(1e18) == "never"
    assert clock(1.0) == "1970-01-01 00:00:01 UTC"


def test_names() -> None:
    assert segment("a.test:5000/b c:1?#%") == "a.test%3A5000%2Fb%20c%3A1%3F%23%25"
    assert (short("sha256:" + "ab" * 32), short("latest")) == ("sha256:abababababab", "latest")
    assert (percent(None), percent(0.5)) == ("none yet", "50.0 %")
