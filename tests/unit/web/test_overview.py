"""The first page: everything is looked at once, and no registry is left out."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from regproxy.admin.endpoints.registries import Registry
from regproxy.admin.endpoints.status import Status
from regproxy.telemetry.metric_samples import Samples
from regproxy.telemetry.snapshots import Snapshot
from regproxy.web.overview import REGISTRIES, OverviewPage
from tests.unit.web.test_rendering import PAGES, call
from tests.unit.web.test_troubles import CLOSED, NOW, STATUS, registry


class Parts:
    """Whatever the page asks, counted."""

    def __init__(self, registries: list[Registry]) -> None:
        self.asked: Counter[str] = Counter()
        self._registries = registries

    async def all(self) -> list[Snapshot]:
        self.asked["snapshots"] += 1
        return []

    def samples(self) -> Samples:
        self.asked["samples"] += 1
        return Samples([])

    def current(self, samples: Samples | None = None) -> Status:
        assert samples is not None
        return STATUS

    def merged(self, snapshots: list[Snapshot], samples: Samples) -> list[Registry]:
        return self._registries


def test_all_registries_in_one_look(tmp_path: Path) -> None:
    """Also one that is too far down the list to be shown."""
    away = type(CLOSED)(state="open", failures=3, retry_at=NOW + 30, cause="no route", workers=1)
    failed = type(CLOSED)(state="closed", failures=2, retry_at=None, cause="no route", workers=0)
    known = [replace(registry(), name=f"a{n:03d}.test") for n in range(REGISTRIES + 5)]
    known[0] = replace(registry(failed), name="a.test")
    known.append(replace(registry(away), name="z.test"))
    parts: Any = Parts(known)
    with ThreadPoolExecutor(1) as threads:
        page = OverviewPage(PAGES, parts.samples, tmp_path, parts, parts, parts, 2, threads)
        text = asyncio.run(page.overview_page(call())).body.decode()
    assert "z.test can&#39;t be reached" in text and "All good" not in text
    assert "<title>1 problem - regproxy</title>" in text
    assert "And 6 more." in text and "a003.test" in text
    assert ">ok <span" in text and "reached</td>" not in text
    assert parts.asked == {"snapshots": 1, "samples": 1}
