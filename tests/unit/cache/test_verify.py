"""`regproxy cache verify`: what is not what its digest names is found and taken away, while others go on."""

from __future__ import annotations

import errno
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from regproxy.cache import reconcile, verify
from regproxy.cache.index.index import Index, TagRow
from regproxy.cache.verify import Problem, Result, Verifier
from regproxy.core.errors import StoreError
from tests.support.cache_command import command, environment
from tests.support.processes import wait_until
from tests.support.stocked_cache import DAY, Stock

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work here, so differences need no time to vanish."""
    monkeypatch.setattr(verify, "_SETTLE", 0.05)


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


@pytest.fixture
def complete(stock: Stock) -> Stock:
    """One whose index knows everything."""
    stock.index.set_complete()
    return stock


@pytest.fixture
def reachable() -> Iterator[Stock]:
    """One that other users can reach: pytest's own directories are closed to them."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # noqa: PTH101
        with Stock(Path(place) / "cache") as stock:
            stock.index.set_complete()
            yield stock


def check(stock: Stock, jobs: int = 2, **options: Any) -> Result:
    return Verifier(stock.root, stock.index, jobs, **options).run()


def spoil(stock: Stock, digest: str, at: int = 0) -> None:
    """Bit rot."""
    with stock.path(digest).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def quarantined(stock: Stock) -> set[str]:
    place = stock.root / "quarantine"
    return {path.name for path in place.iterdir()} if place.exists() else set()


