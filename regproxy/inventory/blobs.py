"""List the contents in the cache by digest: their size, their use, what names them, where they came from."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final, Literal

from msgspec import Struct

from regproxy.cache.pins import registry_name
from regproxy.inventory.images import Position
from regproxy.inventory.reading import IndexReader

Order = Literal["digest", "size", "used"]

NAMED_MAX: Final = 100  # images, pins and places of one content that are named

_COLUMNS: Final = "digest, size, disk, media_type, last_used, stored_at, hits"
_PINNED: Final = "EXISTS (SELECT 1 FROM pins WHERE pins.digest = objects.digest)"
_KIND: Final = "(SELECT media_type FROM manifests WHERE manifests.digest = objects.digest)"
_LIST: Final = f"SELECT {_COLUMNS}, {_PINNED}, {_KIND} FROM objects"
_ONE: Final = f"{_LIST} WHERE digest = ?"
# Images by the tags that name it, and those that name what it belongs to.
_IMAGES: Final = (
    "WITH RECURSIVE above (digest) AS (VALUES (?) UNION"
    " SELECT parent FROM links JOIN above ON child = above.digest)"
    " SELECT DISTINCT host, port, repository, tag FROM above"
    " JOIN tags INDEXED BY tags_by_digest USING (digest)"
    " WHERE tag NOT GLOB '*:*' LIMIT ?"
)
_PLACES: Final = (
    "SELECT DISTINCT host, port, repository FROM tags INDEXED BY tags_by_digest"
    " WHERE digest = ? AND variant = 'presence' AND named LIMIT ?"
)
_PINS: Final = "SELECT name FROM pins WHERE digest = ? ORDER BY name LIMIT ?"
_PARENTS: Final = "SELECT parent FROM links WHERE child = ? ORDER BY parent LIMIT ?"
_ORDERS: Final = {
    "digest": ("", "digest"),
    "size": ("objects_by_size", "size"),
    "used": ("objects_by_use", "last_used"),
}


class Blob(Struct, frozen=True):
    """Content in the cache. `media_type`: of a manifest, "" of others; `disk`: bytes that its file takes.

    Times: epoch. `hits`: how many requests were answered with it from the cache since it was stored.
    """

    digest: str
    size: int
    disk: int
    media_type: str
    last_used: float
    stored_at: float
    hits: int
    pinned: bool


class BlobUse(Struct, frozen=True):
    """Content, and what it is of: `images` that it belongs to, by name; `manifests` that name it, by digest;
    `places` where registries have it (`registry/repository`); `pins`, by name. NAMED_MAX of each at most.
    """

    blob: Blob
    images: tuple[str, ...]
    manifests: tuple[str, ...]
    places: tuple[str, ...]
    pins: tuple[str, ...]


class BlobFilter(Struct, frozen=True):
    """Which contents are listed. `unused_since`: last used before then, epoch. `at_least`: bytes."""

    pinned: bool = False
    never_hit: bool = False
    unused_since: float | None = None
    at_least: int = 0
    manifests: bool = False


class BlobPage(Struct, frozen=True):
    """A part of the list. `next`: where the page after it begins, None on the last one."""

    items: list[Blob]
    next: Position | None


def blobs(
    reader: IndexReader,
    wanted: BlobFilter | None = None,
    *,
    order: Order = "digest",
    reverse: bool = False,
    start: Position | None = None,
    limit: int = 100,
) -> BlobPage:
    """Return a page of contents: by digest, or by size or last use, the largest and latest first.

    Raises StoreError.
    """
    sql, values = statement(wanted or BlobFilter(), order, reverse, start)
    with reader.connection() as connection:
        rows = list(islice(connection.execute(sql, values), limit + 1))
    items = [_blob(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return BlobPage(items, None)
    last = items[-1]
    keys: dict[Order, Position] = {"digest": [], "size": [last.size], "used": [last.last_used]}
    return BlobPage(items, [*keys[order], last.digest])


def statement(
    wanted: BlobFilter, order: Order, reverse: bool, start: Position | None
) -> tuple[str, list[Any]]:
    """Return the SQL of a list, and its values."""
    index, column = _ORDERS[order]
    down = (order != "digest") != reverse
    conditions, values = _conditions(wanted)
    if start is not None:
        names = "digest" if order == "digest" else f"{column}, digest"
        conditions.append(f"({names}) {'<' if down else '>'} ({', '.join('?' * len(start))})")
        values += start
    sql = _LIST + (f" INDEXED BY {index}" if index else "")
    sql += f" WHERE {' AND '.join(conditions)}" if conditions else ""
    way = "DESC" if down else "ASC"
    return f"{sql} ORDER BY {column} {way}, digest {way}", values


def _conditions(wanted: BlobFilter) -> tuple[list[str], list[Any]]:
    conditions, values = list[str](), list[Any]()
    if wanted.pinned:
        conditions.append(_PINNED)
    if wanted.never_hit:
        conditions.append("hits = 0")
    if wanted.unused_since is not None:
        conditions.append("last_used < ?")
        values.append(wanted.unused_since)
    if wanted.at_least:
        conditions.append("size >= ?")
        values.append(wanted.at_least)
    if wanted.manifests:
        conditions.append(f"{_KIND} IS NOT NULL")
    return conditions, values


def blob(reader: IndexReader, digest: str) -> BlobUse | None:
    """Return what is known of some content, None where it is not stored. Raises StoreError."""
    with reader.connection() as connection:
        row = connection.execute(_ONE, (digest,)).fetchone()
        if row is None:
            return None
        images = connection.execute(_IMAGES, (digest, NAMED_MAX)).fetchall()
        places = connection.execute(_PLACES, (digest, NAMED_MAX)).fetchall()
        pins = connection.execute(_PINS, (digest, NAMED_MAX)).fetchall()
        parents = connection.execute(_PARENTS, (digest, NAMED_MAX)).fetchall()
    return BlobUse(
        _blob(row),
        images=tuple(f"{registry_name(host, port)}/{name}:{tag}" for host, port, name, tag in images),
        manifests=tuple(parent for (parent,) in parents),
        places=tuple(f"{registry_name(host, port)}/{name}" for host, port, name in places),
        pins=tuple(name for (name,) in pins),
    )


def _blob(row: tuple[Any, ...]) -> Blob:
    digest, size, disk, media_type, last_used, stored_at, hits, pinned, manifest = row
    kind = manifest or media_type or ""
    return Blob(digest, size, disk, kind, last_used, stored_at, hits, bool(pinned))
