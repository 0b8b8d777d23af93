"""Evict content to keep the cache within its limits: total size, time without use, free disk space.

Each step is bounded, since the caller of `step()` has other work to do. Files are removed before their rows:
on a full disk SQLite can write only after something was removed, and if the process is killed in between, the
rows left are still the oldest, so the next step drops them. Workers that have an evicted file open go on
reading it, and are told by the index to close it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from regproxy.cache import layout, reconcile
from regproxy.cache.index.index import Index, ObjectRow
from regproxy.cache.layout import PART
from regproxy.cache.part_sweep import sweep_parts
from regproxy.cache.parts import promised
from regproxy.config.settings import Config
from regproxy.core import file_lock
from regproxy.core.errors import StoreError

log = logging.getLogger(__name__)

SIZE: Final = "size"
INACTIVE: Final = "inactive"
FREE: Final = "free"

_HIGH: Final = 0.95  # of the limit; eviction starts above it
_LOW: Final = 0.90  # of the limit; eviction stops here
_BATCH: Final = 200  # objects in a step
_STEP: Final = 0.05  # seconds of a step
_SETTLE: Final = 1.0  # seconds until the disk shows what was removed: workers close files within 250 ms
_IDLE_EVERY: Final = 5.0  # seconds between two checks for idle objects, at most
_BLIND: Final = 5.0  # seconds; an index that is being rebuilt has its first rows sooner
_SAY_EVERY: Final = 60.0  # seconds between two warnings about the same thing
_GIB: Final = 1 << 30

_TRUST: Final = 4  # at most 1/4 of the limit is made free for bytes that parts are only expected to get
_GROWS: Final = 60.0  # seconds without a byte after which a part is not expected to grow
_UNDER_PRESSURE: Final = 60.0  # seconds for which a broken fill's part is kept when there is no room


class CacheLimits(Struct, frozen=True):
    """Most bytes on disk and seconds without use (0: no limit); bytes to keep free (None: by disk size)."""

    max_size: int
    inactive: float
    min_free: int | None

    @classmethod
    def of(cls, config: Config) -> CacheLimits:
        """Return the configured limits."""
        return cls(config.cache_max_size, config.cache_inactive, config.min_free)


class Freed(Struct, frozen=True):
    """The result of a step, and the limit that it served; `bytes` on disk. `more`: another step is due at
    once.
    """

    reason: str = ""
    objects: int = 0
    bytes: int = 0
    more: bool = False


class Disk(Struct, frozen=True):
    """A file system's bytes: free for this process, and in total."""

    free: int
    total: int

    @classmethod
    def of(cls, path: Path) -> Disk:
        """Return the state of the file system of `path`. Raises OSError."""
        found = os.statvfs(path)
        return cls(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def floor(self, min_free: int | None) -> int:
        """Return the bytes that have to stay free."""
        return min(_GIB, self.total // 20) if min_free is None else min_free


class Complaints:
    """Warnings about lasting conditions, each at most once a minute."""

    def __init__(self, logger: logging.Logger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = logger
        self._monotonic = monotonic
        self._said: dict[str, float] = {}

    def say(self, key: str, text: str, *values: object) -> None:
        """Log a warning, unless one with this `key` (one of a few) was logged in the last minute."""
        now = self._monotonic()
        if now - self._said.get(key, -_SAY_EVERY) >= _SAY_EVERY:
            self._said[key] = now
            self._log.warning(text, *values)


class Evictor:
    """Evicts content, unless another process does so in this cache directory.

    `clock`: seconds since the epoch, like the last uses. `astray`: removals could not be written to the
    index, so that it has to be reconciled with the disk.
    """

    def __init__(
        self,
        root: Path,
        index: Index,
        limits: CacheLimits,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._index = index
        self._limits = limits
        self._clock = clock
        self.astray = False
        self._monotonic = monotonic
        self._complaints = Complaints(log, monotonic)
        self._lock = -1
        self._shrinking = False
        self._owed = 0  # bytes that the disk has to get back
        # Monotonic times of the next check: for idle objects, of the disk's space, for anything to evict.
        self._idle_at = self._space_at = self._any_at = monotonic()
        self._blind_at: float | None = None
        self._sums: dict[str, tuple[int, int]] = {}  # since the last line in the log

    def step(self) -> Freed:
        """Evict what is over the limits: at most 200 objects, in about 50 ms.

        Raises OSError and StoreError if the disk fails; removals made until then stay.
        """
        if not self._alone():
            return Freed()
        freed = self._evict_idle() or self._evict_oldest(SIZE, self._excess)
        freed = freed or self._evict_oldest(FREE, self._shortage)
        if freed is None:
            self._say()
            return Freed()
        objects, size = self._sums.get(freed.reason, (0, 0))
        self._sums[freed.reason] = (objects + freed.objects, size + freed.bytes)
        return freed

    def close(self) -> None:
        """Release the lock, so that another process may evict."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _alone(self) -> bool:
        """Return whether this process may evict; tries to take the lock if it doesn't have it."""
        path = layout.evict_lock(self._root)
        if self._lock >= 0:
            if file_lock.names(path, self._lock):
                return True
            self.close()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except FileNotFoundError:
            return False  # the cache directory was removed
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return True  # some process has to make room; two doing so do no harm
            raise
        if file_lock.lock(fd) and file_lock.names(path, fd):
            self._lock = fd
            return True
        os.close(fd)
        return False

    def _evict_idle(self) -> Freed | None:
        now, inactive = self._monotonic(), self._limits.inactive
        if not inactive or now < self._idle_at:
            return None
        rows = self._index.oldest(_BATCH, self._clock() - inactive)
        if not rows:
            # Not each second: the oldest may be pins, and the query skips these one by one.
            self._idle_at = now + min(_IDLE_EVERY, inactive / 10)
        return self._remove(rows, INACTIVE, None) if rows else None

    def _evict_oldest(self, reason: str, wanted: Callable[[], int]) -> Freed | None:
        too_much = wanted()
        if too_much <= 0 or self._monotonic() < self._any_at:
            return None
        rows = self._index.oldest(_BATCH)
        if rows:
            return self._remove(rows, reason, too_much)
        if reason == FREE and self._is_blind() and (freed := self._evict_unknown(too_much)):
            return freed
        # Resumable parts of broken fills are the last to go.
        if sum(sweep_parts(self._root, self._clock, keep=_UNDER_PRESSURE)):
            return Freed(reason, more=True)
        self._shrinking, self._owed = False, 0
        self._space_at = self._any_at = self._monotonic() + _SETTLE
        self._complaints.say(
            reason,
            "the cache is over its limit (%s) by %d bytes, and nothing is left in it that may be removed:"
            " the rest is pinned, in use, or not ours",
            *(_NAMES[reason], too_much),
        )
        return None

    def _excess(self) -> int:
        """Return the bytes to evict because of the size limit."""
        limit = self._limits.max_size
        if not limit:
            return 0
        taken, promised = parts_disk(self._root, self._clock())
        # Expected bytes may never come: they must not cost the cache more than a part of its content.
        used = self._index.totals().disk + taken + min(promised, limit // _TRUST)
        self._shrinking = used > limit * (_LOW if self._shrinking else _HIGH)
        return used - int(limit * _LOW) if self._shrinking else 0

    def _shortage(self) -> int:
        """Return the bytes to evict because the disk lacks free space.

        The shortage is kept as a debt, since the space of a removed file is free only when all processes have
        closed it: measuring the disk again before that would empty the cache.
        """
        if self._owed <= 0 and self._monotonic() < self._space_at:
            return 0
        disk = Disk.of(self._root)
        floor = disk.floor(self._limits.min_free)
        missing = floor + min(_GIB, disk.total // 100) - disk.free
        if self._owed > 0:
            self._owed = min(self._owed, missing)  # others may have made room
        elif disk.free < floor:
            self._owed = missing
        return self._owed

    def _remove(self, rows: list[ObjectRow], reason: str, enough: int | None) -> Freed:
        """Remove objects until `enough` bytes are free or the step's time is over."""
        freed, gone = self._unlink(rows, reason, enough)
        try:
            reconcile.forget(self._root, self._index, gone)
        except StoreError as error:
            # The index can't be written either, so it can't tell other processes to close the removed files.
            self._index.purge()
            self.astray = True
            self._complaints.say("index", "%s: what was evicted is still in it", error)
        return freed

    def _unlink(self, rows: list[ObjectRow], reason: str, enough: int | None) -> tuple[Freed, list[str]]:
        """Remove files. Return what was freed, and the digests that have no file now.

        Raises OSError if there are none because of an error.
        """
        ends = self._monotonic() + _STEP
        gone: list[str] = []
        objects = size = 0
        trouble: OSError | None = None
        for row in rows:
            try:
                os.unlink(layout.blob(self._root, row.digest))  # noqa: PTH108
                objects, size = objects + 1, size + row.disk
                gone.append(row.digest)
            except FileNotFoundError:
                gone.append(row.digest)
            except OSError as error:
                trouble = error
                if error.errno == errno.EROFS:
                    break
                # Else it would stay the oldest, in the way of all others.
                self._index.touch(row.digest)
            if (enough is not None and size >= enough) or self._monotonic() >= ends:
                break
        if trouble is not None and not gone:
            raise trouble
        if reason == FREE:
            self._owed -= size
            if self._owed <= 0:
                self._space_at = self._monotonic() + _SETTLE
        return Freed(reason, objects, size, more=True), gone

    def _is_blind(self) -> bool:
        """Return whether the index has been empty for a while because the disk has no room to rebuild it."""
        if self._index.complete or self._index.totals().objects:
            self._blind_at = None
            return False
        now = self._monotonic()
        self._blind_at = self._blind_at or now + _BLIND
        return now >= self._blind_at

    def _evict_unknown(self, enough: int) -> Freed | None:
        """Remove the files written longest ago in one directory, as the index can't name the least used."""
        for number in range(reconcile.DIRECTORIES):
            prefix = f"{number:02x}"
            found = (reconcile.digest_at(prefix, name) for name in reconcile.listed(self._root, prefix))
            digests = [digest for digest in found if digest is not None]
            rows = [
                reconcile.row_of(digest, status)
                for digest in digests
                if (status := reconcile.look(self._root, digest)) is not None
            ]
            if rows:
                rows.sort(key=lambda row: row.last_used)
                return self._unlink(rows[:_BATCH], FREE, enough)[0]
        return None

    def _say(self) -> None:
        for reason, (objects, size) in self._sums.items():
            if objects:
                log.info("evicted %d objects, %d bytes: %s", objects, size, _NAMES[reason])
        self._sums.clear()


_NAMES: Final = {
    SIZE: "CACHE_MAX_SIZE",
    INACTIVE: "CACHE_INACTIVE",
    FREE: "REGPROXY_MIN_FREE",
}


def parts_disk(root: Path, now: float, besides: Path | None = None) -> tuple[int, int]:
    """Return the bytes that parts take on disk, and those they are still expected to get. Raises OSError.

    Room is made for all of a body when its length is known, not as it arrives. A part that was not written
    for a minute is expected to grow no more. `besides`: a part to leave out.
    """
    left_out = besides.name if besides is not None else ""
    taken = expected = 0
    try:
        with os.scandir(layout.parts(root)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.name == left_out:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    size = status.st_blocks * 512
                    taken += size
                    if entry.name.endswith(PART) and now - status.st_mtime < _GROWS:
                        expected += max(0, promised(Path(entry.path)) - size)
    except FileNotFoundError:
        pass
    return taken, expected


def fits(root: Path, max_size: int, total: int, now: float, besides: Path | None = None) -> bool:
    """Return whether `total` more bytes and all parts are within the limit if everything else is evicted.

    `besides`: the part that the bytes are for, which may have some of them.
    """
    if not max_size:
        return True
    try:
        return sum(parts_disk(root, now, besides)) + total <= max_size * _LOW
    except OSError:
        return True  # writing will report what is wrong with the disk
