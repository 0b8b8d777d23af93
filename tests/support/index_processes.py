"""Several indexes on one file: in this process, and in others that do what they are told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regproxy.cache.index.index import Index, ObjectRow, TagRow
from regproxy.dataplane import board as board_module

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NGINX = ("registry-1.docker.io", 443, "library/nginx", "latest")
ROW = TagRow("any", "sha256:" + "a" * 64, INDEX, 9_000, 1_800_000_000.5, 3)

_CHILD = """
import sys
from pathlib import Path
from regproxy.dataplane.board import Board
from regproxy.cache.index.index import Index, ObjectRow, TagRow

fd = int(sys.argv[2])
index = Index.open(Path(sys.argv[1]), board=Board(fd) if fd >= 0 else None)
print("ready", flush=True)
for line in sys.stdin:
    name, arguments = eval(line)
    result = getattr(index, name)(*arguments) if callable(getattr(index, name)) else getattr(index, name)
    print(repr(result), flush=True)
index.close()
"""


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def object_row(number: int, *, size: int = 100, last_used: float = 1.0) -> ObjectRow:
    return ObjectRow(digest(number), size, None, last_used, 4096, last_used)


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def board_fd() -> Iterator[int]:
    """The memory behind the boards of several processes."""
    fd = os.memfd_create("board")
    try:
        os.ftruncate(fd, board_module.SIZE)
        yield fd
    finally:
        os.close(fd)


class Other:
    """Another process that has the index open. `board` -1: it has none."""

    def __init__(self, path: Path, board: int = -1) -> None:
        command = [sys.executable, "-c", _CHILD, str(path), str(board)]
        pipe = subprocess.PIPE
        fds = (board,) if board >= 0 else ()
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=fds)
        assert self._answer() == "ready"

    def begin(self, name: str, *arguments: object) -> None:
        """Let it call a method, and do not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{(name, arguments)!r}\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """The result of the method that was begun first."""
        return eval(self._answer(), {"TagRow": TagRow, "ObjectRow": ObjectRow})

    def do(self, name: str, *arguments: object) -> Any:
        """Let it call a method, or read an attribute."""
        self.begin(name, *arguments)
        return self.end()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def rest(*indexes: Index) -> None:
    """Let the indexes notice what has become of their file."""
    for index in indexes:
        index.tick()
    for index in indexes:
        index.flush()
    for index in indexes:
        index.tick()


def reopened(index: Index, path: Path, clock: Clock) -> Index:
    """Return the same index as another process sees it, after this one has written."""
    assert index.flush()
    return Index.open(path, clock=clock)


def sums(path: Path) -> list[tuple[int, int, int]]:
    """What the triggers have counted, and what is there: the same twice if all is well."""
    counted = "SELECT objects, bytes, disk FROM totals"
    there = "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(disk), 0) FROM objects"
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        return connection.execute(f"{counted} UNION ALL {there}").fetchall()


class StoppedWriter:
    """Holds the database as another process would, so that our writer can't."""

    def __init__(self, index: Index) -> None:
        self._writer = index._writer._opened.writer
        self._writer.execute("PRAGMA busy_timeout = 0")
        self._connection = sqlite3.connect(index._file.path, isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()
