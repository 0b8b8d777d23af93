"""Remove images and contents from the cache while it is in use.

What is to go is found first, in tables of the reading connection's own (on disk, however much that is), and
then removed in small pieces. A dry run is the first half. Content goes if it was meant itself, or if nothing
that stays names it: no tag, no manifest. What is pinned stays, and so do the tags that name it. The history
of a tag stays, too: else a purge would be a way around a rule that wants a digest to have been a tag's for
some time.

Clients that read what is removed read on.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from regproxy.cache import layout, reconcile
from regproxy.cache.index.index import Index
from regproxy.cache.pins import Reference, registry_name
from regproxy.core.errors import RegproxyError, StoreError
from regproxy.inventory import purge_selection as sql
from regproxy.inventory.catalog import catalogue
from regproxy.inventory.reading import IndexReader

LISTED: Final = 1000  # images and contents that a result names; all are counted
NOTHING: Final = "nothing is selected: name images, a registry, a repository, a tag or an age"
_PIECE: Final = 200
_STEPS: Final = 100_000  # of SQLite's machine between two looks whether to stop: about a millisecond


class Selection(Struct, frozen=True):
    """What to purge. `images` and `digests`: one of these; of all else that is given, all has to hold.

    `place`: a registry (host, port). `unused_since`: last used before then, epoch. `never_hit`: no request
    was answered with it from the cache since it was stored.
    """

    images: tuple[Reference, ...] = ()
    place: tuple[str, int] | None = None
    repository: str = ""
    tag: str = ""
    unused_since: float | None = None
    never_hit: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it would take everything."""
        return self == Selection()


class Kept(Struct, frozen=True):
    """What was meant, and stays. `why`: `pinned`, or `named` by a tag or a manifest that stays."""

    name: str
    why: str


class Purge(Struct):
    """The result. `tags`, `objects`, `bytes`, `disk`: how many go, and how large they are; `images`,
    `digests` and `kept`: LISTED of them at most, by name. `done`: of the objects, those that are gone.
    """

    tags: int
    objects: int
    bytes: int
    disk: int
    images: list[str]
    digests: list[str]
    kept: list[Kept]
    dry_run: bool = True
    done: int = 0
    cancelled: bool = False


class SelectionError(RegproxyError):
    """A selection that says nothing: says what would be right."""


def other_ports(reader: IndexReader, wanted: Reference) -> list[str]:
    """Return the names of the same repository at other ports of its host, five at most: a port that was
    forgotten, or one too many. Raises StoreError.
    """
    with reader.connection() as connection:
        rows = connection.execute(sql.OTHER_PORTS, (wanted.host, wanted.port, wanted.repository))
        return [f"{registry_name(wanted.host, port)}/{wanted.repository}" for (port,) in rows]


def purge(
    reader: IndexReader,
    index: Index,
    selection: Selection,
    *,
    dry_run: bool = False,
    on_progress: Callable[[Purge], None] | None = None,
    stops: Callable[[], bool] = lambda: False,
) -> Purge:
    """Remove what a selection means, or only tell what that is.

    `stops()` True: what has not gone by then stays, and the result is `cancelled`; without figures, where
    that comes before they are known. Raises SelectionError, StoreError, OSError.
    """
    if selection.is_empty:
        raise SelectionError(NOTHING)
    # Else what an image names that nobody has read yet would look like nobody's.
    while catalogue(reader.root, index):
        if stops():
            return _unknown(dry_run=dry_run)
    with reader.connection() as connection:
        result = _found(connection, selection, stops)
        if result is None:
            return _unknown(dry_run=dry_run)
        if not dry_run:
            result.dry_run = False
            _Removal(reader, connection, index, result, on_progress, stops).run()
    return result


def _unknown(*, dry_run: bool) -> Purge:
    """Return the result where it was stopped before it was known what is to go."""
    return Purge(0, 0, 0, 0, [], [], [], dry_run=dry_run, cancelled=True)


# --- what is to go ---------------------------------------------------------------------------------------


def _found(connection: sqlite3.Connection, selection: Selection, stops: Callable[[], bool]) -> Purge | None:
    """Return what is to go, None where it was stopped before that was known."""
    connection.set_progress_handler(stops, _STEPS)
    try:
        return _find(connection, selection)
    except sqlite3.OperationalError:
        connection.set_progress_handler(None, 0)
        if connection.in_transaction:
            connection.rollback()
        if not stops():
            raise
        return None
    finally:
        connection.set_progress_handler(None, 0)


def _find(connection: sqlite3.Connection, selection: Selection) -> Purge:
    for statement in sql.TABLES:
        connection.execute(statement)
    connection.execute("BEGIN")  # one state of the index for all of these
    try:
        kept = _choose(connection, selection)
        _spread(connection, selection)
        result = _result(connection, kept)
    finally:
        connection.execute("COMMIT")
    return result


