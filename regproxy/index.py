"""What the cache knows besides its files: where tags point, and the size, type and last use of objects.

SQLite in WAL mode. Reads run on the caller's thread; all writing is done by one thread, in batches. What is
not on disk yet is in memory and is read from there, so a change is visible at once. The file may be lost at
any time: objects are counted anew from the blobs, and tags are asked for again. So a fault here never fails a
pull: it is logged, and what can't be read is taken as not known.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from regproxy.errors import StoreError

logger = logging.getLogger(__name__)

_VERSION: Final = 1  # of the schema; every change raises it and is carried out by _prepare()
_SCHEMA: Final = (
    "CREATE TABLE tags (host TEXT NOT NULL, port INTEGER NOT NULL, repository TEXT NOT NULL,"
    " tag TEXT NOT NULL, variant TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,"
    " size INTEGER NOT NULL, fetched_at REAL NOT NULL, accepts_index INTEGER NOT NULL,"
    " PRIMARY KEY (host, port, repository, tag, variant)) WITHOUT ROWID",
    "CREATE TABLE objects (digest TEXT NOT NULL PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT,"
    " last_used REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX objects_by_use ON objects (last_used)",
)
_TAG_ROWS: Final = (
    "SELECT variant, digest, media_type, size, fetched_at, accepts_index FROM tags"
    " WHERE host = ? AND port = ? AND repository = ? AND tag = ?"
)
_DROP_TAG: Final = "DELETE FROM tags WHERE host = ? AND port = ? AND repository = ? AND tag = ?"
_PUT_TAG: Final = "INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OBJECT_ROW: Final = "SELECT digest, size, media_type, last_used FROM objects WHERE digest = ?"
_OLDEST: Final = "SELECT digest, size, media_type, last_used FROM objects ORDER BY last_used"
_PUT_OBJECT: Final = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)"
_DROP_OBJECT: Final = "DELETE FROM objects WHERE digest = ?"
_TOUCH: Final = "UPDATE objects SET last_used = ? WHERE digest = ?"

_LINGER: Final = 0.05  # seconds that a change waits for others to share its transaction
_TOUCH_EVERY: Final = 5.0  # seconds between two writings of last uses
_RETRY: Final = 1.0  # seconds after a failed transaction
_BATCH: Final = 2000  # changes in one transaction
_MEMORY: Final = 8192  # tags, and media types, that are held in memory
_BACKLOG: Final = 100_000  # changes that wait while the disk does not take them
# What says nothing about the file itself, by SQLite's primary result code: moving it aside would not help.
_NOT_DAMAGE: Final = frozenset(
    {
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    }
)

TagKey = tuple[str, int, str, str]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class TagRow:
    """What the origin said a tag is, to a request of the kind `variant`.

    `variant` is the caller's word, and a tag has one row for each. `size`: bytes. `fetched_at`: seconds since
    the epoch, when the origin last confirmed it. `accepts_index`: the request took indexes too.
    """

    variant: str
    digest: str
    media_type: str
    size: int
    fetched_at: float
    accepts_index: bool


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A blob or manifest on disk. `size`: bytes; `media_type`: None if unknown; `last_used`: epoch."""

    digest: str
    size: int
    media_type: str | None
    last_used: float


