"""The index: what is put is there at once and after a restart, whatever happens to the file."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from regproxy import index as index_module
from regproxy.errors import StoreError
from regproxy.index import Index, ObjectRow, TagRow

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NGINX = ("registry-1.docker.io", 443, "library/nginx", "latest")
ROW = TagRow("any", "sha256:" + "a" * 64, INDEX, 9_000, 1_800_000_000.5, True)


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


@pytest.fixture
def index(path: Path, clock: Clock) -> Iterator[Index]:
    index = Index.open(path, clock=clock)
    yield index
    index.close()


def reopened(index: Index, path: Path, clock: Clock) -> Index:
    """The same index as another process sees it, after this one has written."""
    assert index.flush()
    return Index.open(path, clock=clock)


# --- tags ------------------------------------------------------------------------------------------------


def test_a_tag_is_there_at_once_and_after_a_restart(index: Index, path: Path, clock: Clock) -> None:
    assert index.tag(*NGINX) == ()
    index.put_tag(*NGINX, ROW)
    assert index.tag(*NGINX) == (ROW,)
    other = reopened(index, path, clock)
    assert other.tag(*NGINX) == (ROW,)
    assert other.tag(*NGINX)[0].accepts_index is True
    other.close()


@pytest.mark.parametrize(
    "key",
    [
        ("quay.io", *NGINX[1:]),
        (NGINX[0], 5000, *NGINX[2:]),
        (*NGINX[:2], "library/redis", NGINX[3]),
        (*NGINX[:3], "Latest"),
    ],
    ids=str,
)
def test_each_part_of_the_key_counts(
    index: Index, path: Path, clock: Clock, key: tuple[str, int, str, str]
) -> None:
    index.put_tag(*NGINX, ROW)
    index.put_tag(*key, replace(ROW, size=1))
    other = reopened(index, path, clock)
    for seen in (index, other):
        assert [row.size for row in (*seen.tag(*NGINX), *seen.tag(*key))] == [9_000, 1]
    other.close()


def test_variants_stand_side_by_side(index: Index, path: Path, clock: Clock) -> None:
    single = TagRow("single", digest(2), MANIFEST, 500, 1.0, False)
    index.put_tag(*NGINX, ROW)
    index.put_tag(*NGINX, single)
    index.put_tag(*NGINX, replace(ROW, fetched_at=7.0))
    want = {single, replace(ROW, fetched_at=7.0)}
    other = reopened(index, path, clock)
    assert set(index.tag(*NGINX)) == set(other.tag(*NGINX)) == want
    index.drop_tag(*NGINX)
    assert index.tag(*NGINX) == ()
    other.close()


def test_a_dropped_tag_stays_away(index: Index, path: Path, clock: Clock) -> None:
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    index.drop_tag(*NGINX)
    assert index.tag(*NGINX) == ()
    other = reopened(index, path, clock)
    assert other.tag(*NGINX) == ()
    other.close()


def test_a_change_outlives_the_memory(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is evicted from there before it is on disk: an older row must not come back."""
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    with StoppedWriter(index):
        index.put_tag(*NGINX, replace(ROW, size=2))
        for number in range(index_module._MEMORY + 1):
            index.tag("other.example", 443, "a", str(number))
        assert [row.size for row in index.tag(*NGINX)] == [2]
        index.drop_tag(*NGINX)
        for number in range(index_module._MEMORY + 1):
            index.tag("other.example", 443, "b", str(number))
        assert index.tag(*NGINX) == ()


# --- objects ---------------------------------------------------------------------------------------------


def test_objects_are_counted(index: Index, path: Path, clock: Clock) -> None:
    assert (index.objects, index.bytes) == (0, 0)
    index.put_object(digest(1), 100, None)
    index.put_object(digest(2), 2**40, MANIFEST)
    assert (index.objects, index.bytes) == (2, 100 + 2**40)
    index.put_object(digest(1), 150, None)
    assert (index.objects, index.bytes) == (2, 150 + 2**40)
    assert index.flush()
    index.put_object(digest(1), 175, None)
    index.drop_object(digest(2))
    index.drop_object(digest(2))
    index.drop_object(digest(3))
    assert (index.objects, index.bytes) == (1, 175)
    other = reopened(index, path, clock)
    assert (other.objects, other.bytes) == (1, 175)
    other.close()


