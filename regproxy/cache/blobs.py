"""The content-addressed store: one immutable file per digest, and part files while they are filled.

    blobs/sha256/ab/<64 hex>    renamed into place after the digest matched
    parts/                      see `parts`

An LRU keeps open files and small contents in memory, so that a hit costs no system call. FILES_MAX and
SMALL_TOTAL bound it whatever the size of the cache. Other processes may remove content: every lookup first
checks the board's generation for their changes.

If the disk can't be written, pulls still succeed: parts are kept in memory and nothing is stored.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct, field

from regproxy.cache import layout
from regproxy.cache.parts import Part, boot_id, memory_part, new_part, open_part, take_part, unlink_beside
from regproxy.core import file_lock
from regproxy.core.errors import StoreError
from regproxy.dataplane.board import Board
from regproxy.dataplane.file import File
from regproxy.registry.manifests import ManifestType

log = logging.getLogger(__name__)

FILES_MAX: Final = 512
SMALL_MAX: Final = 65_536  # bytes; contents up to this size are answered from memory
SMALL_TOTAL: Final = 64 * 1024 * 1024


class BlobCounters(Protocol):
    """Counters of successful and failed writes to the store."""

    def store_failed(self, reason: str) -> None:
        """Count content that could not be stored, by the errno's name."""

    def store_worked(self) -> None:
        """Note that content was stored."""


class Blob(Struct, eq=False):
    """Stored, verified content. `small`: all of it, if it is small; `heads`: response heads built before.

    `known`: it was compared with its index row. `manifest`: its type by its bytes, None if not examined yet.
    `places`: (host, port, repository) where it is known to be, as far as that was looked up.
    """

    digest: str
    size: int
    file: File
    small: bytes | None
    known: bool = False
    manifest: ManifestType | None = None
    heads: dict[tuple[object, ...], bytes] = field(default_factory=dict)
    places: set[tuple[str, int, str]] = field(default_factory=set)

    @property
    def etag(self) -> bytes:
        """The strong validator of the content: its digest."""
        return b'"' + self.digest.encode() + b'"'

    @property
    def disk(self) -> int:
        """Bytes used on disk."""
        return os.fstat(self.file.fd).st_blocks * 512


