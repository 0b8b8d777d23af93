"""Answering for a tag of which no copy is fresh: what is held is confirmed or stands in, or it is fetched."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from regproxy.cache.blobs import Blob
from regproxy.cache.index.index import TagRow
from regproxy.core.errors import UpstreamError
from regproxy.fill.fills import Fill, UpstreamAnswer, Wanted
from regproxy.fill.tag_request import Held, TagAsk
from regproxy.http.messages import forwarded
from regproxy.http.origin import Origin
from regproxy.policy.plans import STALE_ON, variants
from regproxy.server.context import Route
from regproxy.server.responses import Answerer
from regproxy.tags.answers import Seen

log = logging.getLogger(__name__)

_FETCHED: Final = frozenset({"MISS", "EXPIRED"})


@dataclass(frozen=True, slots=True)
class Copy:
    """What is held of a tag, `age` seconds after its origin has confirmed it.

    `current`: that was the last that the origin has said. `stands_in`: it is served while the origin is in
    trouble.
    """

    row: TagRow
    blob: Blob
    media_type: str
    age: float
    current: bool
    stands_in: bool


class TagAsker(Answerer):
    """Carries out the plans for tags that the cache alone can't."""

    __slots__ = ()

    def _copy(self, origin: Origin, route: Route, row: TagRow | None, held: Held | None) -> Copy | None:
        """The copy that suits the request: the newest (`row` with its content), else an older one."""
        current = row is not None and held is not None
        if row is None or held is None:
            row, held = self._older(origin, route)
            if row is None or held is None:
                return None
        age = time.time() - row.fetched_at
        stretch = self._s.stretch(origin.host)
        stands_in = self._s.policy.may_stand_in(route.target.reference, age, stretch)
        return Copy(row, held.blob, held.media_type, age, current, stands_in)

    def _older(self, origin: Origin, route: Route) -> tuple[TagRow | None, Held | None]:
        for row in variants(self._tag_rows(origin, route), route.accept):
            _, blob, media_type = self._content(row, route)
            if blob is not None:
                return row, Held(blob, media_type)
        return None, None

    def _tag_ask(self, wanted: Wanted, copy: Copy | None) -> TagAsk:
        route, config = self._route, self._s.config
        assert route is not None
        return TagAsk(
            route.accept,
            self._fresh(wanted.origin, route),
            row=copy.row if copy is not None and copy.current else None,
            # With the manifest cache off, each client is answered by what the registry says to it.
            shared=config.manifest_cache and copy is not None and copy.current,
            stands_in=copy is not None and copy.stands_in,
            kept=config.keep_on_404,
        )

    def _fresh(self, origin: Origin, route: Route) -> Callable[[], Held | None]:
        """What looks whether the tag that is asked for is held, and fresh, by now."""

        def fresh() -> Held | None:
            if route.fresh_tag is None:
                return None
            row, blob, media_type = self._held(origin, route)
            lifetime = route.fresh_tag[1] * self._s.stretch(origin.host)
            if row is None or blob is None or not 0 <= time.time() - row.fetched_at < lifetime:
                return None
            return Held(blob, media_type)

        return fresh

    def _note(self, fill: Fill, cache: str) -> None:
        """Note for the log who was asked, and what the cache had to do with it."""
        self._asked, self._asked_seconds = fill.fetched_from, fill.seconds
        if fill.revalidated:
            self._cache = "REVALIDATED"
        else:
            # What another process fetches was joined, too.
            self._cache = "UPDATING" if fill.joined and cache in _FETCHED else cache

    # --- trouble -----------------------------------------------------------------------------------------

    def _stands_in(self, copy: Copy | None, status: int, error: object) -> bool:
        """Serve the older copy instead of the origin's answer, where that is no better; 0: it gave none."""
        if copy is None or not copy.stands_in:
            return False
        gone = status == 404 and self._s.config.keep_on_404
        if status and status not in STALE_ON and not gone:
            return False
        log.warning("%s %s: serving a stale copy: %s", self.host, self.uri, error)
        self._serve(copy.blob, "STALE", copy.media_type)
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
        self._serve(blob, self._cache, self._manifest_type(blob, fill.media_type) or fill.media_type)

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
            self._serve(found.blob, "REVALIDATED", found.media_type)
            return
        self._asked, self._asked_seconds = found.address, found.seconds
        if copy is not None and found.digest == copy.row.digest:
            self._serve(copy.blob, "REVALIDATED", copy.media_type)
            return
        if self._stands_in(copy, found.status, f"{self.host} answered {found.status}"):
            return
        if found.status == 404 and found.direct and copy is not None and not tag.kept:
            self._s.tags.gone(wanted)
        self._send(found.status, self._head(found.status, forwarded(found.response)))
