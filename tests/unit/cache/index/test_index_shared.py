"""The index in several processes: what one changes, the others know, and no death of one harms the file."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from regproxy.cache.index import index as index_module
from regproxy.cache.index import transactions
from regproxy.cache.index.index import Index, TagKey, Totals
from regproxy.dataplane.board import Board
from tests.support.index_processes import (
    MANIFEST,
    NGINX,
    ROW,
    Other,
    StoppedWriter,
    board_fd,
    digest,
    object_row,
    rest,
    sums,
)

SINGLE = replace(ROW, variant="single", digest=digest(2))
OLDER = replace(ROW, digest=digest(3))


@pytest.fixture
def board(stack: ExitStack) -> int:
    return stack.enter_context(board_fd())


@pytest.fixture
def index(path: Path, stack: ExitStack, board: int) -> Index:
    index = Index.open(path, board=Board(board))
    stack.callback(index.close)
    return index


@pytest.fixture
def other(index: Index, path: Path, stack: ExitStack, board: int) -> Other:
    """Another process with the same board."""
    return stack.enter_context(Other(path, board))


@pytest.fixture
def stranger(index: Index, path: Path, stack: ExitStack) -> Other:
    """Another process without it."""
    return stack.enter_context(Other(path))


# --- what others change ----------------------------------------------------------------------------------


def test_what_another_process_drops_is_gone(index: Index, other: Other) -> None:
    index.put_tag(*NGINX, ROW)
    index.put_object(digest(1), 5, MANIFEST)
    assert index.flush()
    assert (index.tag(*NGINX), index.media_type(digest(1))) == ((ROW,), MANIFEST)
    assert (other.do("tag", *NGINX), other.do("media_type", digest(1))) == ((ROW,), MANIFEST)
    other.do("drop_tag", *NGINX)
    other.do("drop_object", digest(1))
    assert other.do("flush")
    assert (index.tag(*NGINX), index.media_type(digest(1)), index.object(digest(1))) == ((), None, None)


def test_what_another_process_puts_is_seen(index: Index, other: Other) -> None:
    assert index.tag(*NGINX) == ()
    other.do("put_tag", *NGINX, ROW)
    assert other.do("flush")
    assert index.tag(*NGINX) == (ROW,)
    index.put_tag(*NGINX, SINGLE)
    assert index.flush()
    other.do("put_tag", *NGINX, OLDER)
    assert other.do("flush")
    assert set(index.tag(*NGINX)) == set(other.do("tag", *NGINX)) == {OLDER, SINGLE}


def test_what_another_process_removes_is_let_go(index: Index, other: Other) -> None:
    removed: list[str] = []
    index.on_removed = removed.append
    index.adopt(object_row(number) for number in range(3))
    index.put_tag(*NGINX, replace(ROW, digest=digest(1)))
    index.put_tag(*NGINX, SINGLE)
    assert index.flush()
    assert set(index.tag(*NGINX)) == {replace(ROW, digest=digest(1)), SINGLE}
    other.do("remove", [digest(1), digest(0)])
    assert index.tag(*NGINX) == (SINGLE,)
    assert removed == [digest(1), digest(0)]
    other.do("remove", [digest(2)], False)
    assert (index.object(digest(2)), removed) == (None, [digest(1), digest(0)])
    index.tick()
    assert index.objects == 0


def test_a_process_without_the_board_is_noticed_at_the_tick(index: Index, stranger: Other) -> None:
    removed: list[str] = []
    index.on_removed = removed.append
    index.put_tag(*NGINX, ROW)
    index.put_object(digest(1), 5, MANIFEST)
    assert index.flush()
    assert (index.tag(*NGINX), index.media_type(digest(1))) == ((ROW,), MANIFEST)
    stranger.do("drop_tag", *NGINX)
    stranger.do("remove", [digest(1)])
    index.tick()
    assert (index.tag(*NGINX), index.media_type(digest(1)), removed) == ((), None, [digest(1)])


def test_what_is_put_after_a_strangers_change_stands(index: Index, stranger: Other) -> None:
    """It is noticed by the put, though there was no tick."""
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    stranger.do("drop_tag", *NGINX)
    assert stranger.do("flush")
    index.put_tag(*NGINX, SINGLE)
    assert index.tag(*NGINX) == (SINGLE,)
    assert index.flush()
    stranger.do("tick")
    assert index.tag(*NGINX) == stranger.do("tag", *NGINX) == (SINGLE,)


# --- who was last ----------------------------------------------------------------------------------------


def test_what_was_put_before_a_purge_does_not_come_back(index: Index, other: Other) -> None:
    """It waited to be written while another process dropped the tag: for that one it was never there."""
    with StoppedWriter(index):
        index.put_tag(*NGINX, ROW)
        assert not index.flush()
    other.do("drop_tag", *NGINX)
    assert other.do("flush")
    assert index.flush()
    assert (index.tag(*NGINX), other.do("tag", *NGINX)) == ((), ())


def test_a_purge_takes_away_what_waits(index: Index, path: Path, stack: ExitStack, board: int) -> None:
    other = Index.open(path, board=Board(board))
    stack.callback(other.close)
    stop(index, stack)
    index.put_tag(*NGINX, ROW)
    other.drop_tag(*NGINX)
    assert other.flush()
    assert index.tag(*NGINX) == ()
    index.put_tag(*NGINX, SINGLE)
    assert index.tag(*NGINX) == (SINGLE,)
    assert other.tag(*NGINX) == ()


def stop(index: Index, stack: ExitStack) -> None:
    """Let the writer of this index write nothing until the test is over."""
    writer = index._writer
    real = writer._write_all
    writer._write_all = lambda *, uses: False  # type: ignore[method-assign]
    stack.callback(setattr, writer, "_write_all", real)


def test_what_is_written_but_not_settled_does_not_cover_what_comes_after(
    index: Index, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, written, go = index._writer.tags.settle, threading.Event(), threading.Event()

    def settle_late(changes: dict[TagKey, transactions.TagChange]) -> None:
        if threading.current_thread() is index._writer._thread:
            written.set()
            assert go.wait(20)
        settle(changes)

    monkeypatch.setattr(index._writer.tags, "settle", settle_late)
    index.put_tag(*NGINX, ROW)
    assert written.wait(20)
    other.do("put_tag", *NGINX, OLDER)
    assert other.do("flush")
    assert index.tag(*NGINX) == (OLDER,)
    go.set()
    assert index.flush()
    assert index.tag(*NGINX) == (OLDER,)


def test_a_file_that_is_there_again_keeps_its_row(
    index: Index, path: Path, stack: ExitStack, board: int
) -> None:
    """A damaged file is dropped here and downloaded there, before the first is written."""
    other = Index.open(path, board=Board(board))
    stack.callback(other.close)
    index.put_object(digest(1), 5, MANIFEST)
    assert index.flush()
    removed: list[str] = []
    other.on_removed = removed.append
    with ExitStack() as stopped:
        stop(index, stopped)
        index.drop_object(digest(1))
        other.put_object(digest(1), 5, MANIFEST)
        assert other.flush()
    assert index.flush()
    other.sync()
    assert removed == [digest(1)]
    for seen in (index, other):
        assert seen.object(digest(1)) is not None
    assert index.objects == 1


def test_own_changes_are_not_forgotten(index: Index, other: Other) -> None:
    """Nor do they hide those of others that come between."""
    removed: list[str] = []
    index.on_removed = removed.append
    index.put_tag(*NGINX, ROW)
    other.do("put_object", digest(7), 5, MANIFEST)
    assert other.do("flush")
    index.put_object(digest(1), 5, MANIFEST)
    rows = index.tag(*NGINX)
    assert index.flush()
    assert index.tag(*NGINX) is rows
    index.put_tag("a.example", 443, "r", "1", ROW)
    other.do("drop_object", digest(7))
    assert other.do("flush")
    assert index.flush()
    assert index.tag(*NGINX) is rows
    assert removed == [digest(7)]


def test_hits_ask_nobody(index: Index, other: Other) -> None:
    index.put_tag(*NGINX, ROW)
    index.put_object(digest(1), 5, MANIFEST)
    assert index.flush()
    index.tag(*NGINX)
    statements: list[str] = []
    index._reader.set_trace_callback(statements.append)
    for _ in range(3):
        index.touch(digest(1))
        assert (index.tag(*NGINX), index.media_type(digest(1))) == ((ROW,), MANIFEST)
    assert statements == []
    other.do("put_tag", "a.example", 443, "r", "1", ROW)
    assert other.do("flush")
    assert index.tag(*NGINX) == (ROW,)
    assert len(statements) == 1


# --- more news than there is room for --------------------------------------------------------------------


def forgets(index: Index) -> list[bool]:
    calls: list[bool] = []
    index.on_forget_all = lambda: calls.append(True)
    return calls


def test_a_journal_that_was_trimmed(index: Index, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "JOURNAL_MAX", 10)
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    assert index.tag(*NGINX) == (ROW,)
    calls = forgets(index)
    other = Index.open(path)  # without the board: `index` goes on without looking
    other.drop_tag(*NGINX)
    for number in range(30):
        other.put_tag("a.example", 443, "r", str(number), ROW)
    other.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM journal").fetchone() == (10,)
    index.sync()
    assert (calls, index.tag(*NGINX)) == ([True], ())
    index.sync()
    assert len(index.tag("a.example", 443, "r", "29")) == 1
    assert calls == [True]


def test_more_news_than_are_gone_through(index: Index, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_NEWS_MAX", 10)
    calls = forgets(index)
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    other = Index.open(path)
    for count in (9, 11):
        assert index.tag(*NGINX) == (ROW,)
        for number in range(count):
            other.put_tag("a.example", 443, "r", str(number), ROW)
        assert other.flush()
        index.tick()
    assert (calls, index.tag(*NGINX)) == ([True], (ROW,))
    other.close()


def test_a_journal_that_cannot_be_read(index: Index, path: Path) -> None:
    """What is not known to be right is not kept."""
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    assert index.tag(*NGINX) == (ROW,)
    calls = forgets(index)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM tags")
        connection.execute("DROP TABLE journal")
        connection.commit()
    index.sync()
    assert (calls, index.tag(*NGINX)) == ([True], ())


@pytest.mark.parametrize("key", ["", "{", "[1]", "7"])
def test_a_journal_that_names_nothing(index: Index, path: Path, key: str) -> None:
    """A row is damaged: what is not known to be right is not kept."""
    index.put_tag(*NGINX, ROW)
    assert index.flush()
    calls = forgets(index)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO journal (writer, kind, key) VALUES (1, 'tag put', ?)", (key,))
        connection.commit()
    index.sync()
    assert (calls, index.tag(*NGINX)) == ([True], (ROW,))


# --- many at once ----------------------------------------------------------------------------------------

WRITES = """
import sys
from pathlib import Path
from regproxy.cache.index.index import Index, TagRow

