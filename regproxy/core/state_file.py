"""Keep a small file that processes share and a restart reads: replaced as a whole, read when it has changed.

<name>            the content
<name>.lock       held by a process that changes it
<name>.*.tmp      the next content; one that is left over has lost its writer
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

FILE_MAX: Final = 1 << 20  # bytes; a larger one is not read
_LOCK_TRIES: Final = 20
_LOCK_PAUSE: Final = 0.05  # seconds
_LEFT_OVER_SECONDS: Final = 60.0


class StateFile:
    """The file at `path`. If it can't be read, that is ignored; if it can't be written, that is logged
    once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._complained = False
        for left in path.parent.glob(f"{path.name}.*.tmp"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                    left.unlink()

    def read(self) -> bytes | None:
        """Return the content, None if it has not changed or can't be read."""
        try:
            seen = _identity(self._path.stat())
            if seen == self._seen or seen[2] > FILE_MAX:
                return None
            self._seen = seen
            return self._path.read_bytes()
        except OSError:
            return None

    def write(self, text: bytes) -> bool:
        """Replace the content; read() of this object does not return it as a change. False: that failed."""
        return self._guarded(lambda: self._replace(text))

    def change(self, change: Callable[[bytes], bytes]) -> bool:
        """Replace the content by `change(content)` (b"" if there is none), one process at a time.

        False: that failed.
        """
        return self._guarded(lambda: self._change(change))

    def _guarded(self, write: Callable[[], None]) -> bool:
        try:
            self._path.parent.mkdir(mode=0o750, exist_ok=True)
            write()
        except OSError as error:
            if not self._complained:
                log.warning("%s can't be written: %s; workers do not share it", self._path, error.strerror)
            self._complained = True
            return False
        self._complained = False
        return True

    def _change(self, change: Callable[[bytes], bytes]) -> None:
        with locked(self._path.with_name(f"{self._path.name}.lock")):
            before = b""
            with suppress(FileNotFoundError):
                if self._path.stat().st_size <= FILE_MAX:
                    before = self._path.read_bytes()
            seen = self._seen
            self._replace(change(before))
            # Others may have added data that this process does not know yet.
            self._seen = seen

    def _replace(self, text: bytes) -> None:
        fd, name = tempfile.mkstemp(".tmp", f"{self._path.name}.", self._path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text)
                file.flush()
                seen = _identity(os.fstat(file.fileno()))
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._seen = seen


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is made; go on without it if another process, which may be
    stopped, holds it for a second.

    Raises OSError where the file can't be made.
    """
    with path.open("a") as file:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            else:
                break
        yield
