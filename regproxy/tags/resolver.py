"""Resolve tags, with one request to the origin for all clients that ask at the same time, in all processes.

An expired copy is confirmed by HEAD. Where the tag has moved, the HEAD names the new digest, which is fetched
as content by digest, once for all clients. Only a tag of which nothing is known is fetched by its tag.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.index.index import TagKey
from regproxy.core.errors import (
    BadResponse,
    DigestMismatch,
    NotUnderstood,
    RegproxyError,
    UpstreamError,
    UpstreamTimeout,
)
from regproxy.fill.fill import NO_TYPE, CacheRequest, Fill, UpstreamAnswer
from regproxy.fill.fills import Fills
from regproxy.fill.origin_bodies import Fetcher
from regproxy.fill.provenance import OPEN, Provenance
from regproxy.fill.tag_request import Held, TagAsk
from regproxy.policy.verdicts import STALE_ON
from regproxy.registry.manifests import MANIFEST_MAX
from regproxy.registry.targets import Kind, Target
from regproxy.tags.answers import (
    SharedAnswer,
    TagAnswer,
    TagContent,
    TagFailure,
    TagRefusal,
    failed_answer,
    from_json,
    to_json,
)
from regproxy.tags.claims import TagClaim, TagClaims
from regproxy.tags.keys import RequestKey, fetch_key
from regproxy.tags.revalidation import ATTEMPTS, Revalidations, pause
from regproxy.tags.rows import Moved, TagRecorder, TagRows, concerns, name_of, unheard
from regproxy.upstream.connections.connection import BodyBroken, ConnectionLost

__all__ = ["TagRecorder", "Tags", "is_for", "name_of"]

log = logging.getLogger(__name__)

_RENEW_AGAIN: Final = 5.0  # seconds until the next background revalidation after a failed one
_TROUBLED_MAX: Final = 4096  # tags whose failed background revalidation is remembered


class Confirmed(Struct, frozen=True):
    """The content of a tag, as a HEAD has named it. `fetched_from`: the servers that were asked
    (`http.hops`); `seconds`: until the head of the answer.

    `joined`: it was asked for, or fetched, for another client. `revalidated`: the content was in the cache.
    `request_id`: of the request that has begun its fill.
    """

    blob: Blob
    media_type: str
    fetched_from: str = ""
    seconds: float = 0.0
    joined: bool = False
    revalidated: bool = False
    request_id: str = ""


class Tags:
    """Resolves tags to content. One for each worker."""

    def __init__(
        self,
        store: Store,
        index: TagRecorder,
        upstream: Fetcher,
        fills: Fills,
        claims: TagClaims,
        loop: asyncio.AbstractEventLoop,
        provenance: Provenance = OPEN,
        moved: Moved = unheard,
    ) -> None:
        self._store = store
        self._fills = fills
        self._claims = claims
        self._loop = loop
        self._rows = TagRows(store, index, loop, provenance, moved)
        self._revalidations = Revalidations(upstream, self._rows, claims, loop, fills.spawn)
        self._renewing: set[RequestKey] = set()
        self._troubled: OrderedDict[TagKey, float] = OrderedDict()

    # --- for the server ----------------------------------------------------------------------------------

    async def look(self, wanted: CacheRequest, tag: TagAsk) -> TagAnswer | Held:
        """Return the origin's answer to a HEAD, or a copy that has become fresh. Raises UpstreamError."""
        return await self._revalidations.look(wanted, tag)

    def pushed(self, tag: TagKey, digest: str, media_type: str, size: int, at: float) -> None:
        """Note that a client has set a tag at `at` (monotonic), to content that is stored."""
        self._rows.pushed(tag, digest, media_type, size, at)

    def join(self, wanted: CacheRequest, tag: TagAsk) -> tuple[Fill, bool]:
        """Return the tag's fill, shared by equal requests only, and whether this call began it."""
        key = fetch_key(wanted, tag.accept)
        fill = self._fills.joinable(key)
        if fill is not None:
            return fill, False
        fill = Fill(wanted, tag, self._loop)
        self._fills.start(key, fill, lambda leave: self._fetch(fill, tag, leave))
        return fill, True

    async def confirm(self, wanted: CacheRequest, tag: TagAsk) -> Confirmed | None:
        """Revalidate the tag by HEAD and return its content; None: the tag itself has to be fetched.

        Raises UpstreamError where the origin can't be asked, or has answered an error for which the copy may
        be served (STALE_ON).
        """
        if tag.row is None:
            return None
        try:
            found = await self._revalidations.look(wanted, tag)
        except BadResponse as error:
            # The origin may not support HEAD.
            log.info("%s: HEAD of %s: %s", wanted.origin.host, wanted.target.reference, error)
            return None
        if not isinstance(found, TagAnswer):
            blob, media_type = found
            return Confirmed(blob, media_type or NO_TYPE, joined=True, revalidated=True)
        if found.status in STALE_ON and tag.usable_if_error:
            raise UpstreamAnswer(found.response, b"", wanted.origin)
        if not found.digest:
            return None
        held = self._rows.held(wanted, found)
        # The type that came with the content goes before what a HEAD says of it.
        known = tag.row.media_type if tag.row.digest == found.digest else ""
        media_type = known or found.media_type or NO_TYPE
        if held is not None:
            if not known:
                _check_type(held, media_type)
            return Confirmed(held, media_type, found.address, found.seconds, revalidated=True)
        return await self._moved(wanted, tag, found.digest, media_type)

    async def _moved(self, wanted: CacheRequest, tag: TagAsk, digest: str, media_type: str) -> Confirmed:
        """Fetch the tag's new content by digest, in the tag's fill, so that requests for the tag join it."""
        key = fetch_key(wanted, tag.accept)
        while True:
            fill, mine = self._fills.joinable(key), False
            if fill is None:
                fill, mine = Fill(wanted, tag, self._loop), True
                self._start_moved(key, fill, tag, digest, media_type)
            try:
                blob = await asyncio.shield(fill.done)
                break
            except UpstreamError as error:
                if mine or not fill.failed_for_other_client(wanted, error):
                    raise
        joined = fill.joined or not mine
        how = (fill.media_type, fill.fetched_from, fill.seconds)
        return Confirmed(blob, *how, joined=joined, request_id=fill.request_id)

    def _start_moved(self, key: RequestKey, fill: Fill, tag: TagAsk, digest: str, media_type: str) -> None:
        async def run(leave: Callable[[], None]) -> None:
            if not await self._fetch_moved(fill, digest, media_type):
                await self._fetch(fill, tag, leave)

        self._fills.start(key, fill, run)

    async def _fetch_moved(self, fill: Fill, digest: str, media_type: str) -> bool:
        """Complete a tag's fill with content fetched by digest; False: the registry does not serve that."""
        wanted = fill.wanted
        path, _, query = wanted.request.path.partition("?")
        target = path.rpartition("/")[0] + "/" + digest + ("?" + query if query else "")
        request = replace(wanted.request, target=target)
        by_digest = Target(Kind.MANIFEST, wanted.target.repository, digest)
        try:
            found, _, blob = await self._fills.whole(replace(wanted, request=request, target=by_digest))
        except UpstreamAnswer as error:
            if error.response.status in STALE_ON:
                raise
            return False
        except (BadResponse, DigestMismatch):
            return False
        _check_type(blob, media_type)
        fill.fetched_from, fill.seconds, fill.joined = found.fetched_from, found.seconds, found.joined
        fill.media_type = media_type
        fill.complete(blob)
        return True

    def renew(self, wanted: CacheRequest, tag: TagAsk) -> None:
        """Revalidate in the background, unless that is under way or has just failed."""
        key = fetch_key(wanted, tag.accept)
        if key not in self._renewing and time.monotonic() >= self._troubled.get(name_of(wanted), 0.0):
            self._renewing.add(key)
            self._fills.spawn(self._renew(wanted, tag, key))

    async def _renew(self, wanted: CacheRequest, tag: TagAsk, key: RequestKey) -> None:
        try:
            if await self.confirm(wanted, tag) is None:
                fill, _ = self.join(wanted, tag)
                await asyncio.shield(fill.done)
        except UpstreamError as error:
            self._note_trouble(wanted, error)
        except RegproxyError as error:
            log.info("%s: %s is not renewed: %s", wanted.origin.host, wanted.target.reference, error)
        except Exception:
            log.exception("renewal of %s failed", wanted.target.reference)
        finally:
            self._renewing.discard(key)

    def gone(self, wanted: CacheRequest) -> None:
        """Drop the tag's rows: the registry says that there is no such tag."""
        self._rows.gone(wanted)

    def forget(self, host: str, port: int, repository: str, tag: str) -> None:
        """Let no later request join one that began before the tag was dropped, or some tag's content."""
        name = (host, port, repository, tag)
        self._fills.separate(lambda fill: is_for(fill, name))
        self._revalidations.forget(name)

    async def written(self) -> None:
        """Wait until other processes know the entered rows, a few seconds at most."""
        await self._rows.written()

    def close(self) -> None:
        """Stop entering rows."""
        self._rows.close()

    def _note_trouble(self, wanted: CacheRequest, error: UpstreamError) -> None:
        again = max(_RENEW_AGAIN, error.retry_after)
        self._troubled[name_of(wanted)] = time.monotonic() + again
        if len(self._troubled) > _TROUBLED_MAX:
            self._troubled.popitem(last=False)

    # --- fetching a tag ----------------------------------------------------------------------------------

    async def _fetch(self, fill: Fill, tag: TagAsk, leave: Callable[[], None]) -> None:
        claim = await self._claims.take(fetch_key(fill.wanted, tag.accept).text(), lambda: fill.asked)
        try:
            answer = from_json(claim.answer)
            if answer is not None and self._share(fill, answer):
                return
            held = tag.fresh()
            if held is not None:
                fill.joined = True
                blob, media_type = held
                fill.media_type = media_type or NO_TYPE
                fill.complete(blob)
                return
            fill.joined = False
            began = time.monotonic()
            try:
                await self._download(fill)
            except UpstreamError as error:
                failed = failed_answer(error, began, self._revalidations.asker(fill.wanted))
                if failed is not None:
                    claim.publish(to_json(failed), time.monotonic())
                self._forget_gone(fill.wanted, tag, error)
                raise
            leave()
            await self._enter(fill, tag, claim, began, time.monotonic())
        finally:
            claim.close()

    async def _download(self, fill: Fill) -> None:
        """Fetch the tag; ask again where the answer breaks off, as no client has seen anything of it."""
        for attempt in range(1, ATTEMPTS):
            try:
                await self._fills.downloads.run(fill, self._store.begin(limit=MANIFEST_MAX))
                return
            except UpstreamError as error:
                if not _broken_off(fill, error):
                    raise
                log.info("%s: %s is asked for again: %s", fill.host, fill.wanted.target.reference, error)
            fill.opened, fill.media_type = self._loop.create_future(), NO_TYPE
            await asyncio.sleep(pause(attempt))
        await self._fills.downloads.run(fill, self._store.begin(limit=MANIFEST_MAX))

    def _forget_gone(self, wanted: CacheRequest, tag: TagAsk, error: UpstreamError) -> None:
        """Drop the rows of a tag that the registry itself says is gone (404), if this request knew of a copy.

        A 404 may be due to what the client may see, or to its Accept.
        """
        if isinstance(error, UpstreamAnswer) and error.response.status == 404 and not tag.kept:
            held = tag.row is not None or tag.usable_if_error
            if held and error.origin == wanted.origin:
                self._rows.gone(wanted)

    def _share(self, fill: Fill, answer: SharedAnswer) -> bool:
        """Use the answer that another process got; False: it is void, or its content is gone."""
        digest = answer.digest if isinstance(answer, TagContent) else ""
        if self._rows.dropped_since(fill.wanted, answer.began, digest) or isinstance(answer, TagAnswer):
            return False
        if isinstance(answer, TagRefusal):
            if answer.asker != self._revalidations.asker(fill.wanted):
                return False  # the refusal may be due to the other client's credentials
            fill.joined = True
            raise answer.error(fill.wanted.origin)
        fill.joined = True
        if isinstance(answer, TagFailure):
            raise answer.error()
        blob = self._store.lookup(answer.digest)
        if blob is None:
            return False
        fill.media_type = answer.media_type
        fill.fetched_from, fill.seconds = answer.address, answer.seconds
        fill.complete(blob)
        return True

    async def _enter(self, fill: Fill, tag: TagAsk, claim: TagClaim, began: float, at: float) -> None:
        """Enter the tag's row, wait until other processes know it, and leave them the answer.

        The claim is released only after that, so that none of them asks again.
        """
        blob = fill.done.result()
        if not fill.stored:
            return
        self._rows.fetched(fill.wanted, tag.accept, blob, fill.media_type, began)
        await self._rows.written()
        answer = TagContent(blob.digest, fill.media_type, fill.fetched_from, fill.seconds, began)
        claim.publish(to_json(answer), at)


def _check_type(blob: Blob, media_type: str) -> None:
    """Raise NotUnderstood where the bytes state another type than the registry has told of the tag."""
    manifest = blob.manifest
    if manifest is not None and manifest.stated and media_type not in (NO_TYPE, manifest.media_type):
        raise NotUnderstood(f"manifest of type {manifest.media_type!r} sent as {media_type!r}", "media-type")


def is_for(fill: Fill, tag: TagKey) -> bool:
    """Return whether a fill is for this tag, or for one that may name this content (a digest)."""
    return fill.tag is not None and concerns(tag, name_of(fill.wanted))


def _broken_off(fill: Fill, error: UpstreamError) -> bool:
    """Return whether the answer, or its end, did not come, and a retry may succeed."""
    stalled = isinstance(error, UpstreamTimeout) and fill.head is not None
    return stalled or isinstance(error, ConnectionLost | BodyBroken)
