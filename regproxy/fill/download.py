"""Download one content into a part: ask the origin for the missing bytes, receive, verify and store them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.parts import OPEN, VERIFIED, Meta, Part
from regproxy.core.errors import (
    BadResponse,
    Busy,
    CircuitOpen,
    DigestMismatch,
    NotUnderstood,
    OffLimits,
    RateLimited,
    RegproxyError,
    StoreError,
    UnknownCA,
    UpstreamError,
    UpstreamTimeout,
    log_level,
)
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.inotify import Watch
from regproxy.fill import origin_bodies
from regproxy.fill.fill import NO_TYPE, CacheRequest, Fill, OpenedFill, UpstreamAnswer
from regproxy.fill.origin_bodies import Bodies, Fetcher, FillLimits, is_retryable
from regproxy.fill.transfer import Transfer, hash_all
from regproxy.http.messages import Response
from regproxy.registry import manifests, targets
from regproxy.registry.manifests import ManifestType
from regproxy.registry.targets import Kind
from regproxy.upstream.fetch import Fetched

log = logging.getLogger(__name__)

REFUSED: Final = "refused"
LIMITED: Final = "limited"
OTHERS: Final = frozenset({REFUSED, LIMITED})  # failures that may not happen with other credentials
_SOON: Final = 1  # seconds; the Retry-After that a client gets for another process's failure
LARGE: Final = 1 << 20  # bytes; for a body of this size room is made before it has come


class ContentRecorder(Protocol):
    """The index, as downloads use it."""

    def put_object(self, digest: str, size: int, media_type: str | None, disk: int | None = None) -> None:
        """Enter content that has been committed; `disk`: the bytes that it takes on disk."""

    def put_told(
        self, host: str, port: int, repository: str, digest: str, media_type: str, size: int
    ) -> None:
        """Enter the media type that a registry has told for content whose bytes do not state it."""

    def put_presence(
        self, host: str, port: int, repository: str, digest: str, size: int, asked: float | None = None
    ) -> None:
        """Enter that a registry has content in a repository, unless it was deleted there after `asked`."""

    def announce(self) -> None:
        """Tell the process that keeps the cache within its limits that a large body is coming."""


class DownloadCounters(origin_bodies.BodyCounters, Protocol):
    """The counters of downloads."""

    def digest_mismatch(self, registry: str) -> None:
        """Count content whose digest was wrong."""

    def fill_started(self) -> None:
        """Count a download that was begun."""


class Stored(Struct, frozen=True):
    """Content that has just been verified and stored, for `wanted`.

    `media_type`: as the registry has told it; `manifest`: the type that the bytes state, None where they are
    no manifest. `began`: when its fill began, monotonic.
    """

    blob: Blob
    wanted: CacheRequest
    media_type: str
    manifest: ManifestType | None
    began: float


class Downloads:
    """Carries out fills whose part this process owns. Content over `largest` bytes (0: any) is not stored.

    `on_stored`: called in this order for each content that was stored, before the fill completes. The
    callbacks return at once, and raise nothing.
    """

    def __init__(
        self,
        store: Store,
        upstream: Fetcher,
        index: ContentRecorder,
        counters: DownloadCounters,
        loop: asyncio.AbstractEventLoop,
        largest: int = 0,
        fits: Callable[[int, Path | None], bool] = lambda total, part: True,
        limits: FillLimits | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`fits(total, part)`: whether the cache has room for a download of `total` bytes beside the other
        downloads under way, not counting `part` itself.
        """
        self._limits = limits or FillLimits()
        self._watch = watch
        self._store = store
        self._upstream = upstream
        self._index = index
        self._counters = counters
        self._loop = loop
        self.largest = largest
        self._fits = fits
        self.on_stored: list[Callable[[Stored], None]] = [self._enter]

    async def run(self, fill: Fill, part: Part) -> None:
        """Complete the part, starting from its bytes, and the fill with it; close the part in the end.

        Raises RegproxyError, after the part's readers in all processes have been told.
        """
        self._counters.fill_started()
        growth, response = part.growth, None
        bodies = fill.progress = Bodies(fill.wanted, self._upstream, self._counters, self._limits_of(fill))
        try:
            await hash_all(growth, self._loop)
            if not _complete(part):
                response = await self._transfer(fill, part, bodies).run()
            await hash_all(growth, self._loop)
            digest = await self._verify(fill, response, part, bodies.whose)
            if fill.span is not None:
                fill.span.event("verified", {"regproxy.digest": digest, "regproxy.bytes": growth.written})
            self._tell(part, lambda: _meta(fill, part, VERIFIED, size=growth.written))
            growth.finish()
            await self._keep(fill, part, digest)
        except BaseException as error:
            if isinstance(error, DigestMismatch | BadResponse):
                bodies.distrust()
            if isinstance(error, RegproxyError) and not isinstance(error, UpstreamAnswer):
                _say_broken(fill, part, bodies, error)
            self._give_up(fill, part, error)
            raise
        finally:
            growth.on_spill = None  # break the reference cycle: it holds the part, which holds the growth

    def _limits_of(self, fill: Fill) -> FillLimits:
        # A tag may move between two answers, so its body is not resumed but fetched anew (see Tags).
        return self._limits if fill.tag is None else replace(self._limits, resume=0.0)

    def _transfer(self, fill: Fill, part: Part, bodies: Bodies) -> Transfer:
        return Transfer(
            *(fill, part, bodies, self._limits_of(fill), self._watch),
            opened=lambda fetched, total, scattered: self._open(fill, part, fetched, total, scattered),
            relay=lambda error: self._store.relay(part, error),
        )

    # --- the origin's answer -----------------------------------------------------------------------------

    def _open(self, fill: Fill, part: Part, fetched: Fetched, total: int, scattered: bool) -> None:
        growth, response = part.growth, fetched.response
        if 0 < growth.limit < total:
            message = f"{fetched.origin.host} sends {total} bytes: more than {growth.limit}"
            raise NotUnderstood(message, "too-large")
        growth.expect(total)
        if 0 < self.largest < total or (total >= LARGE and not self._fits(total, part.path)):
            # Room for it can't be made, and much else would have been evicted in the attempt.
            self._store.relay(part, errno.EFBIG)
        elif scattered and growth.extents is None and part.path is not None and not part.by_size:
            try:
                part.scatter(total)
            except OSError as error:
                self._store.relay(part, error.errno or errno.EIO)
        growth.largest = self.largest
        fill.fetched_from, fill.seconds = fetched.hops, fetched.seconds
        if not fill.opened.done():
            if fill.media_type == NO_TYPE and response.status != 416:
                fill.media_type = (response.get(b"content-type") or NO_TYPE.encode()).decode("latin-1")
            fill.opened.set_result(OpenedFill(growth, total))
            if fill.span is not None:
                fill.span.event("first byte", {"regproxy.bytes": total})
        self._tell(part, lambda: _meta(fill, part, OPEN))
        growth.on_spill = lambda: self._spilled(part)
        if total >= LARGE:
            self._index.announce()

    def _tell(self, part: Part, meta: Callable[[], Meta]) -> None:
        """Write the part's meta for other processes, where the part is on disk."""
        if part.path is not None:
            try:
                part.write(meta())
            except OSError as error:
                # Writing the body would fail too. Without this, followers could wait for ever.
                self._store.relay(part, error.errno or errno.EIO)

    def _spilled(self, part: Part) -> None:
        """Handle a disk that takes no more: followers in other processes go on alone."""
        if part.path is not None:
            self._store.failed(part.growth.disk_errno)
            part.disown()

    # --- its end -----------------------------------------------------------------------------------------

    async def _verify(self, fill: Fill, response: Response | None, part: Part, whose: str) -> str:
        """Return the digest of the content. Raises DigestMismatch or BadResponse where it is not what was
        asked for.
        """
        target, origin = fill.wanted.target, fill.wanted.origin
        digest = "sha256:" + part.growth.hexdigest()
        wanted = target.reference
        if target.kind is not Kind.BLOB:
            body = await self._loop.run_in_executor(None, _content, part)
            with suppress(BadResponse):
                fill.manifest = manifests.manifest_type(body)
        if target.kind is Kind.TAG:
            assert response is not None
            wanted = (response.get(b"docker-content-digest") or b"").decode("latin-1")
            try:
                fill.media_type = manifests.check_manifest(body, fill.media_type, vouched=digest == wanted)
            except NotUnderstood as error:
                raise NotUnderstood(f"{whose}: {error}", error.detail) from None
            except BadResponse as error:
                raise BadResponse(f"{whose}: {error}") from None
            signed = fill.manifest is not None and fill.manifest.signed
            if not targets.is_digest(wanted) and not signed:
                # Nothing to compare with: the registry sent no digest, or one of another algorithm.
                return digest
        if digest != wanted and fill.manifest is not None and fill.manifest.signed:
            # Its digest is that of the payload without the signatures (distribution spec, schema 1).
            raise NotUnderstood(f"{whose} sent a signed schema 1 manifest", "signed-schema1")
        if digest != wanted:
            self._counters.digest_mismatch(origin.name)
            log.warning("digest mismatch: %s sent %s for %s of %s", whose, digest, wanted, target.repository)
            raise DigestMismatch(f"{whose} sent {digest} where {wanted} was asked for")
        return digest

    async def _keep(self, fill: Fill, part: Part, digest: str) -> None:
        """Store the verified content; its readers have all of it already."""
        manifest = fill.manifest
        try:
            blob = await self._store.commit(part, digest)
        except StoreError as error:
            # It is verified and open: a full or read-only disk is no reason to fail the waiting clients.
            log.warning("not kept: %s", error)
            blob = self._store.unstored(part, digest)
            part.disown()
            part.close()
        else:
            fill.stored = blob.known = True
            stored = Stored(blob, fill.wanted, fill.media_type, manifest, fill.began)
            for subscriber in self.on_stored:
                subscriber(stored)
        if manifest is not None:
            blob.manifest = manifest
        if fill.wanted.target.kind is Kind.MANIFEST:
            self._remember_told(fill, blob)
        fill.complete(blob)

    def _enter(self, stored: Stored) -> None:
        blob, manifest = stored.blob, stored.manifest
        stated = manifest.media_type if manifest is not None and manifest.stated else None
        self._index.put_object(blob.digest, blob.size, stated, blob.disk)
        origin, repository = stored.wanted.origin, stored.wanted.repository
        self._index.put_presence(
            origin.host, origin.port, repository, blob.digest, blob.size, asked=stored.began
        )

    def _remember_told(self, fill: Fill, blob: Blob) -> None:
        """Enter the type that this registry has told for a manifest which does not state its own."""
        told = (fill.manifest or manifests.NO_MANIFEST).told(fill.media_type)
        if fill.manifest is None or told != fill.manifest.media_type:
            origin, repository = fill.wanted.origin, fill.wanted.repository
            self._index.put_told(origin.host, origin.port, repository, blob.digest, told, blob.size)

    def _give_up(self, fill: Fill, part: Part, error: BaseException) -> None:
        """Fail all readers. Leave the part for other fillers unless its content was at fault."""
        growth = part.growth
        growth.fail(str(error) or type(error).__name__)
        if growth.done:
            # Only storing it has failed: its readers have it open, and read on.
            self._store.abort(part)
            return
        # A tag's part has no name by which another process could go on with it.
        if fill.tag is None and part.path is not None and _holds_any(growth) and _good_so_far(error):
            if isinstance(error, RegproxyError):
                with suppress(OSError):  # only the reason is lost
                    part.write(_meta(fill, part, OPEN).left(word_for(error), str(error)))
            self._store.leave(part)
            return
        if isinstance(error, RegproxyError) and not isinstance(error, UpstreamAnswer):
            with suppress(OSError):  # only the reason is lost
                part.write(_meta(fill, part, OPEN).failed(word_for(error), str(error)))
        self._store.abort(part)


