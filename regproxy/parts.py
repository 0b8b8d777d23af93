"""A part file, and what its filler tells other processes of it.

    parts/<64 hex>.part    grows; whoever holds its lock fills it, the others follow it
    parts/<64 hex>.meta    a Meta as JSON: written by the filler, read by who follows
    parts/<random>.part    content whose digest is not known yet; nobody follows it

A part without a filler (its process was killed) is taken over where it ends. What was written before the
machine itself went down is not: bytes that had not reached the disk may be zeros.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from regproxy import claims
from regproxy._relay import File, Growth

OPEN: Final = "open"  # the origin has sent its head
VERIFIED: Final = "verified"  # all is there, and its digest has matched
FAILED: Final = "failed"  # given up; `reason` says why

_META_MAX: Final = 8192
_TYPE_MAX: Final = 255  # characters
_REASON_MAX: Final = 1000
_FILE_MODE: Final = 0o640


@dataclass(frozen=True, slots=True)
class Meta:
    """`total`: bytes that the origin declared, -1 unknown; `size`: of a verified part. `host`: who was asked.

    `address` and `seconds` are of the origin's answer; `word` is the failure's for metrics.
    """

    state: str
    total: int = -1
    media_type: str = ""
    address: str = ""
    seconds: float = 0.0
    size: int = -1
    host: str = ""
    word: str = ""
    reason: str = ""

    def failed(self, word: str, reason: str) -> Meta:
        """The same download, given up."""
        return replace(self, state=FAILED, word=word, reason=reason)


@cache
def boot_id() -> str:
    """What tells one run of the machine from the next; "" where the kernel does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class Part:
    """A part file that is open here. `growth` is its content; `path` None: it has no name (any more).

    `mine`: this process fills it.
    """

    __slots__ = ("_meta_fd", "growth", "mine", "path")

    def __init__(self, path: Path | None, growth: Growth, *, mine: bool) -> None:
        self.path = path
        self.growth = growth
        self.mine = mine
        self._meta_fd = -1

    @property
    def fd(self) -> int:
        return self.growth.file.fd

    @property
    def size(self) -> int:
        """How many bytes the file has now."""
        return os.fstat(self.fd).st_size

    @property
    def named(self) -> bool:
        """Whether its path still leads to it; not after it was committed or removed."""
        return self.path is not None and claims.names(self.path, self.fd)

    @property
    def _meta_path(self) -> Path | None:
        return self.path.with_suffix(".meta") if self.path is not None else None

    def take(self) -> bool:
        """Become its filler, if there is none."""
        self.mine = self.mine or claims.lock(self.fd)
        return self.mine

    def read(self) -> Meta | None:
        """What its filler has said last; None: nothing yet, or before the machine was started."""
        place = self._meta_path
        if self._meta_fd < 0:
            if place is None:
                return None
            try:
                # Kept open: it can be read after the filler has removed it, when it says why.
                self._meta_fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
        try:
            fields = json.loads(os.pread(self._meta_fd, _META_MAX, 0))
            # It was found by its name: the name may have been another part's by then.
            if (fields.pop("boot"), fields.pop("part")) == (boot_id(), self._identity):
                return Meta(**fields)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # Being written just now, or another version's.
            pass
        return None

    @property
    def _identity(self) -> list[int]:
        status = os.fstat(self.fd)
        return [status.st_dev, status.st_ino]

    def write(self, meta: Meta) -> None:
        """Tell the others. Raises OSError."""
        place = self._meta_path
        if not self.mine or place is None:
            return
        fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            meta = replace(meta, media_type=meta.media_type[:_TYPE_MAX], reason=meta.reason[:_REASON_MAX])
            text = json.dumps({**asdict(meta), "boot": boot_id(), "part": self._identity}).encode()
            # In one piece, and never shorter than what was there.
            os.pwrite(fd, text.ljust(max(len(text), os.fstat(fd).st_size)), 0)
        finally:
            os.close(fd)
        # Who follows watches the part alone.
        os.utime(self.fd)

    def restart(self) -> None:
        """Forget what is there: it is not known to be right. Raises OSError."""
        os.ftruncate(self.fd, 0)
        place = self._meta_path
        if place is not None:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE))

    def release(self) -> None:
        """Leave it, and what is in it, to whoever takes it next."""
        if self.mine:
            self.mine = False
            with suppress(OSError):
                claims.unlock(self.fd)

    def disown(self) -> None:
        """Take its name away, so that it is nobody's to find, and its space is free when nobody reads it."""
        path, meta = self.path, self._meta_path
        if path is not None and meta is not None and self.mine:
            with suppress(OSError):
                if claims.names(path, self.fd):
                    # First what belongs to it: who makes the part anew writes its own.
                    meta.unlink(missing_ok=True)
                    path.unlink()
        self.path = None
        self.release()

    def close(self) -> None:
        """Let go of what is open beside the content."""
        if self._meta_fd >= 0:
            os.close(self._meta_fd)
            self._meta_fd = -1


def promised(path: Path) -> int:
    """The bytes that the part at `path` is going to have, as its filler has said; 0 if it has not."""
    try:
        total = json.loads(path.with_suffix(".meta").read_bytes())["total"]
        return total if isinstance(total, int) and total > 0 else 0
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def open_part(path: Path, limit: int, loop: asyncio.AbstractEventLoop) -> Part:
    """Open or make a part, as its filler if there is none. Raises OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        mine = False
        try:
            mine = claims.lock(fd)
            current = claims.names(path, fd)
        except BaseException:
            os.close(fd)
            raise
        if current:
            return Part(path, Growth(File(fd, -1, loop), limit), mine=mine)
        # Committed or removed between the two calls.
        os.close(fd)


def new_part(directory: Path, limit: int, loop: asyncio.AbstractEventLoop) -> Part:
    """Make a part of which nobody else knows. Raises OSError."""
    path = directory / f"{secrets.token_hex(12)}.part"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    claims.lock(fd)
    return Part(path, Growth(File(fd, -1, loop), limit), mine=True)


def memory_part(limit: int, error: int, loop: asyncio.AbstractEventLoop) -> Part:
    """A part that no disk takes, for the errno `error`. Raises OSError where memory does not either."""
    growth = Growth(File(os.memfd_create("regproxy-part", os.MFD_CLOEXEC), -1, loop), limit)
    growth.relay(error)
    return Part(None, growth, mine=True)
