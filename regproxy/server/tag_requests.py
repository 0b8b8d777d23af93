"""Answering for a tag of which no copy is fresh: what is held is confirmed or stands in, or it is fetched."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from regproxy.cache.blobs import Blob
from regproxy.core.errors import UpstreamError
from regproxy.fill.fills import Fill, UpstreamAnswer, Wanted
from regproxy.fill.tag_request import Held, TagAsk
from regproxy.http.messages import forwarded
from regproxy.policy.plans import STALE_ON
from regproxy.server.lookup import Copy
from regproxy.server.responses import Answerer
from regproxy.tags.answers import Seen

log = logging.getLogger(__name__)

_FETCHED: Final = frozenset({"MISS", "EXPIRED"})


class TagAsker(Answerer):
    """Carries out the plans for tags that the cache alone can't."""

    __slots__ = ()

    def _tag_ask(self, wanted: Wanted, copy: Copy | None) -> TagAsk:
        route, config = self._route, self._s.config
        assert route is not None
        return TagAsk(
            route.accept,
            lambda: self._s.lookup.fresh(wanted.origin, wanted.target, route),
            row=copy.row if copy is not None and copy.current else None,
            # With the manifest cache off, each client is answered by what the registry says to it.
            shared=config.manifest_cache and copy is not None and copy.current,
            stands_in=copy is not None and copy.usable_if_error,
            kept=config.keep_on_404,
        )

    def _note(self, fill: Fill, cache: str) -> None:
        """Note for the log who was asked, and what the cache had to do with it."""
        self._asked, self._asked_seconds = fill.fetched_from, fill.seconds
        if fill.revalidated:
            self._cache = "REVALIDATED"
        else:
            # What another process fetches was joined, too.
            self._cache = "UPDATING" if fill.joined and cache in _FETCHED else cache

    def _brought(self, wanted: Wanted, blob: Blob, told: str) -> Held:
        """What was waited for, as this client gets it. `told`: what its registry has said of the type."""
        assert self._route is not None
        return self._s.lookup.brought(wanted.origin, wanted.target, self._route, blob, told)

    # --- trouble -----------------------------------------------------------------------------------------

    def _stands_in(self, copy: Copy | None, status: int, error: object) -> bool:
        """Serve the older copy instead of the origin's answer, where that is no better; 0: it gave none."""
        if copy is None or not copy.usable_if_error:
            return False
        gone = status == 404 and self._s.config.keep_on_404
        if status and status not in STALE_ON and not gone:
            return False
        log.warning("%s %s: serving a stale copy: %s", self.host, self.uri, error)
        self._serve(copy.held, "STALE")
        return True

    def _renew(self, wanted: Wanted, copy: Copy) -> None:
        """Revalidate in the background: whoever asks then has the answer."""
        if self._s.tags.may_renew(wanted):
            self._s.tags.join(wanted, self._tag_ask(wanted, copy))

    # --- asking ------------------------------------------------------------------------------------------

    async def _fetch_tag(self, wanted: Wanted, copy: Copy | None) -> None:
        """Join the tag's fill, or begin it; answer once it is verified."""
        self._wait_for_fill(True)
        while True:
            fill, mine = self._s.tags.join(wanted, self._tag_ask(wanted, copy))
            joined = "MISS" if copy is None else "EXPIRED"
            self._cache = cache = joined if mine else "UPDATING"
            try:
                blob = await asyncio.shield(fill.done)
                break
            except UpstreamError as error:
                if not mine and fill.is_others(wanted, error):
                    continue  # it may be for that client's sake that it was refused
                self._note(fill, cache)
                status = error.response.status if isinstance(error, UpstreamAnswer) else 0
                if self._stands_in(copy, status, error):
                    return
                raise
        self._note(fill, cache)
        self._serve(self._brought(wanted, blob, fill.media_type), self._cache)

    async def _look_tag(self, wanted: Wanted, copy: Copy | None) -> None:
        """HEAD stays HEAD: registries count it less, or not at all. What it says is entered all the same."""
        self._cache = "MISS" if copy is None else "EXPIRED"
        self._wait_for_fill(True)
        tag = self._tag_ask(wanted, copy)
        try:
            found = await self._s.tags.look(wanted, tag)
        except UpstreamError as error:
            if self._stands_in(copy, 0, error):
                return
            raise
        if not isinstance(found, Seen):
            self._serve(self._brought(wanted, found.blob, found.media_type), "REVALIDATED")
            return
        self._asked, self._asked_seconds = found.address, found.seconds
        if copy is not None and found.digest == copy.row.digest:
            self._serve(copy.held, "REVALIDATED")
            return
        if self._stands_in(copy, found.status, f"{self.host} answered {found.status}"):
            return
        if found.status == 404 and found.direct and copy is not None and not tag.kept:
            self._s.tags.gone(wanted)
        self._send(found.status, self._head(found.status, forwarded(found.response)))
