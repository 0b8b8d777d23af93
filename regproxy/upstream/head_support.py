"""Learn which registries answer a HEAD as they would the GET.

Some do not implement HEAD, or redirect it to a URL that is signed for GET alone. Some implement it for a part
of what they have: for manifests and not for blobs, or for their own repositories and not for those that they
get from another registry.
"""

from __future__ import annotations

import time
from typing import Final

from regproxy.core.lru import Bounded
from regproxy.http.origin import Origin
from regproxy.registry.targets import Kind, Target

_PLACES_MAX: Final = 4096
_NEEDS_GET_SECONDS: Final = 3600.0
_NO_METHOD: Final = frozenset({405, 501})
# These mean the same for a GET: who is asking, or when.
_MEANT: Final = frozenset({401, 407, 408, 425, 429})


def lacks_head(status: int) -> bool:
    """Whether a status is about the method alone."""
    return status in _NO_METHOD


class HeadSupport:
    """Remembers, in one worker, who has answered a HEAD and where only a GET would do."""

    def __init__(self) -> None:
        # Who has answered a HEAD: a host, for a registry's repository; and any host, for all of a registry.
        self._answers: Bounded[tuple[Origin, Kind, Origin, str], bool] = Bounded(_PLACES_MAX)
        self._knows: Bounded[tuple[Origin, Kind], bool] = Bounded(_PLACES_MAX)
        # Of a repository, or of all ("").
        self._needs_get: Bounded[tuple[Origin, Kind, str], float] = Bounded(_PLACES_MAX)

    def needs_get(self, registry: Origin, target: Target) -> bool:
        """Whether a registry has answered GET where it refused HEAD, lately."""
        places = ((registry, target.kind, repository) for repository in ("", target.repository))
        now = time.monotonic()
        return any(now < (self._needs_get.get(place) or 0.0) for place in places)

    def is_doubtful(self, registry: Origin, target: Target, by: Origin, status: int) -> bool:
        """Whether a GET may be answered better than this HEAD was, by the registry or where it has led to.

        Learns from the status: who has answered a HEAD of such content once knows the method, and its 403 and
        404 are meant.
        """
        place = (registry, target.kind, by, target.repository)
        if status < 300:
            self._answers.put(place, True)
            self._knows.put((registry, target.kind), True)
        if lacks_head(status):
            return True
        return 400 <= status < 500 and status not in _MEANT and not self._answers.get(place)

    def answered_get(self, registry: Origin, target: Target, status: int) -> None:
        """Learn from the GET that followed a doubtful HEAD."""
        if status < 300:
            repository = target.repository if self._knows.get((registry, target.kind)) else ""
            self._needs_get.put((registry, target.kind, repository), time.monotonic() + _NEEDS_GET_SECONDS)
