"""Read small files again when they change, as mounted secrets do.

Changes are detected by device, inode, size and times of the path's target, so a swapped symlink counts. Files
are checked once a second at most, in a thread: a hanging file system delays a request only for some seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from regproxy.core.errors import CredentialError
from regproxy.core.small_file import read_small

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
HANG_SECONDS: Final = 5.0

_Value = TypeVar("_Value")
_Signature = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[_Value]):
    """The result of `parse` for the texts of `paths`; `parse` raises ValueError, without any of their text.

    If a file can't be parsed, the previous value stays: the file may be half written. If one can't be read,
    it does not.
    """

    def __init__(
        self, paths: tuple[str, ...], parse: Callable[[list[str]], _Value], clock: Callable[[], float]
    ) -> None:
        self._paths = paths
        self._parse = parse
        self._clock = clock
        self._value: _Value | None = None
        self._error: CredentialError | None = None
        self._signature: _Signature | None = None
        self._looked = float("-inf")
        self._look: asyncio.Future[None] | None = None

    async def value(self) -> _Value:
        """Return the current value. Raises CredentialError, which names the file that can't be used."""
        if self._look is None and self._clock() - self._looked >= LOOK_SECONDS:
            # One check at a time: a hanging file system costs one thread.
            self._look = asyncio.get_running_loop().run_in_executor(None, self._refresh)
            self._look.add_done_callback(self._looked_at)
        if self._look is not None:
            await asyncio.wait({self._look}, timeout=HANG_SECONDS)
        if self._value is not None:
            return self._value
        raise self._error or CredentialError(f"{self._paths[0]}: no answer within {HANG_SECONDS:g} s")

    def forget(self) -> None:
        """Check the files on the next call, without waiting for the interval."""
        self._looked = float("-inf")

    def _looked_at(self, look: asyncio.Future[None]) -> None:
        self._look = None
        self._looked = self._clock()
        if not look.cancelled():
            look.exception()

    def _refresh(self) -> None:
        """Read the files again if they have changed. Runs in a thread, one at a time."""
        for _ in range(3):
            before = _signature(self._paths)
            if before == self._signature:
                return
            try:
                texts = [_read(path) for path in self._paths]
            except CredentialError as error:
                self._fail(error, before, keep=False)
                return
            # Related files are changed one after the other, or by one swapped link.
            if _signature(self._paths) == before:
                break
        try:
            self._value, self._error = self._parse(texts), None
        except ValueError as error:
            self._fail(CredentialError(f"{self._paths[0]}: not {error}"), before, keep=True)
            return
        self._signature = before

    def _fail(self, error: CredentialError, signature: _Signature, *, keep: bool) -> None:
        if str(error) != str(self._error):
            log.warning("%s", error)
        self._error, self._signature = error, signature
        if not keep:
            self._value = None


def _signature(paths: tuple[str, ...]) -> _Signature:
    return tuple(map(_signature_of, paths))


def _signature_of(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str) -> str:
    try:
        return read_small(path).decode()
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialError(f"{path}: not UTF-8") from None