def test_an_object(index: Index, clock: Clock) -> None:
    assert index.object(digest(1)) is None
    index.put_object(digest(1), 100, MANIFEST)
    row = ObjectRow(digest(1), 100, MANIFEST, clock.now)
    assert index.object(digest(1)) == row
    assert index.flush()
    assert index.object(digest(1)) == row
    index.drop_object(digest(1))
    assert index.object(digest(1)) is None
    assert index.flush()
    assert index.object(digest(1)) is None


def test_media_types(index: Index, path: Path, clock: Clock) -> None:
    index.put_object(digest(1), 100, MANIFEST)
    index.put_object(digest(2), 100, None)
    index.put_object(digest(1), 100, None)  # a rescan knows sizes only
    other = reopened(index, path, clock)
    for seen in (index, other):
        assert [seen.media_type(digest(n)) for n in (1, 2, 3)] == [MANIFEST, None, None]
        assert seen.media_type(digest(1)) == MANIFEST
    other.close()
    index.drop_object(digest(1))
    assert index.media_type(digest(1)) is None


def test_oldest_first(index: Index, path: Path, clock: Clock) -> None:
    for number in (3, 1, 2):
        clock.now = 1000.0 + number
        index.put_object(digest(number), number, None)
    assert index.oldest(9) == []  # just put: nobody wants to evict those
    assert index.flush()
    assert [(row.size, row.last_used) for row in index.oldest(2)] == [(1, 1001.0), (2, 1002.0)]
    index.touch(digest(1))
    assert [row.size for row in index.oldest(2)] == [2, 3]
    index.drop_object(digest(2))
    assert [row.size for row in index.oldest(2)] == [3]
    clock.now = 2000.0
    other = reopened(index, path, clock)
    assert [(row.size, row.last_used) for row in other.oldest(9)] == [(3, 1003.0), (1, 2000.0)]
    other.close()


def test_a_use_of_what_is_gone_is_nothing(index: Index) -> None:
    index.touch(digest(1))
    assert index.flush()
    assert (index.objects, index.object(digest(1))) == (0, None)


# --- all of it against a dict ----------------------------------------------------------------------------

KEYS = st.tuples(
    st.sampled_from(["a.example", "b.example"]), st.just(443), st.just("r"), st.sampled_from("xyz")
)
ROWS = st.builds(
    TagRow,
    variant=st.sampled_from(["any", "single"]),
    digest=st.integers(0, 3).map(digest),
    media_type=st.sampled_from([INDEX, MANIFEST]),
    size=st.integers(0, 2**50),
    fetched_at=st.floats(0, 2e9),
    accepts_index=st.booleans(),
)
DIGESTS = st.integers(0, 5).map(digest)


