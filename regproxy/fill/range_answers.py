"""Ask for ranges of a content, and tell answers that can be used from those that can't."""

from __future__ import annotations

import logging

from regproxy.core.errors import BadResponse
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.fill.origin_bodies import NO_RANGES, Bodies, check
from regproxy.fill.range_leases import whole_blocks
from regproxy.policy.verdicts import Verdict, after_head
from regproxy.upstream.fetch import Fetched

log = logging.getLogger(__name__)


class RangeAnswers:
    """The answers for one part, after the first.

    If the whole content comes instead of a range, that answer is kept for ask_all(); call drop() if ask_all()
    is not called.
    """

    def __init__(self, growth: GrowingFile, bodies: Bodies) -> None:
        self._growth = growth
        self._bodies = bodies
        self._all: Fetched | None = None

    async def ask(self, start: int, stop: int) -> tuple[Fetched, int] | None:
        """Return the answer for [start, stop), and where it ends; None: the origin does not give ranges.

        If it has sent the whole content instead, that answer is kept. In a part that is not scattered, it is
        returned like a range.
        """
        fetched = await self._bodies.ask(start, stop)
        ranged, status = start > 0 or stop >= 0, fetched.response.status
        if ranged and status in NO_RANGES:
            await self._bodies.answer(fetched)
            return None
        if status == 206 and self.is_wrong(fetched, start, stop):
            return None
        found = await self._checked(fetched, start, stop)
        total = self._growth.total
        if status == 206 and self._growth.extents is not None and whole_blocks(found[1], total) <= start:
            # Ranges of this kind would never complete a block.
            fetched.connection.abort()
            return None
        if ranged and status == 200 and self._growth.extents is not None:
            self.keep(fetched)
            return None
        return found

    async def ask_all(self) -> tuple[Fetched, int]:
        """Return an answer with the whole content, and where it ends."""
        fetched, self._all = self._all, None
        if fetched is None:
            fetched = await self._bodies.ask()
        return await self._checked(fetched, 0, -1)

    def keep(self, fetched: Fetched) -> None:
        """Keep an answer with the whole content for ask_all()."""
        self.drop()
        self._all = fetched

    def drop(self) -> None:
        """Abort an answer that is kept."""
        fetched, self._all = self._all, None
        if fetched is not None:
            fetched.connection.abort()

    def check(self, fetched: Fetched, start: int, stop: int) -> tuple[int, int]:
        """Check an answer by origin_bodies.check(). The length that it declares binds all later answers."""
        growth = self._growth
        total, end = check(fetched, start, stop, known=growth.total, there=growth.written)
        if total >= 0:
            growth.expect(total)
        return total, end

    def is_wrong(self, fetched: Fetched, start: int, stop: int) -> bool:
        """Return whether a 206 does not answer this range; its connection is aborted then."""
        try:
            self.check(fetched, start, stop)
        except BadResponse as error:
            log.info("asked for without a range: %s", error)
            fetched.connection.abort()
            return True
        return False

    async def _checked(self, fetched: Fetched, start: int, stop: int) -> tuple[Fetched, int]:
        # 416 is no answer to this: see origin_bodies.check().
        verdict = after_head(fetched.response.status, resumed=True)
        if verdict in (Verdict.TROUBLE, Verdict.RELAY, Verdict.FOLLOW):
            raise await self._bodies.answer(fetched)
        try:
            _, end = self.check(fetched, start, stop)
        except BaseException:
            fetched.connection.abort()
            raise
        return fetched, end if end >= 0 else self._growth.total