class Index:
    """The index of one cache directory. Use from one thread.

    `objects` and `bytes`: how many objects there are, and their sizes together. `fresh`: the file has just
    been made, so that objects which lie on disk are not in it yet.
    """

    def __init__(
        self, writer: sqlite3.Connection, reader: sqlite3.Connection, clock: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._clock = clock
        self.fresh = False
        self.objects, self.bytes = reader.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM objects"
        ).fetchone()
        self._tags: _Memory[TagKey, tuple[TagRow, ...]] = _Memory(_MEMORY)
        self._types: _Memory[str, str] = _Memory(_MEMORY)
        self._writer = _Writer(writer, clock)

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Index:
        """Open the index, or make it. A damaged file, or a later version's, is moved to `<name>.aside`.

        Raises StoreError if the file can be neither used nor replaced.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return cls._open(path, clock)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _NOT_DAMAGE:
                    raise
                logger.warning("%s: %s; moved aside, and made anew from the blobs", path, error)
                _move_aside(path)
                return cls._open(path, clock)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: {error}; this user has to be able to write there") from error

    @classmethod
    def _open(cls, path: Path, clock: Callable[[], float]) -> Index:
        connections = []
        try:
            for _ in range(2):
                connections.append(_connect(path))
            writer, reader = connections
            fresh = _prepare(writer)
            reader.execute("PRAGMA query_only = 1")
            reader.execute("PRAGMA busy_timeout = 100")  # ms; the caller is an event loop
            index = cls(writer, reader, clock)
        except sqlite3.Error:
            for connection in connections:
                connection.close()
            raise
        index.fresh = fresh
        return index

    # Tags

    def tag(self, host: str, port: int, repository: str, tag: str) -> tuple[TagRow, ...]:
        """Return what is known of a tag, one row for each variant; empty: nothing."""
        key = (host, port, repository, tag)
        rows = self._tags.get(key)
        if rows is None:
            rows = self._writer.tags.get(key, None)
            if rows is None:
                rows = tuple(_tag_row(*row) for row in self._read(_TAG_ROWS, key))
            self._tags.put(key, rows)
        return rows

    def put_tag(self, host: str, port: int, repository: str, tag: str, row: TagRow) -> None:
        """Set the tag's row for `row.variant`; its rows for other variants stay."""
        others = (r for r in self.tag(host, port, repository, tag) if r.variant != row.variant)
        self._set_tag((host, port, repository, tag), (*others, row))

    def drop_tag(self, host: str, port: int, repository: str, tag: str) -> None:
        """Forget all variants of a tag."""
        self._set_tag((host, port, repository, tag), ())

    def _set_tag(self, key: TagKey, rows: tuple[TagRow, ...]) -> None:
        self._tags.put(key, rows)
        self._writer.tags.put(key, rows)
        self._writer.wake()

    # Objects

    def object(self, digest: str) -> ObjectRow | None:
        """Return what is known of an object. Its last use may be some seconds later than `last_used`."""
        row = self._writer.objects.get(digest, _UNKNOWN)
        if row is _UNKNOWN:
            found = self._read(_OBJECT_ROW, (digest,))
            return ObjectRow(*found[0]) if found else None
        return row

    def put_object(self, digest: str, size: int, media_type: str | None) -> None:
        """Note an object that is on disk, used just now. `media_type` None leaves a known one as it is."""
        before = self.object(digest)
        if before is not None:
            media_type = media_type or before.media_type
            self.bytes -= before.size
            self.objects -= 1
        self.bytes += size
        self.objects += 1
        if media_type is not None:
            self._types.put(digest, media_type)
        self._set_object(digest, ObjectRow(digest, size, media_type, self._clock()))

    def drop_object(self, digest: str) -> None:
        """Forget an object. Tags may go on naming it."""
        before = self.object(digest)
        if before is not None:
            self.bytes -= before.size
            self.objects -= 1
            self._types.drop(digest)
            self._set_object(digest, None)

    def media_type(self, digest: str) -> str | None:
        """Return a manifest's media type; None: not known, or not a manifest."""
        known = self._types.get(digest)
        if known is None:
            row = self.object(digest)
            if row is None or row.media_type is None:
                return None
            known = row.media_type
            self._types.put(digest, known)
        return known

    def touch(self, digest: str) -> None:
        """Note that an object was used just now. It is on disk some seconds later."""
        self._writer.touched.add(digest)

    def oldest(self, limit: int) -> list[ObjectRow]:
        """Return up to `limit` objects, those first that were not used for the longest time.

        What was touched or put in the last seconds is left out.
        """
        rows: list[ObjectRow] = []
        with suppress(sqlite3.Error), closing(self._reader.execute(_OLDEST)) as cursor:
            # Dropped objects wait in `objects` too; the few that are skipped make this no longer scan.
            idle = (
                r for r in cursor if r[0] not in self._writer.touched and r[0] not in self._writer.objects
            )
            rows.extend(ObjectRow(*row) for row in islice(idle, limit))
        return rows

    def _set_object(self, digest: str, row: ObjectRow | None) -> None:
        self._writer.objects.put(digest, row)
        self._writer.wake()

    # Both

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all changes are on disk, uses included; False: they are not, after `timeout` seconds."""
        return self._writer.flush(timeout)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
        self._reader.close()

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            logger.warning("index: %s", error)
            return []


class _Memory(Generic[K, V]):
    """The values that were used last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)

    def drop(self, key: K) -> None:
        self._values.pop(key, None)