class Model(RuleBasedStateMachine):
    """Any order of changes, flushes and restarts gives what a dict gives."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[tuple[str, int, str, str], dict[str, TagRow]] = {}
        self.objects: dict[str, tuple[int, str | None]] = {}

    @initialize()
    def begin(self) -> None:
        self.scratch = tempfile.mkdtemp()
        self.path = Path(self.scratch) / "index.sqlite3"
        self.index = Index.open(self.path)

    @rule(key=KEYS, row=ROWS)
    def put_tag(self, key: tuple[str, int, str, str], row: TagRow) -> None:
        self.index.put_tag(*key, row)
        self.tags.setdefault(key, {})[row.variant] = row

    @rule(key=KEYS)
    def drop_tag(self, key: tuple[str, int, str, str]) -> None:
        self.index.drop_tag(*key)
        self.tags.pop(key, None)

    @rule(name=DIGESTS, size=st.integers(0, 2**40), media_type=st.sampled_from([None, INDEX, MANIFEST]))
    def put_object(self, name: str, size: int, media_type: str | None) -> None:
        self.index.put_object(name, size, media_type)
        known = self.objects.get(name, (0, None))[1]
        self.objects[name] = (size, media_type or known)

    @rule(name=DIGESTS)
    def drop_object(self, name: str) -> None:
        self.index.drop_object(name)
        self.objects.pop(name, None)

    @rule(name=DIGESTS)
    def touch(self, name: str) -> None:
        self.index.touch(name)

    @rule()
    def flush(self) -> None:
        assert self.index.flush()
        assert {row.digest: (row.size, row.media_type) for row in self.index.oldest(99)} == self.objects

    @rule()
    def restart(self) -> None:
        self.index.close()
        self.index = Index.open(self.path)

    @invariant()
    def as_the_model(self) -> None:
        for host in ("a.example", "b.example"):
            for tag in "xyz":
                key = (host, 443, "r", tag)
                assert set(self.index.tag(*key)) == set(self.tags.get(key, {}).values())
        for number in range(6):
            size, media_type = self.objects.get(digest(number), (None, None))
            row = self.index.object(digest(number))
            assert (row.size if row else None) == size
            assert self.index.media_type(digest(number)) == media_type
        assert self.index.objects == len(self.objects)
        assert self.index.bytes == sum(size for size, _ in self.objects.values())

    def teardown(self) -> None:
        self.index.close()
        shutil.rmtree(self.scratch)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# --- the file --------------------------------------------------------------------------------------------


def test_fresh(path: Path) -> None:
    for fresh in (True, False):
        index = Index.open(path)
        assert index.fresh is fresh
        index.close()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_close_writes_what_is_left(path: Path, clock: Clock) -> None:
    index = Index.open(path, clock=clock)
    index.put_tag(*NGINX, ROW)
    index.put_object(digest(1), 5, None)
    clock.now += 60
    index.touch(digest(1))
    index.close()
    other = Index.open(path)
    row = other.object(digest(1))
    assert (other.tag(*NGINX), row and row.last_used) == ((ROW,), clock.now)
    other.close()
    assert "index" not in {thread.name for thread in threading.enumerate()}


def fill(path: Path) -> None:
    index = Index.open(path)
    for number in range(500):
        index.put_object(digest(number), number, None)
        index.put_tag("a.example", 443, "r", str(number), ROW)
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
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def table_is_gone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE objects")
    connection.close()


def somebody_elses(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tags (what TEXT)")
    connection.close()


@pytest.mark.parametrize(
    "damage", [no_database, zeros_inside, cut_short, later_version, table_is_gone, somebody_elses]
)
def test_a_file_that_is_no_use_is_moved_aside(
    path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path)
    assert callable(damage)
    damage(path)
    broken = path.read_bytes()
    path.with_name(f"{path.name}-wal").write_bytes(b"of the old file")
    index = Index.open(path)
    assert index.fresh
    assert (index.objects, index.bytes, index.tag("a.example", 443, "r", "1")) == (0, 0, ())
    index.put_tag(*NGINX, ROW)
    index.close()
    other = Index.open(path)
    assert not other.fresh
    assert other.tag(*NGINX) == (ROW,)
    other.close()
    aside = path.with_name("index.sqlite3.aside")
    assert len(aside.read_bytes()) == len(broken)
    assert f"{path}: " in caplog.text and "moved aside" in caplog.text


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    index = Index.open(path)
    assert index.fresh
    index.close()
    assert not path.with_name("index.sqlite3.aside").exists()


@pytest.mark.parametrize("where", ["file/index.sqlite3", "directory"])
def test_a_place_that_is_none(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match=where):
        Index.open(tmp_path / where)


KILLED = """
import os, signal, sys
from pathlib import Path
from regproxy.index import Index

