"""Record what others attest of clients and images: whom a registry has let in, and which images are signed.

Each record is a row of the index, with a name that no tag can have in the place of the tag. It is swept, and
removed with its image, as the rows of tags are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from regproxy.cache.index.index import Index
from regproxy.cache.index.rows import TagRow

# The variants of these rows.
_SIGNED: Final = "signed"  # the image has a signature by the key in the row's name
_ACCESS: Final = "access"


class Attestations:
    """The attestations in an index. Use from the same thread as the index."""

    def __init__(self, index: Index, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock

    def put_access(self, host: str, port: int, repository: str, who: str) -> None:
        """Record that a registry has let someone into a repository just now. `who`: a mark, no secret."""
        row = TagRow(_ACCESS, "", "", 0, self._clock(), 1)
        self._index.put_tag(host, port, repository, _asker(who), row)

    def accessed_at(self, host: str, port: int, repository: str, who: str) -> float:
        """Return when put_access() last recorded someone (epoch); 0: never."""
        rows = self._index.tag(host, port, repository, _asker(who))
        return max((row.fetched_at for row in rows), default=0.0)

    def put_signed(self, host: str, port: int, repository: str, digest: str, key: str) -> None:
        """Record that an image is signed by the key with this fingerprint; forgotten with the image."""
        row = TagRow(_SIGNED, digest, "", 0, self._clock(), 1)
        self._index.put_tag(host, port, repository, _signature(digest, key), row)

    def signed(self, host: str, port: int, repository: str, digest: str, key: str) -> bool:
        """Return whether put_signed() has recorded that."""
        rows = self._index.tag(host, port, repository, _signature(digest, key))
        return any(row.variant == _SIGNED and row.digest == digest for row in rows)


def _asker(who: str) -> str:
    """Return what stands in the place of the tag in an access row: no tag can be called so."""
    return f"access:{who}"


def _signature(digest: str, key: str) -> str:
    """Return what stands in the place of the tag in a signature's row: no tag can be called so."""
    return f"signed:{key}:{digest}"
