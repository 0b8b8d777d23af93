"""The last failure of each registry, for the admin API."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

REGISTRIES_MAX: Final = 100
MESSAGE_MAX: Final = 300  # characters
# The query of a URL may be signed, and so be as good as a login.
_QUERY: Final = re.compile(r"\?[^\s\"',;)]*")


class Failure(Struct, frozen=True):
    """`count`: since this process began. `at`: of the last one, seconds since the epoch."""

    registry: str
    count: int
    at: float
    message: str


class Failures:
    """What has gone wrong with registries: those that failed last, at most REGISTRIES_MAX."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last: dict[str, Failure] = {}

    def note(self, registry: str, message: str) -> None:
        """Remember a failure."""
        before = self._last.pop(registry, None)
        if len(self._last) >= REGISTRIES_MAX:
            del self._last[next(iter(self._last))]
        text = _QUERY.sub("?...", message)[:MESSAGE_MAX]
        count = before.count + 1 if before is not None else 1
        self._last[registry] = Failure(registry, count, self._clock(), text)

    def known(self) -> list[Failure]:
        """Return all of them, the latest last."""
        return list(self._last.values())
