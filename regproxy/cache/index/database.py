"""Open, replace and close the index's file, which several processes share, and define its tables.

SQLite finds a file's log (`-wal`, `-shm`) by name. So a process that opens a file while another puts a new
one in its place could get the log of the wrong one, and the last process to close one deletes the log. All
three are therefore done under a lock (`<name>.lock`). The file itself must not be opened by anything but
SQLite: closing any descriptor of it would release the locks that SQLite holds on it in this process
(fcntl(2)).
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from regproxy.core import file_lock
from regproxy.core.errors import StoreError

logger = logging.getLogger(__name__)

CATALOGUED_MAX: Final = 4 * 1024 * 1024  # bytes; nothing larger is a manifest

# The n-th upgrades version n to n + 1. A new file takes them all.
_STEPS: Final = (
    (
        "CREATE TABLE tags (host TEXT NOT NULL, port INTEGER NOT NULL, repository TEXT NOT NULL,"
        " tag TEXT NOT NULL, variant TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,"
        " size INTEGER NOT NULL, fetched_at REAL NOT NULL, accepts_index INTEGER NOT NULL,"
        " PRIMARY KEY (host, port, repository, tag, variant)) WITHOUT ROWID",
        "CREATE TABLE objects (digest TEXT NOT NULL PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT,"
        " last_used REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX objects_by_use ON objects (last_used)",
    ),
    (
        "CREATE INDEX tags_by_digest ON tags (digest)",
        "ALTER TABLE objects ADD COLUMN disk INTEGER NOT NULL DEFAULT 0",
        "UPDATE objects SET disk = (size + 4095) / 4096 * 4096",
        "CREATE TABLE totals (objects INTEGER NOT NULL, bytes INTEGER NOT NULL, disk INTEGER NOT NULL)",
        "INSERT INTO totals SELECT count(*), coalesce(sum(size), 0), coalesce(sum(disk), 0) FROM objects",
        "CREATE TRIGGER objects_in AFTER INSERT ON objects BEGIN UPDATE totals SET objects = objects + 1,"
        " bytes = bytes + new.size, disk = disk + new.disk; END",
        "CREATE TRIGGER objects_out AFTER DELETE ON objects BEGIN UPDATE totals SET objects = objects - 1,"
        " bytes = bytes - old.size, disk = disk - old.disk; END",
        "CREATE TRIGGER objects_changed AFTER UPDATE OF size, disk ON objects BEGIN UPDATE totals SET"
        " bytes = bytes - old.size + new.size, disk = disk - old.disk + new.disk; END",
        "CREATE TABLE pins (digest TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (digest, name))"
        " WITHOUT ROWID",
        # Without AUTOINCREMENT a number could be reused; with it, only trimming makes gaps.
        "CREATE TABLE journal (seq INTEGER PRIMARY KEY AUTOINCREMENT, writer INTEGER NOT NULL,"
        " kind TEXT NOT NULL, key TEXT NOT NULL)",
        "CREATE TABLE state (key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO state VALUES ('complete', 0)",
    ),
    (
        # It was not known which index types a request had named, and the type of content was what the first
        # registry had told: both are learned again.
        "ALTER TABLE tags RENAME COLUMN accepts_index TO named",
        "DELETE FROM tags WHERE named AND media_type NOT IN ('application/vnd.oci.image.index.v1+json',"
        " 'application/vnd.docker.distribution.manifest.list.v2+json')",
        "UPDATE tags SET named = 0",
        "UPDATE objects SET media_type = NULL",
    ),
    (
        # Of what was stored before, it is only known that it was there when it was last used.
        "ALTER TABLE objects ADD COLUMN stored_at REAL NOT NULL DEFAULT 0",
        "UPDATE objects SET stored_at = last_used",
        "ALTER TABLE objects ADD COLUMN hits INTEGER NOT NULL DEFAULT 0",
    ),
    (
        # Tags alone: the rows in a tag's place that are none have a colon in their names. The condition has
        # to be written in the same way by whoever means to use it.
        "CREATE INDEX images_by_name ON tags (host, port, repository, tag, digest) WHERE tag NOT GLOB '*:*'",
        "CREATE INDEX objects_by_size ON objects (size)",
        # What manifests are, and what they name, as far as they are held. `total`: bytes of all that one
        # names; `named`: how many digests these are.
        "CREATE TABLE manifests (digest TEXT NOT NULL PRIMARY KEY, media_type TEXT NOT NULL,"
        " total INTEGER NOT NULL, named INTEGER NOT NULL, platform TEXT NOT NULL, last_used REAL NOT NULL)"
        " WITHOUT ROWID",
        "CREATE INDEX manifests_by_total ON manifests (total)",
        "CREATE INDEX manifests_by_use ON manifests (last_used)",
        "CREATE TABLE links (parent TEXT NOT NULL, child TEXT NOT NULL, kind TEXT NOT NULL,"
        " size INTEGER NOT NULL, platform TEXT NOT NULL, PRIMARY KEY (parent, child)) WITHOUT ROWID",
        "CREATE INDEX links_by_child ON links (child)",
        # Objects that may be manifests, by their size, and that nobody has read yet.
        "CREATE TABLE uncatalogued (digest TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
        f"INSERT INTO uncatalogued SELECT digest FROM objects WHERE size <= {CATALOGUED_MAX}",
        f"CREATE TRIGGER objects_new AFTER INSERT ON objects WHEN new.size <= {CATALOGUED_MAX} BEGIN"
        " INSERT INTO uncatalogued SELECT new.digest WHERE NOT EXISTS"
        " (SELECT 1 FROM uncatalogued WHERE digest = new.digest); END",
        "CREATE TRIGGER objects_gone AFTER DELETE ON objects BEGIN"
        " DELETE FROM uncatalogued WHERE digest = old.digest;"
        " DELETE FROM links WHERE parent = old.digest; DELETE FROM manifests WHERE digest = old.digest; END",
        "CREATE TRIGGER objects_used AFTER UPDATE OF last_used ON objects BEGIN"
        " UPDATE manifests SET last_used = new.last_used WHERE digest = new.digest; END",
    ),
)
_VERSION: Final = len(_STEPS)
_NAMES: Final = frozenset(sql.split()[2] for step in _STEPS for sql in step if sql.startswith("CREATE"))
# One row of each tree: a missing or zeroed one shows, whatever the number of rows.
_LOOKS: Final = (
    *(f"SELECT * FROM {table} LIMIT 1" for table in ("tags", "objects", "totals", "pins", "journal")),
    *(f"SELECT * FROM {table} LIMIT 1" for table in ("manifests", "links", "uncatalogued")),
    "SELECT tag FROM tags INDEXED BY images_by_name WHERE tag NOT GLOB '*:*' AND host > '' LIMIT 1",
    "SELECT size FROM objects INDEXED BY objects_by_size WHERE size > 0 LIMIT 1",
    "SELECT total FROM manifests INDEXED BY manifests_by_total WHERE total > 0 LIMIT 1",
    "SELECT last_used FROM manifests INDEXED BY manifests_by_use WHERE last_used > 0 LIMIT 1",
    "SELECT child FROM links INDEXED BY links_by_child WHERE child > '' LIMIT 1",
    "SELECT digest FROM tags INDEXED BY tags_by_digest WHERE digest > '' LIMIT 1",
    "SELECT last_used, stored_at, hits FROM objects INDEXED BY objects_by_use WHERE last_used > 0 LIMIT 1",
    "SELECT value FROM state WHERE key = 'complete'",
)

_PATIENCE: Final = 20.0  # seconds to wait for another process that opens the file: it may be creating it
_CLOSING: Final = 2.0  # seconds to wait for the lock when closing
_POLL: Final = 0.01  # seconds between two tries for the lock
_PREPARING: Final = 20.0  # seconds to wait for a lock inside the file when opening it
_WRITING: Final = 5.0  # by the writer later
_READING: Final = 0.1  # by the reader, whose thread runs an event loop
_LOG_MAX: Final = 16 * 1024 * 1024  # bytes that an idle log may keep

# Primary result codes that say nothing about the file itself: moving it aside would not help.
_NOT_DAMAGE: Final = frozenset(
    {
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    }
)
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_temporary: list[str] = []  # where SQLite's temporary files of this process are, once that is said
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})

Inode = tuple[int, int]


class _IndexConnection(sqlite3.Connection):
    """A connection whose faults are sqlite3.Error, as callers expect it.

    SQLite's messages quote a damaged file's names as they are. Where these are no UTF-8, Python's module
    raises UnicodeDecodeError.
    """

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError:
            raise sqlite3.DatabaseError("it has names that are no text") from None


class OpenedIndex(Struct, eq=False):
    """An open index file: one connection to write, one to read. `inodes`: those of the file and its log.

    `inodes` None: there is no room for a file yet, and both connections are to an empty one in memory.
    """

    path: Path
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    inodes: tuple[Inode | None, Inode | None] | None
    _seen: tuple[int, int] = field(default=(0, 0))  # size and time

    def is_current(self) -> bool:
        """Tell whether the path still leads to this file, with this log."""
        if self.inodes is None:
            return False
        with suppress(OSError):  # then it is unknown; the next read or write will fail
            return _inodes(self.path) == self.inodes
        return True

    def looks_changed(self) -> bool:
        """Tell whether the path is another file, or this one was written to since the last call.

        SQLite itself writes from time to time. renew() tells whether something is wrong.
        """
        if not self.is_current():
            return True
        before = self._seen
        try:
            status = self.path.stat()
        except OSError:
            return True  # if it is not just being replaced, renew() finds no fault
        self._seen = status.st_size, status.st_mtime_ns
        return self._seen != before


def open_file(path: Path) -> OpenedIndex:
    """Open the index, or create it. A damaged file, or a later version's, is moved to `<name>.aside`.

    Raises StoreError if the file can be neither used nor replaced. A disk without room for its log raises
    nothing: the index is in memory until there is room (see renew()).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, _PATIENCE):
            return _open_or_replace(path)
    except (OSError, sqlite3.Error) as error:
        if not _is_no_room(error):
            raise StoreError(f"{path}: {error}; this user has to be able to write there") from error
        logger.warning("%s: %s; doing without it until there is room", path, error)
        return _in_memory(path)


