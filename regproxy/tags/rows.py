"""What is entered of a tag: a row for each answer that a registry may choose by Accept.

A HEAD says what a tag is before anybody has its content. That must not cost the copy that is held until the
new one is: its row is kept as a *former* one, which is never fresh, and stands in when nobody can be asked.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.index.index import TagKey, TagRow
from regproxy.fill.fill import CacheRequest
from regproxy.fill.tag_request import TagAsk
from regproxy.registry.accept import Accept, bits_above
from regproxy.registry.manifests import MANIFEST_TYPES
from regproxy.tags.answers import TagAnswer

_WRITTEN: Final = 5.0  # seconds that what is entered may take to be known to the other processes
_FORMER: Final = "former "


class Recorder(Protocol):
    """Where tags are entered."""

    def tag(self, host: str, port: int, repository: str, tag: str) -> tuple[TagRow, ...]:
        """What is known of a tag."""

    def put_tag(
        self, host: str, port: int, repository: str, tag: str, row: TagRow, *, asked: float | None = None
    ) -> None:
        """Enter what a tag is, unless it was dropped after `asked` (monotonic)."""

    def drop_tag(self, host: str, port: int, repository: str, tag: str) -> None:
        """Forget all that is known of a tag."""

    def media_type(self, digest: str) -> str | None:
        """The type that a manifest's bytes state; None: not known, or not stated."""

    def dropped_at(self, host: str, port: int, repository: str, tag: str) -> float:
        """When the tag was last set or deleted by a client, monotonic."""

    def flush(self, timeout: float) -> bool:
        """Wait until all of it is known to other processes."""


class TagRows:
    """Enters what origins say."""

    def __init__(self, store: Store, index: Recorder, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._index = index
        self._loop = loop
        # A database that is locked must not keep cold pages and names waiting for a thread.
        self._writing = ThreadPoolExecutor(2, "written")

    def fetched(
        self, wanted: CacheRequest, accept: Accept, blob: Blob, media_type: str, began: float
    ) -> None:
        """Enter a tag whose content was fetched by a request that began then (monotonic)."""
        row = _row(accept, blob.digest, media_type, blob.size)
        self._index.put_tag(*name_of(wanted), row, asked=began)

    def seen(self, wanted: CacheRequest, tag: TagAsk, seen: TagAnswer) -> bool:
        """Enter what a HEAD has told; False: it said too little."""
        if not seen.digest:
            return False
        known = tag.row if tag.row is not None and tag.row.digest == seen.digest else None
        held = self._store.lookup(seen.digest)
        # The type that came with the content goes before what a HEAD says of it.
        media_type = known.media_type if known is not None else self._type_of(seen)
        if known is None and media_type not in MANIFEST_TYPES:
            return False
        size = held.size if held is not None else seen.size
        # By this request's Accept, not by that of the row which it confirms: that one may have named more.
        row = _row(tag.accept, seen.digest, media_type, size)
        if known is None and held is None:
            self._keep_former(wanted, row, seen.began)
        self._index.put_tag(*name_of(wanted), row, asked=seen.began)
        return True

    def _type_of(self, seen: TagAnswer) -> str:
        return self._index.media_type(seen.digest) or seen.media_type

    def _keep_former(self, wanted: CacheRequest, row: TagRow, began: float) -> None:
        """What is held is all that there is until somebody has fetched what the tag is now."""
        for old in self._index.tag(*name_of(wanted)):
            if old.variant == row.variant and old.digest != row.digest and self._store.lookup(old.digest):
                former = replace(old, variant=_FORMER + old.variant)
                self._index.put_tag(*name_of(wanted), former, asked=began)

    def gone(self, wanted: CacheRequest) -> None:
        """The registry says that there is no such tag."""
        self._index.drop_tag(*name_of(wanted))

    def dropped_since(self, wanted: CacheRequest, began: float) -> bool:
        """Whether the tag was set or deleted since `began`: what was said to who asked then is void."""
        return began <= self._index.dropped_at(*name_of(wanted))

    async def written(self) -> None:
        """Wait until what was entered is known to other processes, a few seconds at most."""
        await self._loop.run_in_executor(self._writing, self._index.flush, _WRITTEN)

    def close(self) -> None:
        """Nothing is entered any more."""
        self._writing.shutdown(wait=False)


def is_former(row: TagRow) -> bool:
    """Whether the origin has said something else since."""
    return row.variant.startswith(_FORMER)


def name_of(wanted: CacheRequest) -> TagKey:
    """The tag that is wanted."""
    origin = wanted.origin
    return origin.host, origin.port, wanted.repository, wanted.target.reference


def _row(accept: Accept, digest: str, media_type: str, size: int) -> TagRow:
    # One row for each answer that a registry may choose by Accept, not for each spelling of Accept.
    named = accept.named & bits_above(media_type)
    variant = f"{media_type} {named}"
    return TagRow(variant, digest, media_type, size, time.time(), named)
