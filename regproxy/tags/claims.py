"""One fetch of a tag at a time for equal requests, whichever process they came to.

    claims/<name>.tag    locked by who fetches; then it has the answer, for those who asked meanwhile

`name` says which requests are equal, without saying what they carry: a keyed hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from regproxy.cache.layout import TAG_CLAIM
from regproxy.cache.parts import boot_id
from regproxy.core import file_lock
from regproxy.dataplane.inotify import Watch
from regproxy.fill.follower import Changes

_FILE_MODE: Final = 0o640
_ANSWER_MAX: Final = 262_144


class TagClaim:
    """The right to fetch. `answer`: what somebody else was answered, then there is nothing to fetch."""

    __slots__ = ("_fd", "_path", "answer")

    def __init__(self, fd: int, path: Path, answer: dict[str, Any] | None) -> None:
        self._fd = fd
        self._path = path
        self.answer = answer

    def publish(self, answer: dict[str, Any], at: float) -> None:
        """Leave an answer (JSON's types) for those who asked before `at` (monotonic), when it was there."""
        text = json.dumps({"boot": boot_id(), "at": at, "answer": answer}).encode()
        if self._fd >= 0 and len(text) <= _ANSWER_MAX:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, text, 0)

    def close(self) -> None:
        """Let the next one fetch."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class TagClaims:
    """The claims in one directory. `key`: the same in all processes that share them, and secret."""

    def __init__(self, directory: Path, key: bytes, watch: Watch | None) -> None:
        self._directory = directory
        self._key = key
        self._watch = watch

    async def take(self, request: str, asked: Callable[[], float]) -> TagClaim:
        """Wait for the right to fetch, or for the answer that another process got since `asked()`.

        `asked` is looked at when the wait is over: monotonic seconds.
        Where the disk fails every process fetches for itself.
        """
        path = self._directory / f"{self.mark(request)}{TAG_CLAIM}"
        while True:
            try:
                fd = _open(path)
            except OSError:
                return TagClaim(-1, path, None)
            try:
                await self._wait(fd)
                if file_lock.names(path, fd):
                    return TagClaim(fd, path, _answer(fd, asked()))
            except OSError:
                os.close(fd)
                return TagClaim(-1, path, None)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def mark(self, text: str) -> str:
        """The same for equal texts in all processes, and it tells nothing of the text."""
        return hashlib.blake2b(text.encode(), key=self._key[:64], digest_size=32).hexdigest()

    async def _wait(self, fd: int) -> None:
        if file_lock.lock(fd):
            return
        changes = Changes(self._watch, fd)
        try:
            while not file_lock.lock(fd):
                await changes.next()
        finally:
            changes.close()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)  # the cache directory itself is the store's to make
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)


def _answer(fd: int, asked: float) -> dict[str, Any] | None:
    try:
        found = json.loads(os.pread(fd, _ANSWER_MAX, 0) or b"null")
        if found is not None and found["boot"] == boot_id() and found["at"] >= asked:
            answer: dict[str, Any] = found["answer"]
            return answer
    except (ValueError, TypeError, KeyError):
        # Its writer was killed in the middle of it.
        pass
    return None
