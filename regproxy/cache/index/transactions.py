"""Keep pending changes of the index, and write them in one transaction.

Several processes change the same rows. The order of their transactions is the order of the journal's numbers,
which are given under SQLite's write lock. A change has the newest number that its process had seen when it
was made (`seen`): journal rows of the same key beyond that are later, and may make it void.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import astuple

from regproxy.cache.index.rows import (
    REMOVED,
    STORED,
    TAG_DROPPED,
    TAG_PUT,
    Catalogued,
    ObjectRow,
    TagKey,
    TagRow,
    name_of,
)

JOURNAL_MAX: Final = 50_000  # rows to keep
# Of what is added up: contents below one manifest, manifests above one, and contents in one transaction. An
# index of all platforms there are names some 2000; what somebody makes up must not keep the write lock.
BELOW_MAX: Final = 4096
ABOVE_MAX: Final = 100
_ADDED_MAX: Final = 20_000
_SUM_MAX: Final = 1 << 60  # bytes; SQLite's integers end at 1 << 63
SEEN_FOR: Final = 400 * 86_400.0  # seconds for which the history of a tag is kept that nobody asks for

_DROP_TAG: Final = "DELETE FROM tags WHERE host = ? AND port = ? AND repository = ? AND tag = ?"
_PUT_TAG: Final = "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SWEEP_TAGS: Final = (
    "DELETE FROM tags WHERE digest = ?1 AND fetched_at < ?2"
    " AND NOT EXISTS (SELECT 1 FROM objects WHERE objects.digest = ?1) AND tag NOT GLOB 'seen:*'"
    " RETURNING host, port, repository, tag"
)
# Of tags that nobody has asked for since; `size` is when they were last seen.
_SWEEP_SEEN: Final = (
    "DELETE FROM tags WHERE digest = '' AND tag GLOB 'seen:*' AND size < ?"
    " RETURNING host, port, repository, tag"
)
# Not where a client has deleted it: it may be stored again, for another repository.
_DROP_TAGS_OF: Final = (
    "DELETE FROM tags WHERE digest = ? AND NOT (variant = 'presence' AND named = 0)"
    " RETURNING host, port, repository, tag"
)
# Not INSERT OR REPLACE: it would delete the old row without its trigger.
_PUT_OBJECT: Final = (
    "INSERT INTO objects (digest, size, media_type, last_used, disk, stored_at, hits)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (digest) DO UPDATE SET size = excluded.size, disk = excluded.disk,"
    " media_type = coalesce(excluded.media_type, media_type), last_used = excluded.last_used"
)
_ADOPT: Final = (
    "INSERT INTO objects (digest, size, media_type, last_used, disk, stored_at, hits)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (digest) DO NOTHING"
)
_DROP_OBJECT: Final = "DELETE FROM objects WHERE digest = ?"
_TOUCH: Final = "UPDATE objects SET last_used = ?, hits = hits + ? WHERE digest = ?"
_PIN: Final = "INSERT OR IGNORE INTO pins (digest, name) VALUES (?, ?)"
_UNPIN: Final = "DELETE FROM pins WHERE name = ?"
_COMPLETE: Final = "UPDATE state SET value = 1 WHERE key = 'complete'"
_FORGET_PLACE: Final = (
    "DELETE FROM tags WHERE host = ? AND port = ? AND repository = ? AND tag = ?"
    " AND NOT (variant = 'presence' AND named = 0)"
)
_READ: Final = "DELETE FROM uncatalogued WHERE digest = ?"
_PUT_MANIFEST: Final = (
    "INSERT INTO manifests SELECT ?, ?, 0, 0, ?, last_used FROM objects WHERE digest = ?"
    " ON CONFLICT (digest) DO NOTHING"
)
_PUT_LINK: Final = "INSERT INTO links VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
# Of a configuration: it says for which platform the manifests that name it are.
_SET_PLATFORM: Final = (
    "UPDATE manifests SET platform = ?1 WHERE platform = '' AND digest IN"
    " (SELECT parent FROM links WHERE child = ?2 AND kind = 'config')"
)
_ABOVE: Final = "SELECT parent FROM links INDEXED BY links_by_child WHERE child = ? LIMIT ?"
_BELOW: Final = "SELECT child, size, kind = 'manifest' FROM links WHERE parent = ? LIMIT ?"
_SIZE: Final = "SELECT size FROM objects WHERE digest = ?"
_SET_SUMS: Final = "UPDATE manifests SET total = ?, named = ? WHERE digest = ?"
_NOTE: Final = "INSERT INTO journal (writer, kind, key) VALUES (?, ?, ?)"
_NEWER: Final = "SELECT kind, key, max(seq) FROM journal WHERE seq > ? AND writer <> ? GROUP BY kind, key"
_TRIM: Final = "DELETE FROM journal WHERE seq <= ?"


class TagChange(Struct, eq=False):
    """A pending change of a tag: all its rows are deleted if `cleared`, then `rows`, by variant, are put.

    `seq`: its number in the journal, from within the transaction on.
    """

    cleared: bool
    rows: dict[str, TagRow]
    seen: int
    seq: int = 0


class ObjectChange(Struct, frozen=True, eq=False):
    """A pending change of an object: its row is deleted if `dropped`, then `row` is put unless it is None."""

    dropped: bool
    row: ObjectRow | None
    seen: int


K = TypeVar("K")
C = TypeVar("C", TagChange, ObjectChange)


class Pending(Generic[K, C]):
    """The change of each key that is not on disk yet. The caller puts, the writer takes and settles."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[K, C] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def get(self, key: K) -> C | None:
        return self._changes.get(key)

    def items(self) -> list[tuple[K, C]]:
        with self._lock:
            return list(self._changes.items())

    def put(self, key: K, change: C) -> None:
        with self._lock:
            self._changes[key] = change

    def take(self, limit: int) -> dict[K, C]:
        """Return the first `limit` changes, which stay visible until they are settled."""
        with self._lock:
            return dict(islice(self._changes.items(), limit))

    def settle(self, written: Mapping[K, C]) -> None:
        """Remove changes that are on disk now, except for keys that have changed again in the meantime."""
        with self._lock:
            for key, change in written.items():
                if self._changes.get(key) is change:
                    del self._changes[key]

    def supersede(self, key: K, seq: int) -> None:
        """Remove a change that was made before the journal's `seq` made it void."""
        with self._lock:
            change = self._changes.get(key)
            if change is not None and change.seen < seq:
                del self._changes[key]

    def withdraw(self, keys: Iterable[K]) -> dict[K, C]:
        """Remove and return the changes of some keys."""
        with self._lock:
            return {key: self._changes.pop(key) for key in keys if key in self._changes}

    def restore(self, withdrawn: Mapping[K, C]) -> None:
        """Undo withdraw(), except for keys that have changed since."""
        with self._lock:
            self._changes = {**withdrawn, **self._changes}

    def trim(self, limit: int) -> None:
        with self._lock:
            for key in list(islice(self._changes, max(0, len(self._changes) - limit))):
                del self._changes[key]


