"""Retry requests that a host behind a redirect answers with 429 or 503, and send it few at a time meanwhile.

Such hosts are CDNs and object stores. They limit requests by object or by client address, and soon accept
what they refused a moment ago. So each request backs off by itself, and other requests to that host go on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from msgspec import Struct, field

from regproxy.core.lru import Bounded
from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.registry.rate_limits import parse_retry

BUSY: Final = frozenset({429, 503})
ATTEMPTS: Final = 5  # of one request
FEW: Final = 4  # requests under way to a busy host
_PAUSE: Final = 0.5  # seconds before the second attempt, doubled for each further one, give or take a half
_PAUSE_MAX: Final = 8.0  # seconds; a longer Retry-After is not waited for: clients give up after some 30 s
_BUSY_SECONDS: Final = 30.0  # for which a host counts as busy after a 429 or 503
_TURN_SECONDS: Final = 10.0  # after which a request is sent without a turn
_HOSTS_MAX: Final = 1024


class _Host(Struct, eq=False):
    busy_until: float = 0.0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FEW))


class Backoff:
    """Knows which of these hosts are busy. One for each worker."""

    def __init__(self) -> None:
        self._hosts: Bounded[Origin, _Host] = Bounded(_HOSTS_MAX)

    @asynccontextmanager
    async def turn(self, at: Origin) -> AsyncIterator[None]:
        """Send a request within this context, and leave it with the answer's head; while the host is busy, at
        most FEW requests are in it.
        """
        host = self._hosts.get(at)
        if host is None or time.monotonic() >= host.busy_until:
            yield
            return
        took = False
        try:
            # The requests ahead may take minutes until their first byte.
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN_SECONDS):
                    took = await host.turns.acquire()
            yield
        finally:
            if took:
                host.turns.release()

    def pause(self, at: Origin, response: Response, attempt: int) -> float | None:
        """Return the seconds to wait before the next attempt; None: the answer stands.

        `attempt`: the number of the attempt that got this answer, from 1.
        """
        if response.status not in BUSY:
            return None
        host = self._hosts.get(at)
        if host is None:
            self._hosts.put(at, host := _Host())
        host.busy_until = time.monotonic() + _BUSY_SECONDS
        retry_after = parse_retry(response, time.time())
        if attempt >= ATTEMPTS or (retry_after is not None and retry_after > _PAUSE_MAX):
            return None
        own = _PAUSE * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        # Some jitter: not all clients that got the same Retry-After should come back in the same moment.
        return own if retry_after is None else retry_after + min(own, 1.0)