index = Index.open(Path(sys.argv[1]))
first = int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 600):
    row = TagRow("any", f"sha256:{number:064x}", "m", 5, 1.0, 3)
    index.put_object(row.digest, number, "m", 512)
    index.put_object(f"sha256:{number % 7:064x}", number % 5, None, 512)
    index.put_tag("a.example", 443, "r", str(number), row)
    index.put_tag("a.example", 443, "r", "shared", row)
    if number % 3 == 0:
        index.drop_object(row.digest)
    if number % 20 == 0:
        assert index.flush(60)
index.close()
"""


def test_two_write_at_once(path: Path) -> None:
    Index.open(path).close()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WRITES, str(path)]
    writers = [subprocess.Popen([*command, str(n)], stdin=pipe, stdout=pipe, text=True) for n in (1000, 3000)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    index = Index.open(path)
    numbers = [*range(1000, 1600), *range(3000, 3600)]
    for number in numbers:
        assert len(index.tag("a.example", 443, "r", str(number))) == 1
        assert (index.object(digest(number)) is None) == (number % 3 == 0)
    assert index.objects == 7 + sum(number % 3 != 0 for number in numbers)
    assert index.tag("a.example", 443, "r", "shared")[0].digest in (digest(1599), digest(3599))
    index.close()
    assert len(set(sums(path))) == 1


CHURNS = """
import os, random, signal, sys
from pathlib import Path
from regproxy.cache.index.index import Index, ObjectRow, TagRow

