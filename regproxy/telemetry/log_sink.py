"""Write the lines of a log from a thread of its own, so that a slow reader of it holds nobody up.

A file that is moved away (logrotate) is created again with the next lines.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from regproxy.core.errors import ConfigError

logger = logging.getLogger(__name__)

# What waits while the log is not read. A line is as long as a client has made it.
_QUEUE: Final = 128  # batches
_QUEUE_BYTES: Final = 32 << 20
_CHUNK: Final = 262144  # bytes per write
_STALL: Final = 0.5  # seconds between two checks of whether close() still waits
_SAY_EVERY: Final = 60.0  # seconds between two warnings


class LineSink:
    """A file and its thread. Batches of lines are added by `put()`, and dropped if too many wait.

    `dropped`: lines that were lost, because the queue was full or the file could not be written.
    """

    def __init__(self, path: Path | None, name: str, mode: int = 0o640) -> None:
        """`path` None: standard output. `name`: what the log is called in messages. `mode`: of a new file.

        Raises OSError if the file can't be opened.
        """
        self._path = path
        self._name, self._mode = name, mode
        self._fd = 1 if path is None else _append_to(path, mode)
        # Writes of at most PIPE_BUF to a pipe are never interleaved with those of other processes, and do not
        # block when poll() has reported room (pipe(7)).
        self._chunk = _CHUNK if stat.S_ISREG(os.fstat(self._fd).st_mode) else select.PIPE_BUF
        self._torn = False
        self.dropped = 0
        self._said = 0
        self._said_at = -_SAY_EVERY
        self._why = ""
        self._closing = False
        self._given_up = False
        self._queue: deque[list[str] | bytes] = deque()
        self._waiting = 0  # bytes in it
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name.replace(" ", "-"), daemon=True)
        self._thread.start()

    @staticmethod
    def probe(path: Path) -> None:
        """Raise OSError if no log can be written there. Makes nothing; no reader of a pipe sees its end."""
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            _check_writable(Path(os.path.realpath(path)).parent)
            return
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    @staticmethod
    def make(path: Path, mode: int = 0o640) -> None:
        """Make the file of a log that another process writes, if it is not there. Raises OSError."""
        if not path.exists():
            os.close(_append_to(path, mode))

    def put(self, lines: list[str] | bytes) -> None:
        """Hand over some lines, each with its end, or all of them as one text; never waits."""
        size = _size(lines)
        with self._changed:
            if len(self._queue) >= _QUEUE or self._waiting + size > _QUEUE_BYTES:
                count = lines.count(b"\n") if isinstance(lines, bytes) else len(lines)
                self._drop(count, "it is read too slowly")
            else:
                self._queue.append(lines)
                self._waiting += size
                self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write what is left, for `timeout` seconds at most, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        self._given_up = True
        self._thread.join(2 * _STALL)
        # A thread that hangs in write() (a stopped terminal) is left behind, with its file.
        if self._path is not None and not self._thread.is_alive():
            os.close(self._fd)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    break
                lines = self._queue.popleft()
                self._waiting -= _size(lines)
            self._follow_rename()
            for text, count in _pieces(lines, self._chunk):
                self._write(text, count)
            self._say()
        self._say(at_once=True)

    def _write(self, text: bytes, count: int) -> None:
        """Write some whole lines. After a partly written line, the next write begins with a line end."""
        rest = memoryview(b"\n" + text if self._torn else text)
        try:
            while rest:
                if not self._wait_writable():
                    raise TimeoutError(errno.ETIMEDOUT, "it is not read")
                with suppress(BlockingIOError):
                    written = os.write(self._fd, rest)
                    self._torn = written < len(rest)
                    rest = rest[written:]
        except OSError as error:
            with self._changed:
                self._drop(count, error.strerror or type(error).__name__)

    def _wait_writable(self) -> bool:
        """Wait for room; False: close() does not wait any longer."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(0 if self._given_up else _STALL * 1000):
            if self._given_up:
                return False
            self._say()
        return True

    def _follow_rename(self) -> None:
        """Open the path again if it no longer names the open file, as after logrotate."""
        if self._path is None:
            return
        with suppress(OSError):  # the old file is used until the new one can be opened
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                    return
            except FileNotFoundError:
                pass
            old, self._fd = self._fd, _append_to(self._path, self._mode)
            os.close(old)

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._why = why

    def _say(self, *, at_once: bool = False) -> None:
        # Always from this thread: if the access log stalls, standard error may stall too.
        new = self.dropped - self._said
        if new and (at_once or monotonic() - self._said_at >= _SAY_EVERY):
            logger.warning("%s: %d lines dropped: %s", self._name, new, self._why)
            self._said += new
            self._said_at = monotonic()


def check_log(setting: str, where: str) -> None:
    """Raise ConfigError where no log can be written there. `where`: a path, "-" or "off"."""
    if where in ("-", "off"):
        return
    try:
        LineSink.probe(Path(where))
    except OSError as error:
        raise unwritable(setting, where, error) from None


def unwritable(setting: str, where: str, error: OSError) -> ConfigError:
    """Return the error of a setting that names a log which can't be opened."""
    expected = f"can't be written: {error.strerror}; a path in a directory that exists, - or off"
    return ConfigError(setting, where, expected)


def _append_to(path: Path, mode: int) -> int:
    # Never waits, for a pipe's reader or a terminal's carrier; for room there is poll().
    flags = os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    except OSError as error:
        if error.errno != errno.ENXIO or not path.is_fifo():
            raise
        # Nobody reads it yet: what fits into it waits for the reader (fifo(7)).
        return os.open(path, os.O_RDWR | flags)


def _check_writable(folder: Path) -> None:
    """Raise OSError where no file can be made in a directory."""
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def _size(lines: list[str] | bytes) -> int:
    return len(lines) if isinstance(lines, bytes) else sum(map(len, lines))


def _pieces(lines: list[str] | bytes, limit: int) -> Iterator[tuple[bytes, int]]:
    """Return pieces of whole lines, of at most `limit` bytes (a longer line is a piece of its own)."""
    return _cut(lines, limit) if isinstance(lines, bytes) else _pack(lines, limit)


def _pack(lines: list[str], limit: int) -> Iterator[tuple[bytes, int]]:
    first, size = 0, 0
    for index, line in enumerate(lines):
        if size + len(line) > limit and index > first:
            yield "".join(lines[first:index]).encode("utf-8", "replace"), index - first
            first, size = index, 0
        size += len(line)
    yield "".join(lines[first:]).encode("utf-8", "replace"), len(lines) - first


def _cut(text: bytes, limit: int) -> Iterator[tuple[bytes, int]]:
    at = 0
    while at < len(text):
        end = text.rfind(b"\n", at, at + limit) + 1 or text.find(b"\n", at) + 1 or len(text)
        yield text[at:end], text.count(b"\n", at, end)
        at = end
