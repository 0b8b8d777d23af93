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
from typing import Final

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
            self._keep_upload(body, digest)
        elif digest and route.target.kind is Kind.UPLOAD:
            self._keep_aside(digest)

    # --- blobs -------------------------------------------------------------------------------------------

    def _keep_upload(self, body: PushedBody, digest: str) -> None:
        own = "sha256:" + body.part.growth.hexdigest()
        if digest == own:
            self._spawn(self._commit(body.part, own))
        elif digest:
            self._keep_aside(digest)  # an earlier PATCH had all of it, or nobody has
            self.drop(body)
        else:
            try:
                self._store.set_aside(body.part, own)
            except OSError as error:
                log.warning("a pushed blob is not kept: %s", error.strerror)
                self.drop(body)

    def _keep_aside(self, digest: str) -> None:
        part = self._store.take_aside(digest)
        if part is not None:
            self._spawn(self._commit(part, digest))

    async def _commit(self, part: Part, digest: str) -> None:
        await self._is_stored(part, digest)

    async def _is_stored(self, part: Part, digest: str, media_type: str | None = None) -> bool:
        """Move a part into the store, and return whether that has worked."""
        try:
            blob = await self._store.commit(part, digest)
        except RegproxyError as error:
            log.warning("%s was pushed, and is not kept: %s", digest, error)
            self._store.abort(part)
            return False
        blob.known = True
        self._index.put_object(digest, blob.size, media_type, blob.disk)
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
        if not await self._is_stored(body.part, digest, media_type if stated else None):
            return
        place = (origin.host, origin.port, route.shared.repository)
        if not stated and not route.shared.own:
            self._index.put_told(*place, digest, media_type, size)
        if route.target.kind is Kind.TAG and alone:
            self._tags.pushed((*place, route.target.reference), digest, media_type, size, at)


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
