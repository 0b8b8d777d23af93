"""How fast the quotas of registries are used up."""

from __future__ import annotations

from collections import deque
from typing import Final

from regproxy.core.lru import Bounded
from regproxy.registry.rate_limits import Report

_POINTS: Final = 8
_APART: Final = 30.0  # seconds
_KEYS: Final = 256


class QuotaTrend:
    """The latest reports of each quota, some of them: a few minutes' worth."""

    def __init__(self) -> None:
        self._points: Bounded[tuple[str, str], deque[Report]] = Bounded(_KEYS)

    def note(self, key: tuple[str, str], report: Report) -> None:
        """Take in what a registry has reported."""
        points = self._points.get(key)
        if points is None:
            points = deque(maxlen=_POINTS)
            self._points.put(key, points)
        if points and report.remaining > points[-1].remaining:
            # What was used before says nothing of what is used now.
            points.clear()
        if not points or report.seen - points[-1].seen >= _APART:
            points.append(report)

    def rate(self, key: tuple[str, str], latest: Report) -> float:
        """Return requests per second, between the oldest report that counts and the latest."""
        points = self._points.get(key)
        if not points or latest.seen - points[0].seen < 1.0:
            return 0.0
        return max(0.0, (points[0].remaining - latest.remaining) / (latest.seen - points[0].seen))

    def ends_at(self, key: tuple[str, str], latest: Report) -> float | None:
        """Return when nothing will be left at the present rate (epoch), None where it is not used up."""
        rate = self.rate(key, latest)
        return latest.seen + latest.remaining / rate if rate > 0 else None
