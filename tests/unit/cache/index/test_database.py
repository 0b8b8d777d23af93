"""The index's file: opened in no time, brought up from earlier versions, replaced when it is of no use."""

from __future__ import annotations

import errno
import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from regproxy.cache.index import database
from regproxy.cache.index.index import Index, ObjectRow, Totals
from regproxy.core import file_lock
from regproxy.core.errors import StoreError
from tests.support.index_processes import (
    INDEX,
    MANIFEST,
    NGINX,
    ROW,
    Other,
    StoppedWriter,
    digest,
    object_row,
    rest,
    sums,
)


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[Index, Index]]:
    """Two indexes on one file, with something in it that both know."""
    one, two = Index.open(path), Index.open(path)
    fill(one)
    for index in (one, two):
        index.tick()
        assert index.tag(*NGINX) == (ROW,)
        assert index.media_type(digest(1)) == MANIFEST
    yield one, two
    one.close()
    two.close()


def fill(index: Index) -> None:
    for number in range(500):
        index.put_object(digest(number), number, MANIFEST)
        index.put_tag("a.example", 443, "r", str(number), ROW)
    index.put_tag(*NGINX, ROW)
    index.set_complete()
    assert index.flush()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


# --- opening ---------------------------------------------------------------------------------------------


def test_a_new_file(path: Path) -> None:
    index = Index.open(path)
    assert index.complete is False
    index.set_complete()
    index.close()
    index = Index.open(path)
    assert index.complete is True
    index.close()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def steps_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many instructions SQLite's machine carries out while the index is opened."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    real = sqlite3.connect

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **options)  # type: ignore[call-overload]
        connection.set_progress_handler(step, 1)
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", connect)
        index = Index.open(path)
        index.tick()
        taken = steps
        index.close()
    return taken


def test_temporary_files_are_beside_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose root can't be written has no other place for a large purge."""
    monkeypatch.setattr(database, "_temporary", [])
    with closing(Index.open(path)), closing(sqlite3.connect(":memory:")) as other:
        ((place,),) = other.execute("PRAGMA temp_store_directory").fetchall()
    assert place == str(path.parent)


