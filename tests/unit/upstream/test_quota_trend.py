"""How fast quotas are used up."""

from __future__ import annotations

from regproxy.registry.rate_limits import Report
from regproxy.upstream.quota_trend import QuotaTrend

KEY = ("reg.test", "anonymous")


def report(seen: float, remaining: int) -> Report:
    return Report(seen, remaining, 100, 21600.0)


def test_a_rate() -> None:
    trend = QuotaTrend()
    for minute in range(5):
        trend.note(KEY, report(60.0 * minute, 100 - 6 * minute))
    latest = report(240.0, 76)
    assert trend.rate(KEY, latest) == 0.1
    assert trend.ends_at(KEY, latest) == 240.0 + 760.0


def test_nothing_is_used() -> None:
    trend = QuotaTrend()
    assert trend.ends_at(KEY, report(0.0, 50)) is None
    trend.note(KEY, report(0.0, 50))
    trend.note(KEY, report(60.0, 50))
    assert trend.ends_at(KEY, report(60.0, 50)) is None


def test_a_new_window() -> None:
    """What was used before it says nothing."""
    trend = QuotaTrend()
    trend.note(KEY, report(0.0, 90))
    trend.note(KEY, report(60.0, 10))
    trend.note(KEY, report(120.0, 100))
    trend.note(KEY, report(180.0, 94))
    assert trend.rate(KEY, report(180.0, 94)) == 0.1


def test_only_the_last_minutes() -> None:
    trend = QuotaTrend()
    for minute in range(20):
        trend.note(KEY, report(60.0 * minute, 100 - (minute if minute < 12 else 12)))
    assert trend.rate(KEY, report(1140.0, 88)) == 0.0
