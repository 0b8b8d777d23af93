"""Count the processors that this process may use."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from pathlib import Path


def cores(
    groups: Path = Path("/proc/self/cgroup"),
    mount: Path = Path("/sys/fs/cgroup"),
    affinity: int | None = None,
) -> int:
    """Return how many processors this process may use: its affinity, and the quotas of its cgroups (v2)."""
    found = len(os.sched_getaffinity(0)) if affinity is None else affinity
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            if line.startswith("0::/"):
                group = mount / line.removeprefix("0::/")
                for place in (group, *group.parents):
                    found = min(found, _quota(place / "cpu.max"))
                    if place == mount:
                        break
    return max(1, found)


def _quota(file: Path) -> int:
    """Return the processors, rounded up, of a cpu.max: "max 100000", or microseconds in a period."""
    with suppress(OSError, ValueError):
        quota, period = file.read_text().split()
        if quota != "max":
            return math.ceil(int(quota) / int(period))
    return sys.maxsize
