"""Read a small file whole: neither its size, nor what it is, can hold up the reader."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

FILE_MAX: Final = 1_048_576  # bytes


def read_small(path: str | Path) -> bytes:
    """Return what is in a file of FILE_MAX bytes at most.

    Raises OSError, whose `strerror` says why: also for what is longer, and for what is no file (a pipe would
    be waited for, and is empty when it is read again).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError:
        raise OSError(errno.EINVAL, "not a path", str(path)) from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(FILE_MAX + 1)
    finally:
        os.close(fd)
    if len(data) > FILE_MAX:
        raise OSError(errno.EFBIG, f"more than {FILE_MAX} bytes", str(path))
    return data