def renew(opened: OpenedIndex, suspicion: sqlite3.Error | None) -> OpenedIndex | None:
    """Open the file again if the path is another one now or it is damaged; None: nothing is wrong.

    `suspicion`: an error met in use. A damaged file is moved aside as by open_file(); its writer is closed,
    the reader is the caller's to close. Raises StoreError: then only `opened` can be used for now.
    """
    path = opened.path
    # In this order: another process may put a new file there between the two.
    if not _is_damaged(opened, suspicion) and opened.is_current():
        return None
    try:
        with _locked(path, _PATIENCE):
            # Another process may have replaced it before the lock was taken. Then its new file is used here,
            # too.
            if opened.inodes is not None and opened.inodes[0] == _inode(path):
                logger.warning(
                    "%s: damaged (%s); moved aside, and made anew", path, suspicion or "overwritten"
                )
                _move_aside(path)
            elif opened.inodes is not None and opened.inodes[1] == _inode(_log(path)):
                _remove_logs(path)  # the process that replaced the file has left its log
            renewed = _open_or_replace(path)
            opened.writer.close()
            return renewed
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error


class Reading(Struct, frozen=True, eq=False):
    """A connection that reads beside the index's own, for answers that take longer. Use it by one thread at a
    time. Tables of its own (TEMP) are in a file, not in memory.
    """

    path: Path
    connection: sqlite3.Connection
    inodes: tuple[Inode | None, Inode | None]

    def is_current(self) -> bool:
        """Tell whether the path still leads to this file, with this log."""
        return _inodes(self.path) == self.inodes

    def close(self) -> None:
        """Close the connection."""
        close_file(self.path, self.connection)


