"""Read the CA's files again when they change: by a rotation, or as cert-manager or Vault renews them.

Each worker looks by itself, once a second, in a thread, so that a file system that hangs holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from regproxy.core.errors import CertificateError
from regproxy.tls.ca_files import CaFiles, CaPair, load

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0

_Signature = tuple[tuple[int, ...] | None, ...]


class CaWatch:
    """The files, and what was read of them. `on_change` gets the CAs that are new, in the event loop."""

    def __init__(self, files: CaFiles, clock: Callable[[], float] = time.time) -> None:
        """Remember how the files are; call it before they are read for the first time."""
        self._files = files
        self._clock = clock
        self._signature: _Signature | None = _signature(files)
        self._complaint = ""

    async def run(self, on_change: Callable[[tuple[CaPair, ...]], None]) -> None:
        """Look for changes until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                pairs = await loop.run_in_executor(None, self.look)
                if pairs is not None:
                    on_change(pairs)
                    log.info("%s was read again: %d in use", self._files.crt, len(pairs))
            except Exception:
                log.exception("reading the CA's files again")

    def look(self) -> tuple[CaPair, ...] | None:
        """Return the CAs if they have changed; None: they have not, or can't be used, which is logged once.

        May block.
        """
        before = _signature(self._files)
        if before == self._signature:
            return None
        try:
            pairs = load(self._files, self._clock())
        except CertificateError as error:
            # Half written, most likely. Looked at again each time: two changes can have the same signature.
            self._complain(f"{error}; the CA that is in use goes on")
            return None
        if _signature(self._files) != before:
            return None  # changed meanwhile: which of both was read?
        self._signature, self._complaint = before, ""
        return pairs

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


def _signature(files: CaFiles) -> _Signature:
    """Return what tells a change: of the files that paths lead to, so a swapped symbolic link counts."""
    return tuple(_signature_of(str(path)) for path in files.every)


def _signature_of(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