def test_opening_costs_the_same_whatever_is_in_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Index.open(path).close()
    many = (
        "WITH RECURSIVE n (n) AS (SELECT {0} UNION ALL SELECT n + 1 FROM n WHERE n < {1})"
        " INSERT INTO objects SELECT printf('sha256:%064x', n), n, NULL, n, 4096, n, 0 FROM n"
    )
    tag = "INSERT INTO tags SELECT 'a', 443, 'r', digest, 'any', digest, 'm', 5, 1.0, 1 FROM objects"
    note = "INSERT INTO journal (writer, kind, key) SELECT 1, 'object stored', digest FROM objects"
    change(path, many.format(1, 10), tag, note, "INSERT INTO pins SELECT digest, 'name' FROM objects")
    few_steps = steps_to_open(path, monkeypatch)
    change(path, many.format(11, 100_000), tag.replace("INSERT", "INSERT OR REPLACE"), note)
    assert sums(path)[0] == sums(path)[1] == (100_000, 100_000 * 100_001 // 2, 409_600_000)
    assert 0 < steps_to_open(path, monkeypatch) == few_steps


@pytest.mark.parametrize(
    "sql, values, scans",
    [
        ("_OLDEST", (1.0,), "SEARCH objects USING INDEX objects_by_use"),
        ("_BETWEEN", ("a", "b"), "SEARCH objects USING PRIMARY KEY"),
        ("_OBJECT_ROW", ("a",), "SEARCH objects USING PRIMARY KEY"),
        ("_TAG_ROWS", NGINX, "SEARCH tags USING PRIMARY KEY"),
        ("_NEWS", (1, 2), "SEARCH journal USING INTEGER PRIMARY KEY"),
        ("_NEWEST", (), "SEARCH journal"),
    ],
)
def test_nothing_is_sorted_or_scanned(path: Path, sql: str, values: tuple[object, ...], scans: str) -> None:
    from regproxy.cache.index import index as index_module

    index = Index.open(path)
    plan = index._reader.execute(f"EXPLAIN QUERY PLAN {getattr(index_module, sql)}", values).fetchall()
    index.close()
    assert plan[0][3].startswith(scans)
    assert not any("SCAN" in line[3] or "TEMP" in line[3] for line in plan)


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    index = Index.open(path)
    index.put_tag(*NGINX, ROW)
    index.close()
    assert not path.with_name("index.sqlite3.aside").exists()
    index = Index.open(path)
    assert index.tag(*NGINX) == (ROW,)
    index.close()


@pytest.mark.parametrize("where", ["file/index.sqlite3", "directory"])
def test_a_place_that_is_none(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match=where):
        Index.open(tmp_path / where)


def test_somebody_hangs_while_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE", 0.05)
    monkeypatch.setattr(database, "_CLOSING", 0.05)
    index = Index.open(path)
    with path.with_name("index.sqlite3.lock").open("r+b") as file:
        assert file_lock.lock(file.fileno())
        with pytest.raises(StoreError, match="another process has held it"):
            Index.open(path)
        index.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from regproxy.cache.index.index import Index

index = Index.open(Path(sys.argv[1]))
index.put_object("sha256:kept", 7, None)
assert index.flush()
index.put_object("sha256:lost", 7, None)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_keeps_what_it_flushed(path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    index = Index.open(path)
    assert index.object("sha256:kept") is not None
    assert index.objects == 1
    index.close()


# --- earlier versions, and what is no use ----------------------------------------------------------------

# As it was.
VERSION_1 = (
    "CREATE TABLE tags (host TEXT NOT NULL, port INTEGER NOT NULL, repository TEXT NOT NULL,"
    " tag TEXT NOT NULL, variant TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,"
    " size INTEGER NOT NULL, fetched_at REAL NOT NULL, accepts_index INTEGER NOT NULL,"
    " PRIMARY KEY (host, port, repository, tag, variant)) WITHOUT ROWID",
    "CREATE TABLE objects (digest TEXT NOT NULL PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT,"
    " last_used REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX objects_by_use ON objects (last_used)",
    "PRAGMA user_version = 1",
)


def version_1(path: Path) -> None:
    key = f"'{NGINX[0]}', 443, '{NGINX[2]}', 'latest'"
    values = f"'any', '{ROW.digest}', '{INDEX}', 9000, {ROW.fetched_at}, 1"
    change(path, "PRAGMA journal_mode = WAL", *VERSION_1)
    change(path, f"INSERT INTO tags VALUES ({key}, {values})")
    change(path, f"INSERT INTO objects VALUES ('{digest(1)}', 5000, '{MANIFEST}', 7.5)")
    change(path, f"INSERT INTO objects VALUES ('{digest(2)}', 0, NULL, 6.5)")


def test_the_first_version_is_brought_up(path: Path) -> None:
    version_1(path)
    index = Index.open(path)
    # An index is one whoever asked for it, so its row is kept; what a registry said of content is not.
    assert index.tag(*NGINX) == (replace(ROW, named=0),)
    small = ObjectRow(digest(2), 0, None, 6.5, 0, stored_at=6.5)
    large = ObjectRow(digest(1), 5000, None, 7.5, 8192, stored_at=7.5)
    assert index.oldest(9) == [small, large]
    assert index.totals() == Totals(2, 5000, 8192)
    assert index.complete is False
    index.remove([digest(2)])
    index.put_object(digest(3), 1, None)
    index.close()
    assert sums(path) == [(2, 5001, 3 * 4096)] * 2
    assert not path.with_name("index.sqlite3.aside").exists()


def test_the_version_without_hits_is_brought_up(path: Path) -> None:
    version_1(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (sql for step in database._STEPS[1:3] for sql in step):
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 3")
    index = Index.open(path)
    rows = [(row.digest, row.stored_at, row.hits) for row in index.oldest(9)]
    assert rows == [(digest(2), 6.5, 0), (digest(1), 7.5, 0)]
    index.hit(digest(1))
    assert index.flush()
    assert index.object(digest(1)).hits == 1  # type: ignore[union-attr]
    assert index.totals() == Totals(2, 5000, 8192)
    index.close()


def test_answers_to_nobody_knows_which_index_types_are_forgotten(path: Path) -> None:
    version_1(path)
    key = f"'{NGINX[0]}', 443, '{NGINX[2]}'"
    for tag, index_type in (("took-one", 1), ("took-none", 0)):
        values = f"'any', '{ROW.digest}', '{MANIFEST}', 9000, {ROW.fetched_at}, {index_type}"
        change(path, f"INSERT INTO tags VALUES ({key}, '{tag}', {values})")
    index = Index.open(path)
    assert index.tag(*NGINX[:3], "took-one") == ()
    assert index.tag(*NGINX[:3], "took-none") == (replace(ROW, media_type=MANIFEST, named=0),)
    index.close()


def test_several_processes_bring_it_up_at_once(path: Path) -> None:
    version_1(path)
    source = (
        "import sys, pathlib, regproxy.cache.index.index as i\n"
        "i.Index.open(pathlib.Path(sys.argv[1])).close()"
    )
    started = [subprocess.Popen([sys.executable, "-c", source, str(path)]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0] * 4
    assert sums(path) == [(2, 5000, 8192)] * 2
    assert not path.with_name("index.sqlite3.aside").exists()


def test_half_a_migration_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched, closing(sqlite3.connect(path, isolation_level=None)) as connection:
        patched.setattr(database, "_STEPS", (database._STEPS[0], (*database._STEPS[1][:6], "nonsense")))
        with pytest.raises(sqlite3.OperationalError):
            database._prepare(connection)
    assert path.read_bytes() == before
    index = Index.open(path)
    assert index.totals() == Totals(2, 5000, 8192)
    index.close()


def no_database(path: Path) -> None:
    path.write_bytes(b"<html>no space</html>" * 100)


def zeros_inside(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(8192))


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def later_version(path: Path) -> None:
    change(path, "PRAGMA user_version = 99")


def table_is_gone(path: Path) -> None:
    change(path, "DROP TABLE objects")


def trigger_is_gone(path: Path) -> None:
    change(path, "DROP TRIGGER objects_out")


def column_is_gone(path: Path) -> None:
    change(path, "DROP TABLE state", "CREATE TABLE state (what TEXT)")


def somebody_elses(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE tags (what TEXT)")


def name_that_is_no_text(path: Path) -> None:
    """SQLite's message has it, as it is."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"CREATE TABLE objects", b"CREATE T\x9aBLE objects"))


NO_USE = [
    *(no_database, zeros_inside, cut_short, later_version, table_is_gone, trigger_is_gone),
    *(column_is_gone, somebody_elses, name_that_is_no_text),
]


@pytest.mark.parametrize("damage", NO_USE)
def test_a_file_that_is_no_use_is_moved_aside(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    index = Index.open(path)
    fill(index)
    index.close()
    damage(path)
    broken = path.read_bytes()
    path.with_name(f"{path.name}-wal").write_bytes(b"of the old file")
    index = Index.open(path)
    assert index.complete is False
    assert (index.totals(), index.tag("a.example", 443, "r", "1")) == (Totals(0, 0, 0), ())
    index.put_tag(*NGINX, ROW)
    index.close()
    index = Index.open(path)
    assert index.tag(*NGINX) == (ROW,)
    index.close()
    aside = path.with_name("index.sqlite3.aside")
    assert len(aside.read_bytes()) == len(broken)
    assert f"{path}: " in caplog.text and "moved aside" in caplog.text


# --- while it is open ------------------------------------------------------------------------------------


def removed(path: Path) -> None:
    path.unlink()


def all_removed(path: Path) -> None:
    for found in path.parent.iterdir():
        found.unlink()


def log_removed(path: Path) -> None:
    path.with_name("index.sqlite3-wal").unlink()


def replaced(path: Path) -> None:
    path.with_name("old").write_bytes(b"an old copy" * 1000)
    path.with_name("old").replace(path)


def overwritten(path: Path, source: str = "b'garbage' * 9000") -> None:
    # By another process: to close a descriptor of the file in this one would give back SQLite's locks.
    code = f"import sys; open(sys.argv[1], 'wb').write({source})"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def emptied(path: Path) -> None:
    overwritten(path, "b''")


def another_ones_tables(path: Path) -> None:
    change(path, "DROP TABLE objects", "DROP TABLE tags")


@pytest.mark.parametrize("damage", [removed, all_removed, log_removed, replaced, overwritten, emptied])
def test_both_come_back_on_the_same_new_file(
    path: Path, pair: tuple[Index, Index], damage: Callable[[Path], None]
) -> None:
    one, two = pair
    inode = path.stat().st_ino
    forgotten: list[Index] = []
    one.on_forget_all = lambda: forgotten.append(one)
    two.on_forget_all = lambda: forgotten.append(two)
    damage(path)
    rest(one, two)
    assert path.stat().st_ino != inode
    assert forgotten == [one, two]
    for index in pair:
        assert index.complete is False
        assert (index.tag(*NGINX), index.media_type(digest(1)), index.objects) == ((), None, 0)
    one.put_tag(*NGINX, ROW)
    assert two.adopt([object_row(1)]) == 1
    assert one.flush()
    for index in pair:
        index.tick()
        assert (index.tag(*NGINX), index.object(digest(1)), index.objects) == ((ROW,), object_row(1), 1)
    with Other(path) as other:
        assert other.do("tag", *NGINX) == (ROW,)
        assert other.do("object", digest(1)) == object_row(1)
    one.set_complete()
    rest(one, two)
    assert two.complete is True
    assert sums(path)[0] == sums(path)[1]


def test_a_file_that_somebody_has_put_back(tmp_path: Path, path: Path, pair: tuple[Index, Index]) -> None:
    """Its name leads to the log of the one that was there: that must not be taken for its own."""
    copy = tmp_path / "copy.sqlite3"
    other = Index.open(copy)
    other.put_tag("a.example", 443, "r", "of the copy", ROW)
    other.adopt(object_row(number) for number in range(1000, 3000))
    other.close()
    copy.replace(path)
    rest(*pair)
    for index in pair:
        assert index.tag("a.example", 443, "r", "of the copy") == (ROW,)
        assert (index.tag(*NGINX), index.objects) == ((), 2000)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not path.with_name("index.sqlite3.aside").exists()


def test_damage_shows_when_it_is_read(path: Path, pair: tuple[Index, Index]) -> None:
    """Its head is all right; only one of them happens to read what is not."""
    one, two = pair
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'objects'").fetchone()
    code = (
        "import sys; f = open(sys.argv[1], 'r+b'); f.seek(int(sys.argv[2]))\n"
        "f.write(b'\\xff' * 4096); f.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str((page - 1) * 4096)], check=True)
    one._reader.execute("PRAGMA shrink_memory")  # as if it had not read there yet
    rest(one, two)
    assert one.object(digest(7)) is None
    rest(one, two)
    rest(two)
    for index in pair:
        assert (index.complete, index.objects) == (False, 0)
    one.put_object(digest(7), 5, None)
    assert one.flush()
    assert two.object(digest(7)) is not None


def test_damage_shows_when_it_is_written(path: Path) -> None:
    index = Index.open(path)
    change(path, "DROP TABLE tags")
    index.put_tag(*NGINX, ROW)
    assert not index.flush()
    rest(index)
    assert index.tag(*NGINX) == (ROW,)
    assert index.flush()
    index.close()
    index = Index.open(path)
    assert index.tag(*NGINX) == (ROW,)
    index.close()


def test_an_error_alone_is_no_damage(path: Path) -> None:
    index = Index.open(path)
    inode = path.stat().st_ino
    index._read("SELECT nonsense FROM tags", ())
    assert index._writer.suspicion is not None
    rest(index)
    assert index._writer.suspicion is None
    assert path.stat().st_ino == inode
    index.close()


def test_checkpoints_are_no_damage(path: Path) -> None:
    """SQLite writes to the file itself, and that is looked at."""
    index = Index.open(path)
    inode, first = path.stat().st_ino, path.stat().st_mtime_ns
    with closing(sqlite3.connect(path)) as connection:
        for number in range(20):
            index.put_object(digest(number), 5, None)
            assert index.flush()
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            rest(index)
    assert path.stat().st_mtime_ns > first
    assert path.stat().st_ino == inode
    index.close()


def test_what_waits_goes_into_the_new_file(path: Path, pair: tuple[Index, Index]) -> None:
    one, two = pair
    with StoppedWriter(one):
        one.put_tag("a.example", 443, "r", "new", ROW)
        one.put_object(digest(900), 5, MANIFEST)
        assert not one.flush()
        removed(path)
        rest(one, two)
    rest(one, two)
    assert one.flush()
    assert two.tag("a.example", 443, "r", "new") == (ROW,)
    assert two.object(digest(900)) is not None


def test_nothing_is_done_to_a_file_that_the_caller_does_not_know(
    path: Path, pair: tuple[Index, Index]
) -> None:
    """Half a pass over the blobs in the old file, the end of it in the new one: that is not complete."""
    one, two = pair
    removed(path)
    with pytest.raises(StoreError, match="another file"):
        one.set_complete()  # it has opened the new one now
    with pytest.raises(StoreError, match="another file"):
        one.adopt([object_row(1)])
    rest(one, two)
    assert one.complete is False
    assert one.adopt([object_row(1)]) == 1
    one.set_complete()
    assert one.complete is True


def test_a_directory_that_is_gone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("regproxy.cache.index.writer._RETRY", 0.0)
    path = tmp_path / "cache" / "index.sqlite3"
    index = Index.open(path)
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    shutil.rmtree(path.parent)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            rest(index)
            assert index.tag(*NGINX) == (ROW,)
    assert caplog.text.count("can't be opened anew, will go on trying") == 1
    with pytest.raises(StoreError):
        index.adopt([object_row(1)])
    path.parent.mkdir()
    rest(index)
    assert index.tag(*NGINX) == ()
    assert index.adopt([object_row(1)]) == 1
    index.close()
    assert path.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    ],
    ids=str,
)
def test_a_full_disk_at_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | int, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite needs some room even to read. What is put meanwhile is written when there is."""
    monkeypatch.setattr("regproxy.cache.index.writer._RETRY", 0.0)
    index = Index.open(path)
    index.put_tag(*NGINX, ROW)
    index.close()

    def fail(_: Path) -> None:
        if isinstance(error, OSError):
            raise error
        refusal = sqlite3.OperationalError("disk I/O error")
        refusal.sqlite_errorcode = error
        raise refusal

    with monkeypatch.context() as patched:
        patched.setattr(database, "_open", fail)
        index = Index.open(path)
        assert "doing without it until there is room" in caplog.text
        assert (index.tag(*NGINX), index.totals(), index.complete) == ((), Totals(0, 0, 0), False)
        index.put_object(digest(1), 5, MANIFEST)
        assert not index.flush(5)
        assert index.media_type(digest(1)) == MANIFEST
        rest(index)
        with pytest.raises(StoreError):
            index.set_complete()
    rest(index)
    assert index.tag(*NGINX) == (ROW,)
    assert index.flush()
    assert index.objects == 1
    index.close()


def test_nothing_stays_open(path: Path) -> None:
    def count() -> int:
        return sum(str(path) in link for link in links())

    index = Index.open(path)
    removed(path)
    rest(index)
    overwritten(path)
    rest(index)
    rest(index)
    removed(path)
    rest(index)  # nothing has changed over to the last one when it is closed
    removed(path)
    index.tick()
    index.flush()
    index.close()
    assert count() == 0


def links() -> list[str]:
    """What the descriptors of this process are of."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found
