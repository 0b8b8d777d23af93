"""Bring images into the cache ahead of their clients, by the same fills as theirs.

So what a client asks for meanwhile is fetched once, everything is verified, and quotas and circuit breakers
are respected. The configured logins are used as for a client without a name: where access is not `shared`,
or a login has a list, only if that is for everybody. A registry whose images no client would get from the
cache is not asked. Content becomes known in its repository, and nobody is
let in by that: each client is judged as always.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.index.index import Index, TagRow
from regproxy.cache.pins import registry_name
from regproxy.core.errors import RegproxyError, UpstreamError
from regproxy.fill.fill import CacheRequest, UpstreamAnswer
from regproxy.fill.fills import Fills
from regproxy.fill.tag_request import TagAsk
from regproxy.http.messages import NONE, Request
from regproxy.http.origin import Origin
from regproxy.inventory.warm_list import Wish
from regproxy.policy.access import Access
from regproxy.policy.freshness import Lifetime
from regproxy.policy.principals import ANONYMOUS
from regproxy.policy.variants import choose_variant
from regproxy.registry.accept import parse_accept
from regproxy.registry.descriptors import Descriptor, described, platform_matches
from regproxy.registry.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_MAX,
    OCI_INDEX,
    OCI_MANIFEST,
)
from regproxy.registry.targets import Kind, Target
from regproxy.tags.resolver import Tags
from regproxy.tags.rows import is_former

IMAGES: Final = 2  # at a time
CONTENTS: Final = 4  # at a time, of all images
# What docker, containerd and podman name, so that what they would get is what is entered.
_ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, "*/*")).encode()

T = TypeVar("T")


class Lifetimes(Protocol):
    """How long copies of tags are fresh (regproxy.policy.plans.Policy)."""

    def lifetime(self, tag: str) -> Lifetime:
        """Return the lifetime of a tag's copies."""


class Warmed(Struct, frozen=True):
    """An image that is in the cache now, or `error`: why not. `fetched`, `bytes`: contents that were not."""

    name: str
    digest: str = ""
    objects: int = 0
    fetched: int = 0
    bytes: int = 0
    error: str = ""


class Parts(Struct, frozen=True):
    """What warming works with: those of one worker. `stretch`: see Lookup. `offline`: ask nobody.

    `serves`: whether clients get images of that host and port.
    """

    store: Store
    index: Index
    fills: Fills
    tags: Tags
    policy: Lifetimes
    access: Access
    stretch: Callable[[str], float]
    agent: bytes
    offline: Callable[[], bool]
    serves: Callable[[str, int], bool]


