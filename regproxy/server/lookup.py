"""Look up cached content for a request: the only way by which content leaves the cache.

Each lookup gets the origin, the target and the request's route, so that a rule on which client may have which
content has one place. Only this module decides the media type to send: the one that a manifest's bytes state,
else the one that the registry has told for it, in that repository.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.index.index import Index, TagRow
from regproxy.core.errors import BadResponse
from regproxy.fill.fill import NO_TYPE
from regproxy.fill.provenance import OPEN, Provenance
from regproxy.fill.tag_request import Held
from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.policy.freshness import Lifetime
from regproxy.policy.variants import variants
from regproxy.registry.evidence import Evidence, evidence
from regproxy.registry.manifests import MANIFEST_MAX, NO_MANIFEST, ManifestType, manifest_type
from regproxy.registry.targets import Kind, Target
from regproxy.server.routes import BY_DIGEST, Route

log = logging.getLogger(__name__)

PLACES_MAX: Final = 64  # repositories that are remembered for each blob
_BLOB: Final = Kind.BLOB  # accessing a member of an enum is slow


_make = tuple.__new__


class Copy(NamedTuple):
    """The cached copy of a tag, `age` seconds after its origin confirmed it.

    `current`: the origin has named nothing newer since. `fresh`: the origin need not be asked.
    `usable_if_error`: it may be served while the origin is in trouble (stale-if-error, RFC 5861 4).
    """

    row: TagRow
    held: Held
    age: float
    current: bool
    fresh: bool
    usable_if_error: bool


class Lookup:
    """Finds cached content for requests. `stretch`: how many times longer a registry's tags are fresh.

    `pushes`: clients may push and delete, so that what a repository holds may change by what they do.
    `provenance`: if something is kept from somebody, content is found only in repositories in which it is
    known.
    """

    __slots__ = ("_guarded", "_index", "_provenance", "_pushes", "_store", "_stretch")

    def __init__(
        self,
        store: Store,
        index: Index,
        stretch: Callable[[str], float],
        pushes: bool = False,
        provenance: Provenance = OPEN,
    ) -> None:
        self._store = store
        self._provenance = provenance
        self._guarded = provenance.guarded
        self._index = index
        self._stretch = stretch
        self._pushes = pushes

    # --- for a request -----------------------------------------------------------------------------------

    def content(self, origin: Origin, target: Target, route: Route) -> Held | None:
        """Return content by digest; None: it is not cached, or is no manifest where one was requested.

        Nor is what a client has deleted from that repository.
        """
        blob = self._store.lookup(target.reference)
        if blob is None or not (blob.known or self._is_whole(blob)):
            return None
        if self._pushes and self.was_deleted(origin, route):
            return None
        if self._guarded and not self._is_known(origin, route, blob):
            return None
        if target.kind is _BLOB:
            return blob, NO_TYPE
        manifest = blob.manifest
        if manifest is not None and manifest.stated:
            media_type = manifest.media_type
        else:
            media_type = self._told_type(origin, target, route, blob, "")
        return (blob, media_type) if media_type else None

    def is_doubtful(self, origin: Origin, route: Route) -> bool:
        """Return whether content by digest is stored, and not known to be in the route's repository."""
        if not self._guarded:
            return False
        blob = self._store.lookup(route.target.reference)
        return blob is not None and not self._is_known(origin, route, blob)

    def believes(self, origin: Origin, digest: str) -> bool:
        """Return whether a registry's word is enough for its clients to have stored content."""
        return self._provenance.covers(origin, digest)

    def _is_known(self, origin: Origin, route: Route, blob: Blob) -> bool:
        """Return whether stored content is known to be in the route's repository."""
        place = (origin.host, origin.port, route.shared.repository)
        if place in blob.places:
            return True
        if not self._index.presence(*place, blob.digest):
            return False
        if len(blob.places) >= PLACES_MAX:
            blob.places.clear()
        blob.places.add(place)
        return True

    def present(self, origin: Origin, target: Target, route: Route) -> Held | None:
        """Return content by digest for a HEAD: only where its registry need not be asked whether it is there.

        A client that means to push leaves out what is there already. So with pushes the registry is asked
        every time, and else once for each repository.
        """
        if self._pushes or not self._presence(origin, route, target.reference):
            return None
        return self.content(origin, target, route)

    def present_if_error(self, origin: Origin, target: Target, route: Route) -> Held | None:
        """Return content by digest for a HEAD that its registry can't answer."""
        if self._pushes and not self._presence(origin, route, target.reference):
            return None
        return self.content(origin, target, route)

    def seen_present(self, origin: Origin, route: Route, digest: str, asked: float) -> None:
        """Remember that a registry has said that it has this content in this repository.

        `asked`: when, monotonic; what was deleted there since stays deleted.
        """
        known = self._presence(origin, route, digest)
        if known:
            return
        place = (origin.host, origin.port, route.shared.repository)
        if not self._provenance.covers(origin, digest):
            if known is False:
                self._index.drop_tag(*place, digest)  # not deleted any more, and not known either
            return
        blob = self._store.lookup(digest)
        if blob is not None or known is False:
            self._index.put_presence(*place, digest, blob.size if blob is not None else 0, asked)

    def shown_present(self, origin: Origin, route: Route, response: Response, asked: float) -> None:
        """Do as seen_present() if a registry's success shows that it has the route's content.

        Where something is kept from somebody, any success will not do.
        """
        target = route.target
        if self._guarded and evidence(target, response, self.size_of(origin, target)) is not Evidence.CLEAR:
            return
        self.seen_present(origin, route, target.reference, asked)

    def size_of(self, origin: Origin, target: Target) -> int | None:
        """Return the bytes of content by digest that is stored, else None.

        None also for what this registry may not learn of.
        """
        blob = self._store.lookup(target.reference) if target.kind in BY_DIGEST else None
        return blob.size if blob is not None and self.believes(origin, blob.digest) else None

    def was_deleted(self, origin: Origin, route: Route) -> bool:
        """Return whether a client has deleted the route's content by digest from its repository.

        It may be held, but is not to be served.
        """
        if not self._pushes or route.by_digest is None:
            return False
        return self._absent_since(origin, route, route.target.reference) > 0

    def copy(self, origin: Origin, target: Target, route: Route, lifetime: Lifetime) -> Copy | None:
        """Return the copy of a tag that suits a request: the newest, else an older one still in the cache."""
        rows = self._index.tag(origin.host, origin.port, route.shared.repository, target.reference)
        row = route.choose(rows)
        held = self._named(origin, row, route) if row is not None else None
        if row is not None and held is not None:
            age = time.time() - row.fetched_at
            if lifetime.is_fresh(age):
                # Like Copy(), without calling a Python function: this is the path of a hit.
                return _make(Copy, (row, held, age, True, True, True))
            return self._aged(origin, lifetime, row, held, True)
        for older in variants(rows, route.accept):
            held = self._named(origin, older, route)
            if held is not None:
                return self._aged(origin, lifetime, older, held, False)
        return None

    def fresh(self, origin: Origin, target: Target, route: Route, lifetime: Lifetime) -> Held | None:
        """Return the copy of a tag if it is fresh by now, so that the origin need not be asked."""
        rows = self._index.tag(origin.host, origin.port, route.shared.repository, target.reference)
        row = route.choose(rows)
        held = self._named(origin, row, route) if row is not None else None
        if row is None or held is None:
            return None
        age = time.time() - row.fetched_at
        return held if lifetime.is_fresh(age, self._stretch(origin.name)) else None

    def brought(self, origin: Origin, target: Target, route: Route, blob: Blob, told: str) -> Held:
        """Return fetched content, with the media type to send for this request.

        `told`: the media type that the registry has told, "" where another client's request fetched it.
        """
        if target.kind in BY_DIGEST:
            return blob, self._digest_type(origin, target, route, blob, told) or NO_TYPE
        return blob, self._manifest_type(blob, told) or told

    def drop(self, digest: str) -> None:
        """Remove broken content: every later client would be cut off for it."""
        self._store.remove(digest)
        self._index.drop_object(digest)

    # --- tags --------------------------------------------------------------------------------------------

    def _named(self, origin: Origin, row: TagRow, route: Route) -> Held | None:
        """Return the content that a tag's row names, if cached, and of the type that was told of the tag."""
        blob = self._store.lookup(row.digest)
        if blob is None or not (blob.known or self._is_whole(blob)):
            return None
        if self._pushes and self._absent_since(origin, route, row.digest) >= row.fetched_at:
            return None
        if self._guarded and not self._is_known(origin, route, blob):
            return None
        manifest = blob.manifest
        if manifest is not None and manifest.stated:
            media_type = manifest.media_type
        else:
            media_type = self._manifest_type(blob, row.media_type) or row.media_type
        if media_type != row.media_type:
            return None
        return blob, media_type

    def _aged(self, origin: Origin, lifetime: Lifetime, row: TagRow, held: Held, current: bool) -> Copy:
        age = time.time() - row.fetched_at
        usable = lifetime.usable_if_error(age, self._stretch(origin.name))
        return Copy(row, held, age, current, False, usable)

    def _absent_since(self, origin: Origin, route: Route, digest: str) -> float:
        """Return when a client has deleted content from the route's repository, epoch; 0: it has not."""
        return self._index.absent_since(origin.host, origin.port, route.shared.repository, digest)

    def _presence(self, origin: Origin, route: Route, digest: str) -> bool | None:
        return self._index.presence(origin.host, origin.port, route.shared.repository, digest)

    # --- properties of content ---------------------------------------------------------------------------

    def _is_whole(self, blob: Blob) -> bool:
        """Compare the size of content that was not in memory with its index row; drop it if they differ."""
        row = self._index.object(blob.digest)
        if row is not None and row.size != blob.size:
            log.warning("%s has %d bytes on disk instead of %d: removed", blob.digest, blob.size, row.size)
            self.drop(blob.digest)
            return False
        blob.known = True
        if row is None:
            # The index was lost.
            self._index.put_object(blob.digest, blob.size, None, blob.disk)
        elif row.media_type is not None:
            blob.manifest = ManifestType(row.media_type, True)
        return True

    def _digest_type(self, origin: Origin, target: Target, route: Route, blob: Blob, told: str) -> str:
        """Return the media type to send with content by digest; "": it is not the requested manifest."""
        if target.kind is _BLOB:
            return NO_TYPE
        if blob.manifest is None or not blob.manifest.stated:
            return self._told_type(origin, target, route, blob, told)
        return blob.manifest.media_type

    def _told_type(self, origin: Origin, target: Target, route: Route, blob: Blob, told: str) -> str:
        where = (origin.host, origin.port, route.shared.repository, target.reference)
        return self._manifest_type(blob, told or self._index.told(*where))

    def _manifest_type(self, blob: Blob, told: str) -> str:
        """Return the media type to send with a manifest, "" where this content is none.

        The one that its bytes state; where they state none, `told`, the one that the registry has told.
        """
        manifest = blob.manifest
        if manifest is None:
            manifest = blob.manifest = self._read_type(blob)
        return manifest.media_type if manifest.stated else manifest.told(told)

    def _read_type(self, blob: Blob) -> ManifestType:
        if blob.size > MANIFEST_MAX:
            return NO_MANIFEST
        body = blob.small if blob.small is not None else os.pread(blob.file.fd, blob.size, 0)
        try:
            manifest = manifest_type(body)
        except BadResponse:
            return NO_MANIFEST
        if manifest.stated:
            self._index.put_object(blob.digest, blob.size, manifest.media_type, blob.disk)
        return manifest
