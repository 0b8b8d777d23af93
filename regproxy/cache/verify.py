"""Check every blob against its digest while the proxy runs; move bad files away and repair the index.

Bad files go to quarantine/: their content is of no use, but may show what happened to the disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Final

from msgspec import Struct, field

from regproxy.cache import layout, reconcile
from regproxy.cache.index.index import Index
from regproxy.core import file_lock

log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 20  # bytes of a read
_QUEUE: Final = 256  # blobs queued for each thread
_WAIT: Final = 0.1  # seconds between two checks of the threads' results
_SETTLE: Final = 2.0  # seconds; a worker enters a blob within 50 ms, an evictor drops a row as soon
_TICK: Final = 0.25
_MENDED: Final = 200  # differences that are repaired at once
_UNSETTLED: Final = 10_000  # differences that wait for a second look
_KEPT: Final = 1_000  # problems that are kept


class Problem(Struct, frozen=True):
    """A bad file or row. `what`: a digest, or a path in the cache directory; `why` it is wrong; what was
    `done` about it.
    """

    what: str
    why: str
    done: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.done}"


class Result(Struct):
    """`checked` blobs and `bytes` so far. `problems` has the first thousand, `wrong` counts them all.

    `quarantined` of them were moved away; `entered` files only had no row yet in a new index.
    """

    checked: int = 0
    bytes: int = 0
    wrong: int = 0
    quarantined: int = 0
    entered: int = 0
    problems: list[Problem] = field(default_factory=list)


class _Task(Struct, frozen=True):
    digest: str
    known: bool  # has a row


class _Bad(Struct, frozen=True):
    """A bad file, and where it is now; `moved` None: moving failed because of `trouble`."""

    name: str
    digest: str | None
    why: str
    moved: Path | None
    trouble: str = ""


class _Unknown(Struct, frozen=True):
    """A good blob without a row."""

    digest: str


class _Count(Struct, eq=False):
    """Counts of one thread; only that thread changes them."""

    checked: int = 0
    bytes: int = 0


class _Stopped(Exception):
    """The pass was ended early."""


class Verifier:
    """One pass over all blobs, in `jobs` threads. Use from one thread.

    `on_problem` is called with each problem when it is found, `on_progress` some times a second.
    """

    def __init__(
        self,
        root: Path,
        index: Index,
        jobs: int,
        *,
        on_problem: Callable[[Problem], None] | None = None,
        on_progress: Callable[[Result], None] | None = None,
    ) -> None:
        self._root = root
        self._index = index
        self._on_problem = on_problem
        self._on_progress = on_progress
        self._complete = index.complete
        self._result = Result()
        self._tasks: Queue[_Task | None] = Queue(jobs * _QUEUE)
        self._found: Queue[_Bad | _Unknown | BaseException] = Queue()
        self._counts = [_Count() for _ in range(jobs)]
        self._stop = Event()
        self._ticked_at = 0.0
        # Files without a row, and rows without a file, with the time at which that was seen.
        self._unsettled: deque[tuple[float, str, bool]] = deque()

    def run(self) -> Result:
        """Check everything. Raises StoreError if the index, and OSError if the disk can't be used."""
        threads = [Thread(target=self._work, args=(count,), daemon=True) for count in self._counts]
        for thread in threads:
            thread.start()
        try:
            for number in range(reconcile.DIRECTORIES):
                self._directory(f"{number:02x}")
            self._strangers()
            for _ in threads:
                self._put(None)
            while any(thread.is_alive() for thread in threads):
                self._collect(_WAIT)
            self._collect(0.0)
        finally:
            self._end(threads)
        self._settle(all_of_them=True)
        self._progress()
        return self._result

    def _end(self, threads: list[Thread]) -> None:
        self._stop.set()
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    # --- listing the files ----------------------------------------------------------------------------------

    def _directory(self, prefix: str) -> None:
        rows = reconcile.rows_under(self._index, prefix)
        try:
            names = reconcile.listed(self._root, prefix)
        except OSError as error:
            place = f"{layout.BLOBS}/{prefix}"
            self._report(Problem(place, f"can't be listed: {error.strerror}", "nothing of it was checked"))
            return
        now = time.monotonic()
        for digest in rows:
            if digest[7:] not in names:
                self._unsettled.append((now, digest, False))
        for name in sorted(names):
            digest_or_none = reconcile.digest_at(prefix, name)
            if digest_or_none is None:
                self._take(self._quarantine(f"{prefix}/{name}", None, "its name is no digest", None))
            else:
                self._put(_Task(digest_or_none, digest_or_none in rows))
        self._collect(0.0)

    def _strangers(self) -> None:
        """Move away anything beside the 256 directories."""
        place = layout.blobs(self._root)
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(place)):  # noqa: PTH208
                if len(name) != 2 or not set(name) <= set("0123456789abcdef"):
                    self._take(self._quarantine(name, None, "its name is no digest", None))

    def _put(self, task: _Task | None) -> None:
        while True:
            try:
                self._tasks.put(task, timeout=_WAIT)
                return
            except Full:
                self._collect(0.0)

    # --- in the threads ----------------------------------------------------------------------------------

    def _work(self, count: _Count) -> None:
        buffer = bytearray(_CHUNK)
        try:
            while (task := self._tasks.get()) is not None and not self._stop.is_set():
                found = self._check(task, count, memoryview(buffer))
                count.checked += 1
                if found is not None:
                    self._found.put(found)
        except _Stopped:
            pass
        except BaseException as error:
            self._found.put(error)

    def _check(self, task: _Task, count: _Count, buffer: memoryview) -> _Bad | _Unknown | None:
        path = layout.blob(self._root, task.digest)
        name = f"{task.digest[7:9]}/{task.digest[7:]}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None  # evicted meanwhile
        except OSError as error:
            return self._quarantine(name, task.digest, f"can't be opened: {error.strerror}", None)
        try:
            why = self._flaw(fd, task.digest, count, buffer)
            if why is not None:
                return self._quarantine(name, task.digest, why, fd)
        finally:
            os.close(fd)
        return None if task.known else _Unknown(task.digest)

    def _flaw(self, fd: int, digest: str, count: _Count, buffer: memoryview) -> str | None:
        """Return what is wrong with a file, None if nothing."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "is no file"
        hasher = hashlib.sha256()
        size = 0
        try:
            while n := os.readv(fd, [buffer]):
                hasher.update(buffer[:n])
                size += n
                count.bytes += n
                if self._stop.is_set():
                    raise _Stopped
        except OSError as error:
            return f"can't be read beyond byte {size}: {error.strerror}"
        found = hasher.hexdigest()
        return None if found == digest[7:] else f"its {size} bytes are sha256:{found}"

    def _quarantine(self, name: str, digest: str | None, why: str, fd: int | None) -> _Bad | None:
        """Move `blobs/sha256/<name>` away; None: it has gone, or is another file than `fd` by now."""
        path = layout.blobs(self._root) / name
        try:
            if fd is not None and not file_lock.names(path, fd):
                return None
            moved = _free_name(layout.quarantine(self._root), path.name)
            path.rename(moved)
        except FileNotFoundError:
            return None
        except OSError as error:
            return _Bad(name, digest, why, None, error.strerror or str(error))
        return _Bad(name, digest, why, moved)

    # --- results of the threads -----------------------------------------------------------------------------

    def _collect(self, timeout: float) -> None:
        """Process the threads' results, waiting for the first."""
        with suppress(Empty):
            while True:
                self._take(self._found.get(timeout=timeout) if timeout else self._found.get_nowait())
                timeout = 0.0
        self._settle()
        now = time.monotonic()
        if now - self._ticked_at >= _TICK:
            self._ticked_at = now
            self._index.tick()
            self._progress()

    def _take(self, found: _Bad | _Unknown | BaseException | None) -> None:
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, _Unknown):
            self._unsettled.append((time.monotonic(), found.digest, True))
        elif found is not None:
            self._take_bad(found)

    def _take_bad(self, bad: _Bad) -> None:
        what = bad.digest or f"{layout.BLOBS}/{bad.name}"
        if bad.moved is None:
            self._report(Problem(what, bad.why, f"it could not be moved away: {bad.trouble}"))
            return
        if bad.digest is not None:
            reconcile.forget(self._root, self._index, [bad.digest])
        self._result.quarantined += 1
        self._report(Problem(what, bad.why, f"moved to quarantine/{bad.moved.name}"))

    def _settle(self, *, all_of_them: bool = False) -> None:
        """Check differences again when they are two seconds old, and repair those that are left.

        Until then they may be a commit or an eviction that is under way.
        """
        waiting = self._unsettled
        while waiting:
            age = time.monotonic() - waiting[0][0]
            if age < _SETTLE:
                if not all_of_them and len(waiting) < _UNSETTLED:
                    return
                time.sleep(_SETTLE - age)
            some = [waiting.popleft() for _ in range(min(_MENDED, len(waiting)))]
            # Those that were seen later wait for their turn.
            ripe = time.monotonic() - _SETTLE
            waiting.extendleft(reversed([entry for entry in some if entry[0] > ripe]))
            self._mend([(digest, has_file) for seen, digest, has_file in some if seen <= ripe])

    def _mend(self, differences: list[tuple[str, bool]]) -> None:
        rowless, fileless = [], []
        for digest, has_file in differences:
            status = reconcile.look(self._root, digest)
            row = self._index.object(digest)
            if has_file and status is not None and row is None:
                # If renamed just now, it was evicted and fetched again meanwhile.
                if time.time() - status.st_ctime >= _SETTLE:
                    rowless.append(reconcile.row_of(digest, status))
            elif not has_file and status is None and row is not None:
                fileless.append(digest)
        if rowless:
            self._index.adopt(rowless)
        if fileless:
            reconcile.forget(self._root, self._index, fileless)
        if self._complete:
            for row in rowless:
                self._report(Problem(row.digest, "is not in the index", "entered"))
        else:
            self._result.entered += len(rowless)
        for digest in fileless:
            self._report(Problem(digest, "is in the index, and there is no such file", "removed from it"))

    def _report(self, problem: Problem) -> None:
        self._result.wrong += 1
        if len(self._result.problems) < _KEPT:
            self._result.problems.append(problem)
        if self._on_problem is not None:
            self._on_problem(problem)

    def _progress(self) -> None:
        self._result.checked = sum(count.checked for count in self._counts)
        self._result.bytes = sum(count.bytes for count in self._counts)
        if self._on_progress is not None:
            self._on_progress(self._result)


def _free_name(directory: Path, name: str) -> Path:
    """Return an unused path: the same blob may have gone bad before."""
    directory.mkdir(mode=0o750, exist_ok=True)
    path, number = directory / name, 0
    while os.path.lexists(path):
        number += 1
        path = directory / f"{name}.{number}"
    return path
