"""Showing a login that no answer has proven yet: by a few requests at a time, so that a wrong one is not
shown by all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from regproxy.auth.lockout import Standings
from regproxy.config.credentials import Login
from regproxy.core.lru import Bounded

TRIALS_KEPT: Final = 1024
LANES: Final = 3  # requests that show an unproven login at a time, where nothing else can prove it
PATIENCE: Final = 5.0  # seconds, for a proof and for a lane

Key = tuple[Login, str, int]
Prove = Callable[[], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Queue:
    """Those who show an unproven login to a server."""

    inside: int = 0
    lanes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LANES))


class Trials:
    """The trials of a worker."""

    def __init__(self, standings: Standings, clock: Callable[[], float]) -> None:
        self._standings = standings
        self._clock = clock
        self._queues: Bounded[Key, _Queue] = Bounded(TRIALS_KEPT)

    @asynccontextmanager
    async def trial(self, key: Key, scope: object, prove: Prove) -> AsyncIterator[bool]:
        """Show a login within this. True: it must not be shown.

        Who comes first tries it with a request of its own. What that asks for may take its time and tell
        nothing, so for who comes meanwhile `prove` finds out; where it can't, few try at a time.
        """
        if self._standings.proven(key):
            yield False
            return
        queue = self._queues.get(key)
        if queue is None:
            self._queues.put(key, queue := _Queue())
        if queue.inside:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await prove()
        if self._settled(key, scope):
            yield self._rests(key, scope)
            return
        queue.inside += 1
        took = False
        try:
            took = await _take(queue.lanes)
            settled = self._settled(key, scope)
            if took and settled:
                queue.lanes.release()
                took = False
            yield self._rests(key, scope) if settled else not took
        finally:
            queue.inside -= 1
            if took:
                queue.lanes.release()

    def _settled(self, key: Key, scope: object) -> bool:
        return self._standings.proven(key) or self._rests(key, scope)

    def _rests(self, key: Key, scope: object) -> bool:
        return self._standings.rests(key, self._clock(), scope) > 0


async def _take(lanes: asyncio.Semaphore) -> bool:
    """Take a lane; False: none is free for long."""
    try:
        async with asyncio.timeout(PATIENCE):
            await lanes.acquire()
    except TimeoutError:
        return False
    return True
