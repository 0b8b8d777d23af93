"""Add up what is held of each registry and repository."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from regproxy.cache.pins import registry_name
from regproxy.inventory.images import Position
from regproxy.inventory.reading import IndexReader

# One repository is a stretch of the table, whose length is what that repository holds.
_NEXT: Final = (
    "SELECT host, port, repository FROM tags WHERE (host, port, repository) > (?, ?, ?)"
    " ORDER BY host, port, repository LIMIT 1"
)
_HELD: Final = (
    "SELECT count(*), coalesce(sum(objects.size), 0), coalesce(sum(disk), 0), max(last_used) FROM tags"
    " JOIN objects USING (digest) WHERE host = ? AND port = ? AND repository = ?"
    " AND variant = 'presence' AND named"
)
_TAGS: Final = (
    "SELECT count(DISTINCT tag) FROM tags INDEXED BY images_by_name"
    " WHERE tag NOT GLOB '*:*' AND host = ? AND port = ? AND repository = ?"
)
_TOTALS: Final = "SELECT objects, bytes, disk FROM totals"
_BEFORE_ALL: Final[Position] = ["", 0, ""]


class Usage(Struct, frozen=True):
    """What is held of a repository; content that several have counts for each. `last_used`: epoch.

    `disk`: bytes on it. `repository`: "" for all of a registry.
    """

    registry: str
    repository: str
    tags: int
    objects: int
    bytes: int
    disk: int
    last_used: float


class UsagePage(Struct, frozen=True):
    """A part of the repositories. `next`: where the page after it begins, None on the last one."""

    items: list[Usage]
    next: Position | None


class CacheTotals(Struct, frozen=True):
    """All objects in the cache, each once."""

    objects: int
    bytes: int
    disk: int


def repositories(
    reader: IndexReader,
    *,
    place: tuple[str, int] | None = None,
    start: Position | None = None,
    limit: int = 100,
) -> UsagePage:
    """Return a page of repositories, by name, with what is held of each. `place`: of this registry alone.

    Raises StoreError.
    """
    position = start or ([*place, ""] if place is not None else _BEFORE_ALL)
    items: list[Usage] = []
    with reader.connection() as connection:
        while True:
            found = connection.execute(_NEXT, position).fetchone()
            if found is None or (place is not None and found[:2] != place):
                return UsagePage(items, None)
            if len(items) >= limit:
                return UsagePage(items, position)
            items.append(_usage(connection, found))
            position = list(found)


def _usage(connection: Any, place: tuple[str, int, str]) -> Usage:
    objects, size, disk, last_used = connection.execute(_HELD, place).fetchone()
    (tags,) = connection.execute(_TAGS, place).fetchone()
    registry = registry_name(*place[:2])
    return Usage(registry, place[2], tags, objects, size, disk, last_used or 0.0)


def totals(reader: IndexReader) -> CacheTotals:
    """Return the sums over all that is stored. Raises StoreError."""
    with reader.connection() as connection:
        return CacheTotals(*connection.execute(_TOTALS).fetchone())


def by_registry(usages: list[Usage]) -> list[Usage]:
    """Return the sums of repositories for each registry, the largest first."""
    sums: dict[str, Usage] = {}
    for each in usages:
        before = sums.get(each.registry, Usage(each.registry, "", 0, 0, 0, 0, 0.0))
        sums[each.registry] = Usage(
            registry=each.registry,
            repository="",
            tags=before.tags + each.tags,
            objects=before.objects + each.objects,
            bytes=before.bytes + each.bytes,
            disk=before.disk + each.disk,
            last_used=max(before.last_used, each.last_used),
        )
    return sorted(sums.values(), key=lambda each: -each.bytes)