def _choose(connection: sqlite3.Connection, selection: Selection) -> list[Kept]:
    """Enter the tags and contents that are meant; return the tags that stay because they are pinned."""
    place, place_values = _place(selection)
    of_tags, of_objects, use_values = _use(selection)
    for each in selection.images:
        if each.digest:
            narrow = sql.KNOWN_THERE.format(place=place) if place else ""
            values = (each.digest, *use_values, *(place_values if place else ()))
            connection.execute(sql.CHOOSE_DIGEST.format(more=of_objects + narrow), values)
        else:
            key = (each.host, each.port, each.repository, each.tag)
            more = sql.THIS_TAG + place + of_tags
            connection.execute(sql.DOOM.format(more=more), (*key, *place_values, *use_values))
    if not selection.images:
        values = (*place_values, *use_values)
        connection.execute(sql.DOOM.format(more=place + of_tags), values)
        if not place:
            connection.execute(sql.CHOOSE_OBJECTS.format(more=of_objects), use_values)
        elif not selection.tag:
            connection.execute(sql.CHOOSE_PRESENT.format(more=place + of_objects), values)
    if of_tags:
        connection.execute(sql.SPARE_OTHER_VARIANTS)
    connection.execute(sql.DOOM_TAGS_OF_DIGESTS)
    pinned = connection.execute(sql.PINNED_TAGS, (LISTED,)).fetchall()
    connection.execute(sql.SPARE_PINNED)
    connection.execute(sql.CHOOSE_TAGGED)
    return [Kept(_name(key), "pinned") for key in pinned]


def _place(selection: Selection) -> tuple[str, tuple[Any, ...]]:
    """Return the condition on rows of tags, and its values; "" without one."""
    more, values = "", list[Any]()
    if selection.place is not None:
        more, values = " AND host = ? AND port = ?", [*selection.place]
    for column, value in (("repository", selection.repository), ("tag", selection.tag)):
        if value:
            more, values = f"{more} AND {column} = ?", [*values, value]
    return more, tuple(values)


def _use(selection: Selection) -> tuple[str, str, tuple[Any, ...]]:
    """Return the condition on the use of content, of rows of tags and of objects, and its values."""
    conditions, values = list[str](), list[Any]()
    if selection.unused_since is not None:
        conditions.append("objects.last_used < ?")
        values.append(selection.unused_since)
    if selection.never_hit:
        conditions.append("objects.hits = 0")
    if not conditions:
        return "", "", ()
    both = " AND ".join(conditions)
    return sql.OF_CONTENT.format(conditions=both), f" AND {both}", tuple(values)


def _spread(connection: sqlite3.Connection, selection: Selection) -> None:
    """Enter what is named by the chosen contents, and take out what has to stay."""
    for statement in (sql.REACH, sql.GO, sql.STAY_PINNED, sql.STAY_TAGGED):
        connection.execute(statement)
    place, values = _place(selection)
    if place or any(each.tag for each in selection.images):
        # Of another repository nothing was said, where it was pulled by its digest.
        within = place and not selection.tag
        meant = f"(1{place})" if within else sql.IN_DOOMED_REPOSITORY
        connection.execute(sql.STAY_ELSEWHERE.format(meant=meant), values if within else ())
    while connection.execute(sql.STAY_NAMED).rowcount:
        pass
    if place and not (selection.images or selection.tag or _use(selection)[0]):
        connection.execute(sql.LEAVE.format(more=place), values)


def _result(connection: sqlite3.Connection, kept: list[Kept]) -> Purge:
    stays = connection.execute(sql.KEPT, (LISTED,)).fetchall()
    kept += [Kept(digest, "pinned" if pinned else "named") for digest, pinned in stays]
    objects, size, disk = connection.execute(sql.SUMS).fetchone()
    (tags,) = connection.execute(sql.COUNT_TAGS).fetchone()
    names = [_name(key) for key in connection.execute(sql.DOOMED_TAGS, (LISTED,))]
    digests = [digest for (digest,) in connection.execute("SELECT digest FROM gone LIMIT ?", (LISTED,))]
    return Purge(tags, objects, size, disk, names, digests, kept[:LISTED])


def _name(key: Sequence[Any]) -> str:
    host, port, repository, tag = key[:4]
    return f"{registry_name(host, port)}/{repository}:{tag}"


# --- removing it -----------------------------------------------------------------------------------------


class _Removal:
    """The second half: tags first, then manifests, then what these have named."""

    def __init__(
        self,
        reader: IndexReader,
        connection: sqlite3.Connection,
        index: Index,
        result: Purge,
        on_progress: Callable[[Purge], None] | None,
        stops: Callable[[], bool],
    ) -> None:
        self._root = reader.root
        self._connection = connection
        self._index = index
        self._result = result
        self._on_progress = on_progress
        self._stops = stops

    def run(self) -> None:
        """Remove all that was found. Raises StoreError, OSError; what has gone until then is gone."""
        for keys in self._pieces(sql.NEXT_TAGS, 4):
            self._index.drop_tags([(host, port, name, tag) for host, port, name, tag in keys])
        for keys in self._pieces(sql.NEXT_PLACES, 4):
            self._index.forget_places([(host, port, name, tag) for host, port, name, tag in keys])
        for statement in (sql.NEXT_MANIFESTS, sql.NEXT_CONTENTS):
            for rows in self._pieces(statement, 1):
                self._unlink([digest for (digest,) in rows])
        if not self._index.flush():
            raise StoreError("index: what was removed is not written yet")

    def _pieces(self, statement: str, width: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield rows by their keys, of `width` columns; each piece is read when it is due."""
        after: Sequence[Any] = ("",) * width
        while not self._stops():
            rows = self._connection.execute(statement, (*after, _PIECE)).fetchall()
            if not rows:
                return
            yield rows
            after = rows[-1]
            if self._on_progress is not None:
                self._on_progress(self._result)
        self._result.cancelled = True

    def _unlink(self, digests: list[str]) -> None:
        gone, trouble = [], None
        for digest in digests:
            try:
                os.unlink(layout.blob(self._root, digest))  # noqa: PTH108
            except FileNotFoundError:
                pass
            except OSError as error:
                trouble = error
                break
            gone.append(digest)
        # As eviction does it: the files first.
        reconcile.forget(self._root, self._index, gone)
        self._result.done += len(gone)
        if trouble is not None:
            raise trouble
