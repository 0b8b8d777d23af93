"""Build a worker's admin port: its route table, from the endpoints of all subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from regproxy.admin import openapi
from regproxy.admin.endpoints.cache_jobs import CacheJobs
from regproxy.admin.endpoints.description import Description
from regproxy.admin.endpoints.inventory import Inventory
from regproxy.admin.endpoints.rules import RuleQuestions
from regproxy.admin.endpoints.sessions import Sessions
from regproxy.admin.gatekeeper import Gatekeeper
from regproxy.admin.operations import Operation, Table, operations_of
from regproxy.admin.paging import Cursors
from regproxy.admin.port import AdminPort
from regproxy.admin.session import AdminSession
from regproxy.admin.tokens import Tokens
from regproxy.cache import layout
from regproxy.cache.index.index import Index
from regproxy.dataplane.board import Board
from regproxy.dataplane.stream import Stream
from regproxy.inventory.reading import IndexReader
from regproxy.inventory.warm import Parts, Warming
from regproxy.jobs.runner import Jobs
from regproxy.policy.image_rules import ImageRules
from regproxy.process.boot import Record
from regproxy.server.context import Services
from regproxy.server.explanations import Explanations

VERSION: Final = "1"  # of the API
# Every class of endpoints: build() makes one of each, and docs/openapi.json describes them.
ENDPOINTS: Final[tuple[type, ...]] = (Description, Sessions, RuleQuestions, Inventory, CacheJobs)


def operations() -> Iterator[Operation]:
    """Return all operations, without anything that they need to answer."""
    return (operation for kind in ENDPOINTS for operation, _ in operations_of(kind))


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return openapi.document(operations(), VERSION)


def build(
    services: Services,
    root: Path,
    record: Record,
    ready: Callable[[], str | None],
    ends: Callable[[], bool],
    live: Callable[[], dict[str, int]] | None,
    jobs: Jobs,
) -> AdminPort:
    """Return the admin port. `root`: of the cache; `ready`, `ends`, `live`: see AdminPort."""
    gatekeeper = Gatekeeper(Tokens(services.config, root), services.metrics)
    explanations = Explanations(ImageRules(services.config.image_rules.rules), services.index)
    endpoints = (
        *(Description(document), Sessions(gatekeeper), RuleQuestions(explanations)),
        *(Inventory(IndexReader(root)), _cache_jobs(services, root, record, jobs)),
    )
    assert tuple(map(type, endpoints)) == ENDPOINTS
    return AdminPort(
        *(services.metrics, services.loop, ready, ends, live),
        table=Table.of(*endpoints),
        gatekeeper=gatekeeper,
        cursors=Cursors(bytes.fromhex(record.claim_key)),
    )


def _cache_jobs(services: Services, root: Path, record: Record, jobs: Jobs) -> CacheJobs:
    board = Board(record.board)

    def open_index() -> Index:
        return Index.open(layout.index(root), board=board, commits_fd=record.commits)

    parts = Parts(
        *(services.store, services.index, services.fills, services.tags),
        *(services.policy, services.rights.access, services.stretch),
        agent=b"regproxy",
        offline=lambda: services.config.offline,
    )
    return CacheJobs(root, jobs, open_index, lambda: Warming(parts))


def taker(port: AdminPort) -> Callable[[Stream], None]:
    """Return what takes a new connection."""

    def take(stream: Stream) -> None:
        AdminSession(port, stream)

    return take
