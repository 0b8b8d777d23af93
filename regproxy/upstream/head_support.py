"""Learn which registries answer a HEAD as they would the GET.

Some do not implement HEAD, or redirect it to a URL that is signed for GET alone.
"""

from __future__ import annotations

import time
from typing import Final

from regproxy.core.lru import Bounded
from regproxy.http.origin import Origin
from regproxy.registry.targets import Kind

_ORIGINS_MAX: Final = 1024
_NEEDS_GET_SECONDS: Final = 3600.0  # since the last GET that was answered in place of a HEAD
_DOUBTFUL: Final = frozenset({403, 404})
_NO_METHOD: Final = frozenset({405, 501})  # RFC 9110 15.5.6, 15.6.2


class HeadSupport:
    """Remembers, in one worker, who has answered a HEAD and where only a GET would do."""

    def __init__(self) -> None:
        self._has_answered: Bounded[Origin, bool] = Bounded(_ORIGINS_MAX)
        self._needs_get: Bounded[tuple[Origin, Kind], float] = Bounded(_ORIGINS_MAX)

    def needs_get(self, registry: Origin, kind: Kind) -> bool:
        """Tell whether a registry has lately answered GET where it refuses HEAD, for this kind of request."""
        return time.monotonic() < (self._needs_get.get((registry, kind)) or 0.0)

    def is_doubtful(self, origin: Origin, status: int) -> bool:
        """Learn from a HEAD's status; tell whether a GET of the same may be answered better by `origin`.

        An origin that has answered one HEAD implements the method: its 403s and 404s are meant.
        """
        if status < 300:
            self._has_answered.put(origin, True)
        return status in _NO_METHOD or (status in _DOUBTFUL and not self._has_answered.get(origin))

    def answered_get(self, registry: Origin, kind: Kind, status: int) -> None:
        """Learn from the GET that was sent after a doubtful HEAD, or in place of one."""
        if status < 300:
            self._needs_get.put((registry, kind), time.monotonic() + _NEEDS_GET_SECONDS)
