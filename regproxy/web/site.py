"""Build the pages of a worker's admin port."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from regproxy.admin.endpoints.cache_jobs import CacheJobs
from regproxy.admin.endpoints.control import Control
from regproxy.admin.endpoints.inventory import Inventory
from regproxy.admin.endpoints.registries import Registries
from regproxy.admin.endpoints.status import StatusReport
from regproxy.admin.live import Live
from regproxy.server.context import Services
from regproxy.telemetry.metric_samples import Samples
from regproxy.web.image_pages import ImagePages
from regproxy.web.job_pages import JobPages
from regproxy.web.offline_page import OfflinePage
from regproxy.web.overview import OverviewPage
from regproxy.web.rendering import Pages
from regproxy.web.static_files import StaticFiles

WEB: Final[tuple[type, ...]] = (StaticFiles, OverviewPage, ImagePages, JobPages, OfflinePage)


def web_endpoints(
    pages: Pages,
    services: Services,
    root: Path,
    workers: int,
    threads: Executor,
    status: StatusReport,
    live: Live,
    registries: Registries,
    inventory: Inventory,
    jobs: CacheJobs,
    control: Control,
) -> tuple[StaticFiles, OverviewPage, ImagePages, JobPages, OfflinePage]:
    """Return the pages, in the order of WEB. `root`: of the cache; `workers`: how many there should be."""

    def samples() -> Samples:
        return Samples(services.metrics.families())

    return (
        StaticFiles(),
        OverviewPage(pages, samples, root, status, live, registries, workers, threads),
        ImagePages(pages, inventory, jobs, threads),
        JobPages(pages, jobs),
        OfflinePage(pages, control),
    )
