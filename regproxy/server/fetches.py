"""Answer requests for content by digest that is not in the cache, by joining fills or asking by HEAD."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from regproxy.core.errors import (
    DigestMismatch,
    NotShown,
    NotUnderstood,
    Unsatisfiable,
    UpstreamError,
    log_level,
)
from regproxy.dataplane.sources import FileSource
from regproxy.fill.fill import Fill
from regproxy.fill.fills import NO_TYPE, CacheRequest, Opened, UpstreamAnswer
from regproxy.fill.tag_request import Held
from regproxy.http.messages import Request, Response
from regproxy.http.ranges import ByteRange, Span, if_range_allows, parse_range
from regproxy.policy.verdicts import STALE_ON
from regproxy.registry.targets import Kind
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.hits import Hits
from regproxy.server.patience import in_time
from regproxy.server.responder import Responder, answer_of, content_headers
from regproxy.server.routes import BY_DIGEST, Route
from regproxy.upstream.fetch import Ask, Fetched

log = logging.getLogger(__name__)

# A body of at most this many bytes is verified before its head is sent, so that a wrong one becomes a clear
# error instead of a cut connection.
VERIFY_FIRST: Final = 65_536
_ALL: Final = ByteRange(0, None)


class Fetches:
    """Fetches content by digest into the cache, and answers with it."""

    __slots__ = ("_config", "_fills", "_hits", "_lookup", "_responder", "_upstream")

    def __init__(self, services: Services, responder: Responder, hits: Hits) -> None:
        self._config = services.config
        self._fills = services.fills
        self._upstream = services.upstream
        self._lookup = services.lookup
        self._responder = responder
        self._hits = hits

    async def fetch(self, exchange: Exchange, route: Route, wanted: CacheRequest) -> None:
        """Join the content's fill, or begin it; answer from it as it grows, or once it is verified."""
        target = wanted.target
        is_blob = target.kind is Kind.BLOB
        self._responder.wait_for_fill(exchange, True)
        while True:
            ready = self._lookup.content(wanted.origin, target, route) if is_blob else None
            if ready is not None:
                # It was stored after the request's head had been handled.
                self._hits.serve(exchange, ready, "HIT")
                return
            fill, mine = self._fills.join(wanted)
            # Verified, but not yet moved into the store: as good as stored.
            joined = "HIT" if fill.verified else "UPDATING"
            exchange.cache = cache = "MISS" if mine else joined
            try:
                if is_blob:
                    opened = await asyncio.shield(fill.opened)
                    exchange.note(fill, cache)
                    await self._check_place(fill, wanted, route, exchange.started)
                    if opened is not None and opened.total >= 0:
                        _check_size(exchange, opened.total)
                    whole = opened is not None and opened.total < 0 and exchange.said_size is not None
                    if (
                        opened is not None
                        and not whole
                        and _can_follow(opened, route.request, target.reference)
                    ):
                        self._follow(exchange, route, opened)
                        return
                blob = await asyncio.shield(fill.done)
                await self._check_place(fill, wanted, route, exchange.started)
                break
            except UpstreamError as error:
                elsewhere = wanted.private and fill.joined and isinstance(error, DigestMismatch)
                if not elsewhere and (mine or not fill.failed_for_other_client(wanted, error)):
                    exchange.note(fill, cache)
                    raise
                # It failed because of another client's credentials or registry; this request may succeed.
        _check_size(exchange, blob.size)
        exchange.note(fill, cache)
        told = fill.media_type if fill.wanted.identity == wanted.identity else ""
        held = self._lookup.brought(wanted.origin, target, route, blob, told)
        if not is_blob and held[1] == NO_TYPE:
            # It was stored as a blob, say: only the registry knows what it is as a manifest.
            raise NotUnderstood(f"{target.reference} is stored, but is no manifest by itself", "no-manifest")
        self._hits.serve(exchange, held, exchange.cache)

    async def _check_place(self, fill: Fill, wanted: CacheRequest, route: Route, asked: float) -> None:
        """Ask the registry whether content is in this repository, where the fill did not ask it for that.

        Raises UpstreamError, and where it is not there the registry's answer (UpstreamAnswer).
        """
        if not fill.foreign or not self._lookup.is_doubtful(wanted.origin, route):
            return
        if not self._lookup.believes(wanted.origin, wanted.target.reference):
            raise NotShown(f"{wanted.target.reference} is stored for others")
        fetched = await self._head(wanted)
        if fetched.response.status != 200:
            raise UpstreamAnswer(fetched.response, b"", fetched.origin, fetched.hops, fetched.seconds)
        self._lookup.shown_present(wanted.origin, route, fetched.response, asked)
        if self._lookup.is_doubtful(wanted.origin, route):
            raise NotShown(f"{wanted.target.reference}: the registry does not say that it is there")

    def _follow(self, exchange: Exchange, route: Route, opened: Opened) -> None:
        """Answer from the growing file."""
        responder, request = self._responder, route.request
        total, growth, digest = opened.total, opened.growth, route.target.reference
        if total < 0:
            head = responder.head(exchange, 200, content_headers(digest, NO_TYPE, -1))
            responder.send(exchange, 200, head, b"", FileSource(growth.file, 0, -1, growth), True)
            return
        span, status, ranged = Span(0, total), 200, []
        asked = parse_range(request.get(b"range"))
        if asked is not None and if_range_allows(request.get(b"if-range"), b'"' + digest.encode() + b'"'):
            try:
                span, status = asked.resolve(total), 206
            except Unsatisfiable:
                responder.unsatisfiable(exchange, total)
                return
            ranged = [(b"content-range", span.content_range(total))]
        headers = content_headers(digest, NO_TYPE, span.length) + ranged
        source = FileSource(growth.file, span.start, span.stop, growth)
        responder.send(exchange, status, responder.head(exchange, status, headers), b"", source)

    async def ask_head(
        self, exchange: Exchange, route: Route, wanted: CacheRequest, *, refusable: bool = False
    ) -> None:
        """Ask by HEAD, unless the fill of a blob that is under way knows the answer.

        `refusable`: raise a refusal as an UpstreamAnswer, instead of answering with it.
        """
        exchange.cache = "MISS"
        opened = self._opened(wanted)
        if opened is not None and opened.total >= 0 and exchange.said_size in (None, opened.total):
            exchange.cache = "UPDATING"
            self._answer_head(exchange, wanted.target.reference, opened.total)
            return
        held = self._lookup.present_if_error(wanted.origin, wanted.target, route)
        try:
            fetched = await in_time(
                self._head(wanted, itself=exchange.said_size is not None),
                self._config.stale_after if held is not None else 0.0,
            )
        except UpstreamError as error:
            if held is None:
                raise
            self._serve_stale(exchange, held, error)
            return
        exchange.asked, exchange.asked_seconds = fetched.hops, fetched.seconds
        response = fetched.response
        if held is not None and response.status in STALE_ON:
            self._serve_stale(exchange, held, f"{fetched.origin.host} answered {response.status}")
            return
        if refusable and response.status >= 400:
            raise UpstreamAnswer(response, b"", fetched.origin)
        self._relay_head(exchange, route, wanted, response)

    def _opened(self, wanted: CacheRequest) -> Opened | None:
        """Return what a registry has said of a blob that it is sending now from this repository."""
        # A manifest's media type is not the same for all clients. And a client that pushes asks what is
        # there now.
        if wanted.target.kind is not Kind.BLOB or self._config.allow_push:
            return None
        return self._fills.opened(wanted)

    async def _head(self, wanted: CacheRequest, *, itself: bool = False) -> Fetched:
        ask = Ask(own_account=wanted.own_account, lends=wanted.lends, itself=itself)
        fetched = await self._upstream.fetch(wanted.origin, wanted.request, "HEAD", ask)
        self._upstream.release(fetched.connection, fetched.response)
        return fetched

    def _answer_head(self, exchange: Exchange, digest: str, size: int) -> None:
        head = self._responder.head(exchange, 200, content_headers(digest, NO_TYPE, size))
        self._responder.send(exchange, 200, head)

    def _serve_stale(self, exchange: Exchange, held: Held, error: object) -> None:
        """Answer with what is held where the registry is in trouble: clients go on with what they pull."""
        log.log(log_level(error), "%s %s: answered from the cache: %s", exchange.host, exchange.uri, error)
        self._hits.serve(exchange, held, "STALE")

    def _relay_head(self, exchange: Exchange, route: Route, wanted: CacheRequest, response: Response) -> None:
        status, headers = answer_of(route, response)
        if status == 200 and wanted.target.kind in BY_DIGEST:
            digest = wanted.target.reference
            headers = [h for h in headers if h[0] != b"docker-content-digest"]
            headers.append((b"docker-content-digest", digest.encode()))
            self._lookup.shown_present(wanted.origin, route, response, exchange.started)
        self._responder.send(exchange, status, self._responder.head(exchange, status, headers))


def _check_size(exchange: Exchange, size: int) -> None:
    """Raise NotShown where content has another size than what the registry would have the client get."""
    if exchange.said_size not in (None, size):
        raise NotShown(f"{exchange.host} would have answered with {exchange.said_size} bytes, not {size}")


def _can_follow(opened: Opened, request: Request, digest: str) -> bool:
    """Return whether to send the body while it grows; a small one is verified first."""
    if opened.total >= 0:
        return opened.total > VERIFY_FIRST
    # Without a length only chunks can show where the body was cut, and no range can be told. One that asks
    # for all of it may be ignored (RFC 9110 14.2).
    if request.minor < 1:
        return False
    ignored = not if_range_allows(request.get(b"if-range"), b'"' + digest.encode() + b'"')
    return ignored or parse_range(request.get(b"range")) in (None, _ALL)
