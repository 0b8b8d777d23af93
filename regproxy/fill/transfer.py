"""Fetch the missing bytes of a part.

    linear       one body after another, from the part's end: short content, or content of unknown length
    scattered    leases on any of its bytes, each fetched by a stream of its own
    whole        the origin knows no ranges: all of it again, of which only missing bytes are stored

Readers of the part see a pause where a body breaks and is resumed, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

from regproxy.cache.parts import MAPPED_MAX, Part
from regproxy.core.errors import (
    BadResponse,
    Busy,
    CircuitOpen,
    ConnectFailed,
    RateLimited,
    StoreError,
    UpstreamError,
)
from regproxy.core.tasks import cancel_all
from regproxy.dataplane.block_map import BLOCK_SIZE
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.dataplane.inotify import Watch
from regproxy.fill.fill import Fill
from regproxy.fill.origin_bodies import NO_RANGES, PROGRESS, Bodies, FillLimits, is_behind, is_retryable
from regproxy.fill.range_answers import RangeAnswers
from regproxy.fill.range_leases import WANTED, Leases, whole_blocks
from regproxy.fill.stream_count import StreamCount
from regproxy.http.messages import Response
from regproxy.http.ranges import Span, parse_content_range, parse_range
from regproxy.policy.verdicts import Verdict, after_head
from regproxy.registry.targets import Kind
from regproxy.upstream.connections.connection import BodyBroken, ConnectionLost
from regproxy.upstream.fetch import Fetched

log = logging.getLogger(__name__)

SCATTERED: Final = 4 << 20  # bytes; shorter content is fetched by one stream
_NO_TURN: Final = (RateLimited, CircuitOpen, Busy)  # was not even asked for, or is too early


class Transfer:
    """The fetch of a part's missing bytes.

    `opened(fetched, total, scattered)` is called once, with the first head: it prepares the part, and tells
    readers. `relay(errno)` stops storing the part on disk.
    """

    def __init__(
        self,
        fill: Fill,
        part: Part,
        bodies: Bodies,
        limits: FillLimits,
        watch: Watch | None,
        opened: Callable[[Fetched, int, bool], None],
        relay: Callable[[int], None],
    ) -> None:
        self._fill = fill
        self._part = part
        self._growth: GrowingFile = part.growth
        self._bodies = bodies
        self._watch = watch
        self._opened = opened
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._poked = asyncio.Event()
        self._ranges = True
        self._alone = False  # the first answer is all of it where a range was asked for
        self._in_vain = 0  # ranges in a row that were asked for and brought next to nothing
        self._answers = RangeAnswers(self._growth, bodies)
        self._resting = False
        self._opening: Fetched | None = None  # the first stream's
        start, stop = self._first_span()
        self._span = start, stop
        self._leases = Leases(self._growth, pieces=stop >= 0)
        self._count = StreamCount(*(self._leases, self._growth, bodies, limits, self._loop), self._poked.set)
        self._first_took = 0.0

    async def run(self) -> Response:
        """Complete the part; return the head that opened it. Raises RegproxyError."""
        growth = self._growth
        fetched, stop = await self._first()
        response = fetched.response
        start = self._span[0]
        if response.status == 416:
            # The content ends where the part does.
            await self._bodies.answer(fetched)
        elif growth.extents is None:
            await self._linear(fetched, start, stop)
        elif response.status == 200 and self._holds_any():
            self._answers.keep(fetched)
            await self._whole()
        else:
            usable = max(start, whole_blocks(stop, growth.total))
            await self._scattered(fetched, self._leases.add(start, usable, stop))
        return response

    def _holds_any(self) -> bool:
        extents = self._growth.extents
        return self._growth.written > 0 or (extents is not None and extents.hole(0)[1] < extents.total)

    # --- the first answer --------------------------------------------------------------------------------

    def _first_span(self) -> tuple[int, int]:
        """Return the range to ask for first: missing bytes, from the client's range on in a new part."""
        growth, wanted = self._growth, self._fill.wanted
        if growth.extents is not None:
            start, stop = growth.extents.hole(growth.written)
            return start, -1 if stop == growth.total else stop
        if growth.written or wanted.target.kind is not Kind.BLOB or self._part.path is None:
            return growth.written, -1
        asked = parse_range(wanted.request.get(b"range"))
        if asked is None or asked.first is None:
            return 0, -1
        start = asked.first - asked.first % BLOCK_SIZE
        return start, start + WANTED

    async def _first(self) -> tuple[Fetched, int]:
        """Return the answer that opens the part, and where its body ends. Raises UpstreamAnswer."""
        fetched: Fetched | None = None
        asked = self._loop.time()
        try:
            fetched = await self._bodies.ask_first(*self._span)
        except (BadResponse, ConnectionLost) as error:
            if self._span == (0, -1):
                raise
            log.info("asked for without a range: %s", error)
        if fetched is None or await self._wants_all(fetched):
            self._span = 0, -1
            fetched = await self._bodies.ask()
        self._first_took = self._loop.time() - asked
        start, stop = self._span
        verdict = after_head(fetched.response.status, resumed=start > 0 or stop >= 0)
        if verdict in (Verdict.TROUBLE, Verdict.RELAY, Verdict.FOLLOW):
            raise await self._bodies.answer(fetched)
        try:
            return fetched, self._open(fetched, verdict)
        except BaseException:
            fetched.connection.abort()
            raise

    async def _wants_all(self, fetched: Fetched) -> bool:
        """Return whether to ask for all of it instead of a range; this answer is disposed of then."""
        response, (start, stop) = fetched.response, self._span
        if not start and stop < 0:
            return False
        # The part may be complete already, if its length was never declared.
        behind = response.status == 416 and self._holds_any() and self._growth.total in (-1, start)
        behind = behind and is_behind(response, start)
        if (response.status in NO_RANGES or response.status >= 500) and not behind:
            # The origin, or a proxy before it, may refuse only the range.
            await self._bodies.answer(fetched)
            return True
        found = parse_content_range(response.get(b"content-range")) if response.status == 206 else None
        if stop >= 0 and found is not None and not _usable(found, start):
            fetched.connection.abort()
            return True
        return response.status == 206 and self._answers.is_wrong(fetched, start, stop)

    def _open(self, fetched: Fetched, verdict: Verdict) -> int:
        growth, (start, stop) = self._growth, self._span
        total = end = start
        if verdict is not Verdict.COMPLETE:
            total, end = self._answers.check(fetched, start, stop)
        if fetched.response.status == 200:
            self._alone = self._span != (0, -1)
            self._span = start, stop = 0, -1
        blob = self._fill.wanted.target.kind is Kind.BLOB
        scattered = blob and 0 < total <= MAPPED_MAX and (total >= SCATTERED or start > growth.written)
        total = max(total, growth.total)
        self._opened(fetched, total, scattered)
        return end if end >= 0 else total

    # --- linear ------------------------------------------------------------------------------------------

    async def _linear(self, fetched: Fetched | None, start: int, stop: int = -1) -> None:
        """Fetch one body after another, from the part's end; the first has [start, stop), stop -1 unknown."""
        growth = self._growth
        if fetched is not None and start > growth.written:
            # From here on it can only be fetched from the part's end.
            fetched.connection.abort()
            fetched = None
        ranged = True
        while True:
            before = growth.written
            try:
                if fetched is None:
                    found = await self._answers.ask(before, -1) if ranged else None
                    fetched, stop = found or await self._answers.ask_all()
                growth.pass_over(before if fetched.response.status == 200 else 0)
                await self._bodies.take(fetched, growth)
                if growth.written < stop and growth.total < 0:
                    raise BodyBroken(f"{fetched.origin.host} ended its body before byte {stop}")
                if growth.total < 0 or growth.written >= growth.total:
                    return
                if growth.written == before:
                    raise BodyBroken(f"{fetched.origin.host} sent nothing of what is lacking")
            except UpstreamError as error:
                if 0 <= growth.total <= growth.written:
                    return  # it broke after its last byte
                if fetched is not None and await self._is_whole(fetched.response):
                    return
                failed = ranged and before > 0 and self._was_in_vain(error, growth.written - before)
                if not (failed and _is_final(error)):
                    await self._bodies.pause(error)
                ranged = not failed
            fetched = None

    def _was_in_vain(self, error: UpstreamError, new: int) -> bool:
        """Note a range that failed after `new` bytes; return whether to ask for all of it next.

        One that can't be right is enough for that; of others, which may pass, there have to be two in a row.
        """
        if new >= PROGRESS or isinstance(error, ConnectFailed | CircuitOpen | Busy | RateLimited):
            self._in_vain = 0
            return False
        self._in_vain += 1
        if self._in_vain < 2 and not _is_final(error):
            return False
        self._in_vain = 0
        log.info("%s: asked for without a range: %s", self._bodies.host, error)
        return True

    async def _is_whole(self, response: Response) -> bool:
        """Whether a body without a length is all there although it broke off: its digest alone can tell.

        Servers that close the connection behind it need not say so in TLS (RFC 9112 9.8).
        """
        target = self._fill.wanted.target
        expected = target.reference
        if target.kind is Kind.TAG:
            expected = (response.get(b"docker-content-digest") or b"").decode("latin-1")
        if self._growth.total >= 0 or not self._growth.written:
            return False
        await hash_all(self._growth, self._loop)
        return "sha256:" + self._growth.hexdigest() == expected

    # --- whole -------------------------------------------------------------------------------------------

    async def _whole(self) -> None:
        """Fetch the whole content, and skip the bytes that are stored."""
        growth = self._growth
        while growth.written < growth.total:
            try:
                fetched, _ = await self._answers.ask_all()
                await self._take(fetched, RangeWriter(growth, 0, growth.total, growth.total), growth.written)
            except UpstreamError as error:
                if growth.disk_errno:
                    await self._go_on_in_memory()
                    return
                if growth.written < growth.total:
                    await self._bodies.pause(error)

    async def _take(self, fetched: Fetched, segment: RangeWriter, known: int = 0) -> None:
        await self._bodies.take(fetched, segment, known)
        if segment.offset < min(segment.stop, segment.body_stop):
            raise BodyBroken(
                f"{fetched.origin.host} ended its body {segment.stop - segment.offset} bytes early"
            )

    # --- scattered ---------------------------------------------------------------------------------------

    async def _scattered(self, fetched: Fetched, segment: RangeWriter) -> None:
        """Fetch by as many streams as are worth it, until the part is complete."""
        growth = self._growth
        self._count.begin()
        self._opening = fetched
        with ExitStack() as stack:
            growth.on_wait = self._poked.set
            if self._watch is not None and self._part.want_fd >= 0:
                with suppress(OSError):  # then other processes' readers are noticed when a stream has ended
                    stack.callback(self._watch.follow(self._part.want_fd, self._poked.set).close)
            try:
                self._start(segment)
                await self._manage()
            except BaseException:
                self._answers.drop()
                raise
            finally:
                growth.on_wait = None
                await self._dismiss()
        if growth.disk_errno:
            self._answers.drop()
            await self._go_on_in_memory()
        elif growth.written < growth.total:
            await self._whole()
        self._answers.drop()

    async def _manage(self) -> None:
        """Start and reap streams, until the part is complete or none of them can go on."""
        growth = self._growth
        while growth.written < growth.total and not growth.disk_errno:
            self._hire()
            if not self._tasks:
                return
            # With no stream to be had it is no news who waits.
            growth.on_wait = self._poked.set if len(self._tasks) < self._count.most else None
            await self._poked.wait()
            self._poked.clear()
            error = self._reap()
            over = growth.disk_errno or growth.written >= growth.total
            if error is not None and not self._tasks and not over:
                if self._was_in_vain(error, 0):
                    self._no_ranges()
                    return
                await self._bodies.pause(error)
                self._count.try_again()

    def _start(self, segment: RangeWriter) -> None:
        task = self._loop.create_task(self._stream(segment))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._poked.set())

    def _hire(self) -> None:
        """Start streams for bytes that readers wait for, and for the rest where one stream alone is slow."""
        now = self._loop.time()
        if not self._ranges or self._alone or self._resting or (self._tasks and self._count.rests(now)):
            return
        self._count.review(now, self._part.asked_for())
        while len(self._tasks) < self._count.most:
            segment = self._count.next(len(self._tasks))
            if segment is None:
                self._count.look(now)
                return
            self._start(segment)

    def _reap(self) -> UpstreamError | None:
        """Collect the streams that have ended; return the last UpstreamError of one, raise any other error.

        A failed stream is not replaced for a while.
        """
        passed = None
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            error = task.exception()
            if error is None:
                continue
            if not isinstance(error, UpstreamError):
                raise error
            passed = error
            log.info("%s: one stream less: %s", self._bodies.host, error)
            self._count.failed(len(self._tasks))
        return passed

    async def _dismiss(self) -> None:
        tasks, self._tasks = self._tasks, set()
        await cancel_all(tasks)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.connection.abort()

    async def _stream(self, first: RangeWriter) -> None:
        """Fetch one lease after another. The failure of one stream among several is left to _manage()."""
        segment: RangeWriter | None = first
        opening = first if self._opening is not None and self._span == (0, -1) else None
        brought = False
        try:
            while segment is not None and self._ranges:
                before = segment.offset
                try:
                    await self._fetch(segment)
                    if self._ranges and before == segment.offset < segment.stop:
                        raise BodyBroken(f"{self._bodies.host} sent nothing of what was asked for")
                except UpstreamError as error:
                    if self._growth.disk_errno or self._growth.written >= self._growth.total:
                        return
                    self._leases.end(segment)
                    if len(self._tasks) > 1 and not (brought and isinstance(error, _NO_TURN)):
                        raise
                    if len(self._tasks) > 1:
                        # It was refused to a stream more than the origin likes, and holds for all of them.
                        await self._bodies.wait_for_turn(error)
                        segment = self._count.next(len(self._tasks) - 1)
                        continue
                    if segment is not opening and self._was_in_vain(error, segment.offset - before):
                        self._no_ranges()
                        return
                    # No other stream is started during the pause: it would fare no better.
                    self._resting = True
                    try:
                        await self._bodies.pause(error)
                    finally:
                        self._resting = False
                    self._count.try_again()
                brought = brought or segment.offset > before
                self._leases.end(segment)
                segment = self._count.next(len(self._tasks) - 1)
        finally:
            if segment is not None:
                self._leases.end(segment)

    async def _fetch(self, segment: RangeWriter) -> None:
        fetched, self._opening = self._opening, None
        asked, took = self._loop.time(), self._first_took
        if fetched is None:
            found = await self._answers.ask(
                segment.offset, -1 if segment.stop == self._growth.total else segment.stop
            )
            if found is None:
                self._leases.end(segment)
                self._no_ranges()
                return
            fetched, segment.body_stop = found
            segment.stop = min(segment.stop, whole_blocks(segment.body_stop, self._growth.total))
            took = self._loop.time() - asked
        self._leases.began(segment, self._loop.time(), took)
        await self._take(fetched, segment)

    def _no_ranges(self) -> None:
        self._ranges = False
        if len(self._tasks) > 1:
            # The streams with bodies go on, as far as these bring; _whole() fetches the rest afterwards.
            self._answers.drop()
            self._leases.narrow()

    # --- without a disk ----------------------------------------------------------------------------------

    async def _go_on_in_memory(self) -> None:
        """Go on with one stream in memory after a disk error, from where the part is complete."""
        growth = self._growth
        await hash_all(growth, self._loop)
        self._relay(growth.disk_errno)
        await self._linear(None, growth.written)


def _is_final(error: UpstreamError) -> bool:
    """Return whether the same request would have the same answer again."""
    return isinstance(error, BadResponse) and not is_retryable(error)


def _usable(found: tuple[Span, int | None], start: int) -> bool:
    """Return whether a first range brings whole blocks, and the total length, which clients have to know."""
    span, total = found
    return total is not None and whole_blocks(span.stop, total) > start


async def hash_all(growth: GrowingFile, loop: asyncio.AbstractEventLoop) -> None:
    """Hash the bytes that are written but not hashed yet. Raises StoreError."""
    while growth.hashed < growth.written:
        await asyncio.sleep(0)  # `catching` is reset by a callback, which needs a turn of the loop
        try:
            await (growth.catching or loop.run_in_executor(None, growth.catch_up))
        except OSError as error:
            raise StoreError(f"what was written can't be read again: {error.strerror}") from error
