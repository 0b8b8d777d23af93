"""One download into a part: ask the origin for what is lacking, take it in, verify it, keep it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from regproxy import oci
from regproxy.errors import (
    BadResponse,
    DigestMismatch,
    RegproxyError,
    StoreError,
    UpstreamError,
    UpstreamTimeout,
)
from regproxy.filling import NO_TYPE, Fill, Opened, UpstreamAnswer
from regproxy.heads import parse_content_range
from regproxy.oci import Kind
from regproxy.parts import OPEN, VERIFIED, Meta, Part
from regproxy.policy import Verdict, after_head
from regproxy.store import Store
from regproxy.upstream import Fetched, Upstream

log = logging.getLogger(__name__)

REFUSED: Final = "refused"
# Where asking for all of it may help; not what says that there is nothing for us, or nothing now.
_NO_RANGES: Final = frozenset({400, 403, 405, 412, 417, 501})
LARGE: Final = 1 << 20  # bytes; room is made for such a body before it has come


class Recorder(Protocol):
    """Where stored content is entered."""

    def put_object(self, digest: str, size: int, media_type: str | None, disk: int | None = None) -> None:
        """Enter content that has been committed; `disk`: the bytes that it takes there."""

    def announce(self) -> None:
        """Tell who keeps the cache within its limits that something large is coming."""


class Counters(Protocol):
    """Where downloads are counted."""

    def upstream_bytes(self, host: str, n: int) -> None:
        """Count body bytes that an origin sent."""

    def digest_mismatch(self, registry: str) -> None:
        """Count content that was not what its digest names."""

    def fill_started(self) -> None:
        """Count a download that was begun."""


class Downloads:
    """Carries out fills whose part is ours. What has more than `largest` bytes (0: any) is not stored."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        index: Recorder,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        largest: int = 0,
        fits: Callable[[int], bool] = lambda total: True,
    ) -> None:
        """`fits`: whether the cache has room for a download of so many bytes beside those under way."""
        self._store = store
        self._upstream = upstream
        self._index = index
        self._counters = counters
        self._loop = loop
        self._largest = largest
        self._fits = fits

    async def run(self, fill: Fill, part: Part) -> None:
        """Complete the part from where it ends, and the fill with it; the part is closed in the end.

        Raises RegproxyError, after the part's readers, here and elsewhere, have been told.
        """
        self._counters.fill_started()
        fetched = None
        try:
            await self._hash_what_is_there(part)
            if not _complete(part):
                fetched = await self._ask(fill, part)
                await self._receive(fill, part, fetched)
            digest = await self._verify(fill, fetched, part)
            self._tell(part, lambda: _meta(fill, part, VERIFIED, size=part.growth.written))
            part.growth.finish()
            if fetched is not None:
                # Others may use the connection from here on: it is not ours to abort any more.
                self._upstream.release(fetched.connection, fetched.response)
                fetched = None
            await self._keep(fill, part, digest)
        except BaseException as error:
            if fetched is not None:
                fetched.connection.abort()
            self._give_up(fill, part, error)
            raise
        finally:
            part.growth.on_spill = None  # it holds the part, which holds the growth

    async def _hash_what_is_there(self, part: Part) -> None:
        growth = part.growth
        if growth.hashed < growth.written:
            try:
                await self._loop.run_in_executor(None, growth.catch_up)
            except OSError as error:
                raise StoreError(f"{part.path}: {error.strerror}") from error

    # --- the origin's answer -----------------------------------------------------------------------------

    async def _ask(self, fill: Fill, part: Part) -> Fetched:
        """Ask for what is lacking, and let those who wait have the head. UpstreamAnswer is a refusal."""
        wanted, growth = fill.wanted, part.growth
        offset = growth.written
        fetched = await self._upstream.fetch(wanted.origin, wanted.request, "GET", offset)
        if offset and fetched.response.status in _NO_RANGES:
            # It may be the range that it refuses, or whoever is between us and it.
            await self._answer(fetched)
            fetched = await self._upstream.fetch(wanted.origin, wanted.request, "GET")
        try:
            verdict = after_head(fetched.response.status, resumed=offset > 0)
            if verdict in (Verdict.TROUBLE, Verdict.RELAY, Verdict.FOLLOW):
                raise await self._answer(fetched)
            total = _check(fetched, verdict, offset)
            if 0 <= total < offset:
                raise BadResponse(f"{fetched.origin.host} has {total} bytes of what has {offset} already")
            if growth.total >= 0 and total not in (-1, growth.total):
                raise BadResponse(
                    f"{fetched.origin.host} says {total} bytes now, after {growth.total} before: not resumed"
                )
            if verdict is Verdict.STORE and fetched.response.status == 200:
                growth.pass_over(offset)
            self._open(fill, part, fetched, max(total, growth.total))
        except UpstreamAnswer:
            raise
        except BaseException:
            fetched.connection.abort()
            raise
        return fetched

    def _open(self, fill: Fill, part: Part, fetched: Fetched, total: int) -> None:
        growth, response = part.growth, fetched.response
        growth.expect(total)
        if 0 < self._largest < total or (total >= LARGE and not self._fits(total)):
            # Room for it can't be made, and much else would have gone for it.
            self._store.relay(part, errno.EFBIG)
        growth.largest = self._largest
        fill.fetched_from, fill.seconds = fetched.connection.address, fetched.seconds
        if not fill.opened.done():
            if fill.media_type == NO_TYPE and response.status != 416:
                fill.media_type = (response.get(b"content-type") or NO_TYPE.encode()).decode("latin-1")
            fill.opened.set_result(Opened(growth, total, fill.media_type))
        self._tell(part, lambda: _meta(fill, part, OPEN))
        growth.on_spill = lambda: self._spilled(part)
        if total >= LARGE:
            self._index.announce()

    def _tell(self, part: Part, meta: Callable[[], Meta]) -> None:
        """Tell other processes, where there is a disk to do it by."""
        if part.path is not None:
            try:
                part.write(meta())
            except OSError as error:
                # It would fail for the body too. Without this, who follows could wait for ever.
                self._store.relay(part, error.errno or errno.EIO)

    def _spilled(self, part: Part) -> None:
        """The disk has taken all it could: who follows elsewhere goes on alone."""
        if part.path is not None:
            self._store.failed(part.growth.disk_errno)
            part.disown()

    async def _receive(self, fill: Fill, part: Part, fetched: Fetched) -> None:
        response, growth = fetched.response, part.growth
        before = growth.written
        try:
            if response.status in (200, 206):
                await fetched.connection.read_body(growth, response.body)
            else:
                await fetched.connection.read_small(response)  # 416's text
        finally:
            self._counters.upstream_bytes(fetched.origin.host, growth.written - before)

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
        except BaseException:
            fetched.connection.abort()
            raise
        self._upstream.release(fetched.connection, response)
        return UpstreamAnswer(response, body, fetched.origin)

    # --- its end -----------------------------------------------------------------------------------------

    async def _verify(self, fill: Fill, fetched: Fetched | None, part: Part) -> str:
        """The digest of what came; DigestMismatch or BadResponse where it is not what was asked for."""
        target, origin = fill.wanted.target, fill.wanted.origin
        digest = "sha256:" + part.growth.hexdigest()
        wanted = target.reference
        if target.kind is Kind.MANIFEST and fill.media_type == NO_TYPE:
            # Taken over behind its last byte, from who did not say.
            with suppress(BadResponse):
                content = await self._loop.run_in_executor(None, _content, part)
                fill.media_type = oci.check_manifest(content, "")
        if target.kind is Kind.TAG:
            assert fetched is not None
            wanted = (fetched.response.get(b"docker-content-digest") or b"").decode("latin-1")
            body = await self._loop.run_in_executor(None, _content, part)
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

    async def _keep(self, fill: Fill, part: Part, digest: str) -> None:
        """Store what has been verified; the readers have all of it already."""
        media_type = None if fill.wanted.target.kind is Kind.BLOB else fill.media_type
        try:
            blob = await self._store.commit(part, digest)
        except StoreError as error:
            # It is verified and open: a disk that is full or read-only is no reason to fail those who wait.
            log.warning("not kept: %s", error)
            blob = self._store.unkept(part, digest, fill.media_type)
            part.disown()
            part.close()
        else:
            blob.media_type = media_type or NO_TYPE
            self._index.put_object(digest, blob.size, media_type, blob.disk)
            fill.stored = True
        fill.complete(blob)

    def _give_up(self, fill: Fill, part: Part, error: BaseException) -> None:
        """Tell all readers. What is there stays for others where it was not the content that failed."""
        growth = part.growth
        growth.fail(str(error) or type(error).__name__)
        if growth.done:
            # Only keeping it has failed: its readers have it open, and read on.
            self._store.abort(part)
            return
        ours_alone = isinstance(error, UpstreamAnswer | asyncio.CancelledError)
        if ours_alone and growth.written and part.path is not None:
            self._store.leave(part)
            return
        if isinstance(error, RegproxyError) and not isinstance(error, UpstreamAnswer):
            with suppress(OSError):  # it is only the reason that is lost
                part.write(_meta(fill, part, OPEN).failed(word_for(error), str(error)))
        self._store.abort(part)


