"""What the supervisor does for the CA: it makes the files before workers read them, warns of its end."""

from __future__ import annotations

import logging
import time
from typing import Final

from regproxy.config.directories import Directories
from regproxy.config.settings import Config
from regproxy.core.errors import CertificateError
from regproxy.tls import ca_rotation
from regproxy.tls.ca_files import CaFiles, CaPair, files_of, load
from regproxy.tls.ca_scope import wanted

log = logging.getLogger(__name__)

_REMIND_SECONDS: Final = 86_400.0


class CaKeeper:
    """The CA of the configuration that was read last."""

    def __init__(self) -> None:
        self._files: CaFiles | None = None
        self._remind_at = 0.0

    def prepare(self, config: Config, directories: Directories) -> tuple[CaPair, ...]:
        """Return the CAs; make one if there is none, or if the newest may not sign what it has to.

        Raises CertificateError.
        """
        self._files = files_of(config, directories.ca_crt, directories.ca_key)
        now = time.time()
        self._remind_at = now + _REMIND_SECONDS
        pairs, notes = ca_rotation.prepare(self._files, wanted(config), now)
        for note in notes:
            log.log(logging.WARNING if note.warns else logging.INFO, "%s", note.text)
        return pairs

    def remind(self, now: float) -> None:
        """Log once a day that the CA expires soon. `now`: seconds since the epoch."""
        if self._files is None or now < self._remind_at:
            return
        self._remind_at = now + _REMIND_SECONDS
        try:
            warnings = ca_rotation.expiring(self._files, load(self._files, now), now)
        except CertificateError as error:
            warnings = [str(error)]
        for text in warnings:
            log.warning("%s", text)