def open_reading(path: Path) -> Reading:
    """Open the file that a process has made, for reading. Raises StoreError."""
    try:
        with _locked(path, _PATIENCE):
            if _size(path) == 0:
                raise StoreError(f"{path}: there is no index yet")
            connection = _connect(path)
            try:
                if _version(connection) != _VERSION:
                    raise StoreError(f"{path}: it is not of this version; a proxy that starts brings it up")
                connection.execute("PRAGMA temp_store = FILE")
                connection.execute(f"PRAGMA busy_timeout = {_WRITING * 1000:.0f}")
                _check(connection)
            except BaseException:
                connection.close()
                raise
            return Reading(path, connection, _inodes(path))
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error


def close_file(path: Path, *connections: sqlite3.Connection) -> None:
    """Close all connections of this process to a file."""
    try:
        with _locked(path, _CLOSING):
            for connection in connections:
                connection.close()
    except (OSError, StoreError):
        # The directory is gone, or another process hangs: not worth waiting for.
        for connection in connections:
            connection.close()


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether an error met in use may come from a damaged file."""
    return _code(error) in _DAMAGE | {sqlite3.SQLITE_ERROR}


@contextmanager
def _locked(path: Path, patience: float) -> Iterator[None]:
    """Prevent other processes from opening, replacing or closing the file. Raises OSError, StoreError after
    `patience`.
    """
    name = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + patience
    while True:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # A lock file that was removed meanwhile excludes nobody.
            if file_lock.lock(fd) and file_lock.names(name, fd):
                yield
                return
        finally:
            os.close(fd)
        if time.monotonic() >= deadline:
            raise StoreError(f"{name}: another process has held it for {patience:g} s")
        time.sleep(_POLL)


def _open_or_replace(path: Path) -> OpenedIndex:
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if _code(error) in _NOT_DAMAGE:
            raise
        logger.warning("%s: %s; moved aside, and made anew from the blobs", path, error)
        _move_aside(path)
        return _open(path)


def _open(path: Path) -> OpenedIndex:
    new = _size(path) == 0
    if new:
        # A process that still has an earlier file of this name keeps its log, which must not be shared with
        # the new one.
        path.unlink(missing_ok=True)
        _remove_logs(path)
    elif _is_overwritten(path):
        raise sqlite3.DatabaseError("it is not a database")
    connections = []
    try:
        for _ in range(2):
            connections.append(_connect(path))
        writer, reader = connections
        if new:  # the file is empty, so a power cut loses nothing
            writer.execute("PRAGMA synchronous = OFF")
        _prepare(writer)
        writer.execute("PRAGMA synchronous = NORMAL")  # with WAL a power cut may lose the last commits
        writer.execute(f"PRAGMA journal_size_limit = {_LOG_MAX}")
        writer.execute(f"PRAGMA busy_timeout = {_WRITING * 1000:.0f}")
        reader.execute("PRAGMA query_only = 1")
        reader.execute(f"PRAGMA busy_timeout = {_READING * 1000:.0f}")
        _check(reader)  # opens the log, too: later it might be another file's
        opened = OpenedIndex(path, writer, reader, _inodes(path))
        opened.looks_changed()
    except BaseException:
        for connection in connections:
            connection.close()
        raise
    return opened


def _in_memory(path: Path) -> OpenedIndex:
    writer, reader = (
        sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False) for _ in "12"
    )
    for connection in (writer, reader):
        _prepare(connection)
    return OpenedIndex(path, writer, reader, None)


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are begun explicitly. Connections are opened and closed here, and used by one thread each.
    connection = sqlite3.connect(
        path, timeout=_PREPARING, isolation_level=None, check_same_thread=False, factory=_IndexConnection
    )
    if not _temporary:
        # For long answers, and for what a purge has found: in a container whose root can't be written
        # there is no other place. It holds for the process, and is given up for /tmp where it is gone.
        place = str(path.parent.absolute()).replace("'", "''")
        with suppress(sqlite3.Error):
            connection.execute(f"PRAGMA temp_store_directory = '{place}'")
        _temporary.append(place)
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the tables, or upgrade those of an earlier version, and check them. Raises DatabaseError."""
    # A file system without shared memory (NFS) refuses WAL, and the old journal is kept: slower, and right.
    connection.execute("PRAGMA journal_mode = WAL")
    if _version(connection) != _VERSION:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            version = _version(connection)
            if version > _VERSION:
                raise sqlite3.DatabaseError(f"its schema has version {version}, not {_VERSION}")
            for statement in (sql for step in _STEPS[version:] for sql in step):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    _check(connection)


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    return int(version)


