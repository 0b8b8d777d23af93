"""Build what of a worker's admin port reads and steers the cache."""

from __future__ import annotations

from pathlib import Path

from regproxy.admin.endpoints.cache_jobs import CacheJobs
from regproxy.admin.endpoints.inventory import Inventory
from regproxy.cache import layout
from regproxy.cache.index.index import Index
from regproxy.inventory.reading import IndexReader
from regproxy.inventory.warm import Parts, Warming
from regproxy.jobs.history import History
from regproxy.jobs.runner import Jobs
from regproxy.policy.origins import serves
from regproxy.process.boot import Record
from regproxy.server.context import Services


def jobs_of(root: Path) -> Jobs:
    """Return the jobs of a worker. `root`: of the cache."""
    return Jobs(History(layout.jobs(root)))


def cache_endpoints(
    services: Services, root: Path, record: Record, jobs: Jobs
) -> tuple[Inventory, CacheJobs]:
    """Return the endpoints of the cache at `root`."""

    def open_index() -> Index:
        return Index.open(layout.index(root), board=services.board, commits_fd=record.commits)

    parts = Parts(
        *(services.store, services.index, services.fills, services.tags),
        *(services.policy, services.rights.access, services.stretch),
        agent=b"regproxy",
        offline=lambda: services.policy.offline,
        serves=lambda host, port: serves(services.config, host, port),
    )
    return Inventory(IndexReader(root)), CacheJobs(root, jobs, open_index, lambda: Warming(parts))
