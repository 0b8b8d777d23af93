"""Keep the cache's metadata: where tags point, and the size, type and last use of objects.

SQLite in WAL mode, shared by all processes that use the cache directory. Reads run on the caller's thread;
one thread does all writing, in batches. Changes that are not on disk yet are in memory and are read from
there, so a change is visible at once. Rows that were read stay in memory until the journal says that another
process has changed them; a number in memory that all processes share says when to read the journal.

The file may be lost at any time: objects are entered again from the blobs, and tags are asked for again. So a
fault here never fails a pull: it is logged, and a row that can't be read counts as unknown.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from regproxy.cache.index.database import OpenedIndex, close_file, open_file
from regproxy.cache.index.rows import (
    REMOVED,
    TAG_DROPPED,
    TAG_PUT,
    Catalogued,
    ObjectRow,
    TagKey,
    TagRow,
    Totals,
    disk_size,
    key_of,
)
from regproxy.cache.index.transactions import Changes, ObjectChange, TagChange
from regproxy.cache.index.writer import Generation, Writer
from regproxy.core.errors import StoreError
from regproxy.core.lru import Bounded

__all__ = ["Generation", "Index", "ObjectRow", "TagKey", "TagRow", "Totals"]

logger = logging.getLogger(__name__)

_TAG_ROWS: Final = (
    "SELECT variant, digest, media_type, size, fetched_at, named FROM tags"
    " WHERE host = ? AND port = ? AND repository = ? AND tag = ?"
)
_TAGS_OF: Final = (
    "SELECT DISTINCT tag FROM tags INDEXED BY tags_by_digest"
    " WHERE digest = ? AND host = ? AND port = ? AND repository = ?"
)
_PLACES: Final = (
    "SELECT DISTINCT host, port FROM tags INDEXED BY tags_by_digest"
    " WHERE digest = ? AND variant = 'presence' AND named"
)
_OBJECT: Final = "SELECT digest, size, media_type, last_used, disk, stored_at, hits FROM objects"
_OBJECT_ROW: Final = f"{_OBJECT} WHERE digest = ?"
_BETWEEN: Final = f"{_OBJECT} WHERE digest >= ? AND digest < ?"
_OLDEST: Final = (
    f"{_OBJECT} INDEXED BY objects_by_use WHERE last_used < ?"
    " AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.digest = objects.digest) ORDER BY last_used"
)
_NOT_HELD: Final = (
    "SELECT DISTINCT digest FROM tags WHERE fetched_at < ?"
    " AND NOT EXISTS (SELECT 1 FROM objects WHERE objects.digest = tags.digest)"
    " AND tag NOT GLOB 'seen:*' LIMIT ?"
)
_TOTALS: Final = "SELECT objects, bytes, disk FROM totals"
_IS_COMPLETE: Final = "SELECT value FROM state WHERE key = 'complete'"
_PINS: Final = "SELECT name, digest FROM pins ORDER BY name, digest"
_UNREAD: Final = "SELECT digest FROM uncatalogued LIMIT ?"
_NEWS: Final = "SELECT seq, writer, kind, key FROM journal WHERE seq > ? ORDER BY seq LIMIT ?"
_NEWEST: Final = "SELECT coalesce(max(seq), 0) FROM journal"

_MEMORY: Final = 8192  # tags, and media types, that are kept in memory
# journal rows that are read at once: if there are more, everything in memory is dropped
_NEWS_MAX: Final = 5000
_SAY_EVERY: Final = 60.0  # seconds between two warnings about the same fault
# The variants of rows with a digest in the place of the tag, which no tag can be.
_TOLD: Final = "told"
_PRESENCE: Final = "presence"  # `named` 1: the registry has it in that repository; 0: it was deleted there
_EVER: Final = float("inf")
_OF_TAGS: Final = frozenset({TAG_PUT, TAG_DROPPED})

T = TypeVar("T")


class _Alone:
    """Replaces a missing board: other processes' changes are noticed by tick() only."""

    generation = purges = 0

    def purge(self) -> None:
        """Do nothing: no other process listens."""

    def bump(self) -> int:
        return 0


