"""Single-flight: one download for each content, however many clients want it, each a reader of it.

A Fill belongs to the worker and not to the client that asked first: who leaves does not stop it. Its readers
follow the part file as it grows; the end of the file is theirs only once the digest has matched. The same
goes for all workers of a cache together: who has the part's lock downloads, the others follow the file, and
one of them goes on where a killed one has stopped.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

from regproxy import download, oci
from regproxy._follow import Watch
from regproxy.auth import Origin
from regproxy.download import REFUSED, Downloads, failure, word_for
from regproxy.errors import BadResponse, RegproxyError, UpstreamError
from regproxy.filling import NO_TYPE, Fill, Opened, UpstreamAnswer, Wanted
from regproxy.follow import SOON, Following, Outcome, alone
from regproxy.heads import Framing, Response
from regproxy.index import TagRow
from regproxy.oci import MANIFEST_MAX, Accept, Kind
from regproxy.parts import FAILED, VERIFIED, Meta, Part
from regproxy.store import Blob, Store
from regproxy.tagclaims import CLAIMS, TagClaim, TagClaims
from regproxy.upstream import Upstream

__all__ = ["NO_TYPE", "Fill", "Fills", "Opened", "UpstreamAnswer", "Wanted"]

log = logging.getLogger(__name__)

_NOT_SHARED: Final = frozenset({b"set-cookie", b"set-cookie2"})
_WRITTEN: Final = 5.0  # seconds that a fetched tag may take to be known to the other processes


class Recorder(download.Recorder, Protocol):
    """Where stored content and tags are entered."""

    def put_tag(
        self, host: str, port: int, repository: str, tag: str, row: TagRow, *, asked: float | None = None
    ) -> None:
        """Enter what a tag is, unless it was dropped after `asked` (monotonic)."""

    def dropped_at(self, host: str, port: int, repository: str, tag: str) -> float:
        """When the tag was last set or deleted by a client, monotonic."""

    def flush(self, timeout: float) -> bool:
        """Wait until all of it is known to other processes."""


class Counters(download.Counters, Protocol):
    """Where fills are counted."""

    def fill_failed(self, reason: str) -> None:
        """Count one that did not end in the cache, by a word."""


class Fills:
    """The fills under way. `active` and `waiters` are gauges."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        index: Recorder,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        *,
        watch: Watch | None = None,
        claim_key: bytes = b"",
        largest: int = 0,
        patience: float = 300.0,
        fits: Callable[[int], bool] = lambda total: True,
    ) -> None:
        """`watch` tells of other processes' parts; `claim_key` is the same secret in all of them.

        What is larger than `largest` bytes is not stored; 0: everything is. `patience`: seconds without any
        progress after which another process's fill is followed no longer. `fits`: see Downloads.
        """
        self._store = store
        self._index = index
        self._counters = counters
        self._loop = loop
        self._watch = watch
        self._patience = patience
        self._downloads = Downloads(store, upstream, index, counters, loop, largest, fits)
        self._claims = TagClaims(store.root / CLAIMS, claim_key, watch)
        self._under_way: dict[object, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # A database that is locked must not keep cold pages and names waiting for a thread.
        self._writing = ThreadPoolExecutor(2, "written")
        self.waiters = 0

    @property
    def active(self) -> int:
        """Downloads under way in this process."""
        return sum(not fill.joined for fill in self._under_way.values())

    def opened(self, digest: str) -> Opened | None:
        """What the origin has said of content by digest that it is sending now."""
        fill = self._under_way.get(digest)
        return fill.head if fill is not None else None

    def join(
        self, wanted: Wanted, accept: Accept | None = None, held: Callable[[], Blob | None] = lambda: None
    ) -> tuple[Fill, bool]:
        """The fill for what is wanted, and whether it was begun just now.

        `held` looks whether a tag is held that is fresh: another process may just have fetched it.

        By digest it is one for all; a tag's is shared by equal requests only, `accept` being part of them, as
        an origin may answer others with something else.
        """
        target = wanted.target
        key: object = target.reference
        if target.kind is Kind.TAG:
            key = (wanted.signature, target.reference, accept)
        fill = self._under_way.get(key)
        if fill is not None and fill.joinable:
            # An answer that another process had before this request is not one to it.
            fill.asked = time.monotonic()
            return fill, False
        fill = self._under_way[key] = Fill(wanted, accept, held, self._loop)
        self._spawn(self._run(fill, key))
        return fill, True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, fill: Fill, key: object) -> None:
        try:
            if fill.wanted.target.kind is Kind.TAG:
                await self._obtain_tag(fill, key)
            else:
                await self._obtain(fill)
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

    def _leave(self, fill: Fill, key: object) -> None:
        if self._under_way.get(key) is fill:
            del self._under_way[key]

    # --- content by digest -------------------------------------------------------------------------------

    async def _obtain(self, fill: Fill) -> None:
        target = fill.wanted.target
        limit = 0 if target.kind is Kind.BLOB else MANIFEST_MAX
        while True:
            part = self._store.claim(target.reference, limit=limit)
            if part.mine:
                blob = self._store.lookup(target.reference)
                if blob is not None:
                    # Another process has stored it since this client asked.
                    self._store.abort(part)
                    self._stored_elsewhere(fill, blob)
                    return
                if await self._go_on(fill, part):
                    return
            elif await self._follow(fill, part):
                return
            # Whoever is in the way of it has its turn first.
            await asyncio.sleep(SOON)

    async def _go_on(self, fill: Fill, part: Part) -> bool:
        """Download what the part lacks; what its last filler has left is used where it is known to be good.

        False: it is not, and has to be claimed anew.
        """
        fill.joined = False
        growth = part.growth
        try:
            if part.path is not None:
                meta = part.read()
                if part.size and meta is not None and meta.state != FAILED:
                    growth.follow(part.size)
                    growth.expect(meta.size if meta.state == VERIFIED else meta.total)
                    fill.media_type = meta.media_type or fill.media_type
                elif growth.written:
                    # A growth can't go back, and who reads it was given what is not known to be right.
                    if fill.opened.done():
                        raise UpstreamError("the process that fetched it has given it up")
                    self._store.leave(part)
                    return False
                else:
                    part.restart()
        except OSError as error:
            self._store.relay(part, error.errno or errno.EIO)
        resumed = growth.written > 0 and not fill.opened.done()
        try:
            await self._downloads.run(fill, part)
        except BadResponse:
            if resumed and not fill.opened.done():
                # Nobody has seen anything of it: what is wrong with the rest may not be wrong with the whole.
                return False
            raise
        return True

    async def _follow(self, fill: Fill, part: Part) -> bool:
        """Read what another process fetches; False: there was nothing to be had of it."""
        fill.joined = True
        growth = part.growth
        try:
            following = Following(part, self._watch, self._patience)
            outcome = await following.run(
                lambda meta: self._opened_elsewhere(fill, part, meta),
                lambda: self._stored_fd(fill.wanted.target.reference),
            )
            if outcome is Outcome.OURS:
                return await self._go_on(fill, part)
            if outcome is Outcome.STALLED and not fill.opened.done():
                fill.joined = False
                await self._downloads.run(fill, self._store.in_memory())
                return True
            if outcome in (Outcome.ALONE, Outcome.STALLED) and fill.opened.done():
                alone(part)
                fill.joined = False
                await self._downloads.run(fill, part)
                return True
            return self._followed(fill, part, outcome, following.meta)
        except BaseException as error:
            growth.fail(str(error) or type(error).__name__)
            # The error may hold all of this for a while.
            self._store.leave(part)
            raise
        finally:
            part.close()

    def _stored_fd(self, digest: str) -> int | None:
        blob = self._store.lookup(digest)
        return blob.file.fd if blob is not None else None

    def _followed(self, fill: Fill, part: Part, outcome: Outcome, meta: Meta | None) -> bool:
        """Complete the fill as another process has; False: it has left nothing."""
        digest = fill.wanted.target.reference
        if outcome is Outcome.STORED:
            blob = self._store.lookup(digest)
            if blob is not None:
                self._stored_elsewhere(fill, blob)
                return True
        elif outcome is Outcome.UNKEPT:
            fill.complete(self._store.unkept(part, digest, fill.media_type))
            return True
        elif outcome is Outcome.FAILED:
            self._failed_elsewhere(fill, meta)
        return False

    def _opened_elsewhere(self, fill: Fill, part: Part, meta: Meta) -> None:
        part.growth.expect(meta.total)
        fill.media_type = meta.media_type or fill.media_type
        fill.fetched_from, fill.seconds = meta.address, meta.seconds
        if not fill.opened.done():
            fill.opened.set_result(Opened(part.growth, meta.total, fill.media_type))

    def _stored_elsewhere(self, fill: Fill, blob: Blob) -> None:
        fill.joined = True
        if not blob.media_type:
            blob.media_type = fill.media_type
            if fill.wanted.target.kind is not Kind.BLOB and blob.small is not None:
                with suppress(BadResponse):
                    blob.media_type = oci.check_manifest(blob.small, "")
        fill.complete(blob)

    def _failed_elsewhere(self, fill: Fill, meta: Meta | None) -> None:
        """Fail as the filler did where that is ours too: something was given out, or it asked the same."""
        assert meta is not None
        same = meta.host == fill.host and meta.word != REFUSED
        if fill.opened.done() or same:
            raise failure(meta.word, meta.reason)

    # --- tags --------------------------------------------------------------------------------------------

    async def _obtain_tag(self, fill: Fill, key: object) -> None:
        claim = await self._claims.take(_equal(fill), lambda: fill.asked)
        try:
            if claim.answer is not None and self._share(fill, claim.answer):
                return
            blob = fill.held()
            if blob is not None:
                fill.joined, fill.media_type = True, blob.media_type
                fill.complete(blob)
                return
            fill.joined = False
            began = time.monotonic()
            try:
                await self._downloads.run(fill, self._store.begin(limit=MANIFEST_MAX))
            except UpstreamError as error:
                claim.publish({**_failed_answer(error), "began": began}, time.monotonic())
                raise
            # Who asks from here on asks anew.
            self._leave(fill, key)
            await self._enter(fill, claim, began, time.monotonic())
        finally:
            claim.close()

    def _share(self, fill: Fill, answer: dict[str, Any]) -> bool:
        """Take what another process was answered; False: it is not there any more, or not so any more."""
        if answer["began"] <= self._index.dropped_at(*_tag_key(fill)):
            return False
        fill.joined = True
        if "digest" in answer:
            blob = self._store.lookup(answer["digest"])
            if blob is None:
                return False
            fill.media_type = blob.media_type = answer["type"]
            fill.fetched_from, fill.seconds = answer["address"], answer["seconds"]
            fill.complete(blob)
            return True
        if "status" in answer:
            raise _as_answered(answer, fill.wanted.origin)
        raise failure(answer["word"], answer["reason"])

    async def _enter(self, fill: Fill, claim: TagClaim, began: float, at: float) -> None:
        """Enter what the tag is; other processes know it before the next of them may ask the origin."""
        blob = fill.done.result()
        accepts_index = fill.accept is not None and fill.accept.accepts_index
        blob.media_type = fill.media_type
        if not fill.stored:
            return
        # One row for each answer that a registry may choose by Accept, not for each spelling of Accept.
        variant = f"{fill.media_type} {'any' if accepts_index else 'single'}"
        row = TagRow(variant, blob.digest, fill.media_type, blob.size, time.time(), accepts_index)
        self._index.put_tag(*_tag_key(fill), row, asked=began)
        await self.written()
        answer = {
            "digest": blob.digest,
            "type": fill.media_type,
            "address": fill.fetched_from,
            "seconds": fill.seconds,
            "began": began,
        }
        claim.publish(answer, at)

    async def written(self) -> None:
        """Wait until what was entered is known to other processes, a few seconds at most."""
        await self._loop.run_in_executor(self._writing, self._index.flush, _WRITTEN)

    def forget_tag(self, host: str, port: int, repository: str, tag: str) -> None:
        """A tag was set or deleted: who asks from here on is not to join who asked before."""
        for key, fill in list(self._under_way.items()):
            if fill.wanted.target.kind is Kind.TAG and _tag_key(fill) == (host, port, repository, tag):
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
        self._writing.shutdown(wait=False)
        return cut


