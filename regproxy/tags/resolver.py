"""Tags: what they are is asked once for all who ask at the same time, whichever process they came to.

An expired copy is confirmed by HEAD. Where the tag has moved, the HEAD has said to which digest: that is
fetched as content by digest, once for everybody. Only what is not known at all is fetched by its tag.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.index.index import TagKey
from regproxy.core.errors import BadResponse, DigestMismatch, RegproxyError, UpstreamError, UpstreamTimeout
from regproxy.fill.fill import NO_TYPE, CacheRequest, Fill, UpstreamAnswer
from regproxy.fill.fills import Fills
from regproxy.fill.origin_bodies import Fetcher
from regproxy.fill.tag_request import Held, TagAsk
from regproxy.policy.verdicts import STALE_ON
from regproxy.registry.manifests import MANIFEST_MAX
from regproxy.registry.targets import Kind, Target
from regproxy.tags.answers import (
    Content,
    Failure,
    Refusal,
    SharedAnswer,
    TagAnswer,
    failed_answer,
    from_json,
    to_json,
)
from regproxy.tags.claims import TagClaim, TagClaims
from regproxy.tags.keys import RequestKey, fetch_key
from regproxy.tags.revalidation import ATTEMPTS, Revalidations, pause
from regproxy.tags.rows import Recorder, TagRows, name_of
from regproxy.upstream.connection import BodyBroken, ConnectionLost

__all__ = ["Recorder", "Tags", "is_for", "name_of"]

log = logging.getLogger(__name__)

_RENEW_AGAIN: Final = 5.0  # seconds until a copy is revalidated again whose origin was in trouble
_TROUBLED_MAX: Final = 4096  # tags


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a tag is, by a HEAD of it. `fetched_from`: who has said so, after `seconds`.

    `joined`: it was asked, or fetched, for somebody else. `revalidated`: it was held.
    """

    blob: Blob
    media_type: str
    fetched_from: str = ""
    seconds: float = 0.0
    joined: bool = False
    revalidated: bool = False


