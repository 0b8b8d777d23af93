"""Lock files between processes, for instance to fill a part or to fetch a tag.

They are open-file-description locks (fcntl(2), F_OFD_SETLK): the kernel releases them when the last
descriptor of the description that took them is closed, so also when its process is killed.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_FLOCK: Final = "hhqqi"  # struct flock: l_type, l_whence, l_start, l_len, l_pid
_LOCK: Final = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_UNLOCK: Final = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


def lock(fd: int) -> bool:
    """Lock the whole file, which has to be open for writing; False: another description has the lock."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK)
    except (BlockingIOError, PermissionError):  # EAGAIN, EACCES
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock, though descriptors of the same description stay open."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _UNLOCK)


def names(path: str | Path, fd: int) -> bool:
    """Tell whether `path` still is the file that `fd` has open: it may have been renamed or removed since."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))  # noqa: PTH116 (a str on the way of each fill)
    except FileNotFoundError:
        return False
