"""Decide which stream fetches which bytes of a blob that is filled in several places at once.

Bytes that readers wait for come first, in the order in which the readers began to wait, then the missing
bytes from the beginning on. No byte is leased twice at a time, nor after it has been stored.
"""

from __future__ import annotations

from typing import Final

from regproxy.dataplane.block_map import BLOCK_SIZE
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter

MIB: Final = 1 << 20
WANTED: Final = 8 * MIB  # bytes fetched at once where a reader waits; what containerd reads of a range
PIECE: Final = 16 * MIB  # the longest other lease of one of several streams
LEAST: Final = 4 * MIB
# A reader waits for a stream that is at most this far before it; a stream further away is cut short instead.
NEAR: Final = PIECE


class Leases:
    """The leases of a scattered growth. `pieces`: from now on no lease is longer than PIECE."""

    def __init__(self, growth: GrowingFile, *, pieces: bool) -> None:
        self._growth = growth
        self.pieces = pieces
        self.active: list[RangeWriter] = []
        self._asked: list[int] = []

    def ask_for(self, offsets: list[int]) -> None:
        """Note the offsets at which readers in other processes wait."""
        self._asked += offsets

    def add(self, start: int, stop: int, body_stop: int) -> RangeWriter:
        """Lease [start, stop), for a body that ends at `body_stop`.

        Both are block boundaries, except for the end of the content, and for a start before which everything
        is stored: a block that one lease left partial would count as whole once the next one has reached its
        end.
        """
        segment = RangeWriter(self._growth, start, stop, body_stop)
        self.active.append(segment)
        self._tend()
        return segment

    def end(self, segment: RangeWriter) -> None:
        """Remove a lease, whatever has been fetched under it. A second call does nothing."""
        if segment in self.active:
            self.active.remove(segment)
            self._tend()

    def _tend(self) -> None:
        """Tell the growth whether a stream fetches at its end: readers that wait there are no news then."""
        self._growth.tended = self._holder(self._growth.written) is not None

    def next(self, streams: int, *, behind: bool) -> RangeWriter | None:
        """Return the next lease; None: every byte in question is already being fetched.

        `streams`: how many share the rest. `behind`: also lease bytes that nobody waits for yet.
        """
        for offset in self._wanted():
            segment = self._at(offset)
            if segment is not None:
                return segment
        return self._behind(streams) if behind else None

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

    def _at(self, offset: int) -> RangeWriter | None:
        """Return a lease for a reader that waits at `offset`; None where a stream will soon reach it."""
        growth = self._growth
        if not 0 <= offset < self._growth.total or growth.holds(offset):
            return None
        start = max(offset - offset % BLOCK_SIZE, growth.written)
        held = self._holder(start)
        if held is not None:
            if start - held.offset <= NEAR:
                return None
            # The rest of that lease is left to other streams.
            held.stop = start
        self.pieces = True
        return self.add(start, stop := self._free_end(start, _up(start + WANTED)), stop)

    def _behind(self, streams: int) -> RangeWriter | None:
        growth = self._growth
        size = self._growth.total
        if self.pieces:
            size = min(PIECE, max(LEAST, (self._growth.total - growth.written) // (2 * streams)))
        at = growth.written
        while at < self._growth.total:
            start = self._hole(at)[0]
            held = self._holder(start)
            if start < self._growth.total and held is None:
                return self.add(start, stop := self._free_end(start, _up(start + size)), stop)
            at = _up(held.stop) if held is not None else start
        return None

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
