"""Build a worker's admin port: its route table, from the endpoints of all subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from regproxy.admin import openapi
from regproxy.admin.endpoints.activity import Activity
from regproxy.admin.endpoints.audit_tail import AuditTail
from regproxy.admin.endpoints.cache_jobs import CacheJobs
from regproxy.admin.endpoints.control import Control
from regproxy.admin.endpoints.description import Description
from regproxy.admin.endpoints.events import Events
from regproxy.admin.endpoints.inventory import Inventory
from regproxy.admin.endpoints.registries import Registries
from regproxy.admin.endpoints.rules import RuleQuestions
from regproxy.admin.endpoints.sessions import Sessions
from regproxy.admin.endpoints.status import StatusReport
from regproxy.admin.gatekeeper import Gatekeeper
from regproxy.admin.live import Live
from regproxy.admin.operations import Operation, Table, operations_of
from regproxy.admin.paging import Cursors
from regproxy.admin.port import AdminPort
from regproxy.admin.session import AdminSession
from regproxy.admin.tokens import Tokens
from regproxy.config.directories import Directories
from regproxy.dataplane.stream import Stream
from regproxy.jobs.runner import Jobs
from regproxy.policy.image_rules import ImageRules
from regproxy.process.boot import Record
from regproxy.process.cache_wiring import cache_endpoints
from regproxy.process.reloads import Reloads
from regproxy.server.context import Services
from regproxy.server.explanations import Explanations
from regproxy.telemetry.snapshots import Snapshots
from regproxy.web.rendering import Pages
from regproxy.web.site import WEB, web_endpoints

THREADS: Final = 4  # for lists, pages and files, which may take a while
VERSION: Final = "1"  # of the API
# Every class of endpoints: build() makes one of each, and docs/openapi.json describes them.
ENDPOINTS: Final[tuple[type, ...]] = (
    *(Description, Sessions, StatusReport, Activity, Registries, AuditTail, RuleQuestions, Events),
    *(Control, Inventory, CacheJobs),
    *WEB,
)


def operations() -> Iterator[Operation]:
    """Return all operations, without anything that they need to answer."""
    return (operation for kind in ENDPOINTS for operation, _ in operations_of(kind))


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return openapi.document(operations(), VERSION)


def build(
    services: Services,
    directories: Directories,
    record: Record,
    reloads: Reloads,
    jobs: Jobs,
    ready: Callable[[], str | None],
    ends: Callable[[], bool],
    counts: Callable[[], dict[str, int]] | None,
) -> AdminPort:
    """Return the admin port. `ready`, `ends`, `counts`: see AdminPort."""
    config, root = services.config, directories.cache
    gatekeeper = Gatekeeper(Tokens(config, root), services.metrics)
    explanations = Explanations(ImageRules(config.image_rules.rules), services.index)
    snapshots = Snapshots(Path(record.metrics), record.slot, services.board)
    # Of its own: whoever asks much here must not have clients wait for a cold page.
    threads = ThreadPoolExecutor(THREADS, "admin")
    # Whatever these do, other workers hear of this one, and whoever watches is answered.
    live_thread, quick = ThreadPoolExecutor(1, "admin-live"), ThreadPoolExecutor(1, "admin-status")
    live = Live(services, snapshots, record.slot, record.workers, live_thread)
    status = StatusReport(services, root, record.started, ready, quick)
    pages = Pages(metadata.version("regproxy"))
    events = Events(status, live, gatekeeper, quick)
    registries = Registries(services, live, quick)
    inventory, cache_jobs = cache_endpoints(services, root, record, jobs)
    control = Control(services, directories, reloads, threads)
    parts = (status, live, registries, inventory, cache_jobs, control)
    endpoints = (
        *(Description(document), Sessions(gatekeeper, pages.login), status, Activity(live)),
        *(registries, AuditTail(config), RuleQuestions(explanations), events),
        *(control, inventory, cache_jobs),
        *web_endpoints(pages, services, root, record.workers, threads, *parts),
    )
    assert tuple(map(type, endpoints)) == ENDPOINTS
    return AdminPort(
        *(services.metrics, services.loop, ready, ends, counts),
        table=Table.of(*endpoints),
        gatekeeper=gatekeeper,
        cursors=Cursors(bytes.fromhex(record.claim_key)),
        threads=threads,
        other_threads=(live_thread, quick),
        background=live.run,
        on_end=events.close,
        problem_page=pages.problem,
    )


def taker(port: AdminPort) -> Callable[[Stream], None]:
    """Return what takes a new connection."""

    def take(stream: Stream) -> None:
        AdminSession(port, stream)

    return take
