"""Which registries answer HEAD as they do GET.

Some know no HEAD, or redirect it to a URL that is signed for GET alone.
"""

from __future__ import annotations

import time
from typing import Final

from regproxy.core.lru import Bounded
from regproxy.http.origin import Origin
from regproxy.registry.targets import Kind

_ORIGINS_MAX: Final = 1024
_NEEDS_GET_SECONDS: Final = 3600.0
_DOUBTFUL: Final = frozenset({403, 404})
_NO_METHOD: Final = frozenset({405, 501})


class HeadSupport:
    """What HEADs and GETs have shown so far."""

    def __init__(self) -> None:
        self._answers: Bounded[Origin, bool] = Bounded(_ORIGINS_MAX)
        self._needs_get: Bounded[tuple[Origin, Kind], float] = Bounded(_ORIGINS_MAX)

    def needs_get(self, registry: Origin, kind: Kind) -> bool:
        """Whether a registry has answered GET where it refused HEAD, lately."""
        return time.monotonic() < (self._needs_get.get((registry, kind)) or 0.0)

    def is_doubtful(self, origin: Origin, status: int) -> bool:
        """Whether a GET may be answered better than this HEAD was by `origin`; learns from the status.

        Who has answered a HEAD once knows the method: its 403 and 404 are meant.
        """
        if status < 300:
            self._answers.put(origin, True)
        return status in _NO_METHOD or (status in _DOUBTFUL and not self._answers.get(origin))

    def answered_get(self, registry: Origin, kind: Kind, status: int) -> None:
        """Learn from the GET that followed a doubtful HEAD, or stood for it."""
        if status < 300:
            self._needs_get.put((registry, kind), time.monotonic() + _NEEDS_GET_SECONDS)
