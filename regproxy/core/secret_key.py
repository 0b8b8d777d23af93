"""Keep a random key in a file that several processes share."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

KEY_BYTES: Final = 32


def shared_key(path: Path) -> bytes:
    """Return the key in a file, which is made if there is none; whoever makes it first decides.

    Where there can be none, the key is this process's own: what it names is known to no other.
    """
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return _read(path) or _make(path)
    except OSError as error:
        log.warning("%s: %s; what is known of askers is not shared by workers", path, error.strerror)
        return secrets.token_bytes(KEY_BYTES)


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(key) == KEY_BYTES:
        return key
    path.unlink(missing_ok=True)  # cut short by a full disk, say
    return None


def _make(path: Path) -> bytes:
    fd, name = tempfile.mkstemp(".tmp", f"{path.name}.", path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)  # noqa: PTH108
    return path.read_bytes()
