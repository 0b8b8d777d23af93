"""Read a file that a setting names: without waiting, and no more of it than such a file has.

The path may be wrong: of a pipe, whose open() would wait for a writer; of a device or a huge file, which
would fill the memory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

FILE_MAX: Final = 1_048_576  # bytes


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file. Raises OSError for anything else; its strerror says what was wrong."""
    name = str(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError:
        raise OSError(errno.EINVAL, "not a path", name) from None  # a NUL in it
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a file, but a pipe or a device", name)
        return open(fd, "rb")  # noqa: PTH123
    except BaseException:
        os.close(fd)
        raise


def read_file(path: str | Path, most: int = FILE_MAX) -> bytes:
    """Return what is in a regular file. Raises OSError as open_file() does, or for more than `most` bytes."""
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return data


def read_text(path: str | Path, most: int = FILE_MAX) -> str:
    """Return the text of a regular file. Raises OSError as read_file() does, and where it is not UTF-8."""
    try:
        return read_file(path, most).decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "not UTF-8", str(path)) from None
