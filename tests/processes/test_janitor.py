"""The janitor as a process: it obeys, keeps the cache within its limits, and outlives what the disk does."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from regproxy.cache.eviction import CacheLimits, Disk
from regproxy.cache.index.index import Index, TagRow
from regproxy.cache.reconcile import Reconciler
from regproxy.dataplane import board as board_module
from regproxy.process import boot, janitor
from regproxy.process.janitor import Chores
from regproxy.telemetry.metrics import Metrics
from tests.support import ROOT
from tests.support.images import digest_of
from tests.support.processes import wait_until
from tests.support.small_filesystems import fill_up, read_only, small_disk
from tests.support.stocked_cache import BLOCK, DAY, HOUR, Stock

MIB = 1 << 20


class Running:
    """A janitor at work on `stock`, told what the supervisor tells it. `words` is what it has said.

    `toml`: the text of its configuration file.
    """

    def __init__(self, stock: Stock, place: Path, *, toml: str | None = None, **env: str) -> None:
        self.stock = stock
        self.words: list[str] = []
        self.metrics_dir = place / "metrics"
        self.metrics_dir.mkdir(exist_ok=True)
        self._log = place / "janitor.log"
        self.control, theirs = socket.socketpair()
        board = os.memfd_create("board")
        os.ftruncate(board, board_module.SIZE)
        self.board = board_module.Board(board)
        self.commits = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        descriptors = {"control": theirs.fileno(), "board": board, "commits": self.commits}
        record = {"role": "janitor", "slot": 7, "metrics": str(self.metrics_dir), "workers": 1}
        record |= {"claim_key": "", "debug": True, **descriptors}
        told = {"toml": toml, "cache": str(stock.root), "record": record}
        environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "REGPROXY_MIN_FREE": "0", **env}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.janitor_process", json.dumps(told)],
                pass_fds=tuple(descriptors.values()),
                env=environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        os.close(board)
        theirs.close()
        self.wait_word(boot.READY)

    def hear(self, timeout: float = 0.0) -> bool:
        """Take in what it says; False: nothing more will come."""
        while select.select([self.control], [], [], timeout)[0]:
            data = self.control.recv(4096)
            if not data:
                return False
            self.words += data.decode().splitlines()
            timeout = 0.0
        return True

    def wait_word(self, word: str, count: int = 1) -> None:
        def said() -> bool:
            self.hear(0.01)
            assert self.process.poll() is None or word in self.words, self.log()
            return self.words.count(word) >= count

        wait_until(said, f"{word} is said {count} times")

    def tell(self, word: str) -> None:
        self.control.sendall(f"{word}\n".encode())

    def end(self) -> int:
        """Its exit code; all that it had to say is in `words` then."""
        code = self.process.wait(20)
        self.hear(1.0)
        return code

    def committed(self) -> None:
        """A worker says that it has stored something."""
        os.eventfd_write(self.commits, 1)

    def log(self) -> str:
        return self._log.read_text()

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 where there is none yet."""
        files = [str(path) for path in self.metrics_dir.glob("*.db") if path.stat().st_size]
        for family in MultiProcessCollector.merge(files):  # type: ignore[no-untyped-call]
            for sample in family.samples:
                if sample.name == f"regproxy_{name}" and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def wait_metric(self, name: str, value: float, **labels: str) -> None:
        wait_until(lambda: self.metric(name, **labels) == value, f"{name}{labels} is {value}")

    def wait_files(self, digests: set[str]) -> None:
        wait_until(lambda: self.stock.files() == digests, "what should be there is there")

    def wait_rows(self, digests: set[str]) -> None:
        wait_until(lambda: self.stock.rows() == digests, "the rows are what they should be")

    def wait_log(self, text: str) -> None:
        wait_until(lambda: text in self.log(), f"the log says {text!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.control.close()
            code = self.process.wait(20)
            assert code == 0 or error is not None, self.log()
        self.control.close()
        os.close(self.commits)
        assert "Traceback" not in self.log(), self.log()


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


Start = Callable[..., Running]


@pytest.fixture
def start(stack: ExitStack, stock: Stock, tmp_path: Path) -> Start:
    return lambda **env: stack.enter_context(Running(stock, tmp_path, **env))


class TestObeying:
    @pytest.mark.parametrize("word", [boot.DRAIN, boot.RETIRE, boot.STOP])
    def test_it_ends_when_it_is_told_to(self, start: Start, word: str) -> None:
        running = start()
        running.tell(word)
        assert running.end() == 0
        assert (running.words[0], running.words[-1]) == ("ready", "cut 0")

    def test_it_beats(self, start: Start) -> None:
        start(REGPROXY_HANG_TIMEOUT="1s").wait_word(boot.BEAT, 4)

    def test_it_ends_when_the_supervisor_has_died(self, start: Start) -> None:
        running = start()
        running.control.close()
        assert running.process.wait(20) == 0

    def test_sigterm_ends_it(self, start: Start) -> None:
        running = start()
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0 and running.words[-1] == "cut 0"

    def test_the_terminals_ctrl_c_does_not(self, start: Start) -> None:
        running = start()
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGHUP)
        seen = running.words.count(boot.BEAT)
        running.wait_word(boot.BEAT, seen + 2)
        assert running.process.poll() is None

    def test_it_is_nice(self, start: Start) -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, start().process.pid) == min(own + 5, 19)

    def test_it_ends_in_the_middle_of_much_work(self, stock: Stock, start: Start) -> None:
        stock.many(10_000, rows=False)
        running = start()
        wait_until(lambda: stock.index.totals().objects > 0, "it is at work")
        running.tell(boot.STOP)
        assert running.end() == 0
        assert not stock.index.complete


