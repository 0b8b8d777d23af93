"""Manage part files, and the metadata with which a part's filler informs other processes.

    parts/<64 hex>.part    grows; the process that holds its lock fills it, the others follow it
    parts/<64 hex>.meta    a Meta as JSON: written by the filler, read by followers
    parts/<64 hex>.map     which bytes it has, if it is filled in several places (`block_map`)
    parts/<64 hex>.want    offsets that others wait for, 8 bytes each, appended by followers
    parts/<64 hex>-<8 hex>.part    the same content from another registry, while the first fill is under way
    parts/<random>.part    content whose digest is not known yet; it has no followers
    parts/<64 hex>-<boot id>.pushed    what a client has uploaded, until the registry confirms it

A part without a filler (its process was killed) is resumed where it ends. Bytes written before the machine
itself went down are not used: those that had not reached the disk may be zeros.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import asdict, replace

from regproxy.cache.layout import BESIDE, MAP, META, WANT
from regproxy.core import file_lock
from regproxy.dataplane.block_map import Extents
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile

if TYPE_CHECKING:
    import asyncio

CLAIMED: Final = "claimed"  # its filler has asked `host`, which has not answered yet
OPEN: Final = "open"  # the origin has sent its head
VERIFIED: Final = "verified"  # complete, and its digest has matched
LEFT: Final = "left"  # given up for now; its bytes are good and can be resumed, `reason` says why
FAILED: Final = "failed"  # given up; `reason` says why

# A map of more than 8 MiB is too large to write or load at once.
MAPPED_MAX: Final = 1 << 41  # bytes
# What lies beside a part and belongs to it.
_META_MAX: Final = 16384
_OFFSET: Final = struct.Struct("=q")
_WANTS_MAX: Final = 1 << 20  # bytes; beyond that, followers wait until the filler reaches their offset
_WANTS_PIECE: Final = 65_536
_TYPE_MAX: Final = 255  # characters
_REASON_MAX: Final = 1000
_LENGTH_MAX: Final = 2**63 - 1
_FILE_MODE: Final = 0o640


class Meta(Struct, frozen=True):
    """State of a download. `total`: bytes that the origin declared, -1 unknown; `size`: of a verified part.
    `host`: the one that was asked.

    `address` (see `http.hops`) and `seconds` are of the origin's answer; `word` is the failure's for metrics.
    `mapped`: what is there is in the map, the file's length says nothing.
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
    mapped: bool = False

    @property
    def sound(self) -> bool:
        """Whether each field has a valid value; any process may have written the file."""
        texts = (self.state, self.media_type, self.address, self.host, self.word, self.reason)
        lengths = (self.total, self.size)
        return (
            all(type(text) is str for text in texts)
            and all(type(length) is int and -1 <= length <= _LENGTH_MAX for length in lengths)
            and isinstance(self.seconds, int | float)
            and isinstance(self.mapped, bool)
        )

    def failed(self, word: str, reason: str) -> Meta:
        """Return the same download, given up."""
        return replace(self, state=FAILED, word=word, reason=reason)

    def left(self, word: str, reason: str) -> Meta:
        """Return the same download, for another process to resume later."""
        return replace(self, state=LEFT, word=word, reason=reason)


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine; "" if the kernel does not provide one."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class Part:
    """An open part file. `growth` is its content; `path` None: it has no name (any more).

    `mine`: this process fills it. `by_size`: a follower may read up to its length, so it has to grow in
    order.
    """

    __slots__ = ("_meta_fd", "_read", "_told", "_want_fd", "by_size", "growth", "mine", "path")

    def __init__(self, path: Path | None, growth: GrowingFile, *, mine: bool) -> None:
        self.path = path
        self.growth = growth
        self.mine = mine
        self.by_size = False
        self._meta_fd = self._want_fd = -1
        self._read = 0
        self._told: set[int] = set()

    @property
    def fd(self) -> int:
        return self.growth.file.fd

    @property
    def size(self) -> int:
        """The current length of the file in bytes."""
        return os.fstat(self.fd).st_size

    @property
    def named(self) -> bool:
        """Whether its path still leads to it; not after it was committed or removed."""
        return self.path is not None and file_lock.names(self.path, self.fd)

    @property
    def _meta_path(self) -> Path | None:
        return self.path.with_suffix(META) if self.path is not None else None

    def take(self) -> bool:
        """Become its filler, if there is none."""
        self.mine = self.mine or file_lock.lock(self.fd)
        return self.mine

    def read(self) -> Meta | None:
        """Return the last Meta of its filler; None: none yet, or from before the last boot."""
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
            # Opened by name: the name may have been another part's by then.
            if (fields.pop("boot"), fields.pop("part")) == (boot_id(), self._identity):
                meta = Meta(**fields)
                if not meta.sound:
                    return None
                self.by_size = self.by_size or not (meta.mapped or meta.state == CLAIMED)
                return meta
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # Just being written, or another version's.
            pass
        return None

    @property
    def _identity(self) -> list[int]:
        status = os.fstat(self.fd)
        return [status.st_dev, status.st_ino]

    def write(self, meta: Meta) -> None:
        """Write the Meta for the followers. Raises OSError."""
        place = self._meta_path
        if not self.mine or place is None:
            return
        self.by_size = self.by_size or not (meta.mapped or meta.state == CLAIMED)
        fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            meta = replace(meta, media_type=meta.media_type[:_TYPE_MAX], reason=meta.reason[:_REASON_MAX])
            text = json.dumps({**asdict(meta), "boot": boot_id(), "part": self._identity}).encode()
            # In one write, and never shorter than before.
            os.pwrite(fd, text.ljust(max(len(text), os.fstat(fd).st_size)), 0)
        finally:
            os.close(fd)
        # Followers watch only the part.
        os.utime(self.fd)

    def restart(self) -> None:
        """Discard its bytes: they are not known to be right. Raises OSError."""
        os.ftruncate(self.fd, 0)
        place = self._meta_path
        if place is not None:
            for suffix in (MAP, WANT):
                place.with_suffix(suffix).unlink(missing_ok=True)
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE))

    # --- several places at once --------------------------------------------------------------------------

    def scatter(self, total: int) -> None:
        """Prepare an own part to be filled in several places from here on; `total`: its length. Raises
        OSError.
        """
        growth = self.growth
        extents = _extents(total, self._make(MAP, os.O_RDWR))
        device, inode = self._identity
        extents.start(device, inode, growth.written)
        if self._want_fd >= 0:
            os.close(self._want_fd)
        self._read = 0
        self._want_fd = self._make(WANT, os.O_RDWR)
        growth.scatter(extents)

    def _make(self, suffix: str, flags: int) -> int:
        """Create a file beside it anew: a process that has an older part's open must not take this one for
        it.
        """
        assert self.path is not None
        place = self.path.with_suffix(suffix)
        place.unlink(missing_ok=True)
        return os.open(place, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def take_map(self, total: int) -> bool:
        """Load the filler's map of the bytes that it has; False: there is no map of it (any more)."""
        growth = self.growth
        if self.path is None or not 0 < total <= MAPPED_MAX or growth.written > total:
            return False
        if growth.extents is not None:
            growth.refresh()
            return growth.extents.total == total
        try:
            extents = _extents(total, os.open(self.path.with_suffix(MAP), os.O_RDWR | os.O_CLOEXEC))
            if not extents.load(*self._identity):
                return False
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._want_fd = os.open(self.path.with_suffix(WANT), flags, _FILE_MODE)
        except OSError:
            return False
        if extents.written > self.size:
            return False
        growth.scatter(extents)
        return True

    @property
    def want_fd(self) -> int:
        """The file to which others append the offsets that they wait for; -1 if they can't."""
        return self._want_fd

    def ask_for(self, offsets: list[int]) -> None:
        """Tell the filler the offsets that readers wait for, each once."""
        growth = self.growth
        # Offsets that the filler reaches next need not be written.
        ahead = (offset for offset in offsets if offset > growth.written and not growth.holds(offset))
        new = [offset for offset in ahead if offset not in self._told]
        if not new or self._want_fd < 0 or os.fstat(self._want_fd).st_size > _WANTS_MAX:
            return
        self._told.update(new)
        with suppress(OSError):  # then the bytes come in order
            os.write(self._want_fd, b"".join(map(_OFFSET.pack, new)))

    def asked_for(self) -> list[int]:
        """Return the offsets for which other processes' readers have begun to wait since the last call."""
        if self._want_fd < 0:
            return []
        offsets: list[int] = []
        with suppress(OSError):
            while found := os.pread(self._want_fd, _WANTS_PIECE, self._read):
                whole = len(found) - len(found) % _OFFSET.size
                offsets += (offset for (offset,) in _OFFSET.iter_unpack(found[:whole]))
                self._read += whole
                if not whole:
                    break
        return offsets

    def release(self) -> None:
        """Release its lock; the next process that takes it resumes it."""
        if self.mine:
            self.mine = False
            with suppress(OSError):
                file_lock.unlock(self.fd)

    def disown(self) -> None:
        """Remove its name, so that no process finds it, and its space is freed when the last reader closes
        it.
        """
        path = self.path
        if path is not None and self.mine:
            with suppress(OSError):
                if file_lock.names(path, self.fd):
                    # First the files beside it: a process that creates the part again writes its own.
                    unlink_beside(path)
                    path.unlink()
        self.path = None
        self.release()

    def removed(self) -> bool:
        """Remove its name for good; return whether that worked."""
        try:
            if self.path is not None and file_lock.names(self.path, self.fd):
                unlink_beside(self.path)
                self.path.unlink()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the files beside the content."""
        for fd in (self._meta_fd, self._want_fd):
            if fd >= 0:
                os.close(fd)
        self._meta_fd = self._want_fd = -1


def _extents(total: int, fd: int) -> Extents:
    """Return the map of a content of `total` bytes in the open file `fd`, which is closed if that fails."""
    try:
        return Extents(total, fd)
    except BaseException:
        os.close(fd)
        raise


def unlink_beside(path: Path) -> None:
    """Remove the files beside the part at `path`. Raises OSError."""
    for suffix in BESIDE:
        path.with_suffix(suffix).unlink(missing_ok=True)


def promised(path: Path) -> int:
    """Return the length that the part at `path` will have according to its filler; 0 if unknown."""
    try:
        total = json.loads(path.with_suffix(META).read_bytes())["total"]
        return total if isinstance(total, int) and total > 0 else 0
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def open_part(path: Path, limit: int, loop: asyncio.AbstractEventLoop) -> Part:
    """Open or make a part, as its filler if there is none. Raises OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        mine = False
        try:
            mine = file_lock.lock(fd)
            current = file_lock.names(path, fd)
        except BaseException:
            os.close(fd)
            raise
        if current:
            return Part(path, GrowingFile(File(fd, -1, loop), limit), mine=mine)
        # Committed or removed between the two calls.
        os.close(fd)


def new_part(path: Path, limit: int, loop: asyncio.AbstractEventLoop) -> Part:
    """Make a part of which nobody else knows. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    file_lock.lock(fd)
    return Part(path, GrowingFile(File(fd, -1, loop), limit), mine=True)


def take_part(path: Path, loop: asyncio.AbstractEventLoop) -> Part | None:
    """Open a complete file as an own part; None: another process has it. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not (file_lock.lock(fd) and file_lock.names(path, fd)):
            os.close(fd)
            return None
        growth = GrowingFile(File(fd, -1, loop))
    except BaseException:
        os.close(fd)
        raise
    growth.follow(os.fstat(fd).st_size)
    return Part(path, growth, mine=True)


def memory_part(limit: int, error: int, loop: asyncio.AbstractEventLoop) -> Part:
    """Return a part in memory, as the disk failed with the errno `error`. Raises OSError if memory fails
    too.
    """
    growth = GrowingFile(File(os.memfd_create("regproxy-part", os.MFD_CLOEXEC), -1, loop), limit)
    growth.relay(error)
    return Part(None, growth, mine=True)
