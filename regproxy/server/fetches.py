"""Asking origins for one request: fills that are joined, heads, and what goes through uncached."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from regproxy.core.errors import BadResponse, RegproxyError, Unsatisfiable, UpstreamError
from regproxy.dataplane.sinks import StreamSink
from regproxy.dataplane.sources import FileSource
from regproxy.fill.fills import NO_TYPE, Opened, UpstreamAnswer, Wanted
from regproxy.http.messages import Request, Response, Span, forwarded, if_range_allows, parse_range
from regproxy.http.origin import Origin
from regproxy.policy.plans import Action, Plan
from regproxy.policy.sharing import shared
from regproxy.registry.targets import Kind, parse_target
from regproxy.server.context import BY_DIGEST, Route
from regproxy.server.responses import content_headers
from regproxy.server.tag_requests import Copy
from regproxy.server.token_requests import CONTINUE, TokenAsker
from regproxy.upstream.client import INTERIM_MAX, Connection
from regproxy.upstream.name_lookups import CLIENT

log = logging.getLogger(__name__)

# A body that is complete within this many bytes is verified before its head goes out, so that a wrong one
# becomes a clear error instead of a cut connection.
VERIFY_FIRST: Final = 65_536

_CHANGES: Final = frozenset({"PUT", "DELETE"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class Asker(TokenAsker):
    """Carries out the plans that the cache alone can't."""

    __slots__ = ()

    # --- everything that asks an origin ------------------------------------------------------------------

    async def _carry_out(self, plan: Plan, route: Route, copy: Copy | None) -> None:
        """Answer as planned. `copy`: of a tag; what is held of content by digest would have been served."""
        origin, target = self.origin, route.target
        assert origin is not None
        # This task's, and of all that begins with it: a fill's lookups are on the account of who began it.
        CLIENT.set(self.stream.peer)
        wanted = Wanted(origin, route.shared.request, target)
        tag = target.kind is Kind.TAG
        try:
            if plan.action is Action.PASS:
                await self._pass(origin, route)
            elif tag:
                await (self._fetch_tag if plan.action is Action.FETCH else self._look_tag)(wanted, copy)
            elif route.shared.own:
                await self._fetch_own(plan, wanted, route)
            else:
                await (self._fetch if plan.action is Action.FETCH else self._ask_head)(wanted)
        except UpstreamAnswer as answer:
            self._relay_answer(answer)
            # It is the fill's too, and its traceback would hold the fill, and so its files, until the
            # collector comes by.
            answer.__traceback__ = None
        except RegproxyError as error:
            self._failed(error)
            error.__traceback__ = None
        except Exception as error:
            log.exception("%s %s", self.host, self.uri)
            self._failed(RegproxyError(f"internal error: {type(error).__name__}"))

    def _failed(self, error: RegproxyError) -> None:
        """The task of a request failed: say so, or cut the connection where the answer has begun."""
        if not self.stream.open:
            return
        log.warning("%s %s: %s", self.host, self.uri, error)
        if self._status:
            self._cut()
        else:
            self._error(error.status, error.code, str(error), retry_after=error.retry_after)

    async def _fetch_own(self, plan: Plan, wanted: Wanted, route: Route) -> None:
        """Fetch content by digest without what nobody else has said; as it came, where that is refused.

        What is refused may be let in for what was left out, such as a key in a header of its own.
        """
        try:
            if plan.action is Action.FETCH:
                await self._fetch(wanted)
            else:
                await self._ask_head(wanted, refusable=True)
        except UpstreamAnswer as answer:
            if not 400 <= answer.response.status < 500 or self._status:
                raise
            answer.__traceback__ = None
            self._wait_for_fill(False)
            await self._pass(wanted.origin, route)

    async def _fetch(self, wanted: Wanted) -> None:
        """Join the content's fill, or begin it; answer from it as it grows, or once it is verified."""
        target = wanted.target
        self._wait_for_fill(True)
        while True:
            ready = self._lookup(target.reference) if target.kind is Kind.BLOB else None
            if ready is not None:
                # Stored since the request's head was looked at.
                self._serve(ready, "HIT", NO_TYPE)
                return
            fill, mine = self._s.fills.join(wanted)
            # Verified, and only on its way into place: as good as stored.
            joined = "HIT" if fill.verified else "UPDATING"
            self._cache = cache = "MISS" if mine else joined
            try:
                if target.kind is Kind.BLOB:
                    opened = await asyncio.shield(fill.opened)
                    self._note(fill, cache)
                    if opened is not None and self._can_follow(opened):
                        self._follow(opened)
                        return
                blob = await asyncio.shield(fill.done)
                break
            except UpstreamError as error:
                if mine or not fill.is_others(wanted, error):
                    self._note(fill, cache)
                    raise
                # Somebody else's credentials or registry failed; ours may not.
        self._note(fill, cache)
        told = fill.media_type if fill.wanted.identity == wanted.identity else ""
        assert self._route is not None
        media_type = self._digest_type(wanted.origin, self._route, blob, told)
        self._serve(blob, self._cache, media_type or NO_TYPE)

    def _can_follow(self, opened: Opened) -> bool:
        """Whether to send the body while it grows; a small one is verified first."""
        request = self._request
        assert request is not None
        if opened.total >= 0:
            return opened.total > VERIFY_FIRST
        # Without a length only chunks can show where the body was cut, and no range can be told.
        return request.minor >= 1 and request.get(b"range") is None

    def _follow(self, opened: Opened) -> None:
        """Answer with the growing file."""
        request, total, growth = self._request, opened.total, opened.growth
        assert request is not None
        digest = parse_target(request.path).reference
        if total < 0:
            headers = content_headers(digest, NO_TYPE, -1)
            self._send(200, self._head(200, headers), b"", FileSource(growth.file, 0, -1, growth), True)
            return
        span, status, ranged = Span(0, total), 200, []
        asked = parse_range(request.get(b"range"))
        if asked is not None and if_range_allows(request.get(b"if-range"), b'"' + digest.encode() + b'"'):
            try:
                span, status = asked.resolve(total), 206
            except Unsatisfiable:
                self._unsatisfiable(total)
                return
            ranged = [(b"content-range", span.content_range(total))]
        headers = content_headers(digest, NO_TYPE, span.length) + ranged
        source = FileSource(growth.file, span.start, span.stop, growth)
        self._send(status, self._head(status, headers), b"", source)

    def _relay_answer(self, answer: UpstreamAnswer) -> None:
        """An origin's refusal goes to the client as it came."""
        response = answer.response
        headers = [h for h in forwarded(response) if h[0] not in _FRAMING]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        self._answer(response.status, headers, answer.body)

    async def _ask_head(self, wanted: Wanted, *, refusable: bool = False) -> None:
        """Ask by HEAD, unless the fill of a blob that is under way knows the answer.

        `refusable`: raise a refusal as an UpstreamAnswer, instead of answering with it.
        """
        self._cache = "MISS"
        blob = wanted.target.kind is Kind.BLOB  # a manifest's type is not the same for everybody
        opened = self._s.fills.opened(wanted) if blob else None
        if opened is not None and opened.total >= 0:
            self._cache = "UPDATING"
            headers = content_headers(wanted.target.reference, NO_TYPE, opened.total)
            self._send(200, self._head(200, headers))
            return
        fetched = await self._s.upstream.fetch(wanted.origin, wanted.request, "HEAD")
        self._asked, self._asked_seconds = fetched.connection.address, fetched.seconds
        response = fetched.response
        self._s.upstream.release(fetched.connection, response)
        if refusable and response.status >= 400:
            raise UpstreamAnswer(response, b"", fetched.origin)
        headers = forwarded(response)
        if response.status == 200 and wanted.target.kind in BY_DIGEST:
            digest = wanted.target.reference.encode()
            headers = [h for h in headers if h[0] != b"docker-content-digest"]
            headers.append((b"docker-content-digest", digest))
        self._send(response.status, self._head(response.status, headers))

    # --- uncached ----------------------------------------------------------------------------------------

    async def _pass(self, origin: Origin, route: Route) -> None:
        """Through to the origin and back as it came, nothing stored."""
        wanted = Wanted(origin, route.request, route.target)
        request, upstream = wanted.request, self._s.upstream
        self._cache = "BYPASS"
        started, body = time.monotonic(), b""
        # With what only this client has said it shows its own credentials, and not ours.
        lend = not route.shared.own
        if lend and await upstream.may_lend(origin, request):
            request, body = await self._read_form(request)
            if await self._lend(origin, request, body):
                return
        if request.body.empty or body:
            try:
                connection, response = await upstream.pass_on(origin, request, body, lend=lend)
            except UpstreamError as error:
                if self._answer_ping(wanted, error):
                    return
                raise
        else:
            connection, grant = await upstream.begin(wanted.origin, request)
            try:
                response = await self._send_body(connection, request)
            except BaseException:
                connection.abort()
                raise
            upstream.began(wanted.origin, request, grant, response)
        self._asked, self._asked_seconds = connection.address, time.monotonic() - started
        try:
            await self._forget_pushed(wanted, response.status)
            await self._relay(connection, response, request)
        except BaseException:
            connection.abort()
            raise
        # The connection may be somebody else's by now: what becomes of this client is not its business.
        await self._end_relay(response, request)

    def _answer_ping(self, wanted: Wanted, error: UpstreamError) -> bool:
        """Answer /v2/ for a registry that is down: clients ask it first, before what is held."""
        if wanted.target.kind is not Kind.PING:
            return False
        log.warning("%s: answering /v2/ in its place: %s", self.host, error)
        self._pong()
        return True

    def _pong(self) -> None:
        """Answer /v2/ as a registry does that wants no credentials."""
        self._cache = "STALE"
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"2"),
            (b"docker-distribution-api-version", b"registry/2.0"),
        ]
        self._answer(200, headers, b"{}")

    async def _forget_pushed(self, wanted: Wanted, status: int) -> None:
        """A tag that a client has set or deleted is not what we hold any more, in any process."""
        origin, target, services = wanted.origin, wanted.target, self._s
        if target.kind is Kind.TAG and wanted.request.method in _CHANGES and status < 400:
            # By its plain name, and by that with the namespace of a mirror.
            repositories = target.repository, shared(wanted.request, target).repository
            for repository in dict.fromkeys(repositories):
                services.index.drop_tag(origin.host, origin.port, repository, target.reference)
            # Who pushes may pull through another process as soon as it has its answer.
            await services.tags.written()

    async def _send_body(self, connection: Connection, request: Request) -> Response:
        """Relay the request's body while waiting for the origin's head, which may come before its end."""
        chunked = request.body.kind == "chunked"
        over = self._body_over = self._s.loop.create_future()
        connection.wait_without_limit()
        answer = self._s.loop.create_task(self._final_head(connection, request))
        try:
            sink = StreamSink(connection.stream, chunked)
            timeout = self._s.config.client_body_timeout
            self.stream.receive(sink, request.body.kind, request.body.length, timeout)
            await asyncio.wait((over, answer), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                if over.exception() is not None and not connection.stream.open:
                    return await answer  # it says why the origin takes no more
                over.result()
                self._body_left = False
                if chunked:
                    connection.stream.end_chunks()
                if not answer.done():
                    connection.wait_from_now()
            return await answer
        finally:
            answer.cancel()
            if self._body_over is not None:
                self._body_over = None
                self.stream.pause()

    async def _final_head(self, connection: Connection, request: Request) -> Response:
        """The answer to a request with a body; a client that waits for 100 is told (RFC 9110 10.1.1)."""
        told = False
        for _ in range(INTERIM_MAX + 1):
            response = await connection.read_head(request.method)
            if response.status >= 200:
                return response
            if response.status == 100 and request.expect_continue and not told:
                told = True
                self.stream.send(CONTINUE)
        raise BadResponse(f"{connection.origin.host}: more than {INTERIM_MAX} interim answers")

    async def _relay(self, connection: Connection, response: Response, request: Request) -> None:
        """Send the origin's answer to the client as it comes, with back-pressure."""
        stream, body = self.stream, response.body
        self._base = stream.plain_sent
        headers = forwarded(response)
        chunked = _rechunked(response, request)
        if body.kind != "none":
            headers = [h for h in headers if h[0] not in _FRAMING]
            if body.kind == "length":
                headers.append((b"content-length", b"%d" % body.length))
            elif chunked:
                headers.append((b"transfer-encoding", b"chunked"))
            elif not self._closes():
                headers.append((b"connection", b"close"))
        self._status = response.status
        head = self._head(response.status, headers) + self._s.date()
        stream.send(head)
        self._base += len(head)
        await connection.read_body(StreamSink(stream, chunked), body)
        if chunked:
            stream.end_chunks()
        if self._unread():
            # The rest of the request's body would be read as the head of somebody else's request.
            connection.abort()
        elif not request.body.empty:
            # So would be a body that the origin has left unread, and it may have been written for that.
            connection.close()
        else:
            self._s.upstream.release(connection, response)

    async def _end_relay(self, response: Response, request: Request) -> None:
        """Wait until the client's side of a relayed answer is out, and go on or close."""
        if not self.stream.notify_sent():
            waiter = self._sent_waiter = self._s.loop.create_future()
            await waiter
        if response.body.kind in ("chunked", "eof") and not _rechunked(response, request):
            self._record()
            self.stream.close()
            return
        self._finish()


def _rechunked(response: Response, request: Request) -> bool:
    """Whether a body of unknown length goes out in chunks, which HTTP/1.0 clients don't know."""
    return response.body.kind in ("chunked", "eof") and request.minor >= 1