@contextmanager
def transaction(connection: sqlite3.Connection, me: int) -> Iterator[Changes]:
    """Run one transaction of the process that the journal names `me`. Raises sqlite3.Error: then nothing is
    done.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        changes = Changes(connection, me)
        yield changes
        changes.trim()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # some errors have rolled back by themselves
            connection.execute("ROLLBACK")


class Changes:
    """The changes of one transaction.

    `told`: the journal has a row about something that others have to drop. `stored`: there are new objects.
    """

    def __init__(self, connection: sqlite3.Connection, me: int) -> None:
        self._connection = connection
        self._me = me
        self._last = 0
        self.told = False
        self.stored = False

    def pending(self, tags: Mapping[TagKey, TagChange], objects: Mapping[str, ObjectChange]) -> None:
        """Write pending changes, except those that are void by now."""
        if not tags and not objects:
            return
        seen = min(change.seen for changes in (tags, objects) for change in changes.values())
        newer = {
            (kind, key): seq
            for kind, key, seq in self._connection.execute(_NEWER, (seen, self._me)).fetchall()
        }
        for key, change in tags.items():
            name = name_of(key)
            void = newer.get((TAG_DROPPED, name), 0) > change.seen
            # A drop is written in any case: the other process may have no board to announce its own with.
            if change.cleared or not void:
                self._tag(key, name, change, {} if void else change.rows)
        for digest, entry in objects.items():
            # A row without a file is found sooner or later, a file without a row is not. So an object that
            # another process has stored since is not dropped, and one that is to be stored is stored whatever
            # others have removed.
            kept = entry.row is None and newer.get((STORED, digest), 0) > entry.seen
            self._object(digest, entry, kept)

    def touch(self, uses: Mapping[str, int], now: float) -> None:
        """Set the last use of objects that have a row, and add to their hits."""
        self._connection.executemany(_TOUCH, ((now, hits, digest) for digest, hits in uses.items()))

    def remove(self, digests: Sequence[str], journal: bool) -> set[TagKey]:
        """Remove objects and the tags that name them; return those tags. `journal` False: no process has them
        in memory.
        """
        gone: set[TagKey] = set()
        for digest in digests:
            gone.update(self._connection.execute(_DROP_TAGS_OF, (digest,)).fetchall())
        self._connection.executemany(_DROP_OBJECT, ((digest,) for digest in digests))
        if journal:
            for key in gone:
                self._note(TAG_PUT, name_of(key))  # it may have other variants, and be put again meanwhile
            for digest in digests:
                self._note(REMOVED, digest)
        return gone

    def sweep_tags(self, digests: Iterable[str], before: float) -> list[TagKey]:
        """Remove tag rows older than `before` that name one of these, if not stored, and the histories of
        tags that nobody has asked for in SEEN_FOR; return a key for each.
        """
        gone: list[TagKey] = []
        for digest in digests:
            gone += self._connection.execute(_SWEEP_TAGS, (digest, before)).fetchall()
        gone += self._connection.execute(_SWEEP_SEEN, (before - SEEN_FOR,)).fetchall()
        for key in set(gone):
            self._note(TAG_PUT, name_of(key))
        return gone

    def adopt(self, rows: Sequence[ObjectRow]) -> int:
        """Enter objects that have no row yet; return how many."""
        count = self._connection.executemany(_ADOPT, map(astuple, rows)).rowcount
        self.stored = self.stored or count > 0
        return count

    def drop_tags(self, keys: Sequence[TagKey]) -> None:
        """Drop all variants of tags."""
        self._connection.executemany(_DROP_TAG, keys)
        for key in keys:
            self._note(TAG_DROPPED, name_of(key))

    def forget_places(self, keys: Sequence[TagKey]) -> None:
        """Forget that content (in the tag's place) is in repositories; not where a client has deleted it."""
        self._connection.executemany(_FORGET_PLACE, keys)
        for key in keys:
            self._note(TAG_PUT, name_of(key))

    def catalogue(self, found: Sequence[Catalogued]) -> None:
        """Enter what objects are and what they name, those that are no manifests included.

        At least one of them: where that is much, the others stay to be read.
        """
        added = 0
        for each in found:
            if added > _ADDED_MAX:
                break
            self._connection.execute(_READ, (each.digest,))
            if each.platform and not each.media_type:
                self._connection.execute(_SET_PLATFORM, (each.platform, each.digest))
            if each.media_type:
                added += self._enter_manifest(each)

    def _enter_manifest(self, each: Catalogued) -> int:
        """Enter a manifest; return how many contents were added up for that."""
        row = (each.digest, each.media_type, each.platform, each.digest)
        if not self._connection.execute(_PUT_MANIFEST, row).rowcount:
            return 0  # it has been removed meanwhile
        links = ((each.digest, link.digest, link.kind, link.size, link.platform) for link in each.links)
        self._connection.executemany(_PUT_LINK, links)
        # An index's total grows with what becomes known of its manifests.
        return sum(self._add_up(digest) for digest in self._above(each.digest))

    def _above(self, digest: str) -> list[str]:
        """Return a manifest and those that name it, ABOVE_MAX at most."""
        found = [digest]
        for each in found:
            parents = self._connection.execute(_ABOVE, (each, ABOVE_MAX - len(found))).fetchall()
            found += [parent for (parent,) in parents if parent not in found]
        return found

    def _add_up(self, digest: str) -> int:
        """Set how many contents a manifest names, BELOW_MAX at most, and their bytes; return how many."""
        ((own,),) = self._connection.execute(_SIZE, (digest,)).fetchall() or ((0,),)
        sizes: dict[str, int] = {digest: own}
        todo = [digest]
        while todo and len(sizes) < BELOW_MAX:
            rows = self._connection.execute(_BELOW, (todo.pop(), BELOW_MAX - len(sizes)))
            for child, size, is_manifest in rows.fetchall():
                if is_manifest and child not in sizes:
                    todo.append(child)
                sizes[child] = max(size, sizes.get(child, 0))
        total = min(sum(sizes.values()), _SUM_MAX)
        self._connection.execute(_SET_SUMS, (total, len(sizes), digest))
        return len(sizes)

    def pin(self, name: str, digests: Sequence[str]) -> None:
        """Keep objects from being evicted."""
        self._connection.executemany(_PIN, ((digest, name) for digest in digests))

    def unpin(self, name: str) -> int:
        """Undo pin(); return the number of objects."""
        return self._connection.execute(_UNPIN, (name,)).rowcount

    def set_complete(self) -> None:
        """Record that all objects on disk are entered."""
        self._connection.execute(_COMPLETE)

    def trim(self) -> None:
        """Keep the journal short."""
        if self._last > JOURNAL_MAX:
            self._connection.execute(_TRIM, (self._last - JOURNAL_MAX,))

    def _tag(self, key: TagKey, name: str, change: TagChange, rows: Mapping[str, TagRow]) -> None:
        if change.cleared:
            self._connection.execute(_DROP_TAG, key)
        self._connection.executemany(_PUT_TAG, (key + astuple(row) for row in rows.values()))
        change.seq = self._note(TAG_DROPPED if change.cleared else TAG_PUT, name)

    def _object(self, digest: str, change: ObjectChange, kept: bool) -> None:
        if change.dropped:
            if not kept:
                self._connection.execute(_DROP_OBJECT, (digest,))
            self._note(REMOVED, digest)  # others may have the old file open
        if change.row is not None:
            self._connection.execute(_PUT_OBJECT, astuple(change.row))
            self._note(STORED, digest)
            self.stored = True

    def _note(self, kind: str, key: str) -> int:
        seq = self._connection.execute(_NOTE, (self._me, kind, key)).lastrowid
        assert seq is not None
        self._last = seq
        self.told = self.told or kind != STORED
        return seq
