"""Claims on tags by locked files, for the workers of one machine.

    claims/<name>.tag    locked by the process that asks the origin; then it holds the answer, for the others

`name` is a keyed hash of the request: equal for equal requests, without revealing what they carry.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from regproxy.cache import layout
from regproxy.cache.parts import boot_id
from regproxy.core import file_lock
from regproxy.dataplane.inotify import Watch
from regproxy.fill.follower import PartChanges

_FILE_MODE: Final = 0o640
_ANSWER_MAX: Final = 262_144  # bytes; a longer answer is not shared


class FileClaim:
    """A claim held by a file lock. `fd` -1: without one, as the disk has failed."""

    __slots__ = ("_fd", "_path", "answer")

    def __init__(self, fd: int, path: Path, answer: dict[str, Any] | None) -> None:
        self._fd = fd
        self._path = path
        self.answer = answer

    def publish(self, answer: dict[str, Any], at: float) -> None:
        """Write the answer into the file: see TagClaim.publish."""
        text = json.dumps({"boot": boot_id(), "at": at, "answer": answer}).encode()
        if self._fd >= 0 and len(text) <= _ANSWER_MAX:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, text, 0)

    def close(self) -> None:
        """Release the lock: see TagClaim.close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileClaims:
    """Claims of the processes that share a cache directory. `key`: a secret that all of them have."""

    def __init__(self, directory: Path, key: bytes, watch: Watch | None) -> None:
        self._directory = directory
        self._key = key
        self._watch = watch

    async def take(self, request: str, asked: Callable[[], float]) -> FileClaim:
        """Take a claim: see TagClaims.take. Where the disk fails, every process fetches for itself."""
        path = layout.tag_claim(self._directory, self.mark(request))
        while True:
            try:
                fd = _open(path)
            except OSError:
                return FileClaim(-1, path, None)
            try:
                await self._wait(fd)
                if file_lock.names(path, fd):
                    return FileClaim(fd, path, _answer(fd, asked()))
            except OSError:
                os.close(fd)
                return FileClaim(-1, path, None)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def mark(self, text: str) -> str:
        """Return a keyed hash: see TagClaims.mark."""
        return hashlib.blake2b(text.encode(), key=self._key[:64], digest_size=32).hexdigest()

    async def _wait(self, fd: int) -> None:
        if file_lock.lock(fd):
            return
        changes = PartChanges(self._watch, fd)
        try:
            while not file_lock.lock(fd):
                await changes.next()
        finally:
            changes.close()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)  # the cache directory itself is made by the store
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)


def _answer(fd: int, asked: float) -> dict[str, Any] | None:
    try:
        found = json.loads(os.pread(fd, _ANSWER_MAX, 0) or b"null")
        if found is not None and found["boot"] == boot_id() and found["at"] >= asked:
            answer: dict[str, Any] = found["answer"]
            return answer
    except (ValueError, TypeError, KeyError):
        # Its writer was killed while it was writing.
        pass
    return None
