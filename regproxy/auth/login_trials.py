"""Limit how many requests at a time send a login that no answer has proven yet, so that a wrong login is not
sent by all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from msgspec import Struct, field

from regproxy.auth.lockout import Standings
from regproxy.config.credentials import Login
from regproxy.core.lru import Bounded

TRIALS_KEPT: Final = 1024
LANES: Final = 3  # requests that send an unproven login at a time, where nothing else can prove it
LOST_MAX: Final = 5  # clients in a row that left before the answer to a request with the login
PATIENCE: Final = 5.0  # seconds to wait for a proof, and for a lane

Key = tuple[Login, str, int]
Prove = Callable[[], Awaitable[None]]


class _Queue(Struct, eq=False):
    """Requests that send a login to a server. `lost`: how many of the last did not wait for its answer."""

    inside: int = 0
    lost: int = 0
    lanes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LANES))


class Trials:
    """The trials of a worker."""

    def __init__(self, standings: Standings, clock: Callable[[], float]) -> None:
        self._standings = standings
        self._clock = clock
        self._queues: Bounded[Key, _Queue] = Bounded(TRIALS_KEPT)

    @asynccontextmanager
    async def trial(self, key: Key, scope: object, prove: Prove) -> AsyncIterator[bool]:
        """Send a login within this context. True: it must not be sent.

        The first request tries the login itself. It may take long and prove nothing, or its client may leave,
        so for later requests `prove` finds out; where it can't, a few try at a time. A login accepted before
        is tried like this again after a while, as its password may have changed, but no request goes without
        it for that.
        """
        queue = self._queues.get(key)
        if queue is None:
            self._queues.put(key, queue := _Queue())
        if not await self._may_show(key, scope, queue, prove):
            yield True
            return
        if self._settled(key, scope):
            with self._counting(queue):
                yield False
            return
        queue.inside += 1
        took = False
        try:
            took = await _take(queue.lanes)
            if took and self._settled(key, scope):
                queue.lanes.release()
                took = False
            rests = self._rests(key, scope) or not (took or self._standings.proven(key))
            with self._counting(queue, counted=not rests):
                yield rests
        finally:
            queue.inside -= 1
            if took:
                queue.lanes.release()

    async def _may_show(self, key: Key, scope: object, queue: _Queue, prove: Prove) -> bool:
        """Test a login that other requests are sending, that clients abandoned, or that was refused; False:
        it is suspended.
        """
        waits = queue.inside and not self._standings.fresh(key, self._clock())
        if waits or queue.lost >= LOST_MAX or self._standings.failed(key):
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await prove()
        if self._rests(key, scope):
            return False
        if queue.lost >= LOST_MAX:
            # The login is unproven: one request in a while, until a client waits for the answer.
            return self._standings.hold(key, self._clock()) == 0
        return True

    @contextmanager
    def _counting(self, queue: _Queue, *, counted: bool = True) -> Iterator[None]:
        """Count requests that send a login and do not wait for the answer."""
        try:
            yield
        except asyncio.CancelledError:
            queue.lost += counted
            raise
        queue.lost = 0

    def _settled(self, key: Key, scope: object) -> bool:
        return self._standings.fresh(key, self._clock()) or self._rests(key, scope)

    def _rests(self, key: Key, scope: object) -> bool:
        return self._standings.rests(key, self._clock(), scope) > 0


async def _take(lanes: asyncio.Semaphore) -> bool:
    """Take a lane; False if none is free within PATIENCE seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            await lanes.acquire()
    except TimeoutError:
        return False
    return True