class TestIndex:
    def test_it_is_made_from_the_blobs(self, stock: Stock, start: Start) -> None:
        blobs = {stock.file(5000) for _ in range(20)}
        running = start()
        running.wait_metric("index_complete", 1)
        assert stock.rows() == blobs and stock.index.complete
        running.wait_metric("cache_objects", 20)
        assert running.metric("cache_bytes") == 20 * 8192
        assert running.metric("cache_max_bytes") == 32 << 30
        assert running.metric("cache_disk_free_bytes") > 0
        assert running.metric("reconcile_seconds") > 0

    def test_made_anew_when_it_is_deleted(self, stock: Stock, start: Start) -> None:
        blobs = {stock.file() for _ in range(20)}
        running = start()
        running.wait_metric("index_complete", 1)
        for path in stock.root.glob("index.sqlite3*"):
            path.unlink()

        def made_anew() -> bool:
            stock.index.tick()
            return stock.index.complete and stock.rows() == blobs

        wait_until(made_anew, "the index is complete again")

    def test_compared_when_the_supervisor_asks(self, stock: Stock, start: Start) -> None:
        running = start()
        running.wait_metric("index_complete", 1)
        lost, found = stock.blob(), stock.file()
        stock.path(lost).unlink()
        running.tell(boot.RECONCILE)
        running.wait_rows({found})

    def test_other_processes_are_told_by_the_board(self, stock: Stock, start: Start) -> None:
        running = start(CACHE_INACTIVE="1h")
        running.wait_metric("index_complete", 1)
        before = running.board.generation
        stock.blob(idle=DAY)
        running.wait_files(set())
        wait_until(lambda: running.board.generation > before, "the board says so")


class TestLimits:
    def test_size_after_a_commit(self, stock: Stock, start: Start) -> None:
        running = start(CACHE_MAX_SIZE="40k")
        running.wait_metric("index_complete", 1)
        blobs = [stock.blob(idle=100.0 - n) for n in range(12)]
        running.committed()
        running.wait_files(set(blobs[-9:]))
        running.wait_metric("evicted_objects_total", 3, reason="size")
        assert running.metric("evicted_bytes_total", reason="size") == 3 * BLOCK
        running.wait_metric("cache_objects", 9)

    def test_inactive(self, stock: Stock, start: Start) -> None:
        old, young, pinned = stock.blob(idle=2 * HOUR), stock.blob(idle=60.0), stock.blob(idle=DAY)
        stock.index.pin("kept", [pinned])
        running = start(toml='cache_inactive = "1h"\n')
        running.wait_files({young, pinned})
        running.wait_metric("evicted_objects_total", 1, reason="inactive")
        assert old not in stock.rows()

    def test_old_parts(self, stock: Stock, start: Start) -> None:
        old, young = stock.part("a" * 64 + ".part", age=2 * DAY), stock.part("b" * 64 + ".part", age=HOUR)
        running = start()
        wait_until(lambda: not old.exists(), "the old part is removed")
        assert young.exists()
        running.wait_log("removed 1 files that fills and tags had left")


