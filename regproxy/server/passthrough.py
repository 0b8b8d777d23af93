"""Forward requests to the origin and its answers back, without storing anything."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from regproxy.core.errors import BadResponse, UpstreamError, UpstreamTimeout, log_level
from regproxy.dataplane.sinks import StreamSink, TeeSink
from regproxy.http.messages import Request, Response
from regproxy.http.origin import Origin
from regproxy.policy.lending import loan, mount_sources
from regproxy.registry.changes import change_of
from regproxy.registry.targets import Kind, Target, is_digest
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.push import PushedBody, Pushes
from regproxy.server.responder import FRAMING, Responder, answer_of
from regproxy.server.routes import Route
from regproxy.server.token_requests import CONTINUE, TokenRequests
from regproxy.upstream.client import INTERIM_MAX, Connection
from regproxy.upstream.fetch import Ask

log = logging.getLogger(__name__)

_PINGS: Final = 2  # times REGPROXY_STALE_AFTER


class Passthrough:
    """Relays requests, and their answers as they come."""

    __slots__ = ("_pushes", "_responder", "_services", "_tokens")

    def __init__(self, services: Services, responder: Responder, tokens: TokenRequests) -> None:
        self._services = services
        self._responder = responder
        self._tokens = tokens
        self._pushes = Pushes(services)

    async def run(self, exchange: Exchange, origin: Origin, route: Route) -> None:
        """Forward the client's request, and relay the origin's answer."""
        request, upstream = route.request, self._services.upstream
        exchange.cache = "BYPASS"
        started, body, copy = time.monotonic(), b"", None
        # A request of the client's own goes with the client's credentials, and not with ours.
        lends = self._lends(exchange, origin, route)
        lend = lends and not route.shared.own
        if _is_mirrors_pull(route):
            await self._read_as_mirror(exchange, origin, route, lends)
            return
        if not route.shared.own and await upstream.may_lend(origin, request):
            request, body = await self._tokens.read_form(exchange, request)
            if await self._tokens.lend(exchange, origin, request, body):
                return
        if request.body.empty or body:
            try:
                async with asyncio.timeout(self._limit(route.target)):
                    connection, response = await upstream.pass_on(origin, request, body, lend=lend)
            except TimeoutError:
                self._answer_ping(exchange, route.target, UpstreamTimeout("no answer"))
                return
            except UpstreamError as error:
                if self._answer_ping(exchange, route.target, error):
                    return
                raise
        else:
            connection, response, copy = await self._send(exchange, origin, route, lends)
        exchange.asked_seconds = time.monotonic() - started
        exchange.asked = connection.hop(exchange.asked_seconds)
        try:
            exchange.digest = _digest_of(response)
            await self._note_change(exchange, origin, route, response, copy)
        except BaseException:
            connection.abort()
            raise
        await self.answer(exchange, connection, response, request)

    def _lends(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether the configured login may go with a request, for all repositories that it names."""
        repositories = [route.target.repository]
        if route.target.kind is Kind.UPLOAD:
            repositories += mount_sources(route.request.path)
        rights, principal = self._services.rights, exchange.principal
        return all(rights.lends(principal, origin, repository) for repository in repositories)

    async def _send(
        self, exchange: Exchange, origin: Origin, route: Route, lends: bool
    ) -> tuple[Connection, Response, PushedBody | None]:
        """Forward a request with its body; return the connection, the answer, and the copy of the body."""
        request, upstream = route.request, self._services.upstream
        connection, grant = await upstream.begin(origin, request, lend=lends)
        relay = StreamSink(connection.stream, request.body.kind == "chunked")
        copy = self._pushes.copy(route, relay)
        try:
            response = await self._send_body(exchange, connection, request, copy.sink if copy else relay)
        except BaseException:
            connection.abort()
            if copy is not None:
                self._pushes.drop(copy)
            raise
        upstream.began(origin, request, grant, response)
        if copy is not None and exchange.body_left:
            # The registry has answered before the end.
            self._pushes.drop(copy)
            copy = None
        return connection, response, copy

    async def _read_as_mirror(self, exchange: Exchange, origin: Origin, route: Route, lends: bool) -> None:
        """Answer a GET or HEAD with the proxy's own credentials: the client has none for this registry."""
        request, ask = route.request, Ask(own_account=True, lends=lends)
        fetched = await self._services.upstream.fetch(origin, request, request.method, ask)
        exchange.asked, exchange.asked_seconds = fetched.hops, fetched.seconds
        exchange.digest = _digest_of(fetched.response)
        self._note_presence(exchange, origin, route, fetched.response)
        await self.answer(exchange, fetched.connection, fetched.response, request)

    async def answer(
        self, exchange: Exchange, connection: Connection, response: Response, request: Request
    ) -> None:
        """Answer a request as the origin has on this connection, and give that back."""
        try:
            await self._relay(exchange, connection, response, request)
        except BaseException:
            connection.abort()
            raise
        # The connection may serve another request by now: what becomes of this client must not affect it.
        await self._end_relay(exchange, response, request)

    def _limit(self, target: Target) -> float | None:
        """Seconds to wait for an answer; dockerd gives a registry's ping 15, and then pulls nothing."""
        limit = self._services.config.stale_after
        return _PINGS * limit if limit and target.kind is Kind.PING else None

    def _answer_ping(self, exchange: Exchange, target: Target, error: UpstreamError) -> bool:
        """Answer /v2/ for a registry that is down: clients ask for it before they ask for cached content."""
        if target.kind is not Kind.PING:
            return False
        log.log(log_level(error), "%s: answering /v2/ in its place: %s", exchange.host, error)
        self._responder.pong(exchange, "STALE")
        return True

    def _note_presence(self, exchange: Exchange, origin: Origin, route: Route, response: Response) -> None:
        """Note that content that a client had deleted is there again, by the answer to a GET or HEAD."""
        lookup = self._services.lookup
        # What a client's own request reads may be another thing than others get.
        if response.status < 400 and not route.shared.own and lookup.was_deleted(origin, route):
            lookup.shown_present(origin, route, response, exchange.started)

    async def _note_change(
        self,
        exchange: Exchange,
        origin: Origin,
        route: Route,
        response: Response,
        copy: PushedBody | None = None,
    ) -> None:
        """Note in the index what a client has pushed or deleted, before it has its answer."""
        self._note_presence(exchange, origin, route, response)
        change = change_of(route.request, route.target, response)
        if change is None:
            await self._pushes.taken(copy, origin, route, response, None)
            return
        index, place = self._services.index, (origin.host, origin.port)
        own = bool(route.shared.own)  # it may have set another thing than others get
        alone = not own
        # Under its plain name, and under that with the namespace of a mirror.
        for repository in dict.fromkeys((route.target.repository, route.shared.repository)):
            for tag in change.tags:
                # With a change meanwhile by another client, only the registry knows which one was last.
                alone = index.drop_tag(*place, repository, tag) < exchange.started and alone
            if change.digest and change.deleted:
                index.put_absence(*place, repository, change.digest)
            elif change.digest and not own and self._services.lookup.believes(origin, change.digest):
                index.put_presence(*place, repository, change.digest, 0)
        await self._pushes.taken(copy, origin, route, response, change, alone=alone)
        # The client may pull through another process as soon as it has its answer.
        await self._services.tags.written()

    # --- the request's body ------------------------------------------------------------------------------

    async def _send_body(
        self, exchange: Exchange, connection: Connection, request: Request, sink: StreamSink | TeeSink
    ) -> Response:
        """Relay the request's body while waiting for the origin's head, which may come before its end."""
        services, stream = self._services, exchange.stream
        chunked = request.body.kind == "chunked"
        over = exchange.body_over = services.loop.create_future()
        connection.wait_without_limit()
        before = connection.stream.plain_sent
        answer = services.loop.create_task(self._final_head(exchange, connection, request))
        try:
            timeout = services.config.client_body_timeout
            stream.receive(sink, request.body.kind, request.body.length, timeout)
            await asyncio.wait((over, answer), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                if over.exception() is not None and not connection.stream.open:
                    return await answer  # it says why the origin takes no more
                over.result()
                exchange.body_left = False
                if chunked:
                    connection.stream.end_chunks()
                if not answer.done():
                    connection.wait_from_now()
            return await answer
        finally:
            answer.cancel()
            # As it was relayed, chunk framing included.
            exchange.received = connection.stream.plain_sent - before
            if exchange.body_over is not None:
                exchange.body_over = None
                stream.pause()

    async def _final_head(self, exchange: Exchange, connection: Connection, request: Request) -> Response:
        """Read the answer to a request with a body; pass 100 to a client that waits (RFC 9110 10.1.1)."""
        told = False
        for _ in range(INTERIM_MAX + 1):
            response = await connection.read_head(request.method)
            if response.status >= 200:
                return response
            if response.status == 100 and request.expect_continue and not told:
                told = True
                exchange.stream.send(CONTINUE)
        raise BadResponse(f"{connection.origin.host}: more than {INTERIM_MAX} interim answers")

    # --- the answer --------------------------------------------------------------------------------------

    async def _relay(
        self, exchange: Exchange, connection: Connection, response: Response, request: Request
    ) -> None:
        """Send the origin's answer to the client as it comes, with back-pressure."""
        stream, body = exchange.stream, response.body
        chunked = _rechunked(response, request)
        status, headers = self._relayed_head(exchange, response, chunked)
        stream.send(self._responder.begin(exchange, status, self._responder.head(exchange, status, headers)))
        await connection.read_body(StreamSink(stream, chunked), body)
        if chunked:
            stream.end_chunks()
        if exchange.unread:
            # The rest of the request's body would be read as the head of another client's request.
            connection.abort()
        elif not request.body.empty:
            # So would a body that the origin has left unread, and a client may have crafted it for that.
            connection.close()
        else:
            self._services.upstream.release(connection, response)

    def _relayed_head(
        self, exchange: Exchange, response: Response, chunked: bool
    ) -> tuple[int, list[tuple[bytes, bytes]]]:
        (status, headers), body = answer_of(exchange.route, response), response.body
        if body.kind != "none":
            headers = [h for h in headers if h[0] not in FRAMING]
            if body.kind == "length":
                headers.append((b"content-length", b"%d" % body.length))
            elif chunked:
                headers.append((b"transfer-encoding", b"chunked"))
            elif not self._responder.closes(exchange):
                headers.append((b"connection", b"close"))
        return status, headers

    async def _end_relay(self, exchange: Exchange, response: Response, request: Request) -> None:
        """Wait until a relayed answer has been sent to the client, then keep the connection or close it."""
        if not exchange.stream.notify_sent():
            waiter = exchange.sent_waiter = self._services.loop.create_future()
            await waiter
        if response.body.kind in ("chunked", "eof") and not _rechunked(response, request):
            self._responder.record(exchange)
            exchange.stream.close()
            return
        self._responder.finish(exchange)


def _digest_of(response: Response) -> str:
    """Return the digest that a registry tells with a manifest, "" without one."""
    told = (response.get(b"docker-content-digest") or b"").decode("latin-1")
    return told if is_digest(told) else ""


def _is_mirrors_pull(route: Route) -> bool:
    """Return whether a mirror's client pulls, by a path and query that may carry the proxy's credentials."""
    request, mirrored = route.request, route.mirrored
    if mirrored is None or not mirrored.for_proxy:
        return False
    return loan(request.method, request.path, pushes=False) is not None


def _rechunked(response: Response, request: Request) -> bool:
    """Return whether a body of unknown length is sent in chunks, which HTTP/1.0 clients don't know."""
    return response.body.kind in ("chunked", "eof") and request.minor >= 1