index = Index.open(Path(sys.argv[1]))
random.seed(sys.argv[2])
left = int(sys.argv[3])
writer = index._writer._opened.writer

def step():
    # Within a transaction, as many of SQLite's instructions after the start as we were told.
    global left
    left -= writer.in_transaction
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

if left:
    writer.set_progress_handler(step, 1)
number = 0
while True:
    for _ in range(random.randrange(1, 300)):
        digest = f"sha256:{random.randrange(400):064x}"
        row = TagRow("any", digest, "m", 5, 1.0, 3)
        index.put_object(digest, random.randrange(10**9), "m", random.randrange(10**6))
        index.put_tag("a.example", 443, "r", str(random.randrange(100)), row)
        index.drop_object(f"sha256:{random.randrange(400):064x}")
        index.touch(digest)
    index.put_object("sha256:last", number, "m", number)
    print("writing", number, flush=True)
    assert index.flush()
    print("written", number, flush=True)
    index.remove([f"sha256:{random.randrange(400):064x}" for _ in range(5)])
    index.adopt([ObjectRow(f"sha256:{random.randrange(400):064x}", 7, None, 1.0, 512, 1.0) for _ in range(5)])
    number += 1
"""


def churn_and_die(path: Path, seed: int, chance: random.Random) -> int:
    """Let a process write until it is killed, by us or in a transaction of its own; what it last flushed."""
    left = chance.randrange(1, 50_000) if seed % 2 else 0
    command = [sys.executable, "-c", CHURNS, str(path), str(seed), str(left)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = []
    if not left:
        said = [writer.stdout.readline() for _ in range(chance.randrange(1, 8))]
        writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    assert writer.wait(60) == -signal.SIGKILL
    writer.stdout.close()
    return max((int(line.split()[1]) for line in said if line.startswith("written")), default=-1)


def test_writers_are_killed_in_the_middle(path: Path) -> None:
    """Twenty times; half of them with somebody else who has the file open and goes on with it."""
    chance = random.Random(1)
    Index.open(path).close()
    for number in range(0, 20, 2):
        for seed in (number, number + 1):
            flushed = churn_and_die(path, seed, chance)
            index = Index.open(path)
            last = index.object("sha256:last")
            assert flushed < 0 or (last is not None and last.size >= flushed)
            counted, there = sums(path)
            assert counted == there
            assert Totals(*counted) == index.totals()
            if seed == number:
                index.close()
        index.put_tag(*NGINX, replace(ROW, size=number))
        assert index.flush()
        assert [row.size for row in index.tag(*NGINX)] == [number]
        churn_and_die(path, number + 1, chance)
        index.tick()
        assert [row.size for row in index.tag(*NGINX)] == [number]
        index.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not path.with_name("index.sqlite3.aside").exists()


@pytest.mark.parametrize("harm", ["remove", "overwrite"])
def test_several_processes_notice_at_once(path: Path, harm: str, stack: ExitStack, board: int) -> None:
    """Only one of them may put a new file there, or two would each have their own."""
    others = [stack.enter_context(Other(path, board)) for _ in range(3)]
    others[0].do("put_tag", *NGINX, ROW)
    others[0].do("set_complete")
    inode = path.stat().st_ino
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(b"garbage" * 5000)
    for name in ("tick", "flush", "tick"):
        for other in others:
            other.begin(name)
        for other in others:
            other.end()
    assert path.stat().st_ino != inode
    assert path.with_name("index.sqlite3.aside").exists() == (harm == "overwrite")
    for number, other in enumerate(others):
        assert other.do("complete") is False
        assert other.do("tag", *NGINX) == ()
        other.do("put_tag", "a.example", 443, "r", str(number), ROW)
        assert other.do("flush")
    for other in others:
        for number in range(3):
            assert other.do("tag", "a.example", 443, "r", str(number)) == (ROW,)


def test_many_open_a_new_one_at_once(path: Path) -> None:
    code = (
        "import sys, pathlib, regproxy.cache.index.index as i\n"
        "index = i.Index.open(pathlib.Path(sys.argv[1]))\n"
        "index.put_object(sys.argv[2], 5, None); index.close()"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(6)]
    assert [process.wait(60) for process in started] == [0] * 6
    assert sums(path) == [(6, 30, 6 * 4096)] * 2


def test_threads_that_race_agree_in_the_end(path: Path, stack: ExitStack, board: int) -> None:
    """Four indexes put and drop the same few tags as fast as they can."""
    indexes = [Index.open(path, board=Board(board)) for _ in range(4)]
    keys = [("a.example", 443, "r", str(number)) for number in range(3)]

    def churn(index: Index, seed: int) -> None:
        chance = random.Random(seed)
        for number in range(400):
            key = chance.choice(keys)
            way = chance.randrange(8)
            if way == 0:
                index.drop_tag(*key)
            elif way < 5:
                variant = chance.choice(["any", "single"])
                index.put_tag(*key, replace(ROW, variant=variant, size=seed * 1000 + number))
            else:
                index.tag(*key)
            if way == 7:
                index.flush()

    threads = [threading.Thread(target=churn, args=(index, n)) for n, index in enumerate(indexes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in indexes:
        assert index.flush()
    fresh = Index.open(path)
    for key in keys:
        for index in indexes:
            assert set(index.tag(*key)) == set(fresh.tag(*key))
    for index in (*indexes, fresh):
        index.close()


# --- any order of it all ---------------------------------------------------------------------------------

WHO = st.integers(0, 2)
KEYS = st.sampled_from([("a.example", 443, "r", tag) for tag in "xy"])
ROWS = st.builds(replace, st.just(ROW), variant=st.sampled_from(["any", "single"]), size=st.integers(0, 9))


class Shared(RuleBasedStateMachine):
    """Three indexes, the last without the board: a purge is final, and all agree once all is written."""

    @initialize()
    def begin(self) -> None:
        self.scratch = tempfile.mkdtemp()
        path = Path(self.scratch) / "index.sqlite3"
        self.stack = ExitStack()
        fd = self.stack.enter_context(board_fd())
        self.indexes = [Index.open(path, board=board) for board in (Board(fd), Board(fd), None)]
        for index in self.indexes:
            self.stack.callback(index.close)
        self.path = path

    @rule(who=WHO, key=KEYS, row=ROWS)
    def put(self, who: int, key: TagKey, row: index_module.TagRow) -> None:
        index = self.indexes[who]
        for other in self.indexes:
            # A drop that another one has not written yet may come to the disk behind this.
            assert other is index or other.flush(20)
        index.put_tag(*key, row)
        assert row in index.tag(*key)

    @rule(who=WHO, key=KEYS)
    def drop(self, who: int, key: TagKey) -> None:
        self.indexes[who].drop_tag(*key)
        assert self.indexes[who].tag(*key) == ()

    @rule(who=WHO)
    def flush(self, who: int) -> None:
        assert self.indexes[who].flush()

    @rule(who=WHO, key=KEYS)
    def purge(self, who: int, key: TagKey) -> None:
        self.drop(who, key)
        self.flush(who)
        for index in self.indexes:
            if index is self.indexes[2] or who == 2:
                index.tick()
            assert index.tag(*key) == ()

    @rule(who=WHO, digests=st.sets(st.integers(0, 3).map(digest)))
    def remove(self, who: int, digests: set[str]) -> None:
        self.indexes[who].remove(digests)

    @rule()
    def agree(self) -> None:
        for index in self.indexes:
            assert index.flush()
        rest(*self.indexes)
        fresh = Index.open(self.path)
        for tag in "xy":
            key = ("a.example", 443, "r", tag)
            for index in self.indexes:
                assert set(index.tag(*key)) == set(fresh.tag(*key))
        fresh.close()

    @invariant()
    def one_row_for_each_variant(self) -> None:
        for index in self.indexes:
            rows = index.tag("a.example", 443, "r", "x")
            assert len({row.variant for row in rows}) == len(rows)

    def teardown(self) -> None:
        self.stack.close()
        shutil.rmtree(self.scratch)


TestShared = Shared.TestCase
TestShared.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
