"""List the images in the cache: tags, with what they name and how much of that is held.

A page begins where the last one ended, by the values that the list is sorted by, so a page costs the same
wherever it is. What is looked for by a part of its name costs a pass over the names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any, Final, Literal

from msgspec import Struct

from regproxy.cache.index.transactions import BELOW_MAX
from regproxy.cache.pins import registry_name
from regproxy.config.hosts import DOCKER_HUB, DOCKER_HUB_REGISTRY
from regproxy.inventory.reading import IndexReader
from regproxy.tags.rows import is_former_variant

Order = Literal["name", "size", "used"]
Position = list[str | int | float | None]

# By name, then in the order of these: what one row of the index is.
_NAME: Final = "host, port, repository, tag, digest"
_BY_NAME: Final = (
    "SELECT {columns} FROM tags INDEXED BY images_by_name WHERE tag NOT GLOB '*:*'{more}"
    " ORDER BY host {way}, port {way}, repository {way}, tag {way}, digest {way}"
)
_BY_VALUE: Final = (
    "SELECT {columns}, manifests.{value} FROM manifests INDEXED BY manifests_by_{index}"
    " JOIN tags INDEXED BY tags_by_digest USING (digest)"
    " WHERE tag NOT GLOB '*:*'{more}"
    " ORDER BY {value} {way}, digest {way}, host {way}, port {way}, repository {way}, tag {way}"
)
_CONTAINS: Final = (
    f" AND CASE WHEN host = '{DOCKER_HUB_REGISTRY}' AND port = 443 THEN '{DOCKER_HUB}'"
    " WHEN port = 443 THEN host"
    " ELSE host || ':' || port END || '/' || repository || ':' || tag"
    " LIKE ? ESCAPE '\\'"
)
_PINNED: Final = " AND EXISTS (SELECT 1 FROM pins WHERE pins.digest = tags.digest)"
_UNUSED: Final = (
    " AND EXISTS (SELECT 1 FROM objects WHERE objects.digest = tags.digest AND objects.last_used < ?)"
)
_NEVER_HIT: Final = (
    " AND EXISTS (SELECT 1 FROM objects WHERE objects.digest = tags.digest AND objects.hits = 0)"
)

_VARIANTS: Final = (
    "SELECT variant, media_type, fetched_at FROM tags"
    " WHERE host = ? AND port = ? AND repository = ? AND tag = ? AND digest = ?"
)
_MANIFEST: Final = (
    "SELECT objects.size, objects.last_used, objects.hits, objects.stored_at, total, named, platform"
    " FROM objects LEFT JOIN manifests USING (digest) WHERE digest = ?"
)
# The deepest first: so no more are looked up than are counted.
_HELD: Final = (
    "WITH RECURSIVE below (digest, level) AS (VALUES (?, 0) UNION"
    " SELECT child, level + 1 FROM links JOIN below ON parent = below.digest"
    f" ORDER BY 2 DESC LIMIT {BELOW_MAX})"
    " SELECT count(*), coalesce(sum(size), 0) FROM (SELECT DISTINCT digest FROM below)"
    " JOIN objects USING (digest)"
)
_PLATFORMS: Final = (
    "SELECT DISTINCT platform FROM links JOIN objects ON objects.digest = child"
    " WHERE parent = ? AND kind = 'manifest' AND platform <> '' ORDER BY platform"
)
_IS_PINNED: Final = "SELECT EXISTS (SELECT 1 FROM pins WHERE digest = ?)"


class Content(Struct, frozen=True):
    """What is known of a manifest and of all that it names.

    `size`: bytes of all that it names, `objects` how many these are; `held_bytes` and `held_objects`: of
    these in the cache. `stored`: it is itself. `whole`: all are. `platforms`: of the manifests that are held.
    Times: epoch; 0 for what is not stored.
    """

    stored: bool
    whole: bool
    size: int
    objects: int
    held_bytes: int
    held_objects: int
    platforms: tuple[str, ...]
    last_used: float
    stored_at: float
    hits: int
    pinned: bool


class Image(Struct, frozen=True):
    """A tag, and what it is. `fetched_at`: when the registry has confirmed that last, epoch.

    `current`: the registry has named nothing else since. `media_type`: of the manifest.
    """

    name: str
    registry: str
    repository: str
    tag: str
    digest: str
    media_type: str
    fetched_at: float
    current: bool
    content: Content


class ImageFilter(Struct, frozen=True):
    """Which images are listed. `name`: a part of `registry/repository:tag`. "" and None: any.

    `unused_since`: last used before then, epoch. `never_hit`: no request was answered with it from the cache.
    """

    name: str = ""
    place: tuple[str, int] | None = None
    repository: str = ""
    pinned: bool = False
    unused_since: float | None = None
    never_hit: bool = False


class ImagePage(Struct, frozen=True):
    """A part of the list. `next`: where the page after it begins, None on the last one."""

    items: list[Image]
    next: Position | None


def images(
    reader: IndexReader,
    wanted: ImageFilter | None = None,
    *,
    order: Order = "name",
    reverse: bool = False,
    start: Position | None = None,
    limit: int = 100,
) -> ImagePage:
    """Return a page of images: by name, or by size or last use, the largest and latest first.

    By size and last use, those whose manifest is not held are left out. Raises StoreError.
    """
    sql, values = statement(wanted or ImageFilter(), order, reverse, start)
    with reader.connection() as connection:
        rows = list(islice(_distinct(connection.execute(sql, values)), limit + 1))
        items = [_image(connection, row[:5]) for row in rows[:limit]]
    more = len(rows) > limit
    return ImagePage(items, _position(rows[limit - 1], order) if more else None)


def statement(
    wanted: ImageFilter, order: Order, reverse: bool, start: Position | None
) -> tuple[str, list[Any]]:
    """Return the SQL of a list, and its values."""
    down = (order != "name") != reverse
    more, values = _conditions(wanted)
    value = {"name": "", "size": "total", "used": "last_used"}[order]
    if start is not None:
        names = f"{value}, digest, host, port, repository, tag" if value else _NAME
        marks = ", ".join("?" * len(start))
        more += f" AND ({names}) {'<' if down else '>'} ({marks})"
        values += start
    way = "DESC" if down else "ASC"
    if not value:
        return _BY_NAME.format(columns=_NAME, more=more, way=way), values
    index = {"total": "total", "last_used": "use"}[value]
    return _BY_VALUE.format(columns=_NAME, value=value, index=index, more=more, way=way), values


def _conditions(wanted: ImageFilter) -> tuple[str, list[Any]]:
    sql, values = "", list[Any]()
    if wanted.place is not None:
        sql, values = sql + " AND host = ? AND port = ?", [*values, *wanted.place]
    if wanted.repository:
        sql, values = sql + " AND repository = ?", [*values, wanted.repository]
    if wanted.name:
        sql, values = sql + _CONTAINS, [*values, f"%{_escaped(wanted.name)}%"]
    if wanted.pinned:
        sql += _PINNED
    if wanted.unused_since is not None:
        sql, values = sql + _UNUSED, [*values, wanted.unused_since]
    if wanted.never_hit:
        sql += _NEVER_HIT
    return sql, values


def _escaped(text: str) -> str:
    """Return a text as LIKE takes it for itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _distinct(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield each image once: it may have several variants, whose rows are beside each other."""
    return (row for row, _ in groupby(rows))


def _position(row: tuple[Any, ...], order: Order) -> Position:
    host, port, repository, tag, digest = row[:5]
    if order == "name":
        return [host, port, repository, tag, digest]
    return [row[5], digest, host, port, repository, tag]


def _image(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Image:
    host, port, repository, tag, digest = row
    variants = connection.execute(_VARIANTS, row).fetchall()
    current = [each for each in variants if not is_former_variant(each[0])]
    newest = max(current or variants, key=lambda each: each[2], default=("", "", 0.0))
    registry = registry_name(host, port)
    return Image(
        name=f"{registry}/{repository}:{tag}",
        registry=registry,
        repository=repository,
        tag=tag,
        digest=digest,
        media_type=newest[1],
        fetched_at=newest[2],
        current=bool(current),
        content=content(connection, digest),
    )


def content(connection: sqlite3.Connection, digest: str) -> Content:
    """Return what is known of a manifest, and of all that it names."""
    (pinned,) = connection.execute(_IS_PINNED, (digest,)).fetchone()
    row = connection.execute(_MANIFEST, (digest,)).fetchone()
    if row is None:
        return Content(False, False, 0, 0, 0, 0, (), 0.0, 0.0, 0, bool(pinned))
    own, last_used, hits, stored_at, total, named, platform = row
    held_objects, held_bytes = connection.execute(_HELD, (digest,)).fetchone()
    platforms = tuple(each for (each,) in connection.execute(_PLATFORMS, (digest,)))
    objects = named if total is not None else 1  # not read yet
    return Content(
        stored=True,
        whole=total is not None and held_objects >= objects,
        size=total if total is not None else own,
        objects=objects,
        held_bytes=held_bytes,
        held_objects=held_objects,
        platforms=platforms or ((platform,) if platform else ()),
        last_used=last_used,
        stored_at=stored_at,
        hits=hits,
        pinned=bool(pinned),
    )