class TestVerifier:
    @pytest.mark.parametrize("jobs", [1, 4])
    def test_all_is_right(self, complete: Stock, jobs: int) -> None:
        blobs = {complete.blob(size) for size in (0, 1, 4096, MIB - 1, MIB, 3 * MIB + 17)}
        result = check(complete, jobs)
        assert (result.checked, result.bytes, result.wrong) == (6, 5 * MIB + 4096 + 17, 0)
        assert complete.files() == complete.rows() == blobs
        assert not (complete.root / "quarantine").exists()

    @pytest.mark.parametrize("at", [0, MIB, 2 * MIB - 1])
    def test_bit_rot(self, complete: Stock, at: int) -> None:
        good, bad = complete.blob(MIB), complete.blob(2 * MIB)
        spoil(complete, bad, at)
        result = check(complete)
        assert (result.checked, result.wrong, result.quarantined) == (2, 1, 1)
        (problem,) = result.problems
        assert problem.what == bad and problem.done == f"moved to quarantine/{bad[7:]}"
        assert re.fullmatch(rf"its {2 * MIB} bytes are sha256:[0-9a-f]{{64}}", problem.why)
        assert complete.files() == complete.rows() == {good}
        assert quarantined(complete) == {bad[7:]}
        assert complete.index.totals().objects == 1

    def test_cut_and_lengthened(self, complete: Stock) -> None:
        cut, longer = complete.blob(5000), complete.blob(5000)
        os.truncate(complete.path(cut), 4999)
        os.truncate(complete.path(longer), 5001)
        result = check(complete)
        assert {problem.what for problem in result.problems} == quarantined_digests(complete) == {cut, longer}
        assert complete.rows() == set()

    def test_tags_that_lead_to_it_are_forgotten(self, complete: Stock) -> None:
        bad, tag = complete.blob(), ("registry.k8s.io", 443, "pause", "3.9")
        complete.index.put_tag(*tag, TagRow("any", bad, "application/json", 1, 1.0, True))
        assert complete.index.flush()
        spoil(complete, bad)
        check(complete)
        assert complete.index.tag(*tag) == ()

    def test_what_goes_bad_again_is_kept_beside(self, complete: Stock) -> None:
        for _ in range(2):
            spoil(complete, complete.blob(body=b"the same"))
            assert check(complete).quarantined == 1
        assert len(quarantined(complete)) == 2

    def test_unreadable(self, complete: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that gives EIO in the middle."""
        digest = complete.blob(3 * MIB)
        good = complete.blob(10)
        readv = os.readv
        reads: list[int] = []

        def failing(fd: int, buffers: Any) -> int:
            if os.fstat(fd).st_size == 3 * MIB:
                reads.append(fd)
                if len(reads) > 2:
                    raise OSError(errno.EIO, "Input/output error")
            return readv(fd, buffers)

        monkeypatch.setattr(os, "readv", failing)
        (problem,) = check(complete).problems
        assert problem == Problem(
            digest,
            f"can't be read beyond byte {2 * MIB}: Input/output error",
            f"moved to quarantine/{digest[7:]}",
        )
        assert complete.files() == {good}

    def test_what_is_no_file(self, complete: Stock) -> None:
        link, directory, fifo = (complete.blob() for _ in range(3))
        for digest in (link, directory, fifo):
            complete.path(digest).unlink()
        complete.path(link).symlink_to("/etc/passwd")
        complete.path(directory).mkdir()
        os.mkfifo(complete.path(fifo))
        result = check(complete)
        assert {problem.what for problem in result.problems} == {link, directory, fifo}
        assert complete.files() == complete.rows() == set()
        assert len(quarantined(complete)) == 3

    def test_names_that_are_no_digest(self, complete: Stock) -> None:
        good = complete.blob()
        place = complete.path(good).parent
        other = "00" if place.name != "00" else "01"
        (place / "README").touch()
        (place / f"{other}{'0' * 62}").touch()
        (complete.blobs / "beside").touch()
        result = check(complete)
        assert {problem.what for problem in result.problems} == {
            f"blobs/sha256/{place.name}/README",
            f"blobs/sha256/{place.name}/{other}{'0' * 62}",
            "blobs/sha256/beside",
        }
        assert complete.files() == {good}
        assert quarantined(complete) == {"README", f"{other}{'0' * 62}", "beside"}

    def test_what_can_not_be_moved_is_said(self, complete: Stock) -> None:
        bad = complete.blob()
        spoil(complete, bad)
        (complete.root / "quarantine").write_text("in the way")
        (problem,) = check(complete).problems
        assert problem.done == "it could not be moved away: File exists"
        assert complete.files() == {bad}

    def test_ten_thousand(self, complete: Stock) -> None:
        bodies = [str(n).encode() for n in range(10_000)]
        digests = [complete.file(body=body) for body in bodies]
        for digest in digests[:9_990]:
            complete.index.put_object(digest, 5, None)
        assert complete.index.flush()
        spoil(complete, digests[5_000])
        result = check(complete)
        assert (result.checked, result.wrong, result.quarantined) == (10_000, 11, 1)
        assert complete.files() == complete.rows()
        assert len(complete.files()) == 9_999


def quarantined_digests(stock: Stock) -> set[str]:
    return {f"sha256:{name}" for name in quarantined(stock)}


class TestRepair:
    def test_a_file_without_a_row(self, complete: Stock) -> None:
        digest = complete.file(5000, age=30 * DAY)
        assert check(complete).problems == [Problem(digest, "is not in the index", "entered")]
        assert complete.rows() == complete.files() == {digest}

    def test_a_row_without_a_file(self, complete: Stock) -> None:
        lost = complete.blob()
        complete.path(lost).unlink()
        assert check(complete).problems == [
            Problem(lost, "is in the index, and there is no such file", "removed from it")
        ]
        assert complete.rows() == set()

    def test_an_index_that_is_new_is_no_fault(self, stock: Stock) -> None:
        digests = {stock.file() for _ in range(5)}
        result = check(stock)
        assert (result.wrong, result.entered) == (0, 5)
        assert stock.rows() == digests


class TestMeanwhile:
    """The proxy runs."""

    def test_an_eviction_is_no_fault(self, complete: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Listed, and gone when it is opened; its row goes a moment later."""
        gone, stays = complete.blob(), complete.blob()
        listed = reconcile.listed

        def evicted_after(root: Path, prefix: str) -> set[str]:
            names = listed(root, prefix)
            if gone[7:] in names:
                complete.path(gone).unlink()
                complete.index.remove([gone])
            return names

        monkeypatch.setattr(reconcile, "listed", evicted_after)
        assert check(complete).wrong == 0
        assert complete.files() == complete.rows() == {stays}

    def test_a_commit_is_no_fault(self, complete: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file is there, its row comes some milliseconds later."""
        digest = complete.file()
        flaw = Verifier._flaw

        def entered_after(*arguments: Any) -> str | None:
            found = flaw(*arguments)
            with closing(Index.open(complete.root / "index.sqlite3")) as worker:
                worker.put_object(digest, 4096, None)
            return found

        monkeypatch.setattr(Verifier, "_flaw", entered_after)
        assert check(complete, 1).wrong == 0

    def test_a_bad_blob_that_is_fetched_anew(self, complete: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The proxy has found it out by itself: what is there now is another file."""
        digest = complete.blob(body=b"right")
        spoil(complete, digest)
        flaw = Verifier._flaw

        def fetched_after(*arguments: Any) -> str | None:
            found = flaw(*arguments)
            complete.path(digest).unlink()
            complete.file(body=b"right")
            return found

        monkeypatch.setattr(Verifier, "_flaw", fetched_after)
        assert check(complete).wrong == 0
        assert complete.files() == complete.rows() == {digest}

    def test_workers_let_go_of_it(self, complete: Stock) -> None:
        bad = complete.blob()
        told: list[str] = []
        with closing(Index.open(complete.root / "index.sqlite3")) as worker:
            worker.on_removed = told.append
            assert worker.object(bad) is not None
            spoil(complete, bad)
            check(complete)
            worker.tick()
            assert told == [bad] and worker.object(bad) is None

    def test_who_reads_it_goes_on(self, complete: Stock) -> None:
        bad = complete.blob(3 * MIB)
        spoil(complete, bad, 2 * MIB)
        with complete.path(bad).open("rb") as reader:
            reader.read(MIB)
            assert check(complete).quarantined == 1
            assert len(reader.read()) == 2 * MIB

    def test_an_index_that_fails_ends_it(self, complete: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """And its threads."""
        for _ in range(20):
            spoil(complete, complete.blob(MIB))

        def refuse(*_: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(Index, "remove", refuse)
        with pytest.raises(StoreError):
            check(complete)


class TestCommand:
    def test_all_is_right(self, complete: Stock) -> None:
        for size in (10, 5000):
            complete.blob(size)
        done = command(complete.root, "verify")
        assert (done.returncode, done.stderr) == (0, "")
        first, last = done.stdout.splitlines()
        assert first == f"{complete.root}: 2 blobs, 4.9 KiB by the index"
        assert re.fullmatch(r"checked 2 blobs, 4\.9 KiB, in \d+\.\d s: all are right", last)

    def test_something_was_wrong(self, complete: Stock) -> None:
        complete.blob()
        bad = complete.blob()
        spoil(complete, bad)
        done = command(complete.root, "verify", "--jobs", "1")
        assert (done.returncode, done.stderr) == (1, "")
        _, problem, last = done.stdout.splitlines()
        assert problem.startswith(f"{bad}: its 4096 bytes are sha256:")
        assert problem.endswith(f"; moved to quarantine/{bad[7:]}")
        assert f"1 wrong; 1 moved to {complete.root}/quarantine" in last
        assert command(complete.root, "verify").returncode == 0

    def test_the_directory_of_a_file(self, complete: Stock, tmp_path: Path) -> None:
        settings = tmp_path / "regproxy.toml"
        settings.write_text(f'cache_dir = "{complete.root}"\n')
        done = command(complete.root, "verify", "--config", str(settings), REGPROXY_CACHE_DIR="")
        assert done.returncode == 0 and str(complete.root) in done.stdout

    @pytest.mark.parametrize(
        "place, says",
        [
            ("nowhere", "no such directory; REGPROXY_CACHE_DIR, or --config, names the cache's"),
            ("empty", "holds no cache: there is no blobs/ in it"),
            ("file", "no such directory"),
        ],
    )
    def test_it_can_not_be_used(self, complete: Stock, tmp_path: Path, place: str, says: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").touch()
        done = command(complete.root, "verify", REGPROXY_CACHE_DIR=str(tmp_path / place))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"regproxy: {tmp_path / place}" in done.stderr and says in done.stderr
        assert list((tmp_path / "empty").iterdir()) == []
        assert not (tmp_path / "nowhere").exists()

    def test_a_setting_that_can_not_be_used(self, complete: Stock) -> None:
        done = command(complete.root, "verify", CACHE_MAX_SIZE="much")
        assert done.returncode == 2 and "CACHE_MAX_SIZE='much'" in done.stderr

    def test_somebody_elses(self, reachable: Stock) -> None:
        closed = [path for path in Path(sys.executable).parents if not path.stat().st_mode & stat.S_IXOTH]
        if closed:
            pytest.skip(f"other users can't run this Python: {closed[-1]} is closed to them")
        done = subprocess.run(
            [sys.executable, "-m", "regproxy", "cache", "verify"],
            env=environment(reachable.root),
            capture_output=True,
            text=True,
            timeout=60,
            user=65534,
            group=65534,
            extra_groups=[],
        )
        assert done.returncode == 2, done.stderr
        assert f"{reachable.root} is not writable by uid 65534; run this as its owner, uid 0" in done.stderr

    def test_root_leaves_nothing_that_is_closed_to_the_owner(self, reachable: Stock) -> None:
        spoil(reachable, reachable.blob())
        reachable.close()
        for path in [reachable.root, *reachable.root.rglob("*")]:
            os.chown(path, 65534, 65534)
        done = command(reachable.root, "verify")
        assert done.returncode == 1, done.stderr
        assert len(quarantined(reachable)) == 1
        assert {path.stat().st_uid for path in reachable.root.rglob("*")} == {65534}
        reachable.index = Index.open(reachable.root / "index.sqlite3")

    def test_on_a_terminal_there_is_a_bar(self, complete: Stock) -> None:
        complete.blob(MIB)
        spoil(complete, complete.blob(MIB))
        text, code = on_terminal(complete, "verify")
        assert code == 1
        assert "1.0/2.0 MiB" in text or "2.0/2.0 MiB" in text
        assert "moved to quarantine/" in text and "1 wrong" in text

    def test_interrupted(self, complete: Stock) -> None:
        """A reader that never ends: SIGINT is answered, and what was not looked at stays."""
        digest = complete.blob(MIB)
        with complete.path(digest).open("r+b") as file:
            file.truncate(1 << 40)
        process = subprocess.Popen(
            [sys.executable, "-m", "regproxy", "cache", "verify"],
            env=environment(complete.root),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs the tests in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout is not None
        with process:
            first = process.stdout.readline()
            assert "1 blobs" in first
            busy = Path(f"/proc/{process.pid}/task")
            wait_until(lambda: len(list(busy.iterdir())) > 2, "its threads run")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, "")
        assert "interrupted" in out
        assert complete.files() == {digest}


def on_terminal(stock: Stock, *words: str) -> tuple[str, int]:
    """What a command shows on a terminal, and its exit code."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "regproxy", "cache", *words],
        env=environment(stock.root, TERM="xterm", COLUMNS="300"),
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    text = b""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk
    except OSError:  # EIO: the other end has been closed
        pass
    os.close(ours)
    return text.decode(), process.wait(30)
