"""Single-flight: one download for each content, however many clients want it.

A Fill belongs to the worker and not to the client that asked first: a client that leaves does not stop it.
Its readers follow the part file as it grows; they get its end only once the digest has matched. The same
holds across all workers of a cache: see `takeover`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any, Protocol

from regproxy.cache.blobs import Blob, Store
from regproxy.core.errors import RegproxyError, UpstreamError
from regproxy.core.request_context import CURRENT, RequestContext, TraceSpan, current_span
from regproxy.core.tasks import cancel_all
from regproxy.dataplane.inotify import Watch
from regproxy.fill import download
from regproxy.fill.download import Downloads, word_for
from regproxy.fill.fill import NO_TYPE, CacheRequest, Fill, OpenedFill, UpstreamAnswer
from regproxy.fill.origin_bodies import Fetcher, FillLimits
from regproxy.fill.provenance import OPEN, Provenance
from regproxy.fill.takeover import PartFiller

__all__ = ["NO_TYPE", "CacheRequest", "Fill", "Fills", "OpenedFill", "Run", "UpstreamAnswer"]

log = logging.getLogger(__name__)

# Completes a fill. Its argument takes the fill off the joinable ones; a later request then begins another.
Run = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class FillCounters(download.DownloadCounters, Protocol):
    """The counters of fills."""

    def fill_failed(self, reason: str) -> None:
        """Count a fill that has failed, by the word for its reason."""

    def fill_ended(self, requests: int) -> None:
        """Count the end of a fill that so many requests have shared."""


class Fills:
    """The fills under way. `active` and `waiters` are gauges."""

    def __init__(
        self,
        store: Store,
        upstream: Fetcher,
        index: download.ContentRecorder,
        counters: FillCounters,
        loop: asyncio.AbstractEventLoop,
        *,
        watch: Watch | None = None,
        largest: int = 0,
        patience: float = 300.0,
        fits: Callable[[int, Path | None], bool] = lambda total, part: True,
        limits: FillLimits | None = None,
        provenance: Provenance = OPEN,
    ) -> None:
        """`watch` reports changes to other processes' parts. `provenance`: what of the store
        fills may use.

        Content over `largest` bytes is not stored; 0: no limit. `patience`: seconds without any progress
        after which another process's fill is no longer followed. `fits`: see Downloads; `limits`: see Bodies.
        """
        self._counters = counters
        self._loop = loop
        self.downloads = Downloads(store, upstream, index, counters, loop, largest, fits, limits, watch)
        self._filler = PartFiller(store, self.downloads, watch, patience, provenance)
        self._under_way: dict[Hashable, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiters = 0

    def under_way(self) -> list[Fill]:
        """Return all of them, also those that another process does."""
        return list(self._under_way.values())

    @property
    def active(self) -> int:
        """Downloads under way in this process."""
        return sum(not fill.joined for fill in self._under_way.values())

    def opened(self, wanted: CacheRequest) -> OpenedFill | None:
        """Return the origin's head for content by digest that it is sending now, from this repository."""
        fill = self._under_way.get(_key_of(wanted))
        return fill.head if fill is not None and fill.wanted.repository == wanted.repository else None

    def join(self, wanted: CacheRequest) -> tuple[Fill, bool]:
        """Return the fill of content by digest, and whether this call began it.

        All clients of a registry share it.
        """
        key = _key_of(wanted)
        fill = self.joinable(key)
        if fill is not None:
            return fill, False
        fill = Fill(wanted, None, self._loop)
        self.start(key, fill, lambda _: self._filler.fill(fill))
        return fill, True

    def joinable(self, key: Hashable) -> Fill | None:
        """Return the fill under way that equal requests share; None: a new one has to be begun."""
        fill = self._under_way.get(key)
        if fill is None or not fill.joinable:
            return None
        # An answer that another process got before this request must not be used for it.
        fill.asked = time.monotonic()
        fill.requests += 1
        span = current_span()
        if span is not None and fill.span is not None:
            span.link(fill.span)
        return fill

    def start(self, key: Hashable, fill: Fill, run: Run) -> None:
        """Run a fill in a task of its own; requests with the same `key` join it meanwhile."""
        self._under_way[key] = fill
        span = current_span()
        if span is not None:
            wanted = fill.wanted
            about = {"regproxy.registry": wanted.origin.name, "regproxy.repository": wanted.target.repository}
            fill.span = span.apart("fill", {**about, "regproxy.reference": wanted.target.reference})
        self.spawn(self._run(fill, key, run))

    def separate(self, outdated: Callable[[Fill], bool]) -> None:
        """Make these fills unjoinable. They go on for the clients that wait already."""
        for key, fill in list(self._under_way.items()):
            if outdated(fill):
                del self._under_way[key]

    async def whole(self, wanted: CacheRequest) -> tuple[Fill, bool, Blob]:
        """Return the fill of content by digest, whether this call began it, and the complete content.

        Raises RegproxyError.
        """
        while True:
            fill, mine = self.join(wanted)
            try:
                return fill, mine, await asyncio.shield(fill.done)
            except UpstreamError as error:
                if mine or not fill.failed_for_other_client(wanted, error):
                    raise

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that finish() waits for."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, fill: Fill, key: Hashable, run: Run) -> None:
        if fill.span is not None:
            # A task's own: what began this fill goes on in its own trace.
            CURRENT.set(RequestContext(fill.request_id, fill.span))
        try:
            await run(lambda: self._leave(fill, key))
        except RegproxyError as error:
            if not fill.joined:
                self._counters.fill_failed(word_for(error))
            # Its traceback would keep every frame's objects alive until the garbage collector runs.
            error.__context__ = error.__cause__ = error.__traceback__ = None
            fill.fail(error)
        except asyncio.CancelledError:
            fill.fail(UpstreamError("the proxy is shutting down"))
            raise
        except Exception as error:
            self._counters.fill_failed("internal")
            log.exception("fill of %s failed", fill.wanted.target.reference)
            fill.fail(UpstreamError(f"internal error: {type(error).__name__}"))
        finally:
            if not fill.joined:
                self._counters.fill_ended(fill.requests)
            self._leave(fill, key)
            if fill.span is not None:
                _end_span(fill, fill.span)

    def _leave(self, fill: Fill, key: Hashable) -> None:
        if self._under_way.get(key) is fill:
            del self._under_way[key]

    async def finish(self, timeout: float) -> list[str]:
        """Wait for the tasks under way; then cancel the rest and return the references of the fills cut."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout)
        cut = [fill.wanted.target.reference for fill in self._under_way.values() if not fill.joined]
        await cancel_all(tuple(self._tasks))
        return cut


def _end_span(fill: Fill, span: TraceSpan) -> None:
    """End a fill's span, with what has become of it."""
    failed = fill.done.exception() if fill.done.done() and not fill.done.cancelled() else None
    if failed is None and fill.done.done():
        span.put({"regproxy.bytes": fill.done.result().size, "regproxy.stored": fill.stored})
    span.put({"regproxy.fill.joined": fill.joined})
    span.end(failed)


def _key_of(wanted: CacheRequest) -> tuple[str, str]:
    return wanted.source, wanted.target.reference
