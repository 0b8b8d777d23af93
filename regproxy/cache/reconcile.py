"""Compare blobs/ with the index, one of its 256 directories at a time, and repair what differs.

Workers go on committing and evicting meanwhile: a file exists a moment before its row, and is gone a moment
before it. So each difference is checked again before anything is removed, and a removed row is entered again
if its file has come back.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from regproxy.cache import layout
from regproxy.cache.index.index import Index, ObjectRow
from regproxy.core.errors import StoreError

log = logging.getLogger(__name__)

DAY: Final = 86_400.0  # seconds; a younger file may belong to a process that is at work
DIRECTORIES: Final = 256
_PIECE: Final = 200  # files or rows between two yields
_SUSPECTS: Final = 10_000  # orphans of one pass; the next pass takes the rest
_SECOND_LOOK: Final = 1.0  # seconds; a worker enters committed content within 50 ms
_HEX: Final = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class Found(Struct):
    """The results of a pass so far. `bytes`: of removed files, on disk; `failures`: files that could not be
    read.
    """

    directories: int = 0
    adopted: int = 0
    dropped: int = 0
    orphans: int = 0
    strays: int = 0
    bytes: int = 0
    failures: int = 0


def digest_at(prefix: str, name: str) -> str | None:
    """Return the digest that the file `name` in the directory `prefix` is named by; None if it is no digest
    of there.
    """
    return f"sha256:{name}" if name.startswith(prefix) and _HEX.fullmatch(name) else None


def is_hex(name: str) -> bool:
    """Tell whether `name` is a digest without its algorithm."""
    return _HEX.fullmatch(name) is not None


def row_of(digest: str, status: os.stat_result) -> ObjectRow:
    """Return a row for a file that has none: its last use is its last write."""
    disk, written = status.st_blocks * 512, status.st_mtime
    return ObjectRow(
        digest, size=status.st_size, disk=disk, media_type=None, last_used=written, stored_at=written
    )


def rows_under(index: Index, prefix: str) -> dict[str, ObjectRow]:
    """Return the rows of one directory, by digest. Raises StoreError."""
    after = f"sha256:{int(prefix, 16) + 1:02x}" if prefix != "ff" else "sha256:g"
    return index.rows_between(f"sha256:{prefix}", after)


def listed(root: Path, prefix: str) -> set[str]:
    """Return the names in one directory; none if it does not exist. Raises OSError for other errors."""
    try:
        with os.scandir(f"{root}/{layout.BLOBS}/{prefix}") as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def look(root: Path, digest: str) -> os.stat_result | None:
    """Return the status of a blob's file; None: no such file, or not a regular one. Raises OSError for other
    errors.
    """
    try:
        status = os.lstat(layout.blob(root, digest))
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def forget(root: Path, index: Index, digests: Sequence[str]) -> None:
    """Remove the rows of files that are gone. Raises StoreError.

    If one was just downloaded again, that may have removed its new row: it is entered again.
    """
    index.remove(digests)
    back = [row_of(digest, status) for digest in digests if (status := _glance(root, digest)) is not None]
    if back:
        index.adopt(back)


def _glance(root: Path, digest: str) -> os.stat_result | None:
    with suppress(OSError):
        return look(root, digest)
    return None


def pieces(items: Iterable[T], size: int = _PIECE) -> Iterator[list[T]]:
    """Yield lists of at most `size` items."""
    left = iter(items)
    while piece := list(islice(left, size)):
        yield piece


class Reconciler:
    """One pass. `found` is its result so far; `done`: the pass is finished, and the index is complete now.

    `clock`: seconds since the epoch, as files' times are.
    """

    def __init__(
        self,
        root: Path,
        index: Index,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._index = index
        self._clock = clock
        self._monotonic = monotonic
        self._suspects: deque[tuple[float, str]] = deque()
        self._whole = True
        self.found = Found()
        self.done = False

    def steps(self) -> Iterator[float]:
        """Run the pass, a bounded piece for each next(); yield the seconds to wait before the next, mostly 0.

        It ends early, not `done`, if the index is replaced by another file or the cache directory is gone.
        Raises StoreError if the index can't be written. In both cases a new pass is due.
        """
        started = self._monotonic()
        self.found, self._whole = Found(), True
        self._suspects.clear()
        identity = self._identity()
        if identity is not None:
            self._index.adopt(())  # raises if the open index is not the file at its path
            for number in range(DIRECTORIES):
                yield from self._directory(f"{number:02x}")
                self.found.directories = number + 1
                if self._identity() != identity:
                    return  # recreated or removed: the rows entered so far are not in it
            yield from self._judge()
            if self._whole and self._identity() == identity:
                self._index.set_complete()
                self.done = True
        self._say(self._monotonic() - started)

    def _identity(self) -> tuple[int, int] | None:
        """Return which file the index is; None: there is none, or no cache directory."""
        try:
            status = layout.index(self._root).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _directory(self, prefix: str) -> Iterator[float]:
        # Rows first: then a row without a file is not just one that was entered after the listing.
        rows = rows_under(self._index, prefix)
        yield 0.0
        try:
            names = listed(self._root, prefix)
        except OSError as error:
            self._failed(f"{layout.BLOBS}/{prefix}", error)
            self._whole = False
            return
        missing = [digest for digest in rows if digest[7:] not in names]
        unknown = [name for name in names if f"sha256:{name}" not in rows]
        yield 0.0
        for digests in pieces(missing):
            self._drop(digests)
            yield 0.0
        complete = self._index.complete
        for some in pieces(unknown):
            self._enter(prefix, some, complete)
            yield 0.0

    def _drop(self, digests: list[str]) -> None:
        gone = []
        for digest in digests:
            try:
                if look(self._root, digest) is None:
                    gone.append(digest)
            except OSError as error:
                self._failed(digest, error)
        if gone:
            forget(self._root, self._index, gone)
            self.found.dropped += len(gone)

    def _enter(self, prefix: str, names: list[str], complete: bool) -> None:
        """Enter files that have no row; if every file is known to have had a row, old ones are suspects."""
        now = self._clock()
        rows = []
        for name in names:
            path = f"{self._root}/{layout.BLOBS}/{prefix}/{name}"
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._failed(path, error)
                continue
            digest = digest_at(prefix, name) if stat.S_ISREG(status.st_mode) else None
            old = now - status.st_mtime > DAY
            if digest is None:
                if old:
                    self._remove_stray(path, status)
            elif not (complete and old):
                rows.append(row_of(digest, status))
            elif len(self._suspects) < _SUSPECTS:
                self._suspects.append((self._monotonic(), digest))
        if rows:
            self.found.adopted += self._index.adopt(rows)

    def _remove_stray(self, path: str, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            return  # made on purpose by someone
        try:
            os.unlink(path)  # noqa: PTH108
        except OSError as error:
            self._failed(path, error)
        else:
            self.found.strays += 1
            self.found.bytes += status.st_blocks * 512

    def _judge(self) -> Iterator[float]:
        """Check the suspects again, a second later, and remove those that still have no row."""
        for some in pieces(tuple(self._suspects)):
            wait = some[-1][0] + _SECOND_LOOK - self._monotonic()
            if wait > 0:
                yield wait
            for _, digest in some:
                self._remove_orphan(digest)
            yield 0.0
        self._suspects.clear()

    def _remove_orphan(self, digest: str) -> None:
        try:
            status = look(self._root, digest)
            # Check its time again: it may have been downloaded again.
            if status is None or self._clock() - status.st_mtime <= DAY:
                return
            # Not object(), which takes a row that can't be read for missing: this has to be certain.
            if not self._index.rows_between(digest, digest + "\0"):
                os.unlink(layout.blob(self._root, digest))  # noqa: PTH108
                self.found.orphans += 1
                self.found.bytes += status.st_blocks * 512
        except (FileNotFoundError, StoreError):
            pass
        except OSError as error:
            self._failed(digest, error)

    def _failed(self, what: str, error: OSError) -> None:
        if not self.found.failures:
            log.warning("reconcile: %s: %s", what, error.strerror or error)
        self.found.failures += 1

    def _say(self, seconds: float) -> None:
        found = self.found
        counts = {
            "entered": found.adopted,
            "rows without a file dropped": found.dropped,
            "orphans removed": found.orphans,
            "strange files removed": found.strays,
            "bytes freed": found.bytes,
            "could not be read or removed": found.failures,
        }
        text = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        log.info("blobs compared with the index in %.1f s: %s", seconds, text or "they agree")
