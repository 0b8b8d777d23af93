"""Keep a random secret in a file that several processes share: whoever makes it first decides."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from regproxy.core.named_file import read_file

log = logging.getLogger(__name__)

KEY_BYTES: Final = 32


def make_once(path: Path, secret: bytes, is_good: Callable[[bytes], bool], most: int = 4096) -> bool:
    """Write a secret into a file, mode 0600, unless that has a good one. Returns whether it was written.

    `most`: bytes of the file. Raises OSError, also where what is there can't be read: it may be good.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if _has(path, is_good, most):
        return False
    fd, name = tempfile.mkstemp(".tmp", f"{path.name}.", path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            # Another process was faster, or what is there is of no use: cut short by a full disk, say.
            if _has(path, is_good, most):
                return False
            os.replace(name, path)  # noqa: PTH105
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
    return True


def _has(path: Path, is_good: Callable[[bytes], bool], most: int) -> bool:
    try:
        return is_good(read_file(path, most))
    except FileNotFoundError:
        return False


def shared_key(path: Path) -> bytes:
    """Return the key in a file, which is made if there is none.

    Where there can be none, the key is this process's own: what it names is known to no other.
    """
    try:
        make_once(path, secrets.token_bytes(KEY_BYTES), lambda found: len(found) == KEY_BYTES)
        return path.read_bytes()
    except OSError as error:
        log.warning("%s: %s; what is known of askers is not shared by workers", path, error.strerror)
        return secrets.token_bytes(KEY_BYTES)
