"""The first page: what is wrong, what runs, what the cache does for its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

from regproxy.admin.endpoints.activity import merged_downloads
from regproxy.admin.endpoints.registries import Registries, Registry
from regproxy.admin.endpoints.status import StatusReport
from regproxy.admin.live import Live
from regproxy.admin.operations import Call, get
from regproxy.admin.replies import Reply
from regproxy.cache import layout
from regproxy.cache.pins import registry_name
from regproxy.core.errors import StoreError
from regproxy.telemetry.metric_samples import Samples
from regproxy.telemetry.snapshots import Snapshot
from regproxy.telemetry.usage.usage_file import UsageFile
from regproxy.web.rendering import Pages
from regproxy.web.troubles import health, troubles

ROWS: Final = 10  # of a table
DOWNLOADS: Final = 20
REGISTRIES: Final = 100
WINDOW: Final = "24h"


class OverviewPage:
    """The page at `/`."""

    def __init__(
        self,
        pages: Pages,
        samples: Callable[[], Samples],
        root: Path,
        status: StatusReport,
        live: Live,
        registries: Registries,
        workers: int,
        threads: Executor,
    ) -> None:
        """`samples()`: the metrics; `root`: of the cache; `workers`: how many there should be."""
        self._pages = pages
        self._samples = samples
        self._usage = UsageFile(layout.usage(root))
        self._status = status
        self._live = live
        self._registries = registries
        self._workers = workers
        self._threads = threads

    @get("/")
    async def overview_page(self, call: Call[None, None]) -> Reply:
        """Return the page that an operator opens first."""
        # One look at each, as it costs all workers something, and what is shown fits together.
        snapshots = await self._live.all()
        loop = asyncio.get_running_loop()
        samples = await loop.run_in_executor(self._threads, self._samples)
        registries = self._registries.merged(snapshots, samples)
        return await loop.run_in_executor(self._threads, self._page, call, snapshots, samples, registries)

    def _page(
        self, call: Call[None, None], snapshots: list[Snapshot], samples: Samples, registries: list[Registry]
    ) -> Reply:
        now = time.time()
        status, known = self._status.current(samples), health(samples)
        downloads = merged_downloads(snapshots)
        return self._pages.page(
            "overview",
            call,
            status=status,
            troubles=troubles(status, registries, known, self._workers, now),
            saved_requests=status.answered.hits,
            downloads=downloads[:DOWNLOADS],
            more_downloads=max(0, len(downloads) - DOWNLOADS),
            registries=registries[:REGISTRIES],
            more_registries=max(0, len(registries) - REGISTRIES),
            name_of=registry_name,
            **self._used(now),
        )

    def _used(self, now: float) -> Mapping[str, Any]:
        """Return what was used most, and what has happened last. Empty lists where that can't be read."""
        try:
            return {
                "usage_error": "",
                "top_images": self._usage.top_images(WINDOW, ROWS, now),
                "top_clients": self._usage.top_clients(WINDOW, ROWS, now),
                "moves": self._usage.tag_moves(ROWS),
                "refusals": self._usage.refusals(ROWS),
            }
        except StoreError as error:
            none: list[Any] = []
            lists = dict.fromkeys(("top_images", "top_clients", "moves", "refusals"), none)
            return {"usage_error": str(error), **lists}
