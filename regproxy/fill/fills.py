"""Single-flight: one download for each content, however many clients want it, each a reader of it.

A Fill belongs to the worker and not to the client that asked first: who leaves does not stop it. Its readers
follow the part file as it grows; the end of the file is theirs only once the digest has matched. The same
goes for all workers of a cache together: see `takeover`.
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
from regproxy.dataplane.inotify import Watch
from regproxy.fill import download
from regproxy.fill.download import Downloads, word_for
from regproxy.fill.fill import NO_TYPE, CacheRequest, Fill, Opened, UpstreamAnswer
from regproxy.fill.origin_bodies import Fetcher, Limits
from regproxy.fill.takeover import PartFiller

__all__ = ["NO_TYPE", "CacheRequest", "Fill", "Fills", "Opened", "Run", "UpstreamAnswer"]

log = logging.getLogger(__name__)

# Completes a fill. It is given what takes it off those that may be joined; whoever asks then begins another.
Run = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class Counters(download.Counters, Protocol):
    """Where fills are counted."""

    def fill_failed(self, reason: str) -> None:
        """Count one that did not end in the cache, by a word."""


class Fills:
    """The fills under way. `active` and `waiters` are gauges."""

    def __init__(
        self,
        store: Store,
        upstream: Fetcher,
        index: download.Recorder,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        *,
        watch: Watch | None = None,
        largest: int = 0,
        patience: float = 300.0,
        fits: Callable[[int, Path | None], bool] = lambda total, part: True,
        limits: Limits | None = None,
    ) -> None:
        """`watch` tells of other processes' parts.

        What is larger than `largest` bytes is not stored; 0: everything is. `patience`: seconds without any
        progress after which another process's fill is followed no longer. `fits`: see Downloads; `limits`:
        see Bodies.
        """
        self._counters = counters
        self._loop = loop
        self.downloads = Downloads(store, upstream, index, counters, loop, largest, fits, limits, watch)
        self._filler = PartFiller(store, self.downloads, watch, patience)
        self._under_way: dict[Hashable, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiters = 0

    @property
    def active(self) -> int:
        """Downloads under way in this process."""
        return sum(not fill.joined for fill in self._under_way.values())

    def opened(self, wanted: CacheRequest) -> Opened | None:
        """What the origin has said of content by digest that it is sending now."""
        fill = self._under_way.get(_key_of(wanted))
        return fill.head if fill is not None else None

    def join(self, wanted: CacheRequest) -> tuple[Fill, bool]:
        """Return the fill of content by digest, and whether it was begun just now.

        It is one for all clients of a registry.
        """
        key = _key_of(wanted)
        fill = self.joinable(key)
        if fill is not None:
            return fill, False
        fill = Fill(wanted, None, self._loop)
        self.start(key, fill, lambda _: self._filler.fill(fill))
        return fill, True

    def joinable(self, key: Hashable) -> Fill | None:
        """Return the fill under way that equal requests share, None where one has to be begun."""
        fill = self._under_way.get(key)
        if fill is None or not fill.joinable:
            return None
        # An answer that another process had before this request is not one to it.
        fill.asked = time.monotonic()
        return fill

    def start(self, key: Hashable, fill: Fill, run: Run) -> None:
        """Run a fill in a task of its own; who asks for `key` meanwhile joins it."""
        self._under_way[key] = fill
        self.spawn(self._run(fill, key, run))

    def separate(self, outdated: Callable[[Fill], bool]) -> None:
        """Let nobody join these fills any more. They go on for who waits."""
        for key, fill in list(self._under_way.items()):
            if outdated(fill):
                del self._under_way[key]

    async def whole(self, wanted: CacheRequest) -> tuple[Fill, bool, Blob]:
        """The fill of content by digest, whether it was begun just now, and all of it.

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
        try:
            await run(lambda: self._leave(fill, key))
        except RegproxyError as error:
            if not fill.joined:
                self._counters.fill_failed(word_for(error))
            # What it has come through would keep every frame's objects until the collector comes by.
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
            self._leave(fill, key)

    def _leave(self, fill: Fill, key: Hashable) -> None:
        if self._under_way.get(key) is fill:
            del self._under_way[key]

    async def finish(self, timeout: float) -> list[str]:
        """Wait for what is under way; then give up the rest and return what that was."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout)
        cut = [fill.wanted.target.reference for fill in self._under_way.values() if not fill.joined]
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return cut


def _key_of(wanted: CacheRequest) -> tuple[str, str]:
    return wanted.source, wanted.target.reference
