"""Single-flight: one download for each content, however many clients want it.

A Fill belongs to the worker and not to the client that asked first: a client that leaves does not stop it.
Its readers follow the part file as it grows; they get its end only once the digest has matched. The same
holds across all workers of a cache: the process with the part's lock downloads, the others follow the file,
and one of them goes on from where a killed one has stopped.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any, Protocol

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.parts import CLAIMED, FAILED, LEFT, VERIFIED, Meta, Part
from regproxy.core.errors import BadResponse, RegproxyError, UpstreamError
from regproxy.dataplane.inotify import Watch
from regproxy.fill import download
from regproxy.fill.download import OTHERS, Downloads, failure, word_for
from regproxy.fill.fill import NO_TYPE, CacheRequest, Fill, Opened, UpstreamAnswer
from regproxy.fill.follower import SOON, Following, Outcome, alone
from regproxy.fill.origin_bodies import Fetcher, Limits
from regproxy.registry.manifests import MANIFEST_MAX
from regproxy.registry.targets import Kind

__all__ = ["NO_TYPE", "CacheRequest", "Fill", "Fills", "Opened", "Run", "UpstreamAnswer"]

log = logging.getLogger(__name__)

# Completes a fill. Its argument takes the fill off the joinable ones; a later request then begins another.
Run = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class Counters(download.Counters, Protocol):
    """The counters of fills."""

    def fill_failed(self, reason: str) -> None:
        """Count a fill that has failed, by the word for its reason."""


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
        """`watch` reports changes to other processes' parts.

        Content over `largest` bytes is not stored; 0: no limit. `patience`: seconds without any progress
        after which another process's fill is no longer followed. `fits`: see Downloads; `limits`: see Bodies.
        """
        self._store = store
        self._index = index
        self._counters = counters
        self._loop = loop
        self._watch = watch
        self._patience = patience
        self.downloads = Downloads(store, upstream, index, counters, loop, largest, fits, limits, watch)
        self._under_way: dict[Hashable, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiters = 0

    @property
    def active(self) -> int:
        """Downloads under way in this process."""
        return sum(not fill.joined for fill in self._under_way.values())

    def opened(self, wanted: CacheRequest) -> Opened | None:
        """Return the origin's head for content by digest that it is sending now."""
        fill = self._under_way.get(_key_of(wanted))
        return fill.head if fill is not None else None

    def join(self, wanted: CacheRequest) -> tuple[Fill, bool]:
        """Return the fill of content by digest, and whether this call began it.

        All clients of a registry share it.
        """
        key = _key_of(wanted)
        fill = self.joinable(key)
        if fill is not None:
            return fill, False
        fill = Fill(wanted, None, self._loop)
        self.start(key, fill, lambda _: self._obtain(fill))
        return fill, True

    def joinable(self, key: Hashable) -> Fill | None:
        """Return the fill under way that equal requests share; None: a new one has to be begun."""
        fill = self._under_way.get(key)
        if fill is None or not fill.joinable:
            return None
        # An answer that another process got before this request must not be used for it.
        fill.asked = time.monotonic()
        return fill

    def start(self, key: Hashable, fill: Fill, run: Run) -> None:
        """Run a fill in a task of its own; requests with the same `key` join it meanwhile."""
        self._under_way[key] = fill
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
            self._leave(fill, key)

    def _leave(self, fill: Fill, key: Hashable) -> None:
        if self._under_way.get(key) is fill:
            del self._under_way[key]

    async def finish(self, timeout: float) -> list[str]:
        """Wait for the tasks under way; then cancel the rest and return the references of the fills cut."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout)
        cut = [fill.wanted.target.reference for fill in self._under_way.values() if not fill.joined]
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return cut

    # --- content by digest -------------------------------------------------------------------------------

    async def _obtain(self, fill: Fill) -> None:
        target = fill.wanted.target
        limit = 0 if target.kind is Kind.BLOB else MANIFEST_MAX
        source = ""
        while True:
            part = self._store.claim(target.reference, limit=limit, source=source)
            if part.mine:
                blob = self._store.lookup(target.reference)
                if blob is not None:
                    # Another process has stored it since this client asked.
                    self._store.abort(part)
                    self._stored_elsewhere(fill, blob)
                    return
                if await self._go_on(fill, part):
                    return
            else:
                try:
                    if await self._follow(fill, part):
                        return
                except _Foreign:
                    source = fill.wanted.source
                    continue
            # The process that is in the way has its turn first.
            await asyncio.sleep(SOON)

    async def _go_on(self, fill: Fill, part: Part) -> bool:
        """Download the part's missing bytes; use those of its last filler where they are known to be good.

        False: they are not, and the part has to be claimed anew.
        """
        fill.joined = False
        growth = part.growth
        try:
            if part.path is not None:
                meta = part.read()
                if meta is not None and (part.size or meta.mapped) and _take_over(fill, part, meta):
                    _hear(fill, meta)
                elif growth.written or growth.extents is not None:
                    # A growth can't shrink, and its readers were given bytes that are not known to be right.
                    if fill.opened.done():
                        raise UpstreamError("the process that fetched it has given it up")
                    self._store.leave(part)
                    return False
                elif part.size and part.removed():
                    # Other processes may still read it: it must not change under them.
                    self._store.leave(part)
                    return False
                else:
                    part.restart()
                    part.write(Meta(CLAIMED, host=fill.wanted.source))
        except OSError as error:
            self._store.relay(part, error.errno or errno.EIO)
        resumed = (growth.written > 0 or growth.extents is not None) and not fill.opened.done()
        try:
            await self.downloads.run(fill, part)
        except BadResponse as error:
            if resumed and not fill.opened.done():
                # No client has seen a byte of it, and what is wrong with the rest may be right in the whole.
                log.info("%s is fetched anew: %s", fill.wanted.target.reference, error)
                return False
            raise
        return True

    async def _follow(self, fill: Fill, part: Part) -> bool:
        """Follow the part while another process fills it; False: nothing came of it, try again."""
        fill.joined = True
        growth = part.growth
        try:
            following = Following(part, self._watch, self._patience)
            outcome = await following.run(
                lambda meta: self._opened_elsewhere(fill, part, meta),
                lambda: self._stored_fd(fill.wanted.target.reference),
                lambda meta: _refuse_foreign(fill, meta),
            )
            if outcome is Outcome.OURS:
                meta = following.meta
                if meta is not None and meta.state == LEFT and _same(fill, meta):
                    # Later requests go on with it; the clients of this fill have waited for what has failed.
                    raise failure(meta.word, meta.reason)
                return await self._go_on(fill, part)
            if outcome is Outcome.STALLED and not fill.opened.done():
                fill.joined = False
                await self.downloads.run(fill, self._store.in_memory())
                return True
            if outcome in (Outcome.ALONE, Outcome.STALLED) and fill.opened.done():
                alone(part)
                fill.joined = False
                await self.downloads.run(fill, part)
                return True
            return self._followed(fill, part, outcome, following.meta)
        except BaseException as error:
            growth.fail(str(error) or type(error).__name__)
            # The error may keep all of this alive for a while.
            self._store.leave(part)
            raise
        finally:
            part.close()

    def _stored_fd(self, digest: str) -> int | None:
        blob = self._store.lookup(digest)
        return blob.file.fd if blob is not None else None

    def _followed(self, fill: Fill, part: Part, outcome: Outcome, meta: Meta | None) -> bool:
        """Complete or fail the fill as another process did; False: it has left nothing."""
        digest = fill.wanted.target.reference
        if outcome is Outcome.STORED:
            blob = self._store.lookup(digest)
            if blob is not None:
                self._stored_elsewhere(fill, blob)
                return True
        elif outcome is Outcome.UNSTORED:
            fill.complete(self._store.unstored(part, digest))
            return True
        elif outcome is Outcome.FAILED:
            self._failed_elsewhere(fill, meta)
        return False

    def _opened_elsewhere(self, fill: Fill, part: Part, meta: Meta) -> None:
        part.growth.expect(meta.total)
        _hear(fill, meta)
        fill.fetched_from, fill.seconds = meta.address, meta.seconds
        if not fill.opened.done():
            fill.opened.set_result(Opened(part.growth, meta.total))

    def _stored_elsewhere(self, fill: Fill, blob: Blob) -> None:
        fill.joined = True
        fill.complete(blob)

    def _failed_elsewhere(self, fill: Fill, meta: Meta | None) -> None:
        """Fail as the filler did, if clients were given part of it already or it asked the same registry and
        its failure was not due to its credentials.
        """
        assert meta is not None
        if fill.opened.done() or _same(fill, meta):
            raise failure(meta.word, meta.reason)


class _Foreign(Exception):
    """A part is being filled from another registry, and is not verified yet."""


def _key_of(wanted: CacheRequest) -> tuple[str, str]:
    return wanted.source, wanted.target.reference


def _refuse_foreign(fill: Fill, meta: Meta) -> None:
    """Raise _Foreign where a part's filler asks another registry: that may be slow, or send wrong content."""
    if meta.state != VERIFIED and meta.host != fill.wanted.source and not fill.opened.done():
        raise _Foreign