class Warming:
    """Warms the cache of one worker with a list. Use from its event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._images = asyncio.Semaphore(IMAGES)
        self._contents = asyncio.Semaphore(CONTENTS)

    async def run(self, wishes: Sequence[Wish], on_image: Callable[[Warmed], None]) -> list[Warmed]:
        """Fetch what is missing of each image; what fails is told per image, in the order of the list.

        `on_image`: called with each, in the order in which they are done.
        """
        return list(await _all([self._image(each, on_image) for each in wishes]))

    async def _image(self, wish: Wish, on_image: Callable[[Warmed], None]) -> Warmed:
        async with self._images:
            image = _Image(self._parts, self._contents, wish)
            try:
                if self._parts.offline():
                    raise RegproxyError("the proxy is offline: no registry is asked")
                host, port = wish.reference.host, wish.reference.port
                if not self._parts.serves(host, port):
                    name = registry_name(host, port)
                    raise RegproxyError(f"no client would get it from the cache: name {name} in REGISTRIES")
                done = await image.fetch()
            except UpstreamAnswer as answer:
                error = f"{answer.origin.host} answered {answer.response.status}"
                answer.__traceback__ = None
                done = image.result(error)
            except RegproxyError as error:
                error.__traceback__ = None
                done = image.result(str(error))
        on_image(done)
        return done


class _Image:
    """One image, and what has been fetched of it."""

    def __init__(self, parts: Parts, contents: asyncio.Semaphore, wish: Wish) -> None:
        self._parts = parts
        self._contents = contents
        self._platforms = wish.platforms
        self._reference = reference = wish.reference
        self._origin = Origin("https", reference.host, reference.port)
        self._private = parts.access.mode(self._origin) != "shared"
        # It is nobody by name, so logins that are for some clients, or for public content, are not for it.
        repository = reference.repository
        self._lends = parts.access.lends(ANONYMOUS, self._origin, repository, lambda: False)
        self._digest = ""
        self._done: set[str] = set()
        self._fetched = self._bytes = 0

    def result(self, error: str = "") -> Warmed:
        """Return what has become of it."""
        name, objects = self._reference.name, len(self._done)
        return Warmed(name, self._digest, objects, self._fetched, self._bytes, error)

    async def fetch(self) -> Warmed:
        """Fetch its manifests and all that they name. Raises RegproxyError."""
        root = await self._root()
        self._digest = root.digest
        entries = await self._named(root)
        wished = [each for each in entries if each.kind != "manifest" or self._is_wished(each)]
        if entries and not wished:
            raise RegproxyError(f"{self._reference.name} has no image for {', '.join(self._platforms)}")
        await _all([self._below(each) for each in wished])
        return self.result()

    def _is_wished(self, entry: Descriptor) -> bool:
        wishes = self._platforms
        return not wishes or any(platform_matches(entry.platform, each) for each in wishes)

    async def _below(self, entry: Descriptor) -> None:
        """Fetch what a manifest names, and what that names."""
        kind = Kind.MANIFEST if entry.kind == "manifest" else Kind.BLOB
        blob = await self._content(kind, entry.digest)
        if kind is Kind.MANIFEST:
            layers = [each for each in await self._named(blob) if each.kind != "manifest"]
            await _all([self._below(each) for each in layers])

    async def _named(self, manifest: Blob) -> tuple[Descriptor, ...]:
        """Return what a manifest names. It may have megabytes, from a cold disk, so a thread reads it."""
        async with self._contents:
            return await asyncio.get_running_loop().run_in_executor(None, _described, manifest)

    # --- one content -------------------------------------------------------------------------------------

    async def _root(self) -> Blob:
        if self._reference.digest:
            return await self._content(Kind.MANIFEST, self._reference.digest)
        blob, fetched = await self._tag()
        return self._note(blob, fetched=fetched)

    async def _content(self, kind: Kind, digest: str) -> Blob:
        held = self._held(digest)
        if held is not None:
            return self._note(held, fetched=False)
        wanted = self._wanted(kind, digest)
        async with self._contents:
            _, mine, blob = await self._parts.fills.whole(wanted)
        return self._note(blob, fetched=mine)

    def _note(self, blob: Blob, *, fetched: bool) -> Blob:
        if self._parts.store.lookup(blob.digest) is None:
            raise RegproxyError(f"{blob.digest} ({blob.size} bytes) can't be stored: too large, or no room")
        # Else it would be the first to be evicted again.
        self._parts.index.touch(blob.digest)
        if blob.digest not in self._done:
            self._done.add(blob.digest)
            self._fetched += fetched
            self._bytes += blob.size if fetched else 0
        return blob

    def _held(self, digest: str) -> Blob | None:
        """Return stored content that is known in this repository, where that matters."""
        blob = self._parts.store.lookup(digest)
        if blob is not None and self._parts.access.guarded and not self._is_known(digest):
            return None
        return blob

    def _is_known(self, digest: str) -> bool:
        place = self._reference
        return bool(self._parts.index.presence(place.host, place.port, place.repository, digest))

    def _wanted(self, kind: Kind, reference: str) -> CacheRequest:
        section = "blobs" if kind is Kind.BLOB else "manifests"
        repository = self._reference.repository
        path = f"/v2/{repository}/{section}/{reference}"
        fields = ((b"accept", _ACCEPT), (b"user-agent", self._parts.agent))
        request = Request("GET", path, 1, fields if kind is not Kind.BLOB else fields[1:], NONE, True, False)
        target = Target(kind, repository, reference)
        return CacheRequest(self._origin, request, target, True, self._lends, self._private)

    # --- its tag -----------------------------------------------------------------------------------------

    async def _tag(self) -> tuple[Blob, bool]:
        """Return what the tag is now, and whether that was fetched for this."""
        parts, place = self._parts, self._reference
        accept = parse_accept((_ACCEPT,))
        rows = parts.index.tag(place.host, place.port, place.repository, place.tag)
        row = choose_variant(tuple(each for each in rows if not is_former(each)), accept)
        held = self._held(row.digest) if row is not None else None
        if row is not None and held is not None and self._is_fresh(row):
            return held, False
        ask = TagAsk(accept, lambda: None, row=row if held is not None else None)
        wanted = self._wanted(Kind.TAG, place.tag)
        async with self._contents:
            confirmed = await parts.tags.confirm(wanted, ask)
            if confirmed is not None:
                return confirmed.blob, not (confirmed.revalidated or confirmed.joined)
            return await self._fetch_tag(wanted, ask)

    def _is_fresh(self, row: TagRow) -> bool:
        parts, place = self._parts, self._reference
        age = time.time() - row.fetched_at
        return parts.policy.lifetime(place.tag).is_fresh(age, parts.stretch(place.host))

    async def _fetch_tag(self, wanted: CacheRequest, ask: TagAsk) -> tuple[Blob, bool]:
        while True:
            fill, mine = self._parts.tags.join(wanted, ask)
            try:
                return await asyncio.shield(fill.done), mine
            except UpstreamError as error:
                if mine or not fill.failed_for_other_client(wanted, error):
                    raise


def _described(manifest: Blob) -> tuple[Descriptor, ...]:
    body = manifest.small
    if body is None:
        body = os.pread(manifest.file.fd, manifest.size, 0) if manifest.size <= MANIFEST_MAX else b""
    return described(body)


async def _all(works: Sequence[Awaitable[T]]) -> list[T]:
    """Await all, and raise the first error once all have ended: nothing is left behind that nobody awaits."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for each in results:
        if isinstance(each, BaseException):
            raise each
    return [each for each in results if not isinstance(each, BaseException)]
