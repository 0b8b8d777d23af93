"""Decide how many streams fetch a part: more than one if it is slow, or if readers wait at several places."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.fill.origin_bodies import Bodies, FillLimits
from regproxy.fill.range_leases import JUDGED, Leases

_RAMP: Final = 0.5  # seconds of one stream, before more are considered
_ENOUGH: Final = 100e6  # bytes/s of one stream: at this rate a limit per connection is unlikely
_WORTH: Final = 1.0  # seconds that the rest will take: less is not worth another connection
_APIECE: Final = 2  # times the streams allowed otherwise, at most, if readers wait at that many places
_MOST: Final = 16  # streams, whatever is waited for
_LINGER: Final = 1.0  # seconds for which a place still counts after the wait for it: another may begin


class StreamCount:
    """How many streams there may be now, and the lease of the next. `most`: at any time.

    `poke` is called when more may be worth it than at the last look.
    """

    def __init__(
        self,
        leases: Leases,
        growth: GrowingFile,
        bodies: Bodies,
        limits: FillLimits,
        loop: asyncio.AbstractEventLoop,
        poke: Callable[[], object],
    ) -> None:
        self._leases = leases
        self._growth = growth
        self._bodies = bodies
        self._limits = limits
        self._loop = loop
        self._poke = poke
        self.most = max(limits.streams, min(_APIECE * limits.streams, _MOST))
        self._width = 1
        self._places = 1  # that are waited for, or were until a moment ago
        self._began = self._not_before = self._look_at = 0.0
        self._counted_at = self._poke_at = 0.0

    def begin(self) -> None:
        """Note that the first stream starts now."""
        self._began = self._loop.time()

    def rests(self, now: float) -> bool:
        """Return whether no stream is to be added for a while, as one has failed."""
        return now < self._not_before

    def review(self, now: float, asked_for: list[int]) -> None:
        """Decide anew how many there may be. `asked_for`: offsets that other processes' readers wait for."""
        self._widen(now)
        self._leases.ask_for(asked_for)
        self._count(now)

    def next(self, busy: int) -> RangeWriter | None:
        """Return the next lease for one of the streams, beside `busy` others; None: there is none now."""
        width = max(self._width, self._places)
        return self._leases.next(width, behind=busy < width, now=self._loop.time())

    def look(self, now: float) -> None:
        """Poke when a stream may have turned out to be too slow for who waits ahead of it."""
        at = self._leases.look_at
        if at < math.inf and not now < self._poke_at <= at:
            self._poke_at = at
            self._loop.call_at(at, self._poke)

    def failed(self, left: int) -> None:
        """Have no other stream in place of one that has failed, for a while. `left`: streams that go on."""
        # The origin may mind the number of streams.
        self._width, self._places = max(1, left), 1
        self._not_before = self._look_at = self._loop.time() + self._limits.slow
        self._loop.call_at(self._not_before, self._poke)
        # The remaining streams fetch, as far as they can, what others were to fetch.
        self._leases.narrow()

    def try_again(self) -> None:
        """Allow several streams again: as all have failed, it was not their number that the origin minded."""
        self._not_before = self._look_at = 0.0

    def _count(self, now: float) -> None:
        """Count the places that are waited for, which is how many streams share what nobody waits for yet.

        One stream that is quick enough for all of them is cheaper.
        """
        took = now - self._began
        quick = took >= JUDGED and self._bodies.received >= _ENOUGH * took
        self._leases.shared = shared = self._limits.streams > 1 and not quick
        places = min(self._leases.places(), self.most) if shared and now >= self._not_before else 1
        if places >= self._places or now >= self._counted_at + _LINGER:
            self._places, self._counted_at = max(places, 1), now
        self._leases.crowded = shared and self._places > 1

    def _widen(self, now: float) -> None:
        """Allow more streams where one has run for _RAMP, is slow, and much is still missing."""
        if self._width >= self._limits.streams or now < self._look_at:
            return
        growth, took, received = self._growth, now - self._began, self._bodies.received
        slow = received < _ENOUGH * took and (growth.total - growth.written) * took > received * _WORTH
        if took >= _RAMP and slow:
            self._width = self._limits.streams
            self._leases.widen()
            return
        self._look_at = now + _RAMP
        self._loop.call_at(self._look_at, self._poke)
