"""Remove part files and tag claims that were left behind and that no process is using."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from regproxy.cache import layout, reconcile
from regproxy.cache.layout import BESIDE, PART, PUSHED, TAG_CLAIM
from regproxy.cache.parts import unlink_beside
from regproxy.core import file_lock

_PIECE: Final = 100  # parts between two yields
_ANONYMOUS_AGE: Final = 10.0  # seconds; such a part is never resumed
_TAG_AGE: Final = 60.0
_PUSHED_AGE: Final = 600.0  # the registry confirms an upload right after its last byte


def sweep_parts(
    root: Path, clock: Callable[[], float] = time.time, keep: float = reconcile.DAY
) -> Iterator[int]:
    """Remove unused part files and tag claims; yield how many were removed, after each batch.

    A digest's part is kept for `keep` seconds, since another fill can resume it; but not if its content is
    stored by now, possibly by a tag's fill. Raises OSError at the end if some could not be removed.
    """
    paths: list[Path] = []
    for place in (layout.parts(root), layout.tag_claims(root)):
        with suppress(FileNotFoundError), os.scandir(place) as entries:
            paths.extend(place / entry.name for entry in entries)
    trouble: OSError | None = None
    for some in reconcile.pieces(paths, _PIECE):
        removed = 0
        for path in some:
            try:
                removed += _sweep(path, clock(), _keep(root, path, keep))
            except OSError as error:
                trouble = error
        yield removed
    if trouble is not None:
        raise trouble


def _sweep(path: Path, now: float, keep: float) -> bool:
    """Remove a file if it is old and no process has it locked. Return whether it was removed."""
    try:
        if not _old(path.lstat(), now, keep):
            return False
        if path.suffix in BESIDE:
            return not path.with_suffix(PART).exists() and _unlinked(path)
        return _remove_unlocked(path, now, keep)
    except FileNotFoundError:
        return False


def _remove_unlocked(path: Path, now: float, keep: float) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # It may have been used and released since the first check: check its name and time again.
        if not file_lock.lock(fd) or not file_lock.names(path, fd) or not _old(os.fstat(fd), now, keep):
            return False
        if path.suffix == PART:
            # Before the part itself: a process that creates the part anew writes its own.
            unlink_beside(path)
        return _unlinked(path)
    finally:
        os.close(fd)


def _keep(root: Path, path: Path, keep: float) -> float:
    """Return for how many seconds a file is kept after its last write."""
    if path.suffix == TAG_CLAIM:
        return _TAG_AGE
    if path.suffix in BESIDE:
        return _ANONYMOUS_AGE
    if path.suffix == PUSHED:
        return _PUSHED_AGE
    resumable = path.suffix != PART or reconcile.is_hex(path.stem)
    if not resumable or os.path.lexists(layout.blob(root, f"sha256:{path.stem}")):
        return _ANONYMOUS_AGE
    return keep


def _old(status: os.stat_result, now: float, keep: float) -> bool:
    return stat.S_ISREG(status.st_mode) and now - status.st_mtime > keep


def _unlinked(path: Path) -> bool:
    path.unlink()
    return True