class TestDisk:
    def test_free_space(self, stack: ExitStack, tmp_path: Path) -> None:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4 * MIB))
        stock = stack.enter_context(Stock(disk / "cache"))
        blobs = [stock.blob(64 * 1024, idle=100.0 - n) for n in range(40)]
        floor = Disk.of(disk).free + 5 * 64 * 1024
        running = stack.enter_context(Running(stock, tmp_path, REGPROXY_MIN_FREE=str(floor)))
        running.wait_metric("cache_min_free_bytes", floor)
        wait_until(lambda: Disk.of(disk).free >= floor, "there is room")
        wait_until(lambda: running.metric("evicted_objects_total", reason="free") >= 5, "it is counted")
        kept = stock.files()
        assert kept == set(blobs[-len(kept) :]) and len(kept) > 30

    def test_a_full_disk_gets_room_by_a_janitor_that_comes_later(
        self, stack: ExitStack, tmp_path: Path
    ) -> None:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4 * MIB))
        stock = stack.enter_context(Stock(disk / "cache"))
        for n in range(20):
            stock.blob(64 * 1024, idle=100.0 - n)
        fill_up(disk)
        stack.enter_context(Running(stock, tmp_path, REGPROXY_MIN_FREE="256k"))
        wait_until(lambda: Disk.of(disk).free >= 256 * 1024, "there is room")
        wait_until(lambda: stock.rows() == stock.files(), "the index knows it")
        assert len(stock.files()) > 10

    def test_a_full_disk_without_an_index_gets_both(self, stack: ExitStack, tmp_path: Path) -> None:
        """It was damaged, and there is no room for a new one."""
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4 * MIB))
        stock = stack.enter_context(Stock(disk / "cache"))
        for n in range(20):
            stock.file(64 * 1024, age=100.0 - n)
        stock.close()
        for path in stock.root.glob("index.sqlite3*"):
            path.unlink()
        fill_up(disk)
        running = stack.enter_context(Running(stock, tmp_path, REGPROXY_MIN_FREE="512k"))
        running.wait_metric("index_complete", 1)
        stock.index = Index.open(stock.root / "index.sqlite3")
        assert Disk.of(disk).free >= 256 * 1024
        assert stock.rows() == stock.files() and len(stock.files()) > 5

    def test_a_removed_directory_comes_back(self, stock: Stock, start: Start) -> None:
        blobs = {stock.file() for _ in range(3)}
        running = start()
        running.wait_metric("index_complete", 1)
        assert stock.rows() == blobs
        stock.close()
        # By another name first: what is made in there meanwhile would be in the way.
        shutil.rmtree(stock.root.rename(stock.root.with_name("removed")))
        running.wait_log("No such file or directory")
        running.wait_word(boot.BEAT, running.words.count(boot.BEAT) + 2)
        new = Stock(stock.root)
        try:
            digest = new.file()
            wait_until(lambda: new.index.complete and new.rows() == {digest}, "it is looked after again")
        finally:
            stock.index = new.index

    def test_read_only(self, stack: ExitStack, stock: Stock, tmp_path: Path) -> None:
        blobs = {stock.blob(idle=DAY) for _ in range(3)}
        view = stack.enter_context(read_only(stock.root))
        by_view = stack.enter_context(Stock(tmp_path / "other"))
        by_view.root = view
        running = stack.enter_context(Running(by_view, tmp_path, CACHE_INACTIVE="1h"))
        running.wait_log("read")
        running.wait_word(boot.BEAT, 2)
        assert stock.files() == blobs

    def test_an_index_that_can_not_be_opened_yet(self, stock: Stock, start: Start) -> None:
        stock.close()
        for path in stock.root.glob("index.sqlite3*"):
            path.unlink()
        (stock.root / "index.sqlite3").mkdir()
        (stock.root / "index.sqlite3.aside").mkdir()
        (stock.root / "index.sqlite3.aside" / "in the way").touch()
        running = start()
        running.wait_log("index.sqlite3")
        (stock.root / "index.sqlite3").rmdir()
        running.wait_metric("index_complete", 1)


class TestChores:
    def test_tags_that_were_only_looked_at(self, stock: Stock) -> None:
        """By HEAD: nobody has fetched what they name, and nobody will."""
        chores = Chores(
            *(
                stock.root,
                CacheLimits(max_size=0, inactive=0.0, min_free=0),
                Metrics(CollectorRegistry()),
                None,
            ),
            *(stock.clock, stock.clock.monotonic),
        )
        row = TagRow("any", digest_of(b"nobody has it"), "", 9, stock.clock(), 3)
        held = replace(row, variant="held", digest=stock.blob())
        for each in (row, held):
            stock.index.put_tag("reg.test", 443, "app", "latest", each)
        assert stock.index.flush()
        for hours, want in ((0, {row, held}), (23, {row, held}), (2, {held})):
            stock.clock.wait(hours * HOUR)
            while (wait := chores.round()) < 0.1:
                stock.clock.wait(wait)
            stock.index.tick()
            assert set(stock.index.tag("reg.test", 443, "app", "latest")) == want
        chores.close()

    def test_a_comparison_takes_half_of_the_time(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that takes 100 ms for each directory: it has as long for others."""
        work = Reconciler._directory

        def slow(reconciler: Reconciler, prefix: str) -> Iterator[float]:
            stock.clock.wait(0.1)
            yield from work(reconciler, prefix)

        monkeypatch.setattr(Reconciler, "_directory", slow)
        monkeypatch.setattr(janitor, "_TICK", 1000.0)
        monkeypatch.setattr(janitor, "_LIMITS_EVERY", 1000.0)
        limits = CacheLimits(max_size=0, inactive=0.0, min_free=0)
        metrics = Metrics(CollectorRegistry())
        chores = Chores(stock.root, limits, metrics, None, stock.clock, stock.clock.monotonic)
        wait = 0.0
        while not stock.index.complete:
            stock.clock.wait(wait)
            wait = chores.round()
        chores.close()
        assert stock.clock.passed == pytest.approx(2 * 256 * 0.1, rel=0.02)
