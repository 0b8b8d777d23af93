"""Eviction: the cache stays within its limits, and what is in use, pinned or being fetched stays in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from regproxy.cache import layout
from regproxy.cache.eviction import FREE, INACTIVE, SIZE, CacheLimits, Disk, Evictor, Freed, parts_disk
from regproxy.cache.index.index import Index
from regproxy.cache.part_sweep import sweep_parts
from regproxy.core import file_lock
from regproxy.core.errors import StoreError
from tests.support.small_filesystems import fill_up, read_only, small_disk
from tests.support.stocked_cache import BLOCK, DAY, HOUR, Stock

MIB = 1 << 20


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


@pytest.fixture
def small_stock(tmp_path: Path) -> Iterator[Stock]:
    """One on a file system of 4 MiB of its own."""
    with small_disk(tmp_path / "disk", 4 * MIB) as disk, Stock(disk / "cache") as stock:
        yield stock


def evictor(stock: Stock, *, max_size: int = 0, inactive: float = 0.0, min_free: int | None = 0) -> Evictor:
    limits = CacheLimits(max_size, inactive, min_free)
    return Evictor(stock.root, stock.index, limits, stock.clock, stock.clock.monotonic)


def run(at_work: Evictor, most: int = 1000) -> list[Freed]:
    """Step until nothing more is due; the steps that removed something."""
    done = []
    for _ in range(most):
        freed = at_work.step()
        done += [freed] if freed.objects else []
        if not freed.more:
            return done
    raise AssertionError(f"not done after {most} steps")


def fail(error: Exception) -> Callable[..., None]:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


class TestSize:
    def test_the_least_recently_used_go_first_down_to_the_low_mark(self, stock: Stock) -> None:
        blobs = [stock.blob(idle=(100 - n) * HOUR) for n in range(100)]
        with closing(evictor(stock, max_size=100 * BLOCK)) as at_work:
            done = run(at_work)
        assert [(each.reason, each.objects, each.bytes) for each in done] == [(SIZE, 10, 10 * BLOCK)]
        assert stock.files() == stock.rows() == set(blobs[10:])
        assert stock.index.totals().disk == 90 * BLOCK

    def test_nothing_goes_below_the_high_mark(self, stock: Stock) -> None:
        blobs = {stock.blob() for _ in range(95)}
        with closing(evictor(stock, max_size=100 * BLOCK)) as at_work:
            assert at_work.step() == Freed()
        assert stock.files() == blobs

    def test_bytes_are_the_disks(self, stock: Stock) -> None:
        for _ in range(10):
            stock.blob(5)
        with closing(evictor(stock, max_size=9 * BLOCK)) as at_work:
            run(at_work)
        assert len(stock.files()) == 8

    def test_parts_count(self, stock: Stock) -> None:
        blobs = [stock.blob(idle=(10 - n) * HOUR) for n in range(10)]
        stock.part("a" * 64 + ".part", size=5 * BLOCK)
        with closing(evictor(stock, max_size=12 * BLOCK)) as at_work:
            run(at_work)
        assert stock.files() == set(blobs[5:])
        assert (stock.parts / ("a" * 64 + ".part")).exists()

    def test_no_limit(self, stock: Stock) -> None:
        blobs = {stock.blob(idle=1000 * DAY) for _ in range(3)}
        with closing(evictor(stock)) as at_work:
            assert at_work.step() == Freed()
        assert stock.files() == blobs

    def test_steps_are_bounded(self, stock: Stock) -> None:
        for _ in range(450):
            stock.blob(10)
        with closing(evictor(stock, max_size=1)) as at_work:
            done = run(at_work)
        assert max(each.objects for each in done) <= 200
        assert sum(each.objects for each in done) == 450
        assert stock.files() == stock.rows() == set()

    def test_a_step_ends_when_its_time_is_over(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that takes 20 ms for each file."""
        for _ in range(10):
            stock.blob()
        unlink = os.unlink

        def slow(path: str) -> None:
            stock.clock.wait(0.02)
            unlink(path)

        with closing(evictor(stock, max_size=1)) as at_work:
            monkeypatch.setattr(os, "unlink", slow)
            assert at_work.step() == Freed(SIZE, 3, 3 * BLOCK, more=True)
        assert len(stock.files()) == len(stock.rows()) == 7


