"""The latest events of one process for the admin API: tags that have moved, pulls that were refused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from regproxy.http.origin import named

LATEST: Final = 200
_TEXT_MAX: Final = 300  # characters

MOVED: Final = "tag-moved"
REFUSED: Final = "refused"


class Event(Struct, frozen=True):
    """`number`: counts in this process, from 1. `at`: seconds since the epoch."""

    number: int
    at: float
    kind: str
    fields: dict[str, str]


class LiveEvents:
    """The latest of them; a flood of one kind costs no more than that."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._number = 0
        self._latest: deque[Event] = deque(maxlen=LATEST)

    def note(self, what: str, /, **fields: str) -> None:
        """Remember one. No field may hold a secret."""
        self._number += 1
        cut = {name: value[:_TEXT_MAX] for name, value in fields.items()}
        self._latest.append(Event(self._number, self._clock(), what, cut))

    def latest(self) -> list[Event]:
        """Return those that are remembered, the latest last."""
        return list(self._latest)

    def tag_moved(self, host: str, port: int, repository: str, tag: str, former: str, digest: str) -> None:
        """Note that an origin names another digest under a tag."""
        where = named(host, port)
        self.note(MOVED, registry=where, repository=repository, tag=tag, former=former, digest=digest)
