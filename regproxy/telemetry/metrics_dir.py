"""Manage the directory in which the processes of one supervisor keep their metrics."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from regproxy.core import file_lock
from regproxy.core.errors import StoreError

_PREFIX: Final = "regproxy-metrics-"
VIEWS: Final = "debug-"  # what the names of directories for debug views begin with, which are in it, too
_ROOM: Final = 16 << 20  # bytes; a process that writes to a mapped file of a full tmpfs is killed


class Shelf:
    """A directory with files of prometheus_client's multiprocess mode, `<kind>_<slot>.db`, and `snapshots`.

    It is locked while it is in use, so that a killed supervisor's left-overs differ from another one's
    directory: a process's id says nothing if containers share a file system.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def make(cls, places: Iterable[Path]) -> Self:
        """Create one in the first usable one of the `places`, and clear left-overs. Raises StoreError if none
        is usable.
        """
        reasons = []
        for place in places:
            try:
                _clear(place)
                return cls._make(place)
            except OSError as error:
                reasons.append(f"{place}: {error.strerror}")
        raise StoreError(f"no place for the metrics ({'; '.join(reasons)}); TMPDIR names another")

    @classmethod
    def _make(cls, place: Path) -> Self:
        room = os.statvfs(place)
        if room.f_bavail * room.f_frsize < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        while True:
            path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                # Before the lock, another supervisor's _clear() may have taken it for a left-over.
                if _lock(fd) and file_lock.names(path, fd):
                    return cls(path, fd)
                os.close(fd)

    def forget(self, slot: str) -> None:
        """Remove gauges and snapshot of the process in that slot, which has ended; its counters stay."""
        for pattern in (f"gauge_live*_{slot}.db", f"live_{slot}.*"):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory, after all processes have ended."""
        _remove(self.path)
        os.close(self._fd)


def _clear(place: Path) -> None:
    """Remove left-over directories of this user's supervisors."""
    for path in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_uid == os.getuid() and _lock(fd):
                    _remove(path)
            finally:
                os.close(fd)


def _remove(path: Path) -> None:
    for pattern in ("*.db", "live_*"):
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)
    for directory in path.glob(f"{VIEWS}*"):
        shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        path.rmdir()


def _lock(fd: int) -> bool:
    """Lock a directory; file_lock.lock() can't, as those locks need a file that is open for writing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
