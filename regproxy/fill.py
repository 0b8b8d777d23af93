"""Single-flight: one download for each content, however many clients want it, each a reader of it.

A Fill belongs to the worker and not to the client that asked first: who leaves does not stop it. Its readers
follow the part file as it grows; the end of the file is theirs only once the digest has matched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from regproxy import oci
from regproxy._relay import Growth
from regproxy.auth import Origin
from regproxy.errors import (
    BadResponse,
    DigestMismatch,
    RegproxyError,
    StoreError,
    UpstreamError,
    UpstreamTimeout,
)
from regproxy.heads import Request, Response
from regproxy.oci import MANIFEST_MAX, Kind, Target
from regproxy.policy import Verdict, after_head
from regproxy.store import Blob, Part, Store
from regproxy.upstream import Fetched, Upstream

log = logging.getLogger(__name__)

NO_TYPE: Final = "application/octet-stream"


class UpstreamAnswer(UpstreamError):
    """The origin answered, but not with content: its status, headers and (small) body are for the client."""

    def __init__(self, response: Response, body: bytes, origin: Origin) -> None:
        super().__init__(f"{origin.host} answered {response.status}")
        self.response = response
        self.body = body
        self.origin = origin


class Recorder(Protocol):
    """Where stored content is entered."""

    def put_object(self, digest: str, size: int, media_type: str | None) -> None:
        """Enter content that has been committed."""


class Counters(Protocol):
    """Where fills are counted."""

    def upstream_bytes(self, host: str, n: int) -> None:
        """Count body bytes that an origin sent."""

    def digest_mismatch(self, registry: str) -> None:
        """Count content that was not what its digest names."""

    def fill_started(self) -> None:
        """Count a download that was begun."""

    def fill_failed(self, reason: str) -> None:
        """Count one that did not end in the cache, by a word."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for. `signature` tells requests apart that an origin may answer differently."""

    origin: Origin
    request: Request
    target: Target

    @property
    def signature(self) -> tuple[object, ...]:
        """Clients with the same one share a refusal."""
        return (self.origin, self.target.repository, self.request.get(b"authorization"))


@dataclass(frozen=True, slots=True)
class Opened:
    """A fill whose origin has begun to send: `total` bytes, -1 where it did not say."""

    growth: Growth
    total: int
    media_type: str


class Fill:
    """One download. `opened` resolves with the origin's head, `done` with the stored content."""

    __slots__ = ("done", "fetched_from", "media_type", "opened", "seconds", "wanted")

    def __init__(self, wanted: Wanted, loop: asyncio.AbstractEventLoop) -> None:
        self.wanted = wanted
        self.opened: asyncio.Future[Opened] = loop.create_future()
        self.done: asyncio.Future[Blob] = loop.create_future()
        self.media_type = NO_TYPE
        self.fetched_from = ""
        self.seconds = 0.0

    @property
    def verified(self) -> bool:
        """Whether all of it is there and its digest has matched."""
        opened = self.opened
        return opened.done() and opened.exception() is None and opened.result().growth.done

    def fail(self, error: BaseException) -> None:
        """Tell everybody who waits."""
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(error)
                # Nobody may be left to hear it; that is no reason for a warning.
                future.exception()


