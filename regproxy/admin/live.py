"""What this worker does just now, for whichever worker is asked; and what all of them do."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Final

from regproxy.dataplane.stream import Stream
from regproxy.fill.fill import Fill
from regproxy.server.context import Services
from regproxy.server.sessions.session import Session
from regproxy.telemetry.snapshots import (
    ROWS_MAX,
    LiveCircuit,
    LiveClient,
    LiveDownload,
    LiveEvent,
    LiveFailure,
    Snapshot,
    Snapshots,
)

log = logging.getLogger(__name__)

EVERY: Final = 1.0  # seconds between two snapshots
_LOOK: Final = 0.1
_PATIENCE: Final = 2.0  # seconds for the first ones, where nobody has asked for a while
_SLICE: Final = 500  # connections that are looked at before others have their turn
_TEXT_MAX: Final = 512  # characters

Awaited = tuple[str, str, str]  # registry, repository or "", reference
_Download = tuple[str, str, str, float]  # source, repository, reference, when it began (monotonic)


class Live:
    """Writes this worker's snapshots while somebody asks for them, and reads everybody's."""

    def __init__(
        self, services: Services, snapshots: Snapshots, slot: int, workers: int, threads: Executor
    ) -> None:
        """`workers`: how many there are. `threads`: others miss this worker while they are busy."""
        self._threads = threads
        self._services = services
        self._snapshots = snapshots
        self._slot = slot
        self._workers = workers
        self._loop = services.loop
        # Bytes of each download at the last snapshot, and when that was (monotonic). By what it is, and when
        # it began: a fill that is kept here would keep its file open.
        self._before: dict[_Download, tuple[int, float]] = {}
        # When each began (epoch): told once, as lists are in that order, and cursors name it.
        self._since: dict[_Download, float] = {}

    async def run(self) -> None:
        """Write, once a second, while somebody asks."""
        while True:
            await asyncio.sleep(EVERY)
            if not self._snapshots.wanted:
                self._before.clear()
                continue
            try:
                snapshot = await self.collect()
                await self._loop.run_in_executor(self._threads, self._snapshots.write, snapshot)
            except OSError as error:
                log.warning("the live snapshot: %s", error)
            except Exception:
                log.exception("the live snapshot")

    async def all(self) -> list[Snapshot]:
        """Return what all workers do. Waits a little where nobody has asked lately."""
        known = self._snapshots.wanted
        self._snapshots.ask()
        ends = time.monotonic() + _PATIENCE
        while True:
            found = await self._loop.run_in_executor(self._threads, self._snapshots.read)
            if len(found) >= self._workers or (known and found) or time.monotonic() > ends:
                return found
            await asyncio.sleep(_LOOK)

    # --- this worker -------------------------------------------------------------------------------------

    async def collect(self) -> Snapshot:
        """Return what this worker does. With many connections it takes several turns of the loop."""
        waiters: Counter[Awaited] = Counter()
        connections: Counter[tuple[str, str]] = Counter()
        requests: Counter[tuple[str, str]] = Counter()
        for number, item in enumerate(self._services.reactor.items(), 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            handler = item.handler if isinstance(item, Stream) and item.open else None
            if isinstance(handler, Session):
                client = _client(handler)
                connections[client] += 1
                if handler.exchange.request is not None:
                    requests[client] += 1
                    _count_waiting(handler, waiters)
        upstream, now = self._services.upstream, time.time()
        return Snapshot(
            *(self._slot, os.getpid(), now),
            downloads=list(self._downloads(waiters, now)),
            clients=[
                LiveClient(name, kind, count, requests[kind, name])
                for (kind, name), count in connections.most_common(ROWS_MAX)
            ],
            circuits=[
                LiveCircuit(origin.name, origin.port, failures, now + left if left else 0.0, _cut(cause))
                for origin, failures, left, cause in upstream.gate.breakers.known()
            ],
            failures=[
                LiveFailure(each.registry, each.count, each.at, each.message)
                for each in upstream.gate.failures.known()
            ],
            events=[
                LiveEvent(each.number, each.at, each.kind, each.fields)
                for each in self._services.events.latest()
            ],
        )

    def _downloads(self, waiters: Counter[Awaited], now: float) -> Iterator[LiveDownload]:
        """Return the fills under way; `rate` is that since the last snapshot."""
        clock, before, since = time.monotonic(), self._before, self._since
        self._before, self._since = {}, {}
        for fill in self._services.fills.under_way()[:ROWS_MAX]:
            size = _bytes(fill)
            wanted, head = fill.wanted, fill.head
            repository, reference = wanted.target.repository, wanted.target.reference
            key = (wanted.source, repository, reference, fill.began)
            earlier, at = before.get(key, (size, clock))
            self._before[key] = (size, clock)
            self._since[key] = since.get(key, now - (clock - fill.began))
            yield LiveDownload(
                digest=_cut(reference),
                registry=wanted.origin.name,
                repository=_cut(repository),
                bytes=size,
                total=head.total if head is not None else -1,
                rate=(size - earlier) / (clock - at) if clock > at else 0.0,
                waiters=waiters[awaited(wanted.origin.name, repository, reference)],
                since=self._since[key],
                resumes=fill.progress.resumes if fill.progress is not None else 0,
                follows=fill.joined,
            )


def _client(session: Session) -> tuple[str, str]:
    """Return the kind and name of whose connection it is."""
    exchange = session.exchange
    if exchange.principal.name:
        return "principal", exchange.principal.name
    return "address", exchange.peer


def awaited(registry: str, repository: str, reference: str) -> Awaited:
    """Return what requests wait for: a digest is the same content whatever repository it was asked for in."""
    return (registry, "" if ":" in reference else repository, reference)


def _count_waiting(session: Session, waiters: Counter[Awaited]) -> None:
    exchange = session.exchange
    if exchange.waiting and exchange.route is not None and exchange.origin is not None:
        target = exchange.route.target
        waiters[awaited(exchange.origin.name, target.repository, target.reference)] += 1


def _bytes(fill: Fill) -> int:
    """Return how many bytes of the content are there."""
    growth = fill.head.growth if fill.head is not None else None
    if growth is None:
        return 0
    return growth.extents.written if growth.extents is not None else growth.written


def _cut(text: str) -> str:
    return text[:_TEXT_MAX]