class Tags:
    """Finds out what tags are."""

    def __init__(
        self,
        store: Store,
        index: Recorder,
        upstream: Fetcher,
        fills: Fills,
        claims: TagClaims,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._store = store
        self._fills = fills
        self._claims = claims
        self._loop = loop
        self._rows = TagRows(store, index, loop)
        self._revalidations = Revalidations(upstream, self._rows, claims, loop, fills.spawn)
        self._renewing: set[RequestKey] = set()
        self._troubled: OrderedDict[TagKey, float] = OrderedDict()

    # --- what is asked of it -----------------------------------------------------------------------------

    async def look(self, wanted: CacheRequest, tag: TagAsk) -> TagAnswer | Held:
        """What the origin says of a tag by HEAD, or the copy that is fresh by now. Raises UpstreamError."""
        return await self._revalidations.look(wanted, tag)

    def join(self, wanted: CacheRequest, tag: TagAsk) -> tuple[Fill, bool]:
        """Return the tag's fill, shared by equal requests only, and whether it was begun just now."""
        key = fetch_key(wanted, tag.accept)
        fill = self._fills.joinable(key)
        if fill is not None:
            return fill, False
        fill = Fill(wanted, tag, self._loop)
        self._fills.start(key, fill, lambda leave: self._fetch(fill, tag, leave))
        return fill, True

    async def confirm(self, wanted: CacheRequest, tag: TagAsk) -> Confirmed | None:
        """Have a HEAD say what the tag is now, and return that; None: the tag itself has to be fetched.

        Raises UpstreamError where the origin is in trouble, and something else can be served.
        """
        if tag.row is None:
            return None
        try:
            found = await self._revalidations.look(wanted, tag)
        except BadResponse as error:
            # It may be the HEAD that it does not understand.
            log.info("%s: HEAD of %s: %s", wanted.origin.host, wanted.target.reference, error)
            return None
        if not isinstance(found, TagAnswer):
            blob, media_type = found
            return Confirmed(blob, media_type or NO_TYPE, joined=True, revalidated=True)
        if found.status in STALE_ON and tag.usable_if_error:
            raise UpstreamAnswer(found.response, b"", wanted.origin)
        if not found.digest:
            return None
        held = self._store.lookup(found.digest)
        # The type that came with the content goes before what a HEAD says of it.
        known = tag.row.media_type if tag.row.digest == found.digest else ""
        media_type = known or found.media_type or NO_TYPE
        if held is not None:
            return Confirmed(held, media_type, found.address, found.seconds, revalidated=True)
        return await self._moved(wanted, found.digest, media_type)

    async def _moved(self, wanted: CacheRequest, digest: str, media_type: str) -> Confirmed | None:
        """Fetch what the tag is now, by digest; None: the registry does not give it out so."""
        path, _, query = wanted.request.path.partition("?")
        target = path.rpartition("/")[0] + "/" + digest + ("?" + query if query else "")
        request = replace(wanted.request, target=target)
        by_digest = Target(Kind.MANIFEST, wanted.target.repository, digest)
        try:
            fill, mine, blob = await self._fills.whole(replace(wanted, request=request, target=by_digest))
        except UpstreamAnswer as error:
            if error.response.status in STALE_ON:
                raise
            return None
        except (BadResponse, DigestMismatch):
            return None
        joined = fill.joined or not mine
        return Confirmed(blob, media_type, fill.fetched_from, fill.seconds, joined=joined)

    def renew(self, wanted: CacheRequest, tag: TagAsk) -> None:
        """Revalidate in the background; not where that is under way, or has just failed."""
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
        """The registry says that there is no such tag."""
        self._rows.gone(wanted)

    def forget(self, host: str, port: int, repository: str, tag: str) -> None:
        """A tag was set or deleted: who asks from here on is not to join who asked before."""
        name = (host, port, repository, tag)
        self._fills.separate(lambda fill: is_for(fill, name))
        self._revalidations.forget(name)

    async def written(self) -> None:
        """Wait until what was entered is known to other processes, a few seconds at most."""
        await self._rows.written()

    def close(self) -> None:
        """Nothing is entered any more."""
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
        """Fetch it; an answer that breaks off is asked for again, as nobody has seen anything of it."""
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
        """Forget a copy whose tag is gone; one that this request could not have had is no business of it."""
        if isinstance(error, UpstreamAnswer) and error.response.status == 404 and not tag.kept:
            held = tag.row is not None or tag.usable_if_error
            if held and error.origin == wanted.origin:
                self._rows.gone(wanted)

    def _share(self, fill: Fill, answer: SharedAnswer) -> bool:
        """Take what another process was answered; False: it is not there any more, or not so any more."""
        if self._rows.dropped_since(fill.wanted, answer.began) or isinstance(answer, TagAnswer):
            return False
        if isinstance(answer, Refusal):
            if answer.asker != self._revalidations.asker(fill.wanted):
                return False  # it may be for their sake that they were refused
            fill.joined = True
            raise answer.error(fill.wanted.origin)
        fill.joined = True
        if isinstance(answer, Failure):
            raise answer.error()
        blob = self._store.lookup(answer.digest)
        if blob is None:
            return False
        fill.media_type = answer.media_type
        fill.fetched_from, fill.seconds = answer.address, answer.seconds
        fill.complete(blob)
        return True

    async def _enter(self, fill: Fill, tag: TagAsk, claim: TagClaim, began: float, at: float) -> None:
        """Enter what the tag is; other processes know it before the next of them may ask the origin."""
        blob = fill.done.result()
        if not fill.stored:
            return
        self._rows.fetched(fill.wanted, tag.accept, blob, fill.media_type, began)
        await self._rows.written()
        answer = Content(blob.digest, fill.media_type, fill.fetched_from, fill.seconds, began)
        claim.publish(to_json(answer), at)


def is_for(fill: Fill, tag: TagKey) -> bool:
    """Whether a fill is for this tag."""
    return fill.tag is not None and name_of(fill.wanted) == tag


def _broken_off(fill: Fill, error: UpstreamError) -> bool:
    """Whether the answer, or its end, is missing, and asking again may bring it."""
    stalled = isinstance(error, UpstreamTimeout) and fill.head is not None
    return stalled or isinstance(error, ConnectionLost | BodyBroken)
