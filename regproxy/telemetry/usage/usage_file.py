"""The file in which workers add up what they have counted: SQLite, of bounded size, readable by any process.

Counts are kept by hours, by days, and for ever, each such slot with the names that were used most. A name
that comes into a full slot takes the rank of what it displaces (Space-Saving: Metwally, Agrawal, El Abbadi
2005), so that a name that is used again and again gets in, and one that nobody uses twice soon is out. What
is shown of a name was counted since it came in: it is never too much.

Connections are opened for each batch and each question: the file may be replaced or removed at any time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from regproxy.core.errors import StoreError
from regproxy.telemetry.usage.counts import Counts
from regproxy.telemetry.usage.records import (
    DAY,
    EVER,
    HOUR,
    WINDOWS,
    Batch,
    Client,
    ClientUse,
    Image,
    ImageUse,
    Refusal,
    TagMove,
    Window,
)

EVENTS_MAX: Final = 1000  # tag moves, and refusals, that are kept
# Seconds of a slot: how many slots up to now are kept, and how many names in each.
SLOTS: Final = {HOUR: (25, 1000), DAY: (31, 1000), EVER: (1, 5000)}

_VERSION: Final = 1
_TEXT_MAX: Final = 256  # characters of a part of a name
_PATIENCE: Final = 5.0  # seconds to wait for another process
_IMAGE: Final = ("registry", "port", "repository", "reference")
_CLIENT: Final = ("kind", "name")
_COUNTS: Final = (
    "times INTEGER NOT NULL, sent INTEGER NOT NULL, saved INTEGER NOT NULL, last REAL NOT NULL,"
    " base INTEGER NOT NULL"
)
_TABLES: Final = (
    "CREATE TABLE images (span INTEGER NOT NULL, slot INTEGER NOT NULL, registry TEXT NOT NULL,"
    f" port INTEGER NOT NULL, repository TEXT NOT NULL, reference TEXT NOT NULL, {_COUNTS},"
    " PRIMARY KEY (span, slot, registry, port, repository, reference)) WITHOUT ROWID",
    "CREATE TABLE clients (span INTEGER NOT NULL, slot INTEGER NOT NULL, kind TEXT NOT NULL,"
    f" name TEXT NOT NULL, {_COUNTS}, PRIMARY KEY (span, slot, kind, name)) WITHOUT ROWID",
    # The rank of what was displaced in a slot.
    "CREATE TABLE floors (what TEXT NOT NULL, span INTEGER NOT NULL, slot INTEGER NOT NULL,"
    " floor INTEGER NOT NULL, PRIMARY KEY (what, span, slot)) WITHOUT ROWID",
    "CREATE TABLE moves (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, registry TEXT NOT NULL,"
    " port INTEGER NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL, old TEXT NOT NULL,"
    " new TEXT NOT NULL)",
    "CREATE TABLE refusals (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
    " client_kind TEXT NOT NULL, client TEXT NOT NULL, address TEXT NOT NULL, registry TEXT NOT NULL,"
    " port INTEGER NOT NULL, repository TEXT NOT NULL, reference TEXT NOT NULL, kind TEXT NOT NULL,"
    " rule TEXT NOT NULL, message TEXT NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)
# Unless another worker has noted the same.
_MOVE: Final = (
    "INSERT INTO moves (at, registry, port, repository, tag, old, new) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7"
    " WHERE NOT EXISTS (SELECT 1 FROM (SELECT new FROM moves WHERE registry = ?2 AND port = ?3"
    " AND repository = ?4 AND tag = ?5 ORDER BY seq DESC LIMIT 1) WHERE new = ?7)"
)
_REFUSAL: Final = (
    "INSERT INTO refusals (at, client_kind, client, address, registry, port, repository, reference, kind,"
    " rule, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_HAS: Final = frozenset({"images", "clients", "floors", "moves", "refusals"})


class _OtherSchema(sqlite3.DatabaseError):
    """The file is a database, but not of this version."""


class UsageFile:
    """The file at `path`. May be used by any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, batch: Batch) -> None:
        """Add what was counted, in one transaction. Raises StoreError: then nothing of it is there.

        A file that is of no use is moved to `<name>.aside`, and made anew.
        """
        try:
            used = self._touch()
            try:
                self._add(batch)
            except sqlite3.DatabaseError as error:
                if not isinstance(error, _OtherSchema) and _code(error) not in _DAMAGE:
                    raise
                self._set_aside(used)
                self._add(batch)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _touch(self) -> os.stat_result:
        """Make the file, if there is none. Returns which it is."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o640)  # it names private images; SQLite's own files beside it follow
        return self._path.stat()

    def _set_aside(self, used: os.stat_result) -> None:
        """Move a file that is of no use aside, unless another worker has done so: its new one is good."""
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(self._path.stat(), used):
                    return
            except FileNotFoundError:
                return
            with suppress(FileNotFoundError):  # it would be played back into the new one
                self._path.with_name(f"{self._path.name}-journal").unlink()
            self._path.replace(self._path.with_name(f"{self._path.name}.aside"))

    def _add(self, batch: Batch) -> None:
        self._touch()
        with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            _prepare(connection)
            _add_counts(connection, "images", _IMAGE, batch.images, batch.now)
            _add_counts(connection, "clients", _CLIENT, batch.clients, batch.now)
            _add_events(connection, batch)
            connection.execute("COMMIT")

    # Questions. All raise StoreError; without a file there are no answers.

    def top_images(self, window: Window, limit: int, now: float) -> list[ImageUse]:
        """Return the references that were pulled most, the first first."""
        where, values = _within(window, now)
        return self._images(f"{where} AND reference <> ''", values, limit, _IMAGE)

    def top_repositories(self, window: Window, limit: int, now: float) -> list[ImageUse]:
        """Return the repositories that were pulled most, with the bytes of all that is in them."""
        where, values = _within(window, now)
        return self._images(where, values, limit, _IMAGE[:3])

    def top_clients(self, window: Window, limit: int, now: float) -> list[ClientUse]:
        """Return the clients that have asked most."""
        where, values = _within(window, now)
        sql = (
            f"SELECT kind, name, {_sums()} FROM clients WHERE {where} GROUP BY kind, name"
            f" {_order('base + times')} LIMIT ?"
        )
        return [ClientUse(*row) for row in self._ask(sql, (*values, limit))]

    def usage_of(
        self, registry: str, port: int, repository: str, window: Window, now: float, limit: int = 1000
    ) -> list[ImageUse]:
        """Return what was pulled of a repository, by reference; "" is for layers and configurations."""
        where, values = _within(window, now)
        where += " AND registry = ? AND port = ? AND repository = ?"
        return self._images(where, (*values, registry, port, repository), limit, _IMAGE)

    def tag_moves(self, limit: int = EVENTS_MAX) -> list[TagMove]:
        """Return the latest tags that have become another digest, the latest first."""
        sql = f"SELECT {', '.join(TagMove._fields)} FROM moves ORDER BY seq DESC LIMIT ?"
        return [TagMove(*row) for row in self._ask(sql, (limit,))]

    def refusals(self, limit: int = EVENTS_MAX) -> list[Refusal]:
        """Return the latest refusals, the latest first."""
        sql = f"SELECT {', '.join(Refusal._fields)} FROM refusals ORDER BY seq DESC LIMIT ?"
        return [Refusal(*row) for row in self._ask(sql, (limit,))]

    def _images(self, where: str, values: Sequence[Any], limit: int, by: Sequence[str]) -> list[ImageUse]:
        columns = ", ".join(by)
        shown = columns if len(by) == len(_IMAGE) else f"{columns}, ''"
        sql = (
            f"SELECT {shown}, {_sums(_PULLS)} FROM images WHERE {where} GROUP BY {columns}"
            f" {_order(_RANK)} LIMIT ?"
        )
        return [ImageUse(*row) for row in self._ask(sql, (*values, limit))]

    def _ask(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._reading() as connection:
                return [] if connection is None else connection.execute(sql, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self._path}: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self._path.exists():
            yield None
            return
        # Not read-only: what a killed writer has left may have to be rolled back.
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = 1")
            # A worker may be about to make it.
            yield connection if _version(connection) else None


# The times of layers are no pulls.
_PULLS: Final = "CASE reference WHEN '' THEN 0 ELSE times END"
_RANK: Final = "CASE reference WHEN '' THEN 0 ELSE base + times END"


def _order(rank: str) -> str:
    return f"ORDER BY sum({rank}) DESC, max(last) DESC"


def _sums(times: str = "times") -> str:
    return f"sum({times}), sum(sent), sum(saved), max(last)"


def _slot(span: int, now: float) -> int:
    return int(now // span) if span else 0


def _within(window: Window, now: float) -> tuple[str, tuple[int, ...]]:
    """Return the condition for a window's slots, and its values. Slots that are yet to come do not count."""
    span, count = WINDOWS[window]
    latest = _slot(span, now)
    return "span = ? AND slot BETWEEN ? AND ?", (span, latest - count + 1, latest)


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    return int(version)