def _same(fill: Fill, meta: Meta) -> bool:
    """Return whether the filler's failure holds for this fill too: it asked the same source, and its own
    credentials were not at fault.
    """
    return meta.host == fill.wanted.source and meta.word not in OTHERS


def _hear(fill: Fill, meta: Meta) -> None:
    """Take over the media type that a filler was told, where it asked the same registry."""
    if meta.host == fill.wanted.source:
        fill.media_type = meta.media_type or fill.media_type


def _take_over(fill: Fill, part: Part, meta: Meta) -> bool:
    """Take over the bytes and the meta that another filler has left; False: they are not known to be good."""
    growth = part.growth
    if meta.state in (CLAIMED, FAILED):
        return False
    if meta.state != VERIFIED and meta.host not in ("", fill.wanted.source) and not fill.opened.done():
        # From another registry: if it is wrong, this registry's clients would be cut off for it.
        return False
    said = meta.size if meta.state == VERIFIED else meta.total
    if (meta.state == VERIFIED and part.size != said) or (not meta.mapped and part.size > said >= 0):
        # It has another size than was verified, or more bytes than it should.
        return False
    if meta.state == VERIFIED:
        growth.gather()
    elif meta.mapped:
        return part.take_map(meta.total)
    growth.follow(part.size)
    growth.expect(said)
    return True