class TestInactive:
    def test_what_was_not_used_for_so_long_goes(self, stock: Stock) -> None:
        old = {stock.blob(idle=8 * DAY) for _ in range(3)}
        young = {stock.blob(idle=6 * DAY) for _ in range(3)}
        with closing(evictor(stock, inactive=7 * DAY)) as at_work:
            assert run(at_work) == [Freed(INACTIVE, 3, 3 * BLOCK, more=True)]
            assert stock.files() == stock.rows() == young
            stock.clock.wait(DAY + 1)
            run(at_work)
        assert old and stock.files() == set()

    def test_what_was_used_meanwhile_stays(self, stock: Stock) -> None:
        used, unused = stock.blob(idle=8 * DAY), stock.blob(idle=8 * DAY)
        stock.index.touch(used)
        assert stock.index.flush()
        with closing(evictor(stock, inactive=7 * DAY)) as at_work:
            run(at_work)
        assert stock.files() == {used} and unused != used


class TestPins:
    def test_they_stay_whatever_the_limits_say(self, stock: Stock) -> None:
        blobs = [stock.blob(idle=(20 - n) * DAY) for n in range(10)]
        stock.index.pin("nginx", blobs[:3])
        with closing(evictor(stock, max_size=5 * BLOCK, inactive=15 * DAY)) as at_work:
            run(at_work)
        assert stock.files() == {*blobs[:3], blobs[-1]}

    def test_nothing_left_is_said_once_and_ends(self, stock: Stock, caplog: pytest.LogCaptureFixture) -> None:
        stock.index.pin("nginx", [stock.blob() for _ in range(10)])
        with closing(evictor(stock, max_size=5 * BLOCK)) as at_work:
            for _ in range(5):
                assert at_work.step() == Freed()
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "CACHE_MAX_SIZE" in caplog.text and "pinned" in caplog.text
            stock.clock.wait(61)
            at_work.step()
        assert len(caplog.records) == 2


