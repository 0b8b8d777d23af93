"""blobs/ and the index agree after a pass, whatever has happened, and whatever happens meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from regproxy.cache import reconcile
from regproxy.cache.index.index import Index, ObjectRow
from regproxy.cache.reconcile import Found, Reconciler
from regproxy.core.errors import StoreError
from tests.support.processes import wait_until
from tests.support.small_filesystems import read_only
from tests.support.stocked_cache import BLOCK, DAY, HOUR, Stock


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


def work_through(stock: Stock, meanwhile: Callable[[int], None] | None = None) -> Reconciler:
    """A whole pass; `meanwhile` is called with the number of each piece that has been done."""
    reconciler = Reconciler(stock.root, stock.index, stock.clock, stock.clock.monotonic)
    for number, rest in enumerate(reconciler.steps()):
        stock.clock.wait(rest)
        if meanwhile is not None:
            meanwhile(number)
    return reconciler


class TestRebuild:
    def test_what_lies_there_is_entered(self, stock: Stock) -> None:
        young, old = stock.file(5000, age=HOUR), stock.file(BLOCK, age=40 * DAY)
        assert not stock.index.complete
        reconciler = work_through(stock)
        assert reconciler.done and stock.index.complete
        assert reconciler.found == Found(directories=256, adopted=2)
        rows = stock.index.rows_between("sha256:", "sha256:g")
        written = stock.path(young).stat().st_mtime
        assert rows[young] == ObjectRow(young, 5000, None, written, disk=8192, stored_at=written)
        assert rows[old].last_used == pytest.approx(stock.clock() - 40 * DAY, abs=5)
        totals = stock.index.totals()
        assert (totals.objects, totals.bytes, totals.disk) == (2, 5000 + BLOCK, 8192 + BLOCK)

    def test_ten_thousand_in_bounded_pieces(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        digests = stock.many(10_000, rows=False)
        adopt, most = Index.adopt, 0

        def counted(index: Index, rows: Sequence[ObjectRow]) -> int:
            nonlocal most
            most = max(most, len(rows))
            return adopt(index, rows)

        monkeypatch.setattr(Index, "adopt", counted)
        assert work_through(stock).found.adopted == 10_000
        assert stock.rows() == set(digests)
        assert most <= 200

    def test_a_row_that_is_there_is_left_alone(self, stock: Stock) -> None:
        digest = stock.file(age=DAY)
        stock.index.put_object(digest, BLOCK, "application/vnd.oci.image.index.v1+json")
        assert stock.index.flush()
        before = stock.index.object(digest)
        assert work_through(stock).found == Found(directories=256)
        assert stock.index.object(digest) == before

    @pytest.mark.parametrize("piece", [198, 199, 200])
    def test_an_index_that_is_lost_meanwhile_is_not_complete(self, stock: Stock, piece: int) -> None:
        """What was entered into the lost one is missing in the new one."""
        digests = set(stock.many(256, rows=False))

        def lose(number: int) -> None:
            if number == piece:
                for path in stock.root.glob("index.sqlite3*"):
                    path.unlink()

        with suppress(StoreError):
            assert not work_through(stock, lose).done

        def changed_over() -> bool:
            stock.index.tick()
            return stock.rows() == set()

        wait_until(changed_over, "the new index is open")
        assert work_through(stock).done
        assert stock.rows() == digests and stock.index.complete

    def test_a_directory_that_can_not_be_read(
        self, stock: Stock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing is known of it: its rows stay, and the index is not called complete."""
        digests = stock.many(3)
        listed = reconcile.listed

        def broken(root: Path, prefix: str) -> set[str]:
            if prefix == "01":
                raise OSError(5, "Input/output error")
            return listed(root, prefix)

        monkeypatch.setattr(reconcile, "listed", broken)
        reconciler = work_through(stock)
        assert (reconciler.done, reconciler.found.failures, stock.index.complete) == (False, 1, False)
        assert stock.rows() == set(digests)
        assert "blobs/sha256/01: Input/output error" in caplog.text


