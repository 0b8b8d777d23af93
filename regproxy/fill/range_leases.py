"""Decide which stream fetches which bytes of a blob that is filled in several places at once.

Bytes that readers wait for come first, in the order in which the readers began to wait, then the missing
bytes from the beginning on. No byte is leased twice at a time, nor after it has been stored.

Clients that fetch a blob by parallel ranges (containerd 2.1) get no less than directly: as many streams as
there are places at which readers wait. Where one stream is quick enough for several places it keeps them:
what a body that is cut short had on its way comes twice.
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from regproxy.dataplane.block_map import BLOCK_SIZE
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter

MIB: Final = 1 << 20
WANTED: Final = 8 * MIB  # bytes fetched at once where a reader waits; what containerd reads of a range
PIECE: Final = 16 * MIB  # the longest other lease of one of several streams
LEAST: Final = 4 * MIB
# A reader waits for a stream that is at most this far before it; a stream further away is cut short instead.
NEAR: Final = PIECE
APART: Final = MIB  # readers that wait closer to each other share a stream
SOON: Final = 0.1  # seconds; where its stream will need longer to reach it, a reader gets one of its own
LATE: Final = 0.4  # seconds; a lease that will take longer is shared with a stream that has none
JUDGED: Final = 0.05  # seconds of a body, before its rate is known
STALLED: Final = 2.0  # seconds without a head, after which others may have the bytes that readers wait for,
UNREAD: Final = BLOCK_SIZE  # bytes that have come but we have not read: it is us who are slow, and cutting
# the body would have them come twice
PATIENCE: Final = 4  # or so many times as long as the slowest head has taken, if that is longer


class _Pace(Struct):
    """When a lease was given out, when its body began (-1: it has not), and at which offset."""

    asked: float
    began: float = -1.0
    start: int = 0


class Leases:
    """The leases of a scattered growth. `pieces`: from now on no lease is longer than PIECE.

    `shared`: who waits where one stream is slow gets another one. `crowded`: there are several who wait, so
    no stream is left with much more to bring than others. `now` is the time in seconds by any clock;
    `look_at` is when next() may have another answer without news of readers or streams.
    """

    def __init__(self, growth: GrowingFile, *, pieces: bool, shared: bool = False) -> None:
        self._growth = growth
        self.pieces = pieces
        self.shared = shared
        self.crowded = False
        self.active: list[RangeWriter] = []
        self.look_at = math.inf
        self._asked: list[int] = []
        self._paces: dict[RangeWriter, _Pace] = {}
        self._stalled = STALLED

    def ask_for(self, offsets: list[int]) -> None:
        """Note the offsets at which readers in other processes wait."""
        self._asked += offsets

    def add(self, start: int, stop: int, body_stop: int, *, now: float = 0.0) -> RangeWriter:
        """Lease [start, stop), for a body that ends at `body_stop`.

        Both are block boundaries, except for the end of the content, and for a start before which everything
        is stored: a block that one lease left partial would count as whole once the next one has reached its
        end.
        """
        segment = RangeWriter(self._growth, start, stop, body_stop)
        self.active.append(segment)
        self._paces[segment] = _Pace(now)
        self._tend()
        return segment

    def began(self, segment: RangeWriter, now: float, took: float) -> None:
        """Note that the head of a lease's body has come, `took` seconds after it was asked for."""
        self._stalled = max(self._stalled, PATIENCE * took)
        if segment in self._paces:
            self._paces[segment] = _Pace(now, now, segment.offset)

    def end(self, segment: RangeWriter) -> None:
        """Remove a lease, whatever has been fetched under it. A second call does nothing."""
        if segment in self.active:
            self.active.remove(segment)
            del self._paces[segment]
            self._tend()

    def _tend(self) -> None:
        """Tell the growth what is being fetched: readers that wait for just that are no news then."""
        self._growth.tending = tuple(self.active)

    def next(self, streams: int, *, behind: bool, now: float = 0.0) -> RangeWriter | None:
        """Return the next lease; None: every byte in question is already being fetched.

        `streams`: how many share the rest. `behind`: also lease bytes that nobody waits for yet.
        """
        self.look_at = math.inf
        wanted = self._wanted()
        for offset in wanted:
            segment = self._at(offset, wanted, now)
            if segment is not None:
                return segment
        return self._behind(streams, now) if behind else None

    def places(self) -> int:
        """Return at how many places readers wait for missing bytes, those of one lease being one place."""
        growth = self._growth
        missing = (offset for offset in self._wanted() if not growth.holds(offset))
        return len({self._holder(offset) or offset // APART for offset in missing})

    def widen(self) -> None:
        """Make room for other streams: shorten a lease of all the rest.

        A lease of a piece or less stays whole: bytes that its origin has sent already would come once more.
        """
        self.pieces = True
        for segment in self.active:
            if segment.stop - segment.offset > PIECE:
                segment.stop = _up(segment.offset + LEAST)

    def narrow(self) -> None:
        """Extend the active leases as far as their bodies go: no other stream takes part."""
        for segment in self.active:
            stop = whole_blocks(segment.body_stop, self._growth.total)
            segment.stop = max(segment.offset, self._free_end(segment.offset, stop))

    def _wanted(self) -> list[int]:
        growth = self._growth
        self._asked = [
            offset for offset in self._asked if offset < self._growth.total and not growth.holds(offset)
        ]
        return list(dict.fromkeys((*growth.wanted(), *self._asked)))

    def _at(self, offset: int, wanted: list[int], now: float) -> RangeWriter | None:
        """Return a lease for a reader that waits at `offset`; None where a stream will soon reach it."""
        growth = self._growth
        if not 0 <= offset < self._growth.total or growth.holds(offset):
            return None
        start = max(offset - offset % BLOCK_SIZE, growth.written)
        held = self._holder(start)
        if held is not None and not self._yields(held, start, now):
            return None
        stop = self._free_end(start, _up(start + WANTED))
        if self.shared:
            # Where another reader waits, another stream begins.
            others = (at - at % BLOCK_SIZE for at in wanted if at >= start + APART)
            stop = min(stop, *others, stop)
        self.pieces = True
        return self.add(start, stop, stop, now=now)

    def _yields(self, held: RangeWriter, start: int, now: float) -> bool:
        """Leave a lease's bytes from `start` on to another stream, unless its own will soon be there."""
        pace, ahead = self._paces[held], start - held.offset
        if ahead > NEAR:
            held.stop = start
            return True
        if not self.shared:
            return False
        if pace.began < 0:
            # What an origin takes long to begin with may come at once then.
            if now < pace.asked + self._stalled:
                self.look_at = min(self.look_at, pace.asked + self._stalled)
                return False
            held.stop = max(start, held.offset)
            if held.stop == held.start:
                self.end(held)
            return True
        if ahead < APART // 2:
            return False
        ready = pace.began + JUDGED
        late = ahead * (now - pace.began) > (held.offset - pace.start) * SOON
        if now < ready or not late or held.unread > UNREAD:
            self.look_at = min(self.look_at, max(ready, now + SOON))
            return False
        held.stop = start
        return True

    def _behind(self, streams: int, now: float) -> RangeWriter | None:
        growth = self._growth
        size = self._growth.total
        if self.pieces:
            least = LEAST // 2 if self.crowded else LEAST
            size = min(PIECE, max(least, (self._growth.total - growth.written) // (2 * streams)))
        at = growth.written
        while at < self._growth.total:
            start = self._hole(at)[0]
            held = self._holder(start)
            if start < self._growth.total and held is None:
                stop = self._free_end(start, _up(start + size))
                return self.add(start, stop, stop, now=now)
            at = _up(held.stop) if held is not None else start
        return self._split(now) if self.crowded else None

    def _split(self, now: float) -> RangeWriter | None:
        """Return the second half of what the slowest stream has yet to bring; None where that is little."""
        longest, slow = LATE, None
        for held in self.active:
            began, missing = self._paces[held].began, held.stop - held.offset
            if began < 0 or missing < APART:
                continue
            if now < began + JUDGED or held.unread > UNREAD:
                self.look_at = min(self.look_at, max(began + JUDGED, now + SOON))
                continue
            left = missing * (now - began) / max(held.offset - self._paces[held].start, 1)
            if left > longest:
                longest, slow = left, held
        if slow is None:
            return None
        stop = slow.stop
        slow.stop = _up(slow.offset + (stop - slow.offset) // 2)
        return self.add(slow.stop, stop, stop, now=now)

    def _holder(self, offset: int) -> RangeWriter | None:
        return next((held for held in self.active if held.start <= offset < held.stop), None)

    def _free_end(self, start: int, stop: int) -> int:
        """Return the end of the range from `start` on, `stop` at most, that is neither stored nor leased."""
        ahead = (held.start for held in self.active if held.start > start)
        return min(stop, self._hole(start)[1], *ahead, self._growth.total)

    def _hole(self, offset: int) -> tuple[int, int]:
        extents = self._growth.extents
        assert extents is not None
        return extents.hole(offset)


def whole_blocks(stop: int, total: int) -> int:
    """Return the offset up to which a body that ends at `stop` brings whole blocks."""
    return stop if stop == total else stop - stop % BLOCK_SIZE


def _up(offset: int) -> int:
    """Round up to a block boundary."""
    return -(-offset // BLOCK_SIZE) * BLOCK_SIZE
