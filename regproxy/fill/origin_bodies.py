"""Ask an origin for the bytes of one content, receive them, and retry a body that breaks off.

A broken body is asked for again after a growing pause. Where the first answer came by a redirect, the same
URL is asked again as long as it answers; when a signed one expires (403), the registry is asked for another.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from regproxy.core.errors import (
    BadResponse,
    Busy,
    CircuitOpen,
    ConnectFailed,
    NotUnderstood,
    RateLimited,
    UpstreamError,
    UpstreamTimeout,
    log_level,
)
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.fill.fill import CacheRequest, UpstreamAnswer
from regproxy.http.messages import Request, Response, tokens
from regproxy.http.origin import Origin
from regproxy.http.ranges import parse_content_range
from regproxy.policy.verdicts import Verdict, after_head
from regproxy.registry.targets import Kind
from regproxy.upstream.connections.connection import BodyBroken, Connection, ConnectionLost
from regproxy.upstream.fetch import Ask, Fetched

log = logging.getLogger(__name__)

_PAUSE, _PAUSE_MAX = 0.2, 5.0  # seconds before the first retry, and at most, give or take a half
PROGRESS: Final = 65_536  # new bytes with which an attempt resets the pause
_LOOKS: Final = 3  # at a body's rate, within FillLimits.slow
CHANCES: Final = 2
_STUMBLES: Final = frozenset({500, 502, 503, 504})  # errors that pass by themselves, often at once
# Statuses after which asking for all of it may help; not those that mean "who are you", or "not now".
NO_RANGES: Final = frozenset({204, 205, 304, 400, 403, 404, 405, 406, 409, 412, 413, 416, 417, 422, 431, 501})
_PASSING: Final = (BodyBroken, ConnectionLost, ConnectFailed, UpstreamTimeout, CircuitOpen, RateLimited, Busy)


class Fetcher(Protocol):
    """The client of the origins: see Upstream."""

    async def fetch(self, origin: Origin, request: Request, method: str, ask: Ask = ...) -> Fetched:
        """Ask for content; the caller reads the body and releases the connection. Raises UpstreamError."""

    def release(self, connection: Connection, response: Response) -> None:
        """Give a connection back after its answer has been read to the end."""

    def distrust(self, mirror: Origin, request: Request) -> None:
        """Stop asking a mirror for this for a while: its content was wrong."""


class BodyCounters(Protocol):
    """The counters of downloaded bytes."""

    def upstream_bytes(self, host: str, n: int) -> None:
        """Count body bytes that an origin sent."""

    def fill_resumed(self, registry: str) -> None:
        """Count a body that broke off and is resumed."""


class FillLimits(Struct, frozen=True):
    """`streams`: the most at a time for one content. `resume`: seconds without enough new bytes that end it.

    `rate`: bytes/s; a body that is slower for `slow` seconds is broken off. `chances`: how often the first
    request is repeated where its answer is a stumble.
    """

    streams: int = 1
    resume: float = 0.0
    rate: float = 0.0
    slow: float = 30.0
    chances: int = 0


class Bodies:
    """Asks for one content's bytes. `received`: new bytes so far. `attempts`: requests for it; `asked`: the
    servers that have answered.
    """

    def __init__(
        self, wanted: CacheRequest, upstream: Fetcher, counters: BodyCounters, limits: FillLimits
    ) -> None:
        self._wanted = wanted
        self._upstream = upstream
        self._counters = counters
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._url = ""
        self._opened = False
        self._validator: tuple[Origin, bytes] | None = None
        self._failures = 0
        self.resumes = 0
        self._mark = time.monotonic(), 0  # when the rate was last sufficient, and the bytes received by then
        self._received = 0
        self._mirrors: set[Origin] = set()
        # How often it was asked for, and who has answered.
        self.attempts = 0
        self.asked: dict[str, None] = {}
        self._coming: dict[RangeWriter | GrowingFile, int] = {}

    @property
    def host(self) -> str:
        """The registry that is asked."""
        return self._wanted.origin.host

    @property
    def received(self) -> int:
        return self._received + sum(max(_place(sink) - start, 0) for sink, start in self._coming.items())

    # --- asking ------------------------------------------------------------------------------------------

    async def ask(self, start: int = 0, stop: int = -1) -> Fetched:
        """Return the answer for [start, stop), stop -1: the end; redirects are followed. UpstreamError."""
        ask = Ask(start, stop, own_account=self._wanted.own_account, lends=self._wanted.lends)
        if self._opened:
            ask = replace(ask, validator=self._validator, at=self._url, own_account=True)
        try:
            fetched = await self._fetch(ask)
        except UpstreamError:
            if not ask.at:
                raise
            fetched = None
        if ask.at and (fetched is None or fetched.response.status >= 400):
            # The URL was signed for a while only, or another server has the content now.
            self._url = ""
            if fetched is not None:
                await self.answer(fetched)
            fetched = await self._fetch(replace(ask, at=""))
        assert fetched is not None
        if fetched.response.status in (200, 206):
            if fetched.place != self._wanted.origin:
                self._mirrors.add(fetched.place)
            if not self._opened:
                self._opened, self._validator = True, fetched.validator
                self._mark = time.monotonic(), self.received
            self._url = fetched.url if fetched.origin != self._wanted.origin else ""
        return fetched

    @property
    def whose(self) -> str:
        """The hosts that the content came from: mirrors, or else the registry."""
        return " or ".join(sorted(mirror.host for mirror in self._mirrors)) or self.host

    def distrust(self) -> None:
        """Stop asking the mirrors that have sent this content: it was wrong."""
        for mirror in self._mirrors:
            self._upstream.distrust(mirror, self._wanted.request)

    async def _fetch(self, ask: Ask) -> Fetched:
        self.attempts += 1
        fetched = await self._upstream.fetch(self._wanted.origin, self._wanted.request, "GET", ask)
        self.asked[fetched.origin.name] = None
        return fetched

    async def answer(self, fetched: Fetched) -> UpstreamAnswer:
        """Read the body of an origin's refusal and return both, for all clients that wait."""
        response = fetched.response
        try:
            body = await fetched.connection.read_small(response)
        except UpstreamError as error:
            # The status is what counts: a client must see 404 or 401 even if the body was lost.
            fetched.connection.abort()
            log.info("the body of a %d: %s", response.status, error)
            return UpstreamAnswer(response, b"", fetched.origin, fetched.hops, fetched.seconds)
        except BaseException:
            fetched.connection.abort()
            raise
        self._upstream.release(fetched.connection, response)
        return UpstreamAnswer(response, body, fetched.origin, fetched.hops, fetched.seconds)

    async def ask_first(self, start: int, stop: int) -> Fetched:
        """Ask, as ask() does, for the first bytes; ask again after a stumble, `chances` times at most."""
        for attempt in range(self._limits.chances):
            try:
                fetched = await self.ask(start, stop)
            except (ConnectionLost, ConnectFailed) as error:
                if attempt and isinstance(error, ConnectFailed):
                    raise  # it is down
                if isinstance(error, ConnectionLost) and self._wanted.target.kind is Kind.TAG:
                    raise  # see Tags
                log.log(log_level(error, logging.INFO), "%s: asked again: %s", self.host, error)
            else:
                status, led = fetched.response.status, fetched.origin != fetched.place
                # Where a redirect has led to, that was asked again already: see Backoff.
                if status not in _STUMBLES or (led and status == 503):
                    return fetched
                answer = await self.answer(fetched)
                log.info("%s: asked again: %s", self.host, answer)
            await asyncio.sleep(_PAUSE * 2**attempt * random.uniform(0.5, 1.5))
        return await self.ask(start, stop)

    # --- taking in ---------------------------------------------------------------------------------------

    async def take(self, fetched: Fetched, sink: RangeWriter | GrowingFile, known: int = 0) -> None:
        """Move the answer's body into the sink. Raises BodyBroken and others where it ends early.

        The first `known` bytes of the content are stored already, and count as no progress. A segment may be
        full before the body ends, which breaks the connection but is no error.
        """
        connection, response = fetched.connection, fetched.response
        start = _place(sink)
        self._coming[sink] = max(start, known)
        pace = None
        if self._limits.rate:
            pace = self._loop.create_task(self._keep_pace(fetched, sink, [start]))
        try:
            await connection.read_body(sink, response.body)
        except UpstreamError as error:
            if isinstance(sink, RangeWriter) and sink.full:
                return
            if sink.reason and isinstance(error, BodyBroken):
                # The sink has refused it: the origin did not break it off.
                if isinstance(sink, GrowingFile) and sink.too_large:
                    raise NotUnderstood(str(error), "too-large") from None
                raise BadResponse(str(error)) from None
            raise
        except BaseException:
            connection.abort()
            raise
        finally:
            if pace is not None:
                pace.cancel()
            if isinstance(sink, GrowingFile):
                sink.let_go()
            self._counters.upstream_bytes(fetched.origin.name, _place(sink) - start)
            new = max(_place(sink) - self._coming.pop(sink), 0)
            self._received += new
            if new >= PROGRESS:
                self._failures = 0
        self._upstream.release(connection, response)

    async def _keep_pace(self, fetched: Fetched, sink: RangeWriter | GrowingFile, places: list[int]) -> None:
        """Break off a body that is too slow. Not in memory: there back-pressure of its readers slows it."""
        limits = self._limits
        while True:
            await asyncio.sleep(limits.slow / _LOOKS)
            places.append(_place(sink))
            growth = sink.growth if isinstance(sink, RangeWriter) else sink
            if growth.memory is not None:
                return
            if len(places) > _LOOKS and places[-1] - places.pop(0) < limits.rate * limits.slow:
                fetched.connection.too_slow(limits.rate, limits.slow)
                return

    # --- what breaks -------------------------------------------------------------------------------------

    async def wait_for_turn(self, error: UpstreamError) -> None:
        """Wait a little where an origin must not be asked yet, as is known here; or raise as pause() does."""
        self._may_retry(error)
        await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))

    def _may_retry(self, error: UpstreamError) -> None:
        left = self._time_left()
        if left <= 0 or not is_retryable(error) or error.retry_after > left:
            raise error

    async def pause(self, error: UpstreamError) -> None:
        """Wait before the next attempt; raise the error where there must be none."""
        self._may_retry(error)
        self._counters.fill_resumed(self._wanted.origin.name)
        self.resumes += 1
        delay = min(_PAUSE_MAX, _PAUSE * 2**self._failures) * random.uniform(0.5, 1.5)
        self._failures += 1
        about = {"registry": self._wanted.origin.name, "digest": self._wanted.target.reference}
        name = f"{self._wanted.origin.name}: {self._wanted.target.reference}"
        level = log_level(error, logging.INFO)
        log.log(level, "%s: %s; asked again in %.1f s", name, error, delay, extra=about)
        await asyncio.sleep(delay)

    def _time_left(self) -> float:
        """Return the seconds until it is given up; bytes slower than `rate`, with pauses, don't extend it."""
        now, (since, before) = time.monotonic(), self._mark
        gained = self.received - before
        if gained > 0 and gained >= self._limits.rate * (now - since):
            self._mark = since, _ = now, self.received
        return since + self._limits.resume - now


