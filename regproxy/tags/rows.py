"""The index rows of a tag: one for each answer that a registry may choose by Accept.

A HEAD names a tag's new digest before its content has been fetched. Until then the old copy must not be lost:
its row is kept as a *former* one, which is never fresh, and is served when the origin can't be asked.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from msgspec.structs import replace

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.index.index import TagKey, TagRow
from regproxy.fill.fill import CacheRequest
from regproxy.fill.provenance import OPEN, Provenance
from regproxy.fill.tag_request import TagAsk
from regproxy.registry.accept import Accept, bits_above
from regproxy.registry.manifests import MANIFEST_TYPES
from regproxy.registry.targets import is_digest
from regproxy.tags.answers import TagAnswer

_WRITTEN: Final = 5.0  # seconds that are waited for other processes to know an entered row
_FORMER: Final = "former "


class Moved(Protocol):
    """Is told of a tag that has become another digest."""

    def __call__(self, host: str, port: int, repository: str, tag: str, old: str, new: str, /) -> None:
        """Note it."""


def unheard(host: str, port: int, repository: str, tag: str, old: str, new: str, /) -> None:
    """Do nothing: nobody wants to know."""


class TagRecorder(Protocol):
    """The index, as tags use it."""

    def tag(self, host: str, port: int, repository: str, tag: str) -> tuple[TagRow, ...]:
        """Return a tag's rows."""

    def put_tag(
        self, host: str, port: int, repository: str, tag: str, row: TagRow, *, asked: float | None = None
    ) -> None:
        """Enter a tag's row, unless the tag was dropped after `asked` (monotonic)."""

    def drop_tag(self, host: str, port: int, repository: str, tag: str) -> float:
        """Drop all rows of a tag."""

    def media_type(self, digest: str) -> str | None:
        """Return the media type that a manifest's bytes state; None: not known, or not stated."""

    def dropped_at(self, host: str, port: int, repository: str, tag: str) -> float:
        """Return when the tag was last dropped, monotonic: a client has set or deleted it, or it was gone."""

    def flush(self, timeout: float) -> bool:
        """Wait until other processes know all that was entered; False: not within `timeout` seconds."""


class TagRows:
    """Enters origins' answers in the index."""

    def __init__(
        self,
        store: Store,
        index: TagRecorder,
        loop: asyncio.AbstractEventLoop,
        provenance: Provenance = OPEN,
        moved: Moved = unheard,
    ) -> None:
        self._store = store
        self._moved = moved
        self._provenance = provenance
        self._index = index
        self._loop = loop
        # Threads of its own: a locked database must not make cold pages and name lookups wait for a thread.
        self._writing = ThreadPoolExecutor(2, "written")

    def fetched(
        self, wanted: CacheRequest, accept: Accept, blob: Blob, media_type: str, began: float
    ) -> None:
        """Enter a tag whose content was fetched by a request that began at `began` (monotonic)."""
        self._put(name_of(wanted), _row(accept, blob.digest, media_type, blob.size), began)

    def pushed(self, tag: TagKey, digest: str, media_type: str, size: int, at: float) -> None:
        """Enter a tag that a client has set to this content at `at` (monotonic), by the registry's answer.

        It is what the registry stores, whatever a request names beside its type.
        """
        named = bits_above(media_type)
        row = TagRow(f"{media_type} {named}", digest, media_type, size, time.time(), named)
        self._put(tag, row, at)

    def seen(self, wanted: CacheRequest, tag: TagAsk, seen: TagAnswer) -> bool:
        """Enter the answer to a HEAD; False: it lacks a digest, or the media type of a manifest."""
        if not seen.digest:
            return False
        known = tag.row if tag.row is not None and tag.row.digest == seen.digest else None
        held = self.held(wanted, seen)
        # The media type that came with the content takes precedence over that of a HEAD.
        media_type = known.media_type if known is not None else self._type_of(seen)
        if known is None and media_type not in MANIFEST_TYPES:
            return False
        size = held.size if held is not None else seen.size
        # By this request's Accept, not by that of the row which it confirms: that one may have named more.
        row = _row(tag.accept, seen.digest, media_type, size)
        if known is None and held is None:
            self._keep_former(wanted, row, seen.began)
        self._put(name_of(wanted), row, seen.began)
        return True

    def _put(self, tag: TagKey, row: TagRow, asked: float) -> None:
        """Enter a row, unless the tag was dropped after `asked`; tell if it is another digest than before."""
        before = next((old.digest for old in self._index.tag(*tag) if old.variant == row.variant), "")
        self._index.put_tag(*tag, row, asked=asked)
        if before and before != row.digest and row in self._index.tag(*tag):
            self._moved(*tag, before, row.digest)

    def held(self, wanted: CacheRequest, seen: TagAnswer) -> Blob | None:
        """Return the stored content that a registry has named, None also where its word is not enough."""
        blob = self._store.lookup(seen.digest)
        if blob is None:
            return None
        named = self._provenance.named(
            *(wanted.origin, wanted.repository, seen.digest, blob.size), asked=seen.began
        )
        return blob if named else None

    def _type_of(self, seen: TagAnswer) -> str:
        return self._index.media_type(seen.digest) or seen.media_type

    def _keep_former(self, wanted: CacheRequest, row: TagRow, began: float) -> None:
        """Keep the cached copy's row as a former one until the tag's new content has been fetched."""
        for old in self._index.tag(*name_of(wanted)):
            if old.variant == row.variant and old.digest != row.digest and self._store.lookup(old.digest):
                former = replace(old, variant=_FORMER + old.variant)
                self._index.put_tag(*name_of(wanted), former, asked=began)

    def gone(self, wanted: CacheRequest) -> None:
        """Drop the tag's rows: the registry says that there is no such tag."""
        self._index.drop_tag(*name_of(wanted))

    def dropped_since(self, wanted: CacheRequest, began: float, digest: str = "") -> bool:
        """Tell whether the tag, or the content that an answer names (`digest`), was dropped since `began`
        (monotonic), which makes answers from then void.
        """
        name = name_of(wanted)
        deleted_at = self._index.dropped_at(*name[:3], digest) if digest else 0.0
        return began <= max(self._index.dropped_at(*name), deleted_at)

    async def written(self) -> None:
        """Wait until other processes know the entered rows, a few seconds at most."""
        await self._loop.run_in_executor(self._writing, self._index.flush, _WRITTEN)

    def close(self) -> None:
        """Stop entering rows."""
        self._writing.shutdown(wait=False)


def is_former_variant(variant: str) -> bool:
    """Tell whether a row's variant is one of a former row."""
    return variant.startswith(_FORMER)


def is_former(row: TagRow) -> bool:
    """Return whether the origin has named another digest since."""
    return is_former_variant(row.variant)


def concerns(dropped: TagKey, tag: TagKey) -> bool:
    """Return whether what was dropped is this tag, or content by digest that this tag may name."""
    return dropped == tag or (dropped[:3] == tag[:3] and is_digest(dropped[3]))


def name_of(wanted: CacheRequest) -> TagKey:
    """Return the index key of the requested tag."""
    origin = wanted.origin
    return origin.host, origin.port, wanted.repository, wanted.target.reference


def _row(accept: Accept, digest: str, media_type: str, size: int) -> TagRow:
    # One row for each answer that a registry may choose by Accept, not for each spelling of Accept.
    named = accept.named & bits_above(media_type)
    variant = f"{media_type} {named}"
    return TagRow(variant, digest, media_type, size, time.time(), named)