def _code(error: sqlite3.DatabaseError) -> int:
    """Return the primary result code of SQLite, 0 for none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file. Raises _OtherSchema for another version's, or where one is gone."""
    version = _version(connection)
    if version == 0:
        for statement in _TABLES:
            connection.execute(statement)
    elif version != _VERSION:
        raise _OtherSchema(f"its schema has version {version}, not {_VERSION}")
    elif gone := _HAS - {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}:
        raise _OtherSchema(f"it has no table {min(gone)}")


def _add_counts(
    connection: sqlite3.Connection,
    table: str,
    key: Sequence[str],
    counts: Mapping[Image, Counts] | Mapping[Client, Counts],
    now: float,
) -> None:
    """Add counts to a table's slots of now, and drop those that are over."""
    columns = ", ".join(key)
    marks = ", ".join("?" * len(key))
    put = (
        f"INSERT INTO {table} (span, slot, {columns}, times, sent, saved, last, base)"
        f" VALUES (?, ?, {marks}, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times,"
        " sent = sent + excluded.sent, saved = saved + excluded.saved, last = max(last, excluded.last)"
    )
    for span, (slots, limit) in SLOTS.items():
        slot = _slot(span, now)
        for each in (table, "floors"):
            past = f"DELETE FROM {each} WHERE span = ? AND (slot <= ? OR slot > ?)"
            connection.execute(past, (span, slot - slots, slot + 1))
        found = connection.execute(
            "SELECT floor FROM floors WHERE what = ? AND span = ? AND slot = ?", (table, span, slot)
        ).fetchall()
        floor = found[0][0] if found else 0
        rows = ((span, slot, *_short(name), *each, now, floor) for name, each in counts.items())
        connection.executemany(put, rows)
        _cut(connection, table, columns, (span, slot), limit)


