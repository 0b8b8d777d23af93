"""The index: what is put is there at once and after a restart, in this process and for all others."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from regproxy.cache.index import index as index_module
from regproxy.cache.index import writer
from regproxy.cache.index.index import Index, ObjectRow, TagRow, Totals
from regproxy.cache.index.transactions import ObjectChange, Pending
from regproxy.core.errors import StoreError
from tests.support.index_processes import (
    INDEX,
    MANIFEST,
    NGINX,
    ROW,
    Clock,
    StoppedWriter,
    digest,
    object_row,
    reopened,
    sums,
)

# --- tags ------------------------------------------------------------------------------------------------


def test_a_tag_is_there_at_once_and_after_a_restart(index: Index, path: Path, clock: Clock) -> None:
    assert index.tag(*NGINX) == ()
    index.put_tag(*NGINX, ROW)
    assert index.tag(*NGINX) == (ROW,)
    other = reopened(index, path, clock)
    assert other.tag(*NGINX) == (ROW,)
    assert other.tag(*NGINX)[0].named == 3
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
    single = TagRow("single", digest(2), MANIFEST, 500, 1.0, 0)
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


def test_what_was_deleted_from_a_repository_stays_so_when_it_is_evicted(
    index: Index, path: Path, clock: Clock
) -> None:
    """It may be stored again, for another repository."""
    here, there = NGINX[:3], (*NGINX[:2], "library/other")
    index.put_object(ROW.digest, 9_000, None)
    index.put_absence(*here, ROW.digest)
    index.put_presence(*there, ROW.digest, 9_000)
    assert index.flush()
    index.remove([ROW.digest])
    other = reopened(index, path, clock)
    for seen in (index, other):
        assert seen.presence(*here, ROW.digest) is False
        assert seen.presence(*there, ROW.digest) is None
    other.close()


def test_an_answer_about_a_tag_is_void_if_its_content_was_deleted_since(index: Index) -> None:
    asked = time.monotonic()
    index.put_absence(*NGINX[:3], ROW.digest)
    index.put_tag(*NGINX, ROW, asked=asked)
    assert index.tag(*NGINX) == ()
    index.put_tag(*NGINX, ROW, asked=time.monotonic())
    assert index.tag(*NGINX) == (ROW,)


# --- objects ---------------------------------------------------------------------------------------------


def test_objects_are_counted(index: Index, path: Path, clock: Clock) -> None:
    assert index.totals() == Totals(0, 0, 0)
    index.put_object(digest(1), 100, None, 512)
    index.put_object(digest(2), 2**40, MANIFEST)
    assert index.flush()
    assert index.totals() == Totals(2, 100 + 2**40, 512 + 2**40)
    index.put_object(digest(1), 4097, None)
    assert index.flush()
    assert index.totals() == Totals(2, 4097 + 2**40, 8192 + 2**40)
    index.drop_object(digest(2))
    index.drop_object(digest(2))
    index.drop_object(digest(3))
    other = reopened(index, path, clock)
    assert index.totals() == other.totals() == Totals(1, 4097, 8192)
    assert (other.objects, other.bytes) == (1, 8192)
    other.close()
    assert len(set(sums(path))) == 1


def test_what_an_object_takes_on_the_disk(index: Index) -> None:
    index.put_object(digest(1), 100, None, 512)
    index.put_object(digest(1), 100, MANIFEST)  # its type has become known, nothing else
    assert index.object(digest(1)).disk == 512  # type: ignore[union-attr]
    assert index.flush()
    index.put_object(digest(1), 100, None)
    assert index.object(digest(1)).disk == 512  # type: ignore[union-attr]
    index.put_object(digest(1), 0, None)
    assert index.object(digest(1)).disk == 0  # type: ignore[union-attr]


def test_an_object(index: Index, clock: Clock) -> None:
    assert index.object(digest(1)) is None
    index.put_object(digest(1), 100, MANIFEST)
    row = ObjectRow(digest(1), 100, MANIFEST, clock.now, 4096, clock.now)
    assert index.object(digest(1)) == row
    assert index.flush()
    assert index.object(digest(1)) == row
    index.drop_object(digest(1))
    assert index.object(digest(1)) is None
    assert index.flush()
    assert index.object(digest(1)) is None


def hits(index: Index, *numbers: int) -> list[int]:
    """The hits of objects that have a row."""
    assert index.flush()
    return [row.hits for number in numbers if (row := index.object(digest(number)))]


def test_hits_and_when_it_was_stored(index: Index, path: Path, clock: Clock) -> None:
    index.put_object(digest(1), 100, None)
    index.put_object(digest(2), 100, None)
    index.hit(digest(1))
    index.hit(digest(1), 3)
    index.touch(digest(2))  # used, and not served
    index.hit(digest(3))  # has no row
    assert hits(index, 1, 2, 3) == [4, 0]
    stored, clock.now = clock.now, clock.now + 60
    index.put_object(digest(1), 100, MANIFEST)  # its type has become known
    assert index.object(digest(1)) == ObjectRow(digest(1), 100, MANIFEST, clock.now, 4096, stored, 4)
    other = reopened(index, path, clock)
    other.hit(digest(1), 5)
    index.hit(digest(1), 7)
    assert hits(index, 1) == [11]
    assert hits(other, 1) == [16]  # both are added
    other.close()
    index.drop_object(digest(1))
    index.put_object(digest(1), 100, None)  # another file
    assert index.object(digest(1)) == ObjectRow(digest(1), 100, None, clock.now, 4096, clock.now, 0)
    assert hits(index, 1) == [0]


def test_hits_that_cannot_be_written_are_kept(index: Index, path: Path) -> None:
    index.put_object(digest(1), 100, None)
    assert index.flush()
    with closing(sqlite3.connect(path)) as other:
        refused = "SELECT raise(ABORT, 'no')"
        other.execute(f"CREATE TRIGGER no BEFORE UPDATE OF hits ON objects BEGIN {refused}; END")
        index.hit(digest(1), 2)
        assert not index.flush()
        index.hit(digest(1), 1)
        other.execute("DROP TRIGGER no")
    assert hits(index, 1) == [3]


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
    index.put_object(digest(1), 100, None)  # another file: what was known of the old one is gone with it
    assert index.media_type(digest(1)) is None
    assert index.flush()
    assert index.media_type(digest(1)) is None


def test_oldest_first(index: Index, path: Path, clock: Clock) -> None:
    for number in (3, 1, 2):
        clock.now = 1000.0 + number
        index.put_object(digest(number), number, None)
    assert index.oldest(9) == []  # just put: nobody wants to evict those
    assert index.flush()
    assert [(row.size, row.last_used) for row in index.oldest(2)] == [(1, 1001.0), (2, 1002.0)]
    assert [row.size for row in index.oldest(9, 1002.5)] == [1, 2]
    assert index.oldest(9, 1001.0) == []
    assert index.oldest(0) == []
    index.touch(digest(1))
    assert [row.size for row in index.oldest(2)] == [2, 3]
    index.drop_object(digest(2))
    assert [row.size for row in index.oldest(2)] == [3]
    clock.now = 2000.0
    other = reopened(index, path, clock)
    assert [(row.size, row.last_used) for row in other.oldest(9)] == [(3, 1003.0), (1, 2000.0)]
    other.close()


class SettlingReader:
    """A reader beside which everything that is pending is written, once a certain statement has begun."""

    def __init__(self, index: Index, statement: str) -> None:
        self._reader, self._index, self._statement = index._reader, index, statement

    def execute(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        cursor = self._reader.execute(sql, values)
        if sql == self._statement:
            assert self._index.flush()
        return cursor


def test_what_is_dropped_or_used_is_not_old_when_it_is_written_meanwhile(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        index.put_object(digest(number), number, None)
    assert index.flush()
    index.drop_object(digest(1))
    index.touch(digest(2))
    index.put_object(digest(3), 3, None)
    monkeypatch.setattr(index, "_reader", SettlingReader(index, index_module._OLDEST))
    assert {row.size for row in index.oldest(9)} == {4, 5}


def test_a_deletion_takes_a_tag_that_is_written_meanwhile(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.put_tag(*NGINX, ROW)
    monkeypatch.setattr(index, "_reader", SettlingReader(index, index_module._TAGS_OF))
    index.put_absence(*NGINX[:3], ROW.digest)
    assert index.tag(*NGINX) == ()


def test_registries_that_have_some_content(index: Index, path: Path, clock: Clock) -> None:
    """Pending rows count, and so do those on disk; what was deleted, told or named by a tag does not."""
    assert index.registries_of(ROW.digest) == set()
    for written in (False, True):
        index.put_presence("a.example", 443, "app", ROW.digest, 5)
        index.put_presence("a.example", 443, "other", ROW.digest, 5)
        index.put_presence("b.example", 5000, "app", ROW.digest, 5)
        index.put_told("c.example", 443, "app", ROW.digest, "text/plain", 5)
        index.put_tag(*NGINX, ROW)
        index.put_absence("d.example", 443, "app", ROW.digest)
        if written:
            assert index.flush()
        assert index.registries_of(ROW.digest) == {("a.example", 443), ("b.example", 5000)}
    index.put_absence("b.example", 5000, "app", ROW.digest)
    assert index.flush()
    other = Index.open(path, clock=clock)
    assert other.registries_of(ROW.digest) == {("a.example", 443)}
    other.close()


def test_a_use_of_what_is_gone_is_nothing(index: Index) -> None:
    index.touch(digest(1))
    assert index.flush()
    assert (index.objects, index.object(digest(1))) == (0, None)


def test_more_uses_than_fit_into_one_transaction(
    index: Index, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_BATCH", 3)
    index.adopt([object_row(number) for number in range(10)])
    for number in range(10):
        index.touch(digest(number))
    assert index.flush()
    assert {row.last_used for row in index.oldest(99)} == {clock.now}
    assert not index._writer.touched


# --- what is done while the caller waits -----------------------------------------------------------------


def test_adopted_are_those_that_were_not_there(index: Index) -> None:
    index.put_object(digest(2), 7, MANIFEST, 512)
    assert index.adopt([]) == 0
    assert index.adopt(object_row(number) for number in (1, 2, 3)) == 2
    assert index.adopt([object_row(3), object_row(4)]) == 1
    rows = index.rows_between(digest(0), digest(9))
    assert {row.digest: row.size for row in rows.values()} == {
        digest(n): s for n, s in zip((1, 2, 3, 4), (100, 7, 100, 100), strict=True)
    }
    assert rows[digest(1)] == object_row(1)
    assert index.totals() == Totals(4, 307, 3 * 4096 + 512)


def test_rows_between(index: Index) -> None:
    index.adopt(object_row(number) for number in range(5))
    assert list(index.rows_between(digest(1), digest(3))) == [digest(1), digest(2)]
    assert index.rows_between("sha256:1", "sha256:2") == {}


def test_removed_objects_go_with_their_tags(index: Index) -> None:
    removed: list[str] = []
    index.on_removed = removed.append
    index.adopt(object_row(number) for number in range(4))
    index.put_tag(*NGINX, replace(ROW, digest=digest(1)))
    index.put_tag(*NGINX, replace(ROW, digest=digest(3), variant="single"))
    index.put_object(digest(2), 5, MANIFEST)  # still waits to be written
    assert len(index.tag(*NGINX)) == 2
    assert index.media_type(digest(2)) == MANIFEST
    index.remove([digest(1), digest(2), digest(9)])
    assert removed == [digest(1), digest(2), digest(9)]
    assert [row.digest for row in index.tag(*NGINX)] == [digest(3)]
    assert index.media_type(digest(2)) is None
    assert index.flush()
    assert [index.object(digest(number)) is None for number in range(4)] == [False, True, True, False]
    assert index.totals() == Totals(2, 200, 8192)


def test_tags_of_what_nobody_has_fetched_are_forgotten(index: Index) -> None:
    old = ROW.fetched_at + 100.0
    rows = [
        replace(ROW, digest=digest(1)),
        replace(ROW, digest=digest(2), variant="held"),
        replace(ROW, digest=digest(3), variant="young", fetched_at=old),
    ]
    index.put_object(digest(2), 5, MANIFEST)
    for row in rows:
        index.put_tag(*NGINX, row)
    assert index.flush()
    assert index.sweep_tags(old) == 1
    assert set(index.tag(*NGINX)) == set(rows[1:])
    assert index.sweep_tags(old) == 0


def test_what_cannot_be_removed_is_still_there(index: Index) -> None:
    index.adopt([object_row(1)])
    with StoppedWriter(index):
        index.put_object(digest(2), 5, None)
        with pytest.raises(StoreError, match="locked"):
            index.remove([digest(1), digest(2)])
        assert index.object(digest(2)) is not None
    assert index.flush()
    assert sorted(index.rows_between("", "t")) == [digest(1), digest(2)]


def test_pinned_ones_are_not_among_the_oldest(index: Index) -> None:
    index.adopt(object_row(number, last_used=float(number)) for number in range(5))
    index.pin("app:1", [digest(0), digest(2)])
    index.pin("app:1", [digest(2), digest(9)])
    index.pin("app:2", [digest(2)])
    assert index.pins() == [("app:1", digest(n)) for n in (0, 2, 9)] + [("app:2", digest(2))]
    assert [row.last_used for row in index.oldest(2)] == [1.0, 3.0]
    assert index.unpin("app:1") == 3
    assert index.unpin("app:1") == 0
    assert [row.last_used for row in index.oldest(9)] == [0.0, 1.0, 3.0, 4.0]


def test_complete(index: Index, path: Path) -> None:
    assert index.complete is False
    index.set_complete()
    assert index.complete is True
    other = Index.open(path)
    assert other.complete is True
    other.close()


@pytest.mark.parametrize("way", ["adopt", "remove", "pin", "unpin", "set_complete"])
def test_a_fault_is_told_to_who_waits(index: Index, way: str) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "adopt": ([object_row(1)],),
        "remove": ([digest(1)],),
        "pin": ("name", [digest(1)]),
        "unpin": ("name",),
        "set_complete": (),
    }
    with StoppedWriter(index), pytest.raises(StoreError, match="database is locked"):
        getattr(index, way)(*arguments[way])
    getattr(index, way)(*arguments[way])
    index.close()
    with pytest.raises(StoreError, match="closed"):
        getattr(index, way)(*arguments[way])


def test_who_waits_for_objects_is_told(path: Path) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    index = Index.open(path, commits_fd=fd)
    index.put_tag(*NGINX, ROW)
    index.drop_object(digest(2))
    assert index.flush()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    index.put_object(digest(1), 5, None)
    assert index.flush()
    assert os.eventfd_read(fd) == 1
    index.adopt([object_row(1)])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    index.adopt([object_row(2)])
    assert os.eventfd_read(fd) == 1
    os.eventfd_write(fd, 2**64 - 2)  # full
    index.put_object(digest(3), 5, None)
    assert index.flush()
    index.close()
    os.close(fd)


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
    named=st.integers(0, 15),
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
        self.index.put_object(name, size, media_type, size // 2)
        known = self.objects.get(name, (0, None))[1]
        self.objects[name] = (size, media_type or known)

    @rule(name=DIGESTS)
    def drop_object(self, name: str) -> None:
        self.index.drop_object(name)
        self.objects.pop(name, None)

    @rule(names=st.sets(DIGESTS, max_size=3))
    def remove(self, names: set[str]) -> None:
        self.index.remove(names)
        for name in names:
            self.objects.pop(name, None)
        for key, rows in list(self.tags.items()):
            self.tags[key] = {variant: row for variant, row in rows.items() if row.digest not in names}

    @rule(name=DIGESTS, size=st.integers(0, 2**40))
    def adopt(self, name: str, size: int) -> None:
        row = ObjectRow(name, size, None, 1.0, size // 2, 1.0)
        assert self.index.adopt([row]) == (name not in self.objects)
        self.objects.setdefault(name, (size, None))

    @rule(name=DIGESTS)
    def touch(self, name: str) -> None:
        self.index.touch(name)

    @rule()
    def flush(self) -> None:
        assert self.index.flush()
        assert {row.digest: (row.size, row.media_type) for row in self.index.oldest(99)} == self.objects
        sizes = [size for size, _ in self.objects.values()]
        assert self.index.totals() == Totals(len(sizes), sum(sizes), sum(size // 2 for size in sizes))

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

    def teardown(self) -> None:
        self.index.close()
        shutil.rmtree(self.scratch)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# --- the writer ------------------------------------------------------------------------------------------


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
        assert index.object(digest(1)) is not None
    assert caplog.text.count("can't write, will go on trying: database is locked") == 1
    other = reopened(index, path, clock)
    assert (other.tag(*NGINX), other.objects) == ((ROW,), 1)
    other.close()


def test_a_failed_write_is_repeated_without_being_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_RETRY", 0.01)
    monkeypatch.setattr(writer, "_TOUCH_EVERY", 1e6)
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
    assert (other.tag(*NGINX), other.totals().bytes) == ((ROW,), 13)
    other.close()


def test_what_changed_while_it_was_written_is_written_again() -> None:
    pending: Pending[str, ObjectChange] = Pending()
    old, new = (ObjectChange(True, None, seen) for seen in (1, 2))
    pending.put("a", old)
    pending.put("b", old)
    written = pending.take(9)
    pending.put("a", new)
    pending.settle(written)
    assert pending.take(9) == {"a": new}
    taken = pending.withdraw(["a", "c"])
    pending.put("b", new)
    assert (taken, len(pending)) == ({"a": new}, 1)
    pending.restore(taken | {"b": old})
    assert pending.take(9) == {"a": new, "b": new}


def test_the_backlog_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_BACKLOG", 10)
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
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    before = index.totals()
    with sqlite3.connect(path) as connection:
        for table in ("tags", "objects", "totals", "pins", "journal", "state"):
            connection.execute(f"DROP TABLE {table}")
    connection.close()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert index.tag(*NGINX) == ()
            assert index.object(digest(1)) is None
            assert index.oldest(5) == []
            assert index.complete is False
            assert index.totals() == before
        index.sync()
    assert "index: no such table" in caplog.text
    with pytest.raises(StoreError, match="no such table"):
        index.rows_between("", "t")
    with pytest.raises(StoreError, match="no such table"):
        index.pins()


def test_a_fault_that_lasts_is_logged_once(
    index: Index, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE tags")
    connection.close()
    with caplog.at_level(logging.WARNING):
        for number in range(9):
            index.tag("a.example", 443, "r", str(number))
    assert caplog.text.count("no such table") == 1


def test_uses_alone_are_written_in_time(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody flushes, nothing else changes: the last use gets to the disk all the same."""
    monkeypatch.setattr(writer, "_TOUCH_EVERY", 0.01)
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