def _say_broken(fill: Fill, part: Part, bodies: Bodies, error: RegproxyError) -> None:
    """Log a download that has failed: what it was of, how far it had come, and what was tried."""
    growth, wanted, asked = part.growth, fill.wanted, ", ".join(bodies.asked)
    fields = {
        "registry": wanted.origin.name,
        "repository": wanted.target.repository,
        "digest": wanted.target.reference,
        "bytes": max(growth.written, bodies.received),
        "total": growth.total,
        "attempts": bodies.attempts,
        "asked": asked,
        "reason": word_for(error),
    }
    log.log(
        log_level(error),
        "the download of %s in %s of %s failed with %d of %s bytes, after %d requests%s: %s",
        *(wanted.target.reference, wanted.target.repository, wanted.origin.name, fields["bytes"]),
        *(growth.total if growth.total >= 0 else "unknown", bodies.attempts),
        *(f" (answered by {asked})" if asked else "", error),
        extra=fields,
    )


def _meta(fill: Fill, part: Part, state: str, *, size: int = -1) -> Meta:
    return Meta(
        *(state, part.growth.total, fill.media_type, fill.fetched_from, fill.seconds),
        size=size,
        host=fill.wanted.source,
        mapped=part.growth.extents is not None,
    )


def _holds_any(growth: GrowingFile) -> bool:
    return growth.written > 0 or growth.extents is not None