def _check(connection: sqlite3.Connection) -> None:
    """Raise DatabaseError if something is missing, at a cost that does not grow with the number of rows."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if missing := sorted(_NAMES - names):
        raise sqlite3.DatabaseError(f"it has no {', '.join(missing)}")
    for look in _LOOKS:
        connection.execute(look).fetchall()


def _is_damaged(opened: OpenedIndex, suspicion: sqlite3.Error | None) -> bool:
    if suspicion is not None and _code(suspicion) in _DAMAGE:
        return True
    try:
        if _size(opened.path) == 0 or _is_overwritten(opened.path):
            return True
        if suspicion is not None:
            _check(opened.writer)
    except sqlite3.Error as error:
        return _code(error) not in _NOT_DAMAGE
    except OSError:
        return False
    return False


def _is_overwritten(path: Path) -> bool:
    """Tell whether the file has lost its head. Open connections would go on with what they and the log have
    cached.
    """
    # `immutable`: the file alone, without its log. So only its head can be judged: the rest may be incomplete
    # until the log is applied.
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            _version(connection)
    except sqlite3.Error as error:
        return _code(error) == sqlite3.SQLITE_NOTADB
    return False


def _move_aside(path: Path) -> None:
    """Move the file aside for a new one. Its log is removed, or it would be replayed into the new one."""
    path.replace(path.with_name(f"{path.name}.aside"))
    _remove_logs(path)


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _inodes(path: Path) -> tuple[Inode | None, Inode | None]:
    return _inode(path), _inode(_log(path))


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _inode(path: Path) -> Inode | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors raised by this module are about damage."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF


def _is_no_room(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
