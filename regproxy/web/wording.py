"""Say figures in words: times, shares."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

_STEPS: Final = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_FAR: Final = 253_402_300_800.0  # the year 10000, which datetime does not have


def percent(share: float | None) -> str:
    """Return a share, None: there is none."""
    return "none yet" if share is None else f"{share * 100:.1f} %"


def span(seconds: float) -> str:
    """Return a length of time in the largest unit that fits."""
    for length, unit in _STEPS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "less than 1 s"


def ago(at: float, now: float) -> str:
    """Return how long ago, or in how long, something is. Seconds since the epoch; 0: never."""
    if not at:
        return "never"
    return f"{span(now - at)} ago" if at <= now else f"in {span(at - now)}"


def clock(at: float) -> str:
    """Return a time (seconds since the epoch) as a date and time in UTC."""
    if not math.isfinite(at) or not 0 < at < _FAR:
        return "never"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short(digest: str) -> str:
    """Return enough of a digest to tell it from others at a glance."""
    algorithm, colon, digits = digest.partition(":")
    return f"{algorithm}:{digits[:12]}" if colon else digest


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")


def number(count: float) -> str:
    """Return a count with its thousands apart."""
    return f"{count:,.0f}"