def _good_so_far(error: BaseException) -> bool:
    """Return whether another filler may go on with the part's bytes after this error."""
    return isinstance(error, UpstreamAnswer | asyncio.CancelledError) or (
        isinstance(error, UpstreamError) and is_retryable(error)
    )


def word_for(error: RegproxyError) -> str:
    """Return one word for a failure: a metric's label, and what the meta of a part says."""
    if isinstance(error, UpstreamAnswer):
        return REFUSED
    if isinstance(error, DigestMismatch):
        return "digest"
    if isinstance(error, NotUnderstood):
        return error.detail
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    if isinstance(error, StoreError):
        return "disk"
    if isinstance(error, RateLimited):
        return LIMITED
    if isinstance(error, CircuitOpen):
        return "unreachable"
    if isinstance(error, Busy):
        return "busy"
    if isinstance(error, OffLimits):
        return "forbidden"
    if isinstance(error, UnknownCA):
        return "untrusted"
    return "upstream"


def failure(word: str, reason: str) -> UpstreamError:
    """Return the error that another process had; the inverse of word_for()."""
    if word == LIMITED:
        return RateLimited(reason, _SOON)
    if word == "unreachable":
        circuit = CircuitOpen(reason, _SOON)
        circuit.is_logged = True  # by the process whose circuit it is
        return circuit
    if word in NotUnderstood.DETAILS:
        return NotUnderstood(reason, word)
    kinds: dict[str, Callable[[str], UpstreamError]] = {
        "digest": DigestMismatch,
        "timeout": UpstreamTimeout,
        "busy": Busy,
        "forbidden": OffLimits,
        "untrusted": UnknownCA,
    }
    return kinds.get(word, UpstreamError)(reason)


def _complete(part: Part) -> bool:
    """Return whether no byte is missing: the last filler was killed after the last byte."""
    growth = part.growth
    return growth.done or 0 <= growth.total == growth.written


def _content(part: Part) -> bytes:
    """Return a manifest's bytes, never more than MANIFEST_MAX. Raises StoreError."""
    growth = part.growth
    file = growth.file if growth.memory is None else growth.memory
    try:
        return os.pread(file.fd, growth.written, 0)
    except OSError as error:
        raise StoreError(f"a part can't be read: {error.strerror}") from error