def _short(name: Image | Client) -> Iterator[str | int]:
    """Return a name that takes no more room than names have."""
    return (part[:_TEXT_MAX] if isinstance(part, str) else part for part in name)


def _cut(
    connection: sqlite3.Connection, table: str, columns: str, where: tuple[int, int], limit: int
) -> None:
    """Drop the names of a slot that are over the limit, those with the lowest rank."""
    ((names,),) = connection.execute(f"SELECT count(*) FROM {table} WHERE span = ? AND slot = ?", where)
    if names <= limit:
        return
    low = f"FROM {table} WHERE span = ? AND slot = ? ORDER BY base + times, last LIMIT ?"
    values = (*where, names - limit)
    ((floor,),) = connection.execute(f"SELECT max(rank) FROM (SELECT base + times AS rank {low})", values)
    connection.execute(
        f"DELETE FROM {table} WHERE span = ? AND slot = ? AND ({columns}) IN (SELECT {columns} {low})",
        (*where, *values),
    )
    connection.execute("INSERT OR REPLACE INTO floors VALUES (?, ?, ?, ?)", (table, *where, floor))


def _add_events(connection: sqlite3.Connection, batch: Batch) -> None:
    connection.executemany(_MOVE, batch.moves)
    connection.executemany(_REFUSAL, batch.refusals)
    for table in ("moves", "refusals"):
        connection.execute(
            f"DELETE FROM {table} WHERE seq <= (SELECT max(seq) FROM {table}) - ?", (EVENTS_MAX,)
        )
