"""Answer requests for a tag without a fresh copy: revalidate the stale one, serve it on error, or fetch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from msgspec import Struct

from regproxy.cache.blobs import Blob
from regproxy.core.errors import NotUnderstood, UpstreamError, log_level
from regproxy.fill.fills import CacheRequest, UpstreamAnswer
from regproxy.fill.tag_request import TagAsk
from regproxy.policy.verdicts import STALE_ON
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.hits import Hits
from regproxy.server.lookup import Copy
from regproxy.server.patience import in_time
from regproxy.server.responder import Responder, answer_of
from regproxy.server.routes import Route
from regproxy.tags.answers import TagAnswer

log = logging.getLogger(__name__)

T = TypeVar("T")


class FoundTag(Struct, frozen=True):
    """What a tag is. `cache`: the word for how it was found.

    `blob`: its content, None where only a HEAD's `answer` is known. `digest`: "" where that names none.
    """

    digest: str
    media_type: str
    cache: str
    blob: Blob | None
    answer: TagAnswer | None = None


class TagRequests:
    """Carries out plans for tags that need the origin.

    `copy`: the tag's cached copy, which is not fresh; None without one. Methods raise UpstreamError where no
    copy stands in for the origin's answer.
    """

    __slots__ = ("_config", "_hits", "_lookup", "_responder", "_tags")

    def __init__(self, services: Services, responder: Responder, hits: Hits) -> None:
        self._config = services.config
        self._tags = services.tags
        self._lookup = services.lookup
        self._responder = responder
        self._hits = hits

    async def get(self, exchange: Exchange, route: Route, wanted: CacheRequest, copy: Copy | None) -> None:
        """Revalidate the cached copy; fetch the tag if there is none, or if the HEAD does not tell enough."""
        self.serve(exchange, route, await self.find(exchange, route, wanted, copy))

    async def find(
        self, exchange: Exchange, route: Route, wanted: CacheRequest, copy: Copy | None
    ) -> FoundTag:
        """Return what a tag is, with its content: see get()."""
        self._responder.wait_for_fill(exchange, True)
        exchange.cache = "MISS" if copy is None else "EXPIRED"
        tag = self._ask_of(route, wanted, copy)
        try:
            found = await self._in_time(self._confirm(exchange, wanted, tag), tag)
            if found is None:
                found = await self._in_time(self._fetch(exchange, wanted, tag), tag)
            return found
        except UpstreamError as error:
            status = error.response.status if isinstance(error, UpstreamAnswer) else 0
            # What this proxy can't store is newer than the copy, and clients may take it: it is passed on.
            stale = None
            if not isinstance(error, NotUnderstood):
                stale = self._stale(exchange, copy, error, status, kept=tag.kept)
            if stale is None:
                raise
            return stale

    async def _in_time(self, answer: Coroutine[Any, Any, T], tag: TagAsk) -> T:
        """Await an origin's answer; where a stale copy can be served, for REGPROXY_STALE_AFTER at most.

        The request to the origin goes on after that, for later clients. Raises UpstreamTimeout.
        """
        return await in_time(answer, self._config.stale_after if tag.usable_if_error else 0.0)

    async def _confirm(self, exchange: Exchange, wanted: CacheRequest, tag: TagAsk) -> FoundTag | None:
        """Return the content whose digest a HEAD gives; None: no HEAD was sent, or it gave none."""
        found = await self._tags.confirm(wanted, tag)
        if found is None:
            return None
        exchange.note(found, exchange.cache)
        cache = "REVALIDATED" if found.revalidated else exchange.cache
        return FoundTag(found.blob.digest, found.media_type, cache, found.blob)

    async def _fetch(self, exchange: Exchange, wanted: CacheRequest, tag: TagAsk) -> FoundTag:
        """Join the tag's fill or begin it, and return its content once that is verified."""
        begun = exchange.cache
        while True:
            fill, mine = self._tags.join(wanted, tag)
            cache = begun if mine else "UPDATING"
            try:
                blob = await asyncio.shield(fill.done)
                break
            except UpstreamError as error:
                exchange.note(fill, cache)
                if mine or not fill.failed_for_other_client(wanted, error):
                    raise
                # The failure may be due to the other client's credentials: try with this one's.
        exchange.note(fill, cache)
        return FoundTag(blob.digest, fill.media_type, exchange.cache, blob)

    async def head(self, exchange: Exchange, route: Route, wanted: CacheRequest, copy: Copy | None) -> None:
        """Answer a HEAD by asking the origin by HEAD, which confirms the copy, too, for later requests."""
        self.serve(exchange, route, await self.find_by_head(exchange, route, wanted, copy))

    async def find_by_head(
        self, exchange: Exchange, route: Route, wanted: CacheRequest, copy: Copy | None
    ) -> FoundTag:
        """Return what a tag is, by a HEAD; its content, if that is held."""
        exchange.cache = "MISS" if copy is None else "EXPIRED"
        self._responder.wait_for_fill(exchange, True)
        tag = self._ask_of(route, wanted, copy)
        try:
            found = await self._in_time(self._tags.look(wanted, tag), tag)
        except UpstreamError as error:
            stale = self._stale(exchange, copy, error)
            if stale is None:
                raise
            return stale
        if not isinstance(found, TagAnswer):
            blob, told = found
            return FoundTag(blob.digest, told, "REVALIDATED", blob)
        exchange.asked, exchange.asked_seconds = found.address, found.seconds
        exchange.digest = found.digest or ""
        if copy is not None and found.digest == copy.row.digest:
            return _of_copy(copy, "REVALIDATED")
        said = f"{exchange.host} answered {found.status}"
        stale = self._stale(exchange, copy, said, found.status, kept=tag.kept)
        if stale is not None:
            return stale
        if found.status == 404 and found.direct and copy is not None and not self._config.keep_on_404:
            self._tags.gone(wanted)
        return FoundTag(found.digest, found.media_type, exchange.cache, None, found)

    def serve(self, exchange: Exchange, route: Route, found: FoundTag) -> None:
        """Answer with what a tag is."""
        if found.blob is not None:
            self._hits.serve_brought(exchange, found.blob, found.media_type, found.cache)
        elif found.answer is not None:
            status, headers = answer_of(route, found.answer.response)
            self._responder.send(exchange, status, self._responder.head(exchange, status, headers))

    def renew(self, route: Route, wanted: CacheRequest, copy: Copy) -> None:
        """Revalidate in the background, for later requests."""
        self._tags.renew(wanted, self._ask_of(route, wanted, copy))

    def _ask_of(self, route: Route, wanted: CacheRequest, copy: Copy | None) -> TagAsk:
        config, lookup, lifetime = self._config, self._lookup, route.lifetime
        assert lifetime is not None
        return TagAsk(
            route.accept,
            lambda: (
                None if route.asks_presence else lookup.fresh(wanted.origin, wanted.target, route, lifetime)
            ),
            row=copy.row if copy is not None and copy.current else None,
            # With the manifest cache off, each client gets the registry's answer to its own credentials.
            shared=config.manifest_cache and copy is not None and copy.current,
            usable_if_error=copy is not None and copy.usable_if_error,
            kept=config.keep_on_404 and not route.asks_presence,
            presence=route.asks_presence,
        )

    def serve_stale(self, exchange: Exchange, copy: Copy | None, error: object) -> bool:
        """Serve the stale copy where the origin is in trouble; False: nothing was sent."""
        found = self._stale(exchange, copy, error)
        if found is None or copy is None:
            return False
        self._hits.serve(exchange, copy.held, found.cache)
        return True

    def _stale(
        self, exchange: Exchange, copy: Copy | None, error: object, status: int = 0, *, kept: bool = False
    ) -> FoundTag | None:
        """Return the stale copy where the origin's answer (`status`; 0: none) is an error that allows it.

        `kept`: a 404 does, too.
        """
        if copy is None or not copy.usable_if_error:
            return None
        gone = status == 404 and kept
        if status and status not in STALE_ON and not gone:
            return None
        log.log(log_level(error), "%s %s: serving a stale copy: %s", exchange.host, exchange.uri, error)
        return _of_copy(copy, "STALE")


def _of_copy(copy: Copy, cache: str) -> FoundTag:
    blob, media_type = copy.held
    return FoundTag(blob.digest, media_type, cache, blob)