class TestFree:
    def test_until_the_floor_is_free(self, small_stock: Stock) -> None:
        stock = small_stock
        blobs = [stock.blob(64 * 1024, idle=(100 - n) * HOUR) for n in range(40)]
        before = Disk.of(stock.root).free
        floor = before + 10 * 64 * 1024
        with closing(evictor(stock, min_free=floor)) as at_work:
            done = run(at_work)
        assert {each.reason for each in done} == {FREE}
        assert Disk.of(stock.root).free >= floor
        kept = stock.files()
        assert kept == stock.rows() == set(blobs[-len(kept) :])
        # The hysteresis is a hundredth of this disk, less than one of the blobs.
        assert 28 <= len(kept) <= 30

    def test_never_loops_where_nothing_helps(
        self, small_stock: Stock, caplog: pytest.LogCaptureFixture
    ) -> None:
        stock = small_stock
        stock.blob()
        with closing(evictor(stock, min_free=100 * MIB)) as at_work:
            run(at_work, most=4)
            assert stock.files() == set()
            stock.clock.wait(2)
            assert at_work.step() == Freed()
        assert caplog.text.count("REGPROXY_MIN_FREE") == 1 + caplog.text.count("evicted")

    def test_a_full_disk_gets_room(self, small_stock: Stock) -> None:
        """SQLite can write nothing until something has been removed."""
        stock = small_stock
        for n in range(20):
            stock.blob(64 * 1024, idle=n * HOUR)
        fill_up(stock.root.parent)
        assert Disk.of(stock.root).free == 0
        with closing(evictor(stock, min_free=512 * 1024)) as at_work:
            # Its first try to write may be what finds out that there is room again.
            for _ in range(3):
                with suppress(StoreError):
                    run(at_work)
                stock.clock.wait(2)
        assert Disk.of(stock.root).free >= 512 * 1024
        assert 0 < len(stock.files()) < 20
        assert stock.files() == stock.rows()

    def test_what_others_have_open_is_waited_for(self, small_stock: Stock) -> None:
        """Its space is free later than it is removed; meanwhile nothing else has to go for it."""
        stock = small_stock
        blobs = [stock.blob(64 * 1024, idle=(20 - n) * HOUR) for n in range(20)]
        floor = Disk.of(stock.root).free + BLOCK
        readers = [stock.path(blob).open("rb") for blob in blobs]
        with closing(evictor(stock, min_free=floor)) as at_work:
            run(at_work)
            assert len(stock.files()) == 19
            stock.clock.wait(0.5)
            assert at_work.step() == Freed()
            for reader in readers:
                reader.close()
            stock.clock.wait(1)
            assert at_work.step() == Freed()
        assert len(stock.files()) == 19

    def test_room_that_others_make_ends_it(self, small_stock: Stock) -> None:
        stock = small_stock
        for _ in range(3):
            stock.blob(64 * 1024)
        ballast = stock.root.parent / "ballast"
        ballast.write_bytes(b"b" * MIB)
        floor = Disk.of(stock.root).free + MIB // 2
        with closing(evictor(stock, min_free=floor)) as at_work:
            assert at_work.step().objects == 3
            ballast.unlink()
            stock.blob(64 * 1024)
            assert at_work.step() == Freed()
        assert len(stock.files()) == 1

    def test_the_floor_of_its_own_choice(self) -> None:
        gib = 1 << 30
        assert Disk(0, 10 * gib).floor(None) == gib // 2
        assert Disk(0, 1000 * gib).floor(None) == gib
        assert Disk(0, 1000 * gib).floor(5) == 5

    def test_broken_fills_parts_are_the_last_to_go(self, small_stock: Stock) -> None:
        stock = small_stock
        stock.blob()
        old = stock.part("a" * 64 + ".part", size=MIB, age=120.0)
        young = stock.part("b" * 64 + ".part", size=MIB, age=1.0)
        with closing(evictor(stock, min_free=3 * MIB)) as at_work:
            run(at_work)
        assert (stock.files(), old.exists(), young.exists()) == (set(), False, True)


