"""Hosts that registries redirect to, and that answer 429 or 503 to some requests: asked again, few at a time.

A CDN counts by object or address, and soon takes what it refused a moment ago. So each request waits for
itself, and what else is asked of that host goes on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from regproxy.core.lru import Bounded
from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.registry.rate_limits import parse_retry

BUSY: Final = frozenset({429, 503})
ATTEMPTS: Final = 5  # of one request
FEW: Final = 4  # requests at a time, while a host is busy
_PAUSE: Final = 0.5  # seconds before the second attempt, doubled with each, give or take a half
_PAUSE_MAX: Final = 8.0  # a client has a patience of some 30 s
_BUSY_SECONDS: Final = 30.0  # for which a host counts as busy
_TURN_SECONDS: Final = 10.0  # after which a request goes all the same
_HOSTS_MAX: Final = 1024


@dataclass(slots=True, eq=False)
class _Host:
    busy_until: float = 0.0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FEW))


class Backoff:
    """What is known of such hosts. One for each worker."""

    def __init__(self) -> None:
        self._hosts: Bounded[Origin, _Host] = Bounded(_HOSTS_MAX)

    @asynccontextmanager
    async def turn(self, at: Origin) -> AsyncIterator[None]:
        """Ask a host within this, until its answer's head is there: one of few, while it is busy."""
        host = self._hosts.get(at)
        if host is None or time.monotonic() >= host.busy_until:
            yield
            return
        took = False
        try:
            # Others may be waiting for what takes minutes until its first byte.
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN_SECONDS):
                    took = await host.turns.acquire()
            yield
        finally:
            if took:
                host.turns.release()

    def pause(self, at: Origin, response: Response, attempt: int) -> float | None:
        """Return after how many seconds to ask again what a host has answered so, None for never.

        `attempt`: which one it was, from 1.
        """
        if response.status not in BUSY:
            return None
        host = self._hosts.get(at)
        if host is None:
            self._hosts.put(at, host := _Host())
        host.busy_until = time.monotonic() + _BUSY_SECONDS
        said = parse_retry(response, time.time())
        if attempt >= ATTEMPTS or (said is not None and said > _PAUSE_MAX):
            return None
        own = _PAUSE * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        # Not all who were told the same come back in the same moment.
        return own if said is None else said + min(own, 1.0)
