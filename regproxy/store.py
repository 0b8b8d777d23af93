"""The content-addressed disk: one immutable file per digest, part files while they grow.

    blobs/sha256/ab/<64 hex>    renamed into place after the digest matched
    parts/<name>.part           growing

Open files and small contents are remembered, least recently used first out, so that a hit costs no system
call. The memory is bounded by FILES_MAX and SMALL_TOTAL whatever the size of the cache.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import itertools
import logging
import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from regproxy._relay import File, Growth
from regproxy.errors import StoreError

log = logging.getLogger(__name__)

FILES_MAX: Final = 512
SMALL_MAX: Final = 65_536  # bytes; contents up to this size are answered from memory
SMALL_TOTAL: Final = 64 * 1024 * 1024

_FILE_MODE: Final = 0o640


@dataclass(slots=True, eq=False)
class Blob:
    """Stored, verified content. `small` has all of it when it is small; `heads` are heads made before."""

    digest: str
    size: int
    file: File
    small: bytes | None
    media_type: str = ""
    heads: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    @property
    def etag(self) -> bytes:
        """The strong validator of the content: its digest."""
        return b'"' + self.digest.encode() + b'"'


@dataclass(slots=True, eq=False)
class Part:
    """A part file. `growth` is written to; `path` is where it is until it is committed."""

    path: Path
    growth: Growth


class Store:
    """The cache directory. `open_files` etc. are what it holds in memory, not what is on disk."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        """Make the directories and remove part files that an earlier run left. Raises StoreError."""
        self.root = root
        self._loop = loop
        self._blobs: OrderedDict[str, Blob] = OrderedDict()
        self._small_bytes = 0
        self._names = itertools.count()
        self._parts = root / "parts"
        self._prefix = str(root / "blobs" / "sha256")
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            Path(self._prefix).mkdir(parents=True, exist_ok=True)
            for stale in self._parts.glob("*.part"):
                _remove_unless_locked(stale)
        except OSError as error:
            raise StoreError(
                f"{error.filename or root}: {error.strerror}; the cache has to be writable"
            ) from error

    def path(self, digest: str) -> str:
        """Where `sha256:<hex>` lies."""
        name = digest[7:]
        return f"{self._prefix}/{name[:2]}/{name}"

    def lookup(self, digest: str) -> Blob | None:
        """The stored content of a digest, None where there is none."""
        blob = self._blobs.get(digest)
        if blob is not None:
            self._blobs.move_to_end(digest)
            return blob
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Missing is the usual reason; any other makes it a miss too, and the fill says what is wrong.
            return None
        return self._remember(digest, File(fd, os.fstat(fd).st_size, self._loop))

    def _remember(self, digest: str, file: File) -> Blob | None:
        small = None
        if file.size <= SMALL_MAX:
            try:
                small = os.pread(file.fd, file.size, 0)
            except OSError as error:
                log.warning("%s can't be read (%s): removed", digest, error.strerror)
                self.remove(digest)
                return None
            # It is in memory anyway, and hashed in microseconds, once.
            if "sha256:" + hashlib.sha256(small).hexdigest() != digest:
                log.warning("%s is damaged on disk: removed", digest)
                self.remove(digest)
                return None
            self._small_bytes += len(small)
        blob = Blob(digest, file.size, file, small)
        self._blobs[digest] = blob
        while len(self._blobs) > FILES_MAX or self._small_bytes > SMALL_TOTAL:
            _, dropped = self._blobs.popitem(last=False)
            self._small_bytes -= len(dropped.small or b"")
        return blob

    def begin(self, *, limit: int = 0) -> Part:
        """A new part file; `limit` is the most bytes that it may take, 0 for any. Raises StoreError."""
        path = self._parts / f"{os.getpid()}-{next(self._names)}.part"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        # It tells another process that uses this directory that somebody is at work here.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Part(path, Growth(File(fd, -1, self._loop), limit))

    async def commit(self, part: Part, digest: str) -> Blob:
        """Move a part whose digest has matched into place; its bytes reach the disk before its name does.

        Raises StoreError.
        """
        growth = part.growth
        final = self.path(digest)
        try:
            await self._loop.run_in_executor(None, _move_into_place, growth.file.fd, part.path, final)
        except OSError as error:
            raise StoreError(f"{final}: {error.strerror}") from error
        known = self._blobs.get(digest)
        if known is not None:
            return known
        blob = self._remember(digest, File(os.dup(growth.file.fd), growth.written, self._loop))
        if blob is None:
            raise StoreError(f"{final}: what was written is not what can be read again")
        return blob

    def unkept(self, part: Part, digest: str, media_type: str) -> Blob:
        """Verified content that could not be moved into place, for those who wait; nothing remembers it."""
        size = part.growth.written
        return Blob(digest, size, File(os.dup(part.growth.file.fd), size, self._loop), None, media_type)

    def abort(self, part: Part) -> None:
        """Forget a part. Its readers have been told, so its space is given back at once."""
        part.path.unlink(missing_ok=True)
        part.growth.file.close()

    def remove(self, digest: str) -> None:
        """Drop content from memory and disk; readers that have it open go on reading."""
        blob = self._blobs.pop(digest, None)
        if blob is not None:
            self._small_bytes -= len(blob.small or b"")
        with suppress(OSError):
            os.unlink(self.path(digest))  # noqa: PTH108

    def close(self) -> None:
        """Let go of every open file."""
        self._blobs.clear()
        self._small_bytes = 0


def _remove_unless_locked(part: Path) -> None:
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        part.unlink()


def _move_into_place(fd: int, part: Path, final: str) -> None:
    # Without this a power cut can leave a file of the right name and length full of zeros.
    os.fdatasync(fd)
    os.makedirs(os.path.dirname(final), exist_ok=True)  # noqa: PTH103, PTH120 (a str, made for each blob)
    os.rename(part, final)  # noqa: PTH104
