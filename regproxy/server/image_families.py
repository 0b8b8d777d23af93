"""What content by digest belongs to: the tags that it was served under, the manifests that name it.

Rules judge images; clients fetch their parts one by one, by digest. The index of the cache remembers for a
day what belongs to what, for all processes.
"""

from __future__ import annotations

import os
import time
from typing import Final, Protocol

from msgspec import Struct

from regproxy.cache.blobs import Blob
from regproxy.cache.index.rows import TagRow
from regproxy.core.lru import Bounded
from regproxy.registry.manifests import MANIFEST_MAX, named_in

BELONGS_MAX: Final = 16  # tags and manifests that are remembered for each content
PENDING_MAX: Final = 64  # manifests of a repository that have been judged, but not seen yet
DAY: Final = 86_400.0  # seconds for which it is remembered, at least
_AGAIN: Final = 3600.0  # seconds after which it is noted anew
_READ_MAX: Final = 4096
_WITHIN: Final = "within:"  # rows with these in the place of the tag, which no tag can be
_JUDGED: Final = "judged:"
_TAG: Final = "tag "

Place = tuple[str, int, str]  # host, port, repository


class FamilyRows(Protocol):
    """The index, as far as it has rows of tags."""

    def tag(self, host: str, port: int, repository: str, tag: str) -> tuple[TagRow, ...]:
        """Return the rows of a tag."""

    def put_tag(self, host: str, port: int, repository: str, tag: str, row: TagRow) -> None:
        """Enter a row."""

    def drop_tag(self, host: str, port: int, repository: str, tag: str) -> float:
        """Drop all rows of a tag."""


class Contents(Protocol):
    """The store, as far as it has content."""

    def lookup(self, digest: str) -> Blob | None:
        """Return the stored content of a digest."""


class Family(Struct, frozen=True):
    """What some content belongs to, the latest first."""

    tags: tuple[str, ...]
    parents: tuple[str, ...]


class Families:
    """Remembers what belongs to what. One for each worker."""

    def __init__(self, index: FamilyRows, store: Contents) -> None:
        self._index = index
        self._store = store
        self._read: Bounded[tuple[Place, str, bool], float] = Bounded(_READ_MAX)

    def served(self, place: Place, digest: str, tag: str) -> None:
        """Note that content was served under a tag."""
        self._note(place, _WITHIN + digest, _TAG + tag, BELONGS_MAX, passes=True)

    def judged(self, place: Place, digest: str, *, passes: bool) -> None:
        """Note that a manifest is judged: what it names belongs to it.

        `passes`: it may be served, and what it names is found out when it is there. Of others, which anybody
        may make up, only those that are stored are noted.
        """
        if not self._enter(place, digest, passes) and passes:
            self._note(place, _JUDGED, digest, PENDING_MAX, passes=True)

    def of(self, place: Place, digest: str) -> Family:
        """Return what some content belongs to, as far as it is known."""
        for row in self._index.tag(*place, _JUDGED):
            # Its content has come since, perhaps through another process.
            self._enter(place, row.variant, passes=True)
        rows = sorted(self._index.tag(*place, _WITHIN + digest), key=lambda row: row.fetched_at, reverse=True)
        names = [row.variant for row in rows]
        tags = tuple(name.removeprefix(_TAG) for name in names if name.startswith(_TAG))
        return Family(tags, tuple(name for name in names if not name.startswith(_TAG)))

    def _enter(self, place: Place, digest: str, passes: bool) -> bool:
        """Enter what a manifest names, if it is stored; return whether it is."""
        now = time.time()
        read = self._read.get((place, digest, passes))
        if read is not None and 0 <= now - read < _AGAIN:
            return True
        blob = self._store.lookup(digest)
        if blob is None:
            return False
        if blob.size <= MANIFEST_MAX:
            body = blob.small if blob.small is not None else os.pread(blob.file.fd, blob.size, 0)
            for child in named_in(body):
                self._note(place, _WITHIN + child, digest, BELONGS_MAX, passes=passes)
        self._read.put((place, digest, passes), now)
        return True

    def _note(self, place: Place, name: str, what: str, limit: int, *, passes: bool) -> None:
        now = time.time()
        rows = self._index.tag(*place, name)
        known = next((row for row in rows if row.variant == what), None)
        # What has passed once, for some client, is still worth more than what never has.
        passes = passes or (known is not None and _has_passed(known))
        if known is not None and 0 <= now - known.fetched_at < _AGAIN and passes == _has_passed(known):
            return
        if known is None and len(rows) >= limit:
            # The latest are those of what is pulled now. But what is denied, such as any number of manifests
            # that name a layer of others, must not push out what is allowed.
            rest = sorted(rows, key=lambda row: (_has_passed(row), row.fetched_at))[-limit // 2 :]
            if not passes and _has_passed(rest[0]):
                return
            self._index.drop_tag(*place, name)
            for row in rest:
                self._index.put_tag(*place, name, row)
        self._index.put_tag(*place, name, TagRow(what, "", "", int(passes), now, 0))


def _has_passed(row: TagRow) -> bool:
    return row.size > 0