class Fills:
    """The downloads under way. `active` and `waiters` are gauges."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        index: Recorder,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._index = index
        self._counters = counters
        self._loop = loop
        self._under_way: dict[object, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiters = 0

    @property
    def active(self) -> int:
        """Downloads under way."""
        return len(self._under_way)

    def opened(self, digest: str) -> Opened | None:
        """What the origin has said of content by digest that it is sending now."""
        fill = self._under_way.get(digest)
        if fill is None or not fill.opened.done() or fill.opened.exception() is not None:
            return None
        return fill.opened.result()

    def join(self, wanted: Wanted, variant: object = None) -> tuple[Fill, bool]:
        """The fill for what is wanted, and whether it was begun just now.

        By digest it is one for all; a tag's is shared by equal requests only (`variant` tells them apart),
        as an origin may answer others with something else.
        """
        target = wanted.target
        key: object = target.reference
        if target.kind is Kind.TAG:
            key = (wanted.signature, target.reference, variant)
        fill = self._under_way.get(key)
        if fill is not None:
            return fill, False
        fill = self._under_way[key] = Fill(wanted, self._loop)
        self._counters.fill_started()
        self._spawn(self._run(fill, key))
        return fill, True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, fill: Fill, key: object) -> None:
        try:
            await self._download(fill)
        except RegproxyError as error:
            self._counters.fill_failed(_word(error))
            # Its traceback would keep every frame's objects until the collector comes by.
            fill.fail(error.with_traceback(None))
        except asyncio.CancelledError:
            fill.fail(UpstreamError("the proxy is shutting down"))
            raise
        except Exception as error:
            self._counters.fill_failed("internal")
            log.exception("fill of %s failed", fill.wanted.target.reference)
            fill.fail(UpstreamError(f"internal error: {type(error).__name__}"))
        finally:
            del self._under_way[key]

    async def _download(self, fill: Fill) -> None:
        wanted = fill.wanted
        fetched = await self._upstream.fetch(wanted.origin, wanted.request, "GET")
        fill.fetched_from, fill.seconds = fetched.connection.address, fetched.seconds
        verdict = after_head(fetched.response.status)
        if verdict is not Verdict.STORE and verdict is not Verdict.BROKEN:
            raise await self._answer(fetched)
        try:
            _check(fetched, verdict)
            part = self._store.begin(limit=0 if wanted.target.kind is Kind.BLOB else MANIFEST_MAX)
        except BaseException:
            fetched.connection.abort()
            raise
        try:
            digest = await self._receive(fill, fetched, part)
            # Others may use the connection from here on: it is not ours to abort any more.
            self._upstream.release(fetched.connection, fetched.response)
        except BaseException as error:
            fetched.connection.abort()
            self._give_up(part, error)
            raise
        try:
            await self._keep(fill, part, digest)
        except BaseException as error:
            self._give_up(part, error)
            raise

    def _give_up(self, part: Part, error: BaseException) -> None:
        part.growth.fail(str(error) or type(error).__name__)
        self._store.abort(part)

    async def _answer(self, fetched: Fetched) -> UpstreamAnswer:
        """The origin's refusal, its body read so that every client that waits can have it."""
        response = fetched.response
        try:
            body = await fetched.connection.read_small(response)
        except UpstreamError as error:
            # The status is what counts: a client must see 404 or 401 whatever became of the text.
            fetched.connection.abort()
            log.info("the body of a %d: %s", response.status, error)
            return UpstreamAnswer(response, b"", fetched.origin)
        self._upstream.release(fetched.connection, response)
        return UpstreamAnswer(response, body, fetched.origin)

    async def _receive(self, fill: Fill, fetched: Fetched, part: Part) -> str:
        """Take the body in, verify it, let the readers have the end of it; its digest."""
        response, growth = fetched.response, part.growth
        total = (
            response.body.length if response.body.kind != "chunked" and response.body.kind != "eof" else -1
        )
        fill.media_type = (response.get(b"content-type") or NO_TYPE.encode()).decode("latin-1")
        growth.expect(total)
        fill.opened.set_result(Opened(growth, total, fill.media_type))
        try:
            await fetched.connection.read_body(growth, response.body)
        except UpstreamError:
            if growth.disk_failed:
                raise StoreError(growth.reason) from None
            raise
        finally:
            self._counters.upstream_bytes(fetched.origin.host, growth.written)
        digest = await self._verify(fill, response, part)
        growth.finish()
        return digest

    async def _keep(self, fill: Fill, part: Part, digest: str) -> None:
        """Store what has been verified; the readers have all of it already."""
        target = fill.wanted.target
        try:
            blob = await self._store.commit(part, digest)
        except StoreError as error:
            # It is verified and open: a disk that is full or read-only is no reason to fail those who wait.
            log.error("%s is not kept: %s", digest, error)
            self._counters.fill_failed("disk")
            fill.done.set_result(self._store.unkept(part, digest, fill.media_type))
            self._store.abort(part)
            return
        media_type = None if target.kind is Kind.BLOB else fill.media_type
        blob.media_type = media_type or NO_TYPE
        self._index.put_object(digest, blob.size, media_type)
        fill.done.set_result(blob)

    async def _verify(self, fill: Fill, response: Response, part: Part) -> str:
        """The digest of what came; DigestMismatch or BadResponse where it is not what was asked for."""
        target, origin = fill.wanted.target, fill.wanted.origin
        digest = "sha256:" + part.growth.hexdigest()
        wanted = target.reference
        if target.kind is Kind.TAG:
            wanted = (response.get(b"docker-content-digest") or b"").decode("latin-1")
            body = await self._loop.run_in_executor(None, part.path.read_bytes)
            try:
                fill.media_type = oci.check_manifest(body, fill.media_type)
            except BadResponse as error:
                raise BadResponse(f"{origin.host}: {error}") from None
            if not oci.is_digest(wanted):
                # Nothing to compare with: the registry did not say, or by another algorithm.
                return digest
        if digest != wanted:
            self._counters.digest_mismatch(origin.host)
            log.warning(
                "digest mismatch: %s sent %s for %s of %s", origin.host, digest, wanted, target.repository
            )
            raise DigestMismatch(f"{origin.host} sent {digest} where {wanted} was asked for")
        return digest

    async def finish(self, timeout: float) -> list[str]:
        """Wait for what is under way; then give up the rest and return what that was."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout)
        cut = [fill.wanted.target.reference for fill in self._under_way.values()]
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return cut


def _check(fetched: Fetched, verdict: Verdict) -> None:
    """BadResponse where the head can't be that of the content that was asked for."""
    response, host = fetched.response, fetched.origin.host
    if verdict is Verdict.BROKEN:
        raise BadResponse(f"{host} answered {response.status} where 200 was asked for")
    coding = (response.get(b"content-encoding") or b"identity").decode("latin-1").lower()
    if coding != "identity":
        raise BadResponse(f"{host} sent Content-Encoding {coding} although identity was asked for")


def _word(error: RegproxyError) -> str:
    """One word for a failure, for a metric's label."""
    if isinstance(error, UpstreamAnswer):
        return "refused"
    if isinstance(error, DigestMismatch):
        return "digest"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    if isinstance(error, StoreError):
        return "disk"
    return "upstream"