index = Index.open(Path(sys.argv[1]))
index.put_object("sha256:kept", 7, None)
assert index.flush()
index.put_object("sha256:lost", 7, None)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_keeps_what_it_flushed(path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    index = Index.open(path)
    assert not index.fresh
    assert index.object("sha256:kept") is not None
    index.close()


class StoppedWriter:
    """Holds the database as another process would, so that our writer can't."""

    def __init__(self, index: Index) -> None:
        self._writer = index._writer._connection
        self._writer.execute("PRAGMA busy_timeout = 0")
        ((_, _, name),) = index._reader.execute("PRAGMA database_list").fetchall()
        self._connection = sqlite3.connect(name, isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_what_cannot_be_written_is_kept_and_tried_again(
    index: Index, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), StoppedWriter(index):
        index.put_tag(*NGINX, ROW)
        index.put_object(digest(1), 5, None)
        index.touch(digest(1))
        assert not index.flush()
        assert not index.flush()
        assert index.tag(*NGINX) == (ROW,)
        assert (index.objects, index.bytes) == (1, 5)
    assert caplog.text.count("can't write, will go on trying: database is locked") == 1
    other = reopened(index, path, clock)
    assert (other.tag(*NGINX), other.objects) == ((ROW,), 1)
    other.close()


def test_a_failed_write_is_repeated_without_being_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_RETRY", 0.01)
    monkeypatch.setattr(index_module, "_TOUCH_EVERY", 1e6)
    index = Index.open(path)
    with StoppedWriter(index):
        index.put_tag(*NGINX, ROW)
        assert not index.flush()
    while index._writer.tags:
        pass
    index.close()


def test_half_a_transaction_is_taken_back(index: Index, path: Path, clock: Clock) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON objects WHEN new.size = 13"
            " BEGIN SELECT raise(ABORT, 'no'); END"
        )
        index.put_tag(*NGINX, ROW)
        index.put_object(digest(1), 13, None)
        assert not index.flush()
        assert connection.execute("SELECT count(*) FROM tags").fetchone() == (0,)
        connection.execute("DROP TRIGGER full")
    connection.close()
    other = reopened(index, path, clock)
    assert (other.tag(*NGINX), other.bytes) == ((ROW,), 13)
    other.close()


def test_what_changed_while_it_was_written_is_written_again() -> None:
    pending: index_module._Pending[str, str] = index_module._Pending()
    pending.put("a", "old")
    pending.put("b", "old")
    written = pending.take(9)
    pending.put("a", "new")
    pending.settle(written)
    assert pending.take(9) == {"a": "new"}


def test_the_backlog_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_BACKLOG", 10)
    with StoppedWriter(index):
        for number in range(50):
            index.put_tag("a.example", 443, "r", str(number), ROW)
            index.touch(digest(number))
        assert not index.flush()
        assert len(index._writer.tags) == 10
        assert len(index._writer.touched) <= 10
    assert index.flush()
    assert len(index._writer.tags) == 0


def test_a_fault_while_reading_is_logged_and_nothing_is_known(
    index: Index, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index.put_object(digest(1), 5, MANIFEST)
    assert index.flush()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE tags")
        connection.execute("DROP TABLE objects")
    connection.close()
    with caplog.at_level(logging.WARNING):
        assert index.tag(*NGINX) == ()
        assert index.object(digest(1)) is None
        assert index.oldest(5) == []
    assert "index: no such table" in caplog.text


def test_uses_alone_are_written_in_time(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody flushes, nothing else changes: the last use gets to the disk all the same."""
    monkeypatch.setattr(index_module, "_TOUCH_EVERY", 0.01)
    index = Index.open(path, clock=clock)
    index.put_object(digest(1), 5, None)
    assert index.flush()
    clock.now += 100
    index.touch(digest(1))
    while index._writer.touched:
        pass
    row = index.object(digest(1))
    assert row is not None and row.last_used == clock.now
    index.close()