def _meta(fill: Fill, part: Part, state: str, *, size: int = -1) -> Meta:
    return Meta(
        *(state, part.growth.total, fill.media_type, fill.fetched_from, fill.seconds),
        size=size,
        host=fill.host,
    )


def word_for(error: RegproxyError) -> str:
    """One word for a failure, for a metric's label."""
    if isinstance(error, UpstreamAnswer):
        return REFUSED
    if isinstance(error, DigestMismatch):
        return "digest"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    if isinstance(error, StoreError):
        return "disk"
    return "upstream"


def failure(word: str, reason: str) -> UpstreamError:
    """The error that another process had; the opposite of word_for()."""
    kinds = {"digest": DigestMismatch, "timeout": UpstreamTimeout}
    return kinds.get(word, UpstreamError)(reason)


def _complete(part: Part) -> bool:
    """Whether nothing is lacking: its filler was killed behind the last byte."""
    growth = part.growth
    return growth.done or 0 <= growth.total == growth.written


def _check(fetched: Fetched, verdict: Verdict, offset: int) -> int:
    """The whole's length, -1 if it is not known; BadResponse where the head can't be that of the content."""
    response, host = fetched.response, fetched.origin.host
    if verdict is Verdict.COMPLETE:
        return offset
    if verdict is Verdict.BROKEN:
        raise BadResponse(f"{host} answered {response.status} where 200 was asked for")
    coding = (response.get(b"content-encoding") or b"identity").decode("latin-1").lower()
    if coding != "identity":
        raise BadResponse(f"{host} sent Content-Encoding {coding} although identity was asked for")
    if response.status == 206:
        return _check_range(fetched, offset)
    return response.body.length if response.body.kind not in ("chunked", "eof") else -1


def _check_range(fetched: Fetched, offset: int) -> int:
    response, host = fetched.response, fetched.origin.host
    found = parse_content_range(response.get(b"content-range"))
    if found is None or found[0].start != offset:
        raise BadResponse(f"{host} sent another range than bytes {offset}-, which was asked for")
    span, total = found
    if total is not None and span.stop != total:
        raise BadResponse(f"{host} sent bytes up to {span.stop} of {total} where all the rest was asked for")
    return -1 if total is None else total


def _content(part: Part) -> bytes:
    """A manifest's bytes, which are never more than MANIFEST_MAX. Raises StoreError."""
    growth = part.growth
    file = growth.file if growth.memory is None else growth.memory
    try:
        return os.pread(file.fd, growth.written, 0)
    except OSError as error:
        raise StoreError(f"a part can't be read: {error.strerror}") from error