def _tag_key(fill: Fill) -> tuple[str, int, str, str]:
    origin, target = fill.wanted.origin, fill.wanted.target
    return origin.host, origin.port, target.repository, target.reference


def _equal(fill: Fill) -> str:
    """What makes two requests for a tag the same one."""
    wanted = fill.wanted
    origin = wanted.origin
    return json.dumps(
        [
            *(origin.scheme, origin.host, origin.port, wanted.target.repository, wanted.target.reference),
            (wanted.request.get(b"authorization") or b"").decode("latin-1"),
            fill.accept.key if fill.accept is not None else "",
        ]
    )


def _failed_answer(error: UpstreamError) -> dict[str, Any]:
    """A failure as those get it who asked the same meanwhile."""
    if not isinstance(error, UpstreamAnswer):
        return {"word": word_for(error), "reason": str(error)}
    response = error.response
    kept = (field for field in response.headers if field[0] not in _NOT_SHARED)
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in kept]
    body = base64.b64encode(error.body).decode()
    return {"status": response.status, "headers": headers, "body": body}


def _as_answered(answer: dict[str, Any], origin: Origin) -> UpstreamAnswer:
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer["headers"])
    body = base64.b64decode(answer["body"])
    response = Response(answer["status"], b"", 1, headers, Framing("length", len(body)), True)
    return UpstreamAnswer(response, body, origin)