class Index:
    """The index of one cache directory. Use from one thread, which may be an event loop's; flush() from any.

    Methods that say that they raise StoreError work on the file and wait for it. All others neither wait nor
    raise.

    `on_removed` is called for each digest that is removed, by any process: in drop_object(), remove() and
    sync(). `on_forget_all`: anything may have been removed. `on_tag_dropped`: a tag was, by any process.
    `on_change`: what a read returns may have changed, for whatever reason. All are called on the caller's
    thread.
    """

    def __init__(
        self, opened: OpenedIndex, board: Generation | None, commits_fd: int, clock: Callable[[], float]
    ) -> None:
        self.on_removed: Callable[[str], None] | None = None
        self.on_forget_all: Callable[[], None] | None = None
        self.on_tag_dropped: Callable[[str, int, str, str], None] | None = None
        self.on_change: Callable[[], None] = _nothing
        self._board: Generation = _Alone() if board is None else board
        self._clock = clock
        self._me = secrets.randbits(62)
        self._tags: Bounded[TagKey, tuple[TagRow, ...]] = Bounded(_MEMORY)
        self._types: Bounded[str, str] = Bounded(_MEMORY)
        self._drops: Bounded[TagKey, float] = Bounded(_MEMORY)
        self._all_dropped_at = 0.0
        self._purges = self._board.purges
        self._last_totals = Totals(0, 0, 0)
        self._generation = self._seq = 0  # the last ones seen, of the board and of the journal
        self._said, self._say_at = "", 0.0
        self._writer = Writer(opened, self._me, self._board, commits_fd, clock)
        self._use(opened)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        board: Generation | None = None,
        commits_fd: int = -1,
        clock: Callable[[], float] = time.time,
    ) -> Index:
        """Open the index, or create it. A damaged file, or a later version's, is moved to `<name>.aside`.

        `board` tells at once that other processes have changed something; without it, tick() does.
        `commits_fd` is an eventfd that is written to when objects have been entered. Opening takes no longer
        for more objects. Raises StoreError if the file can be neither used nor replaced, for other reasons
        than a full disk.
        """
        return cls(open_file(path), board, commits_fd, clock)

    # Tags

    def tag(self, host: str, port: int, repository: str, tag: str) -> tuple[TagRow, ...]:
        """Return the rows of a tag, one for each variant; empty if nothing is known."""
        if self._board.generation != self._generation:
            self.sync()
        key = (host, port, repository, tag)
        rows = self._tags.get(key)
        if rows is None:
            rows = self._read_tag(key)
        return rows

    def put_tag(
        self, host: str, port: int, repository: str, tag: str, row: TagRow, *, asked: float | None = None
    ) -> None:
        """Set the tag's row for `row.variant`; its rows for other variants stay.

        `asked`: when the origin was asked, monotonic; its answer is void for a tag that was dropped since,
        and where it names content that was deleted from the repository since.
        """
        self._notice()
        key = (host, port, repository, tag)
        if asked is not None and asked <= max(self.dropped_at(*key), self.dropped_at(*key[:3], row.digest)):
            return
        waiting = self._writer.tags.get(key)
        cleared, rows = (waiting.cleared, waiting.rows) if waiting is not None else (False, {})
        self._writer.tags.put(key, TagChange(cleared, {**rows, row.variant: row}, self._seq))
        self._forget_tag(key)
        self._writer.wake()

    def put_told(
        self, host: str, port: int, repository: str, digest: str, media_type: str, size: int
    ) -> None:
        """Record the type that a registry has sent for content by digest, whose bytes do not state it."""
        row = TagRow(_TOLD, digest, media_type, size, self._clock(), 0)
        self.put_tag(host, port, repository, digest, row)

    def told(self, host: str, port: int, repository: str, digest: str) -> str:
        """Return the type that put_told() has recorded, "" if there is none."""
        rows = self.tag(host, port, repository, digest)
        return next((row.media_type for row in rows if row.variant == _TOLD), "")

    def put_presence(
        self, host: str, port: int, repository: str, digest: str, size: int, asked: float | None = None
    ) -> None:
        """Record that a registry has content in a repository. `asked`: as for put_tag()."""
        row = TagRow(_PRESENCE, digest, "", size, self._clock(), 1)
        self.put_tag(host, port, repository, digest, row, asked=asked)

    def put_absence(self, host: str, port: int, repository: str, digest: str) -> None:
        """Record that content was deleted from a repository; drop the tags there that name it."""
        self._notice()
        for tag in self._tags_of(host, port, repository, digest):
            self.drop_tag(host, port, repository, tag)
        key = (host, port, repository, digest)
        self._dropped(key)
        row = TagRow(_PRESENCE, digest, "", 0, self._clock(), 0)
        self._writer.tags.put(key, TagChange(True, {_PRESENCE: row}, self._seq))
        self._forget_tag(key)
        self._writer.wake(urgent=True)

    def presence(self, host: str, port: int, repository: str, digest: str) -> bool | None:
        """Return whether a registry has content in a repository; None: that is not known."""
        for row in self.tag(host, port, repository, digest):
            if row.variant == _PRESENCE:
                return bool(row.named)
        return None

    def absent_since(self, host: str, port: int, repository: str, digest: str) -> float:
        """Return when content was deleted from a repository, epoch; 0: it was not, or is there again."""
        for row in self.tag(host, port, repository, digest):
            if row.variant == _PRESENCE and not row.named:
                return row.fetched_at
        return 0.0

    def registries_of(self, digest: str) -> set[tuple[str, int]]:
        """Return the registries (host, port) that are known to have some content, in any repository."""
        found = self._writer.registries_naming(digest, _PRESENCE)  # first, as in _read_tag
        return found | {(host, port) for host, port in self._read(_PLACES, (digest,))}

    def _tags_of(self, host: str, port: int, repository: str, digest: str) -> set[str]:
        """Return the tags of a repository that name some content, as far as they can be read."""
        place = (host, port, repository)
        found = self._writer.tags_naming(place, digest)  # first, as in _read_tag
        found |= {tag for (tag,) in self._read(_TAGS_OF, (digest, *place))}
        return found - {digest}

    def dropped_at(self, host: str, port: int, repository: str, tag: str) -> float:
        """Return when a tag was last dropped, by any process, as far as this one knows; monotonic."""
        return max(self._drops.get((host, port, repository, tag)) or 0.0, self._all_dropped_at)

    def _dropped(self, key: TagKey) -> None:
        self._drops.put(key, time.monotonic())
        if self.on_tag_dropped is not None:
            self.on_tag_dropped(*key)

    def drop_tag(self, host: str, port: int, repository: str, tag: str) -> float:
        """Drop all variants of a tag; return when it was last dropped before, as dropped_at() does."""
        self._notice()
        key = (host, port, repository, tag)
        before = self.dropped_at(*key)
        self._dropped(key)
        self._writer.tags.put(key, TagChange(True, {}, self._seq))
        self._forget_tag(key)
        self._writer.wake(urgent=True)
        return before

    def sweep_tags(self, before: float, limit: int = 1000) -> int:
        """Remove tag rows that were last confirmed before then (epoch) and whose content is not stored;
        return how many.

        No more than `limit` digests are looked at. Raises StoreError.
        """
        digests = [digest for (digest,) in self._read_or_raise(_NOT_HELD, (before, limit))]
        gone = self._run(lambda changes: changes.sweep_tags(digests, before))
        for key in gone:
            self._forget_tag(key)
        return len(gone)

    def _forget_tag(self, key: TagKey) -> None:
        self._tags.drop(key)
        self.on_change()

    def _read_tag(self, key: TagKey) -> tuple[TagRow, ...]:
        # Pending changes are read first: one that is settled between the two reads is on disk by the second.
        change = self._writer.tags.get(key)
        put = {} if change is None else change.rows
        found: list[tuple[Any, ...]] = []
        if change is None or not change.cleared:
            try:
                found = self._reader.execute(_TAG_ROWS, key).fetchall()
            except sqlite3.Error as error:
                self._fault(error)
                return tuple(put.values())  # not kept in memory: there may be more
        rows = (*(TagRow(*row) for row in found if row[0] not in put), *put.values())
        self._tags.put(key, rows)
        return rows

    # Objects

    def object(self, digest: str) -> ObjectRow | None:
        """Return the row of an object. Its last use and hits may be those of some seconds ago."""
        if self._board.generation != self._generation:
            self.sync()
        change = self._writer.objects.get(digest)
        if change is not None:
            return change.row
        found = self._read(_OBJECT_ROW, (digest,))
        return ObjectRow(*found[0]) if found else None

    def put_object(self, digest: str, size: int, media_type: str | None, disk: int | None = None) -> None:
        """Record an object that is on disk, used just now. `media_type` None leaves a known one unchanged.

        `disk`: the bytes that it takes there; None: the known number, or `size` in whole blocks.
        """
        self._notice()
        now, before = self._clock(), self.object(digest)
        stored_at, hits = (now, 0) if before is None else (before.stored_at, before.hits)
        if before is not None:
            media_type = media_type or before.media_type
            if disk is None and before.size == size:
                disk = before.disk
        if media_type is not None:
            self._types.put(digest, media_type)
        disk = disk_size(size) if disk is None else disk
        row = ObjectRow(digest, size, media_type, now, disk, stored_at, hits)
        waiting = self._writer.objects.get(digest)
        dropped = waiting is not None and waiting.dropped
        self._writer.objects.put(digest, ObjectChange(dropped, row, self._seq))
        self.on_change()
        self._writer.wake()

    def drop_object(self, digest: str) -> None:
        """Drop an object. Tags may go on naming it."""
        self._notice()
        self._writer.objects.put(digest, ObjectChange(True, None, self._seq))
        self._writer.wake(urgent=True)
        self._removed(digest)

    def media_type(self, digest: str) -> str | None:
        """Return the media type that a manifest's bytes state; None: not known, or not stated."""
        if self._board.generation != self._generation:
            self.sync()
        known = self._types.get(digest)
        if known is None:
            row = self.object(digest)
            if row is None or row.media_type is None:
                return None
            known = row.media_type
            self._types.put(digest, known)
        return known

    def touch(self, digest: str) -> None:
        """Record that an object was used just now. It is on disk some seconds later."""
        self._writer.touched.add(digest)

    def hit(self, digest: str, times: int = 1) -> None:
        """Record that so many requests were answered with an object from the cache, as touch() does."""
        writer = self._writer
        writer.touched.add(digest)
        hits = writer.hits
        hits[digest] = hits.get(digest, 0) + times

    # All objects

    def totals(self) -> Totals:
        """Return the sums over all objects on disk; recent changes are included after a moment."""
        for row in self._read(_TOTALS, ()):
            self._last_totals = Totals(*row)
        return self._last_totals

    @property
    def objects(self) -> int:
        """The number of objects."""
        return self.totals().objects

    @property
    def bytes(self) -> int:
        """The bytes that all objects take on the disk."""
        return self.totals().disk

    @property
    def complete(self) -> bool:
        """Whether all objects on disk have been entered since the file was made."""
        return self._read(_IS_COMPLETE, ()) == [(1,)]

    def set_complete(self) -> None:
        """Record that all objects on disk are entered. Raises StoreError, also if this is another file since
        tick().
        """
        self._run(Changes.set_complete)

    def oldest(self, limit: int, unused_since: float | None = None) -> list[ObjectRow]:
        """Return up to `limit` objects, the least recently used first.

        `unused_since`: only those whose last use is before that (epoch). Pinned ones, and those that this
        process has touched or put in the last seconds, are left out.
        """
        rows: list[ObjectRow] = []
        before = _EVER if unused_since is None else unused_since
        # Dropped objects are pending too; the few that are skipped make the scan no longer. They are noted
        # first: what is settled during the scan still stands in it as it was.
        busy = self._writer.touched.copy()
        busy.update(digest for digest, _ in self._writer.objects.items())
        try:
            with closing(self._reader.execute(_OLDEST, (before,))) as cursor:
                idle = (row for row in cursor if row[0] not in busy)
                rows.extend(ObjectRow(*row) for row in islice(idle, limit))
        except sqlite3.Error as error:
            self._fault(error)
        return rows

    def rows_between(self, low: str, high: str) -> dict[str, ObjectRow]:
        """Return all objects on disk with low <= digest < high, by digest. Raises StoreError."""
        return {row[0]: ObjectRow(*row) for row in self._read_or_raise(_BETWEEN, (low, high))}

    def adopt(self, rows: Iterable[ObjectRow]) -> int:
        """Enter objects that have no row yet; return how many. Raises StoreError."""
        rows = list(rows)
        return self._run(lambda changes: changes.adopt(rows))

    def remove(self, digests: Iterable[str], journal: bool = True) -> None:
        """Remove objects, and the tags that name them. Raises StoreError; then they are all still there.

        `journal` False: no other process has them in its memory, as their files are long gone.
        """
        digests = list(digests)
        withdrawn = self._writer.objects.withdraw(digests)  # or they would be entered again
        try:
            tags = self._run(lambda changes: changes.remove(digests, journal))
        except StoreError:
            self._writer.objects.restore(withdrawn)
            raise
        for key in tags:
            self._forget_tag(key)
        for digest in digests:
            self._removed(digest)

    # What manifests name

    def uncatalogued(self, limit: int) -> list[str]:
        """Return digests of small objects that may be manifests and have not been read. Raises StoreError."""
        return [digest for (digest,) in self._read_or_raise(_UNREAD, (limit,))]

    def catalogue(self, found: Iterable[Catalogued]) -> None:
        """Enter what objects are and what they name. Raises StoreError."""
        entries = list(found)
        self._run(lambda changes: changes.catalogue(entries))

    def drop_tags(self, keys: Iterable[TagKey]) -> None:
        """Drop all variants of tags, in all processes. Raises StoreError; then they are all still there."""
        dropped = list(keys)
        self._run(lambda changes: changes.drop_tags(dropped))
        for key in dropped:
            self._dropped(key)
            self._forget_tag(key)

    def forget_places(self, places: Iterable[TagKey]) -> None:
        """Forget that content is in repositories (host, port, name, digest). Raises StoreError."""
        keys = list(places)
        self._run(lambda changes: changes.forget_places(keys))
        for key in keys:
            self._forget_tag(key)

    # Pins

    def pin(self, name: str, digests: Iterable[str]) -> None:
        """Keep objects from being evicted, under a name. Raises StoreError."""
        digests = list(digests)
        self._run(lambda changes: changes.pin(name, digests))

    def unpin(self, name: str) -> int:
        """Remove the pins under a name; return the number of objects. Raises StoreError."""
        return self._run(lambda changes: changes.unpin(name))

    def pins(self) -> list[tuple[str, str]]:
        """Return all names and the digests pinned under them, in their order. Raises StoreError."""
        return [(name, digest) for name, digest in self._read_or_raise(_PINS, ())]

    # Other processes, and the file

    def sync(self) -> None:
        """Drop from memory what other processes have changed. Reads call it themselves when the board says
        so.
        """
        # Before the journal is read: a change made now is noticed the next time.
        self._generation = self._board.generation
        if self._board.purges != self._purges:
            self._purges = self._board.purges
            self._forget_all()
        try:
            news = self._reader.execute(_NEWS, (self._seq, _NEWS_MAX + 1)).fetchall()
        except sqlite3.Error as error:
            self._fault(error)
            self._forget_all()
            return
        if not news:
            return
        if news[0][0] != self._seq + 1 or len(news) > _NEWS_MAX:  # trimmed past `_seq`, or too many rows
            self._seq = self._newest()
            self._forget_all()
            return
        self._seq = news[-1][0]
        try:
            for seq, writer, kind, key in news:
                if writer == self._me:
                    self._written(seq, kind, key)
                else:
                    self._heard(seq, kind, key)
        except (ValueError, TypeError):
            # A damaged row names nothing: anything may have changed.
            self._forget_all()

    def tick(self) -> None:
        """Notice what the board does not tell: changes by processes without it, and another or damaged file.

        Such a file is opened, or created, by the writer's thread; a later tick() switches to it and drops
        everything in memory. To be called every 250 ms.
        """
        renewed = self._writer.renewed()
        if renewed is not None:
            self._reader.close()
            self._use(renewed)
            self._forget_all()
        if self._writer.suspicion is not None or self._file.looks_changed():
            self._writer.look()
        self._notice()

    def purge(self) -> None:
        """Tell all processes to release everything in their memory: the file can't say what was removed."""
        self._board.purge()

    def announce(self) -> None:
        """Announce through `commits_fd` that something large is about to enter the cache."""
        self._writer.announce()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all changes are on disk, uses included; False: they are not, after `timeout` seconds."""
        return self._writer.flush(timeout)

    def close(self) -> None:
        """Write pending changes and close the file."""
        close_file(self._file.path, *self._writer.close(), self._reader)

    def _use(self, opened: OpenedIndex) -> None:
        self._file = opened
        self._reader = opened.reader
        self._data_version = -1
        # In this order: a change between the two is included, and looked for again.
        self._generation = self._board.generation
        self._seq = self._newest()

    def _newest(self) -> int:
        for (seq,) in self._read(_NEWEST, ()):
            return int(seq)
        return 0

    def _notice(self) -> None:
        """Call sync() if the board's generation has changed, or the file's data version, which covers all
        processes.
        """
        for (version,) in self._read("PRAGMA data_version", ()):
            if version != self._data_version or self._board.generation != self._generation:
                self._data_version = version
                self.sync()

    def _written(self, seq: int, kind: str, key: str) -> None:
        """Settle an own change that is on disk; the writer may not have settled it yet.

        It must not hide later changes of others.
        """
        if kind in _OF_TAGS:
            tag = key_of(key)
            change = self._writer.tags.get(tag)
            if change is not None and change.seq == seq:
                self._writer.tags.settle({tag: change})

    def _heard(self, seq: int, kind: str, key: str) -> None:
        """Handle a change by another process."""
        if kind in _OF_TAGS:
            tag = key_of(key)
            self._forget_tag(tag)
            if kind == TAG_DROPPED:
                self._writer.tags.supersede(tag, seq)
                self._dropped(tag)
        elif kind == REMOVED:
            self._removed(key)

    def _removed(self, digest: str) -> None:
        self._types.drop(digest)
        self.on_change()
        if self.on_removed is not None:
            self.on_removed(digest)

    def _forget_all(self) -> None:
        self._all_dropped_at = time.monotonic()
        self._tags.clear()
        self._types.clear()
        self.on_change()
        if self.on_forget_all is not None:
            self.on_forget_all()

    def _run(self, job: Callable[[Changes], T]) -> T:
        return self._writer.run(job, self._file)

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self._fault(error)
            return []

    def _read_or_raise(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self._fault(error)
            raise StoreError(f"index: {error}") from error

    def _fault(self, error: sqlite3.Error) -> None:
        self._writer.suspect(error)
        now = time.monotonic()
        if str(error) != self._said or now >= self._say_at:
            self._said, self._say_at = str(error), now + _SAY_EVERY
            logger.warning("index: %s", error)


def _nothing() -> None:
    """Do nothing: nobody listens."""