class TestTrouble:
    def test_a_row_that_could_not_be_removed_goes_next_time(
        self, stock: Stock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blobs = [stock.blob(idle=DAY) for _ in range(3)]
        with closing(evictor(stock, inactive=HOUR)) as at_work:
            with monkeypatch.context() as patch:
                patch.setattr(Index, "remove", fail(StoreError("the disk is full")))
                assert at_work.step().objects == 3
            assert (stock.files(), stock.rows(), at_work.astray) == (set(), set(blobs), True)
            assert at_work.step() == Freed(INACTIVE, 0, 0, more=True)
        assert stock.rows() == set()

    def test_what_comes_back_meanwhile_keeps_a_row(
        self, stock: Stock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is fetched again between the removal of the file and that of the row."""
        body = b"again" * 1000
        digest = stock.blob(body=body, idle=DAY)
        remove = Index.remove

        def fetched_first(index: Index, digests: Sequence[str], journal: bool = True) -> None:
            stock.file(body=body)
            remove(index, digests, journal)

        monkeypatch.setattr(Index, "remove", fetched_first)
        with closing(evictor(stock, inactive=HOUR)) as at_work:
            at_work.step()
        assert stock.files() == stock.rows() == {digest}
        assert stock.index.totals().objects == 1

    def test_what_can_not_be_removed_is_in_nobodys_way(self, stock: Stock) -> None:
        stuck = stock.blob(idle=3 * DAY)
        stock.path(stuck).unlink()
        stock.path(stuck).mkdir()
        others = [stock.blob(idle=2 * DAY) for _ in range(3)]
        with closing(evictor(stock, inactive=HOUR)) as at_work:
            run(at_work)
        assert others and stock.rows() == {stuck}

    def test_a_read_only_disk(self, stock: Stock) -> None:
        blobs = {stock.blob(idle=DAY) for _ in range(3)}
        with read_only(stock.root) as view:
            at_work = Evictor(view, stock.index, CacheLimits(0, HOUR, 0))
            with pytest.raises(OSError, match="Read-only"):
                at_work.step()
            at_work.close()
        assert stock.files() == stock.rows() == blobs

    def test_a_disk_that_becomes_read_only(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        blobs = {stock.blob(idle=DAY) for _ in range(3)}
        with closing(evictor(stock, inactive=HOUR)) as at_work, read_only(stock.root) as view:
            monkeypatch.setattr(
                layout,
                "blob",
                lambda root, digest: str(view / stock.path(digest).relative_to(root)),
            )
            for _ in range(3):
                with pytest.raises(OSError, match="Read-only"):
                    at_work.step()
        assert stock.files() == stock.rows() == blobs

    def test_a_removed_directory(self, stock: Stock) -> None:
        stock.blob(idle=DAY)
        with closing(evictor(stock, inactive=HOUR)) as at_work:
            away = stock.root.rename(stock.root.with_name("away"))
            assert at_work.step() == Freed()
            away.rename(stock.root)
            assert at_work.step().objects == 1


class TestAlone:
    def test_one_evicts_the_other_waits(self, stock: Stock) -> None:
        stock.blob(idle=DAY)
        with closing(evictor(stock)) as first, closing(evictor(stock, inactive=HOUR)) as second:
            first.step()
            assert second.step() == Freed()
            assert len(stock.files()) == 1
            first.close()
            assert second.step().objects == 1

    def test_a_lock_whose_file_was_removed_is_none(self, stock: Stock) -> None:
        stock.blob(idle=DAY)
        with closing(evictor(stock)) as first, closing(evictor(stock, inactive=HOUR)) as second:
            first.step()
            (stock.root / "evict.lock").unlink()
            assert second.step().objects == 1
            stock.blob(idle=DAY)
            assert first.step() == Freed()

    def test_others_are_told(self, stock: Stock) -> None:
        """A worker lets go of its open file, though it shares nothing but the directory."""
        digest = stock.blob(idle=DAY)
        told: list[str] = []
        with closing(Index.open(stock.root / "index.sqlite3")) as worker:
            worker.on_removed = told.append
            assert worker.object(digest) is not None
            with closing(evictor(stock, inactive=HOUR)) as at_work:
                at_work.step()
            worker.tick()
            assert told == [digest]
            assert worker.object(digest) is None


def test_it_says_what_it_did(stock: Stock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(300):
        stock.blob(10, idle=DAY)
    caplog.set_level(logging.INFO)
    with closing(evictor(stock, inactive=HOUR)) as at_work:
        run(at_work)
        at_work.step()
    assert [record.getMessage() for record in caplog.records] == [
        f"evicted 300 objects, {300 * BLOCK} bytes: CACHE_INACTIVE"
    ]


def test_ten_thousand(stock: Stock) -> None:
    digests = stock.many(10_000)
    with closing(evictor(stock, max_size=5_000 * BLOCK)) as at_work:
        done = run(at_work)
    assert sum(each.objects for each in done) == 5_500
    assert stock.files() == stock.rows() == set(digests[5_500:])


# --- parts -----------------------------------------------------------------------------------------------

PART, TAG, META = ("c" * 64 + suffix for suffix in (".part", ".tag", ".meta"))
PARTS = [
    (PART, 23 * HOUR, True),
    (PART, 25 * HOUR, False),
    (TAG, 50.0, True),
    (TAG, 70.0, False),
    (META, 5.0, True),
    (META, 20.0, False),
    ("77-3.part", 5.0, True),
    ("77-3.part", 20.0, False),
    ("notes.txt", 23 * HOUR, True),
    ("notes.txt", 25 * HOUR, False),
]


def sweep(stock: Stock) -> int:
    return sum(sweep_parts(stock.root, stock.clock))


@pytest.mark.parametrize("name, age, stays", PARTS, ids=str)
def test_old_parts_go(stock: Stock, name: str, age: float, stays: bool) -> None:
    path = stock.part(name, age=age)
    assert sweep(stock) == (not stays)
    assert path.exists() == stays


@pytest.mark.parametrize("age, stays", [(5.0, True), (20.0, False)])
def test_the_part_of_what_is_stored_goes_soon(stock: Stock, age: float, stays: bool) -> None:
    """Its filler was killed, and the content came with a tag: nobody will take the part up again."""
    digest = stock.blob()
    path = stock.part(f"{digest[7:]}.part", age=age)
    beside = stock.part(f"{digest[7:]}.meta", age=age)
    sweep(stock)
    assert path.exists() == beside.exists() == stays
    assert stock.path(digest).exists()


@pytest.mark.parametrize("name", [PART, TAG, "77-3.part"])
def test_what_is_locked_stays(stock: Stock, name: str) -> None:
    path = stock.part(name, age=30 * DAY)
    with path.open("r+b") as mine:
        assert file_lock.lock(mine.fileno())
        assert sweep(stock) == 0 and path.exists()
    assert sweep(stock) == 1 and not path.exists()


@pytest.mark.parametrize("idle, room", [(0.0, True), (59.0, True), (61.0, False)])
def test_room_is_made_for_all_of_a_body(stock: Stock, idle: float, room: bool) -> None:
    """When its length is known, and as long as somebody writes to it."""
    part = stock.part(PART, size=BLOCK, age=idle)
    part.with_suffix(".meta").write_text(f'{{"total": {100 * BLOCK}}}')
    meta = part.with_suffix(".meta").stat().st_blocks * 512
    assert parts_disk(stock.root, stock.clock()) == (BLOCK + meta, 99 * BLOCK if room else 0)


@pytest.mark.parametrize("meta", [b"", b"[]", b"{}", b'{"total": -1}', b'{"total": "many"}'])
def test_who_says_nothing_gets_what_there_is(stock: Stock, meta: bytes) -> None:
    part = stock.part(PART, size=BLOCK)
    part.with_suffix(".meta").write_bytes(meta)
    blocks = part.with_suffix(".meta").stat().st_blocks * 512
    assert parts_disk(stock.root, stock.clock()) == (BLOCK + blocks, 0)


def test_a_part_keeps_what_is_known_of_it(stock: Stock) -> None:
    part, meta = stock.part(PART, age=HOUR), stock.part(META, age=HOUR)
    assert sweep(stock) == 0
    stock.clock.wait(DAY)
    sweep(stock)
    assert not part.exists() and not meta.exists()


def test_one_that_is_taken_up_in_this_moment_stays(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its filler has written to it, or committed it, between the look and the lock."""
    part = stock.part(PART, age=2 * DAY)
    lock = file_lock.lock

    def used_first(fd: int) -> bool:
        os.utime(part)
        return lock(fd)

    monkeypatch.setattr(file_lock, "lock", used_first)
    assert sweep(stock) == 0 and part.exists()

    def renamed_first(fd: int) -> bool:
        part.rename(stock.root / "elsewhere")
        return lock(fd)

    os.utime(part, (0, 0))
    monkeypatch.setattr(file_lock, "lock", renamed_first)
    assert sweep(stock) == 0 and (stock.root / "elsewhere").exists()


def test_many_parts_are_swept_in_pieces(stock: Stock) -> None:
    for n in range(250):
        stock.part(f"{n}-1.part", age=HOUR)
    assert list(sweep_parts(stock.root, stock.clock)) == [100, 100, 50]
    assert list(stock.parts.iterdir()) == []


def test_no_parts_no_trouble(stock: Stock) -> None:
    (stock.parts / "a-directory").mkdir()
    (stock.parts / "a-link").symlink_to("/nowhere")
    stock.clock.wait(2 * DAY)
    assert sweep(stock) == 0
    for path in stock.parts.iterdir():
        path.unlink() if path.is_symlink() else path.rmdir()
    stock.parts.rmdir()
    assert sweep(stock) == 0