class TestComplete:
    @pytest.fixture(autouse=True)
    def complete(self, stock: Stock) -> None:
        stock.index.set_complete()

    def test_young_files_are_entered_and_old_ones_removed(self, stock: Stock) -> None:
        young, old = stock.file(age=23 * HOUR), stock.file(age=25 * HOUR)
        reconciler = work_through(stock)
        assert reconciler.found == Found(directories=256, adopted=1, orphans=1, bytes=BLOCK)
        assert stock.files() == stock.rows() == {young} and old != young

    def test_rows_without_a_file_are_dropped(self, stock: Stock) -> None:
        kept, lost = stock.blob(), stock.blob()
        stock.path(lost).unlink()
        never = "sha256:" + "f" * 64
        stock.row(never, size=7)
        assert work_through(stock).found == Found(directories=256, dropped=2)
        assert stock.rows() == {kept}
        assert stock.index.totals().objects == 1

    def test_names_that_are_no_digest(self, stock: Stock) -> None:
        kept = stock.blob()
        place = stock.path(kept).parent
        other = "00" if place.name != "00" else "01"
        strange = [place / "README", place / f"{other}{'0' * 62}", place / ("A" * 64), place / "link"]
        for path in strange[:3]:
            path.write_bytes(b"x")
        strange[3].symlink_to("/nowhere")
        (place / "directory").mkdir()
        assert work_through(stock).found == Found(directories=256)
        stock.clock.wait(25 * HOUR)
        found = work_through(stock).found
        assert (found.strays, found.bytes) == (4, 3 * BLOCK)
        assert sorted(path.name for path in place.iterdir()) == sorted([kept[7:], "directory"])

    def test_a_row_that_comes_late_saves_an_old_file(self, stock: Stock) -> None:
        """A part of yesterday that was complete is committed today: its row follows its name."""
        digest = stock.file(age=2 * DAY)

        def entered(number: int) -> None:
            if number == 250:
                stock.row(digest)

        assert work_through(stock, entered).found.orphans == 0
        assert stock.files() == stock.rows() == {digest}

    def test_a_file_that_is_fetched_anew_is_no_orphan(self, stock: Stock) -> None:
        digest = stock.file(body=b"again", age=2 * DAY)

        def fetched(number: int) -> None:
            if number == 250:
                stock.file(body=b"again")

        assert work_through(stock, fetched).found.orphans == 0
        assert stock.files() == {digest}

    def test_more_orphans_than_a_pass_takes(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reconcile, "_SUSPECTS", 2)
        for _ in range(3):
            stock.file(age=2 * DAY)
        assert work_through(stock).found.orphans == 2
        assert work_through(stock).found.orphans == 1
        assert stock.files() == set()


class TestMeanwhile:
    def test_a_commit_between_listing_and_rows(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The listing has no such file, and its row is there: looked at again, both are."""
        stock.index.set_complete()
        digest = stock.blob()
        monkeypatch.setattr(reconcile, "listed", lambda root, prefix: set())
        assert work_through(stock).found == Found(directories=256)
        assert stock.files() == stock.rows() == {digest}

    def test_a_commit_between_the_look_and_the_removal(
        self, stock: Stock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = stock.blob(body=b"again")
        stock.path(digest).unlink()
        remove = Index.remove

        def committed_first(index: Index, digests: Sequence[str], journal: bool = True) -> None:
            stock.file(body=b"again")
            remove(index, digests, journal)

        monkeypatch.setattr(Index, "remove", committed_first)
        work_through(stock)
        assert stock.files() == stock.rows() == {digest}

    def test_an_eviction_between_listing_and_look(
        self, stock: Stock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = stock.file()
        listed = reconcile.listed

        def evicted_after(root: Path, prefix: str) -> set[str]:
            names = listed(root, prefix)
            if names:
                stock.path(digest).unlink()
            return names

        monkeypatch.setattr(reconcile, "listed", evicted_after)
        reconciler = work_through(stock)
        assert (reconciler.found, reconciler.done) == (Found(directories=256), True)
        assert stock.rows() == set()

    def test_an_orphan_that_somebody_else_removes(self, stock: Stock) -> None:
        stock.index.set_complete()
        digest = stock.file(age=2 * DAY)
        reconciler = work_through(
            stock, lambda number: stock.path(digest).unlink(missing_ok=True) if number == 255 else None
        )
        assert (reconciler.found, reconciler.done) == (Found(directories=256), True)

    def test_an_index_that_can_not_be_written(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise StoreError("the disk is full")

        stock.file()
        with monkeypatch.context() as patch:
            patch.setattr(Index, "adopt", refuse)
            with pytest.raises(StoreError):
                work_through(stock)
        assert not stock.index.complete
        assert work_through(stock).done


class TestRemovedDirectory:
    def test_before_a_pass(self, stock: Stock) -> None:
        away = stock.root.rename(stock.root.with_name("away"))
        reconciler = Reconciler(stock.root, stock.index)
        assert list(reconciler.steps()) == []
        assert not reconciler.done
        away.rename(stock.root)

    @pytest.mark.parametrize("piece", [100, 101])
    def test_meanwhile(self, stock: Stock, piece: int) -> None:
        digests = stock.many(256)
        away = stock.root.with_name("away")

        def take_away(number: int) -> None:
            if number == piece:
                stock.root.rename(away)

        with suppress(StoreError):
            assert not work_through(stock, take_away).done
        away.rename(stock.root)
        assert stock.rows() == set(digests)

    def test_blobs_alone(self, stock: Stock) -> None:
        stock.many(3)
        for path in [*stock.blobs.glob("*/*"), *stock.blobs.glob("*"), stock.blobs, stock.blobs.parent]:
            path.rmdir() if path.is_dir() else path.unlink()
        reconciler = work_through(stock)
        assert reconciler.done and reconciler.found.dropped == 3
        assert stock.rows() == set()


def test_a_read_only_disk(stock: Stock) -> None:
    stock.index.set_complete()
    orphan = stock.file(age=2 * DAY)
    stray = stock.path(orphan).with_name("stray")
    stray.touch()
    os.utime(stray, (0, 0))
    with read_only(stock.root) as view:
        reconciler = Reconciler(view, stock.index, stock.clock, stock.clock.monotonic)
        for rest in reconciler.steps():
            stock.clock.wait(rest)
    assert reconciler.found == Found(directories=256, failures=2)
    assert orphan in stock.files() and stray.exists()
