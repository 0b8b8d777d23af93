"""Which stream fetches which bytes of a content that is filled in several places at once.

What readers wait for goes first, in the order in which they began to wait, then what is lacking from the
beginning on. No byte is leased twice at a time, and none that is there.
"""

from __future__ import annotations

from typing import Final

from regproxy.dataplane.block_map import BLOCK_SIZE
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter

MIB: Final = 1 << 20
WANTED: Final = 8 * MIB  # bytes fetched at once where a reader waits; what containerd reads of a range
PIECE: Final = 16 * MIB  # the most that is fetched at once behind that, by one of several streams
LEAST: Final = 4 * MIB
# A reader waits for a stream that is so near before it, rather than that another one is cut into.
NEAR: Final = PIECE


class Leases:
    """The leases of a growth that is scattered. `pieces`: none is longer than a piece from here on."""

    def __init__(self, growth: GrowingFile, *, pieces: bool) -> None:
        self._growth = growth
        self.pieces = pieces
        self.active: list[RangeWriter] = []
        self._asked: list[int] = []

    def ask_for(self, offsets: list[int]) -> None:
        """Readers of other processes wait here."""
        self._asked += offsets

    def add(self, start: int, stop: int, body_stop: int) -> RangeWriter:
        """A lease of [start, stop), for a body that ends at `body_stop`.

        Both are borders of blocks, but for the content's end, and the start where all ahead of it is there:
        what ends within a block would count as whole when the next one has come to its end.
        """
        segment = RangeWriter(self._growth, start, stop, body_stop)
        self.active.append(segment)
        self._tend()
        return segment

    def end(self, segment: RangeWriter) -> None:
        """It is over, whatever it has brought. A second time is none."""
        if segment in self.active:
            self.active.remove(segment)
            self._tend()

    def _tend(self) -> None:
        """Most readers are at the end of what is there: they are no news while a stream is there too."""
        self._growth.tended = self._holder(self._growth.written) is not None

    def next(self, streams: int, *, behind: bool) -> RangeWriter | None:
        """What to fetch next; None: nothing that is not on its way.

        `streams`: among how many the rest is shared. `behind`: also what nobody waits for yet.
        """
        for offset in self._wanted():
            segment = self._at(offset)
            if segment is not None:
                return segment
        return self._behind(streams) if behind else None

    def widen(self) -> None:
        """Others take part from here on: a lease of all the rest becomes a short one.

        A piece stays whole: what its origin has sent of it already would come once more.
        """
        self.pieces = True
        for segment in self.active:
            if segment.stop - segment.offset > PIECE:
                segment.stop = _up(segment.offset + LEAST)

    def narrow(self) -> None:
        """Nobody else takes part: what is on its way brings all that it can."""
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
        """A lease for a reader that waits at `offset`; None where it need not wait for long."""
        growth = self._growth
        if not 0 <= offset < self._growth.total or growth.holds(offset):
            return None
        start = max(offset - offset % BLOCK_SIZE, growth.written)
        held = self._holder(start)
        if held is not None:
            if start - held.offset <= NEAR:
                return None
            # What is behind this is left to others.
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
        """Up to where nothing is there, and nothing leased."""
        ahead = (held.start for held in self.active if held.start > start)
        return min(stop, self._hole(start)[1], *ahead, self._growth.total)

    def _hole(self, offset: int) -> tuple[int, int]:
        extents = self._growth.extents
        assert extents is not None
        return extents.hole(offset)


def whole_blocks(stop: int, total: int) -> int:
    """Up to where a body that ends at `stop` brings whole blocks."""
    return stop if stop == total else stop - stop % BLOCK_SIZE


def _up(offset: int) -> int:
    """To the next border of a block."""
    return -(-offset // BLOCK_SIZE) * BLOCK_SIZE
