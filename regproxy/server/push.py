"""Keep what clients push (REGPROXY_CACHE_PUSHES): a copy of the body, made as it is relayed.

A copy becomes content when the registry has taken it under its digest, which is that of the bytes that
passed. Clients upload a blob by one PATCH, or by the closing PUT itself, and the two may be in different
workers: a PATCH's copy waits under its digest in the directory of parts. A blob in several PATCHes is not
kept, as no copy has all of it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Final, NamedTuple

from regproxy.cache.parts import Part
from regproxy.core.errors import BadResponse, RegproxyError, StoreError
from regproxy.dataplane.sinks import StreamSink, TeeSink
from regproxy.fill.download import LARGE
from regproxy.http.messages import Request, Response
from regproxy.http.origin import Origin
from regproxy.registry.changes import Change
from regproxy.registry.manifests import MANIFEST_MAX, MANIFEST_TYPES, check_manifest, manifest_type
from regproxy.registry.targets import Kind
from regproxy.server.context import Services
from regproxy.server.routes import Route

log = logging.getLogger(__name__)

_FIRST: Final = re.compile(rb"(?:bytes[ =])?0-[0-9]*(?:/.*)?")
_MANIFESTS: Final = frozenset({Kind.TAG, Kind.MANIFEST})


class _Place(NamedTuple):
    """Where a body is pushed to. `own`: by a request that may have set another thing than others get."""

    host: str
    port: int
    repository: str
    own: bool


class PushedBody:
    """The copy of one request's body. `sink`: what the body is to be received by."""

    __slots__ = ("part", "sink")

    def __init__(self, part: Part, relay: StreamSink) -> None:
        self.part = part
        self.sink = TeeSink(relay, part.growth)


class Pushes:
    """Keeps pushed content. One for each worker."""

    __slots__ = ("_index", "_largest", "_on", "_spawn", "_store", "_tags")

    def __init__(self, services: Services) -> None:
        config = services.config
        self._on = config.allow_push and config.cache_pushes
        self._largest = services.fills.downloads.largest
        self._store = services.store
        self._index = services.index
        self._tags = services.tags
        self._spawn = services.fills.spawn

    def copy(self, route: Route, relay: StreamSink) -> PushedBody | None:
        """Return where a copy of the request's body goes; None: none is kept."""
        if not self._on or not _is_whole(route):
            return None
        length = route.request.body.length if route.request.body.kind == "length" else 0
        limit = MANIFEST_MAX if route.target.kind in _MANIFESTS else self._largest
        if 0 < limit < length:
            return None
        try:
            part = self._store.begin(limit=limit)
        except StoreError:
            return None
        if part.path is None:
            self._store.abort(part)  # the disk takes nothing
            return None
        if length >= LARGE:
            self._index.announce()
        return PushedBody(part, relay)

    def drop(self, body: PushedBody) -> None:
        """Discard the copy of a body that the registry has not got whole, or has not taken."""
        self._store.abort(body.part)

    async def taken(
        self,
        body: PushedBody | None,
        origin: Origin,
        route: Route,
        response: Response,
        change: Change | None,
        *,
        alone: bool = False,
    ) -> None:
        """Keep what the registry has taken, by its answer to a request. `change`: what that has changed.

        `alone`: what it says of a tag is so for all clients, and nobody has changed that tag meanwhile.
        """
        if not self._on:
            return
        if body is not None and not (body.sink.kept and response.status < 300):
            self.drop(body)
            body = None
        digest = change.digest if change is not None and not change.deleted else ""
        if route.target.kind in _MANIFESTS:
            if body is not None:
                await self._keep_manifest(body, origin, route, digest, alone)
        elif body is not None:
            self._keep_upload(body, _place_of(origin, route), digest)
        elif digest and route.target.kind is Kind.UPLOAD:
            self._keep_aside(_place_of(origin, route), digest)

    # --- blobs -------------------------------------------------------------------------------------------

    def _keep_upload(self, body: PushedBody, place: _Place, digest: str) -> None:
        own = "sha256:" + body.part.growth.hexdigest()
        if digest == own:
            self._spawn(self._commit(body.part, place, own))
        elif digest:
            self._keep_aside(place, digest)  # an earlier PATCH had all of it, or nobody has
            self.drop(body)
        else:
            try:
                self._store.set_aside(body.part, own, _name_of(place))
            except OSError as error:
                log.warning("a pushed blob is not kept: %s", error.strerror)
                self.drop(body)

    def _keep_aside(self, place: _Place, digest: str) -> None:
        part = self._store.take_aside(digest, _name_of(place))
        if part is not None:
            self._spawn(self._commit(part, place, digest))

    async def _commit(self, part: Part, place: _Place, digest: str) -> None:
        await self._is_stored(part, place, digest)

    async def _is_stored(self, part: Part, place: _Place, digest: str, media_type: str | None = None) -> bool:
        """Move a part into the store, and return whether that has worked."""
        try:
            blob = await self._store.commit(part, digest)
        except RegproxyError as error:
            log.warning("%s was pushed, and is not kept: %s", digest, error)
            self._store.abort(part)
            return False
        blob.known = True
        self._index.put_object(digest, blob.size, media_type, blob.disk)
        if not place.own:
            # The client had these bytes, and the registry has taken them.
            self._index.put_presence(*place[:3], digest, blob.size)
        return True

    # --- manifests ---------------------------------------------------------------------------------------

    async def _keep_manifest(
        self, body: PushedBody, origin: Origin, route: Route, digest: str, alone: bool
    ) -> None:
        at = time.monotonic()
        growth, told = body.part.growth, route.request.get(b"content-type") or b""
        content, stated = os.pread(growth.file.fd, growth.written, 0), False
        try:
            media_type = check_manifest(content, told.decode("latin-1"))
            stated = manifest_type(content).stated
        except BadResponse:
            media_type = ""
        if digest != "sha256:" + growth.hexdigest() or media_type not in MANIFEST_TYPES:
            # The registry has made something else of it.
            self.drop(body)
            return
        size = growth.written
        place = _place_of(origin, route)
        if not await self._is_stored(body.part, place, digest, media_type if stated else None):
            return
        if not stated and not route.shared.own:
            self._index.put_told(*place[:3], digest, media_type, size)
        if route.target.kind is Kind.TAG and alone:
            self._tags.pushed((*place[:3], route.target.reference), digest, media_type, size, at)


def _place_of(origin: Origin, route: Route) -> _Place:
    return _Place(origin.host, origin.port, route.shared.repository, bool(route.shared.own))


def _name_of(place: _Place) -> str:
    return f"{place.host}:{place.port}/{place.repository}"


def _is_whole(route: Route) -> bool:
    """Return whether a request's body may be all of some content."""
    request, kind = route.request, route.target.kind
    if request.body.empty:
        return False
    if kind in _MANIFESTS:
        return request.method == "PUT"
    if kind is not Kind.UPLOAD or request.method not in ("PATCH", "PUT", "POST"):
        return False
    return _starts_at_0(request)


def _starts_at_0(request: Request) -> bool:
    said = request.get(b"content-range")
    return said is None or _FIRST.fullmatch(said) is not None