class _Pending(Generic[K, V]):
    """The latest state of each key that is not on disk yet. The caller puts, the writer takes and settles."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, key: K) -> bool:
        return key in self._changes

    def get(self, key: K, default: V | None) -> V | None:
        return self._changes.get(key, default)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._changes[key] = value

    def take(self, limit: int) -> dict[K, V]:
        """Return the first `limit` changes, which stay visible until they are settled."""
        with self._lock:
            return dict(islice(self._changes.items(), limit))

    def settle(self, written: dict[K, V]) -> None:
        """Forget what is on disk now, except for keys that have changed again in the meantime."""
        with self._lock:
            for key, value in written.items():
                if key in self._changes and self._changes[key] is value:
                    del self._changes[key]

    def trim(self, limit: int) -> None:
        with self._lock:
            for key in list(islice(self._changes, max(0, len(self._changes) - limit))):
                del self._changes[key]


class _Writer:
    """The thread that writes, and what waits for it."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.tags: _Pending[TagKey, tuple[TagRow, ...]] = _Pending()
        self.objects: _Pending[str, ObjectRow | None] = _Pending()
        # Used by both threads without a lock: add(), copy() and difference_update() of strings are one step
        # each under the GIL. A digest stays in it until its use is on disk.
        self.touched: set[str] = set()
        self._connection = connection
        self._clock = clock
        self._changed = threading.Condition()
        self._dirty = False
        self._failing = False
        self._closing = False
        self._asked = self._done = 0  # flushes
        self._touch_at = time.monotonic() + _TOUCH_EVERY
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        if not self._dirty:
            with self._changed:
                self._dirty = True
                self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._done >= mine, timeout) and not self._failing

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()

    def _hurried(self) -> bool:
        return self._closing or self._asked > self._done

    def _run(self) -> None:
        closing_now = False
        while not closing_now:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._hurried(), _TOUCH_EVERY)
                if self._dirty:
                    self._changed.wait_for(self._hurried, _RETRY if self._failing else _LINGER)
                asked, closing_now, hurried = self._asked, self._closing, self._hurried()
                self._dirty = False
            written = self._write_all(uses=hurried or time.monotonic() >= self._touch_at)
            with self._changed:
                self._done = asked
                self._failing = not written
                self._dirty = self._dirty or self._failing
                self._changed.notify_all()

    def _write_all(self, *, uses: bool) -> bool:
        """Write all that waits, in batches; False: SQLite did not take it, and it goes on waiting."""
        try:
            while self.tags or self.objects:
                tags, objects = self.tags.take(_BATCH), self.objects.take(_BATCH)
                self._write(tags, objects, set())
                self.tags.settle(tags)
                self.objects.settle(objects)
            if uses and self.touched:
                touched = self.touched.copy()
                self._write({}, {}, touched)
                self.touched.difference_update(touched)
        except sqlite3.Error as error:
            if not self._failing:
                logger.warning("index: can't write, will go on trying: %s", error)
            self.tags.trim(_BACKLOG)
            self.objects.trim(_BACKLOG)
            if len(self.touched) > _BACKLOG:
                self.touched.clear()
            return False
        if uses:
            self._touch_at = time.monotonic() + _TOUCH_EVERY
        return True

    def _write(
        self, tags: dict[TagKey, tuple[TagRow, ...]], objects: dict[str, ObjectRow | None], touched: set[str]
    ) -> None:
        now = self._clock()
        run = self._connection.executemany
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            run(_DROP_TAG, tags)
            run(_PUT_TAG, (key + _values(row) for key, rows in tags.items() for row in rows))
            run(_DROP_OBJECT, ((digest,) for digest, row in objects.items() if row is None))
            run(_PUT_OBJECT, (_values(row) for row in objects.values() if row is not None))
            run(_TOUCH, ((now, digest) for digest in touched))
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:  # some errors have rolled back by themselves
                self._connection.execute("ROLLBACK")
            raise


_UNKNOWN: Final = ObjectRow("", 0, None, 0.0)


def _tag_row(
    variant: str, digest: str, media_type: str, size: int, fetched_at: float, accepts_index: int
) -> TagRow:
    return TagRow(variant, digest, media_type, size, fetched_at, bool(accepts_index))


def _values(row: TagRow | ObjectRow) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in row.__slots__)


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are begun by name; the writer's connection is opened here and used by its thread alone.
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute(
        "PRAGMA synchronous = NORMAL"
    )  # with WAL: a power cut may lose the last commits, no more
    return connection


def _prepare(connection: sqlite3.Connection) -> bool:
    """Check the file, and make its tables if it has none (True). Raises sqlite3.DatabaseError."""
    ((said,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if said != "ok":
        raise sqlite3.DatabaseError(said)
    # A file system without shared memory (NFS) refuses WAL, and the old journal is kept: slower, and right.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"its schema has version {version}, not {_VERSION}")
        if version == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
    finally:
        connection.execute("COMMIT")
    return bool(version == 0)


def _move_aside(path: Path) -> None:
    """Give way to a new file. Its log goes away with it, or it would be replayed into the new one."""
    path.replace(path.with_name(f"{path.name}.aside"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