def is_retryable(error: UpstreamError) -> bool:
    """Return whether another attempt may succeed."""
    if isinstance(error, UpstreamAnswer):
        return after_head(error.response.status) is Verdict.TROUBLE or error.response.status == 408
    return isinstance(error, _PASSING)


def _place(sink: RangeWriter | GrowingFile) -> int:
    return sink.offset if isinstance(sink, RangeWriter) else sink.written


def check(
    fetched: Fetched, start: int, stop: int = -1, *, known: int = -1, there: int = 0
) -> tuple[int, int]:
    """Return the content's length, and the offset at which the body ends, each -1 if it is not known.

    [start, stop) was asked for, stop -1 being the end. `known`: the length that was declared before, -1 if
    none was; `there`: how many bytes are stored from the beginning on. Raises BadResponse where the head
    disagrees with the request, with itself, or with what is known of the content.
    """
    response, host = fetched.response, fetched.origin.host
    ranged = start > 0 or stop >= 0
    if response.status == 416 or after_head(response.status, resumed=ranged) is Verdict.BROKEN:
        raise BadResponse(f"{host} answered {response.status} where 200 was asked for")
    codings = tokens(response.all(b"content-encoding"))
    if codings:
        coding = b", ".join(codings).decode("latin-1")
        raise NotUnderstood(f"{host} sent Content-Encoding {coding} instead of identity", "content-coding")
    if response.status == 206:
        total, end = _check_range(response, host, start, stop)
    else:
        total = end = _declared(response)
    if total >= 0 and known not in (-1, total):
        raise BadResponse(f"{host} declares {total} bytes now, and {known} before: not resumed")
    if end > known >= 0:
        raise BadResponse(f"{host} sent bytes up to {end}, but the content has {known}")
    if 0 <= total < there:
        raise BadResponse(f"{host} declares {total} bytes now, but {there} are stored already")
    return total, end


def is_behind(response: Response, total: int) -> bool:
    """Return whether a 416 may mean that the content ends after `total` bytes (RFC 9110 15.5.17)."""
    said = response.get(b"content-range")
    return said is None or said.lower() == b"bytes */%d" % total


def _declared(response: Response) -> int:
    """Return the body's length in bytes, -1 where it shows only at its end."""
    return -1 if response.body.kind in ("chunked", "eof") else response.body.length


def _check_range(response: Response, host: str, start: int, stop: int) -> tuple[int, int]:
    said = response.all(b"content-range")
    found = parse_content_range(said[0]) if len(said) == 1 else None
    if found is None or found[0].start != start:
        raise BadResponse(f"{host} sent another range than bytes {start}-, which was asked for")
    span, total = found
    if stop < 0 and total is not None and span.stop != total:
        raise BadResponse(f"{host} sent bytes up to {span.stop} of {total} where all the rest was asked for")
    if _declared(response) not in (-1, span.length):
        raise BadResponse(f"{host} sent {response.body.length} bytes as a range of {span.length}")
    if (response.get(b"content-type") or b"").lower().startswith(b"multipart/byteranges"):
        raise BadResponse(f"{host} sent several ranges where one was asked for")
    return -1 if total is None else total, span.stop