class Store:
    """The cache directory. `on_change` is called when another process may have changed its contents."""

    def __init__(
        self,
        root: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        board: Board | None = None,
        counters: BlobCounters | None = None,
    ) -> None:
        """Create the directories. Raises StoreError."""
        self.root = root
        self.on_change: Callable[[], None] = _nothing
        self._loop = loop
        self._board = board
        self._seen = board.generation if board is not None else 0
        self._counters = counters
        self._failing = ""
        self._blobs: OrderedDict[str, Blob] = OrderedDict()
        self._small_bytes = 0
        self._prefix = str(layout.blobs(root))
        try:
            self._make_directories()
        except OSError as error:
            raise StoreError(
                f"{error.filename or root}: {error.strerror}; the cache has to be writable"
            ) from error

    def _make_directories(self) -> None:
        layout.parts(self.root).mkdir(parents=True, exist_ok=True)
        Path(self._prefix).mkdir(parents=True, exist_ok=True)

    # --- stored content ----------------------------------------------------------------------------------

    def path(self, digest: str) -> str:
        """Return the path of the content `sha256:<hex>`."""
        name = digest[7:]
        return f"{self._prefix}/{name[:2]}/{name}"

    def lookup(self, digest: str) -> Blob | None:
        """Return the stored content of a digest, None if there is none."""
        board = self._board
        if board is not None and board.generation != self._seen:
            # Read before on_change(), so that a change announced meanwhile is seen by the next lookup.
            self._seen = board.generation
            self.on_change()
        blob = self._blobs.get(digest)
        if blob is not None:
            self._blobs.move_to_end(digest)
            return blob
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Usually a missing file. Any other error is a miss too; the fill will report it.
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
            # Cheap: it is in memory, and small. Done once for each load.
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

    def forget(self, digest: str) -> None:
        """Drop removed content from memory. Its disk space is free when the last reader has closed it."""
        blob = self._blobs.pop(digest, None)
        if blob is not None:
            self._small_bytes -= len(blob.small or b"")

    def forget_all(self) -> None:
        """Drop everything from memory."""
        self._blobs.clear()
        self._small_bytes = 0

    def remove(self, digest: str) -> None:
        """Drop content from memory and disk; readers that have it open go on reading."""
        self.forget(digest)
        with suppress(OSError):
            os.unlink(self.path(digest))  # noqa: PTH108

    # --- parts -------------------------------------------------------------------------------------------

    def claim(self, digest: str, *, limit: int = 0, source: str = "") -> Part:
        """Return the part of this content: ours to fill (`mine`), or another process's to follow.

        `limit`: the most bytes that it may take, 0 for any. `source`: use a separate part for this registry.
        If the disk fails, the part is in memory.
        """
        path = layout.part(self.root, digest, source)
        return self._open(lambda: open_part(path, limit, self._loop), limit)

    def begin(self, *, limit: int = 0) -> Part:
        """A new part for content whose digest is not known yet."""
        return self._open(lambda: new_part(layout.anonymous_part(self.root), limit, self._loop), limit)

    def _open(self, make: Callable[[], Part], limit: int) -> Part:
        try:
            try:
                return make()
            except FileNotFoundError:
                # The directory was removed.
                self._make_directories()
                return make()
        except OSError as error:
            self.failed(error.errno or errno.EIO)
            return self.in_memory(limit=limit, error=error.errno or errno.EIO)

    def in_memory(self, *, limit: int = 0, error: int = errno.ENOSPC) -> Part:
        """Return a part in memory, which is never stored. Raises StoreError."""
        try:
            return memory_part(limit, error, self._loop)
        except OSError as failure:
            raise StoreError(
                f"a body can be kept neither on disk nor in memory: {failure.strerror}"
            ) from None

    def relay(self, part: Part, error: int) -> None:
        """Stop storing our part, because of this errno; its followers go on alone. Raises StoreError."""
        self.failed(error)
        part.disown()
        part.growth.gather()
        try:
            part.growth.relay(error)
        except OSError as failure:
            raise StoreError(failure.strerror) from None

    def failed(self, error: int) -> None:
        """Note that content could not be stored, by errno. Logged once until storing works again.

        EFBIG is ignored: the content is too large to store, and the disk is fine.
        """
        if error == errno.EFBIG:
            return
        name = errno.errorcode.get(error, str(error))
        if self._counters is not None:
            self._counters.store_failed(name)
        if self._failing != name:
            self._failing = name
            log.error(
                "%s: %s (%s); pulls go on without being stored until it is writable again",
                *(self.root, os.strerror(error), name),
            )

    def _worked(self) -> None:
        if self._counters is not None:
            self._counters.store_worked()
        if self._failing:
            log.warning("%s: storing works again", self.root)
            self._failing = ""

    def set_aside(self, part: Part, digest: str, place: str) -> None:
        """Leave an own complete part, whose digest is known, for take_aside() in any process. Raises OSError.

        `place`: the registry and repository that it was uploaded to.

        Whoever has it first keeps it: the bytes are the same.
        """
        assert part.path is not None
        part.path.rename(layout.pushed(self.root, digest, boot_id(), place))
        part.path = None
        part.release()
        part.close()
        part.growth.file.close()

    def take_aside(self, digest: str, place: str) -> Part | None:
        """Return the part that set_aside() has left under this digest and place; None: there is none."""
        path = layout.pushed(self.root, digest, boot_id(), place)
        try:
            part = take_part(path, self._loop)
        except OSError:
            return None
        return part

    async def commit(self, part: Part, digest: str) -> Blob:
        """Move a part whose digest has matched into place, after its bytes have been synced to disk.

        Raises StoreError.
        """
        growth, final = part.growth, self.path(digest)
        error = growth.disk_errno
        if not error and part.path is not None:
            try:
                await self._loop.run_in_executor(
                    None, _move_into_place, part.fd, growth.written, part.path, final
                )
            except OSError as failure:
                error = failure.errno or errno.EIO
                self.failed(error)
        if error or part.path is None:
            raise StoreError(f"{final}: {os.strerror(error or errno.ENOENT)}")
        self._worked()
        known = self._blobs.get(digest)
        blob = known or self._remember(digest, File(_dup(part.fd, digest), growth.written, self._loop))
        # disown(): the part's name is gone, and the blob's dup of the descriptor would keep its lock.
        part.disown()
        part.close()
        if blob is None:
            raise StoreError(f"{final}: what was written is not what can be read again")
        return blob

    def unstored(self, part: Part, digest: str) -> Blob:
        """Return verified content that is not stored, for the waiting requests only. Raises StoreError."""
        growth, file = part.growth, part.growth.file
        if growth.memory is not None and growth.disk_end < growth.written:
            if growth.floor:
                raise StoreError(f"{digest} is not stored, and no longer in memory")
            file = growth.memory
        own = _dup(file.fd, digest)
        return Blob(digest, growth.written, File(own, growth.written, self._loop), None, True)

    def leave(self, part: Part) -> None:
        """Release a part, and leave its bytes for another filler. Its readers have been told."""
        growth = part.growth
        part.release()
        part.close()
        if growth.done:
            return  # they read on, to the end
        # Close now: an error still being delivered may keep the growth alive for a while.
        growth.file.close()
        if growth.memory is not None:
            growth.memory.close()

    def abort(self, part: Part) -> None:
        """Discard a part. Its readers have been told, so its space is freed at once."""
        part.disown()
        self.leave(part)

    def close(self) -> None:
        """Release every open file."""
        self.forget_all()


def _nothing() -> None:
    """Do nothing."""


def _dup(fd: int, digest: str) -> int:
    """Return another descriptor of an open file. Raises StoreError where the process may have no more."""
    try:
        return os.dup(fd)
    except OSError as error:
        raise StoreError(f"{digest}: {error.strerror}") from None


def _move_into_place(fd: int, size: int, part: Path, final: str) -> None:
    # Without this a power cut can leave a file of the right name and length full of zeros.
    os.fdatasync(fd)
    if os.fstat(fd).st_size != size:
        # Something else has written to it: the file is not what was verified.
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(part))
    if not file_lock.names(part, fd):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(part))
    os.makedirs(os.path.dirname(final), exist_ok=True)  # noqa: PTH103, PTH120 (a str, made for each blob)
    os.rename(part, final)  # noqa: PTH104
    # The files beside the part belong to nothing now.
    unlink_beside(part)
