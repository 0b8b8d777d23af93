"""One client connection: a head comes in, the policy's plan for it is carried out.

A hit is answered within the call that brought the head; everything else becomes a task of the connection.
What a fill or an origin does is never this connection's to stop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final

from regproxy import oci, pages
from regproxy._reactor import Reactor
from regproxy._relay import FileSource, StreamSink
from regproxy._stream import Stream
from regproxy.accesslog import AccessLog
from regproxy.auth import Origin
from regproxy.config import Config
from regproxy.contexts import Contexts
from regproxy.errors import BadResponse, HeadError, RegproxyError, Unsatisfiable, UpstreamError
from regproxy.fill import NO_TYPE, Fill, Fills, Opened, UpstreamAnswer, Wanted
from regproxy.heads import (
    Request,
    Response,
    Span,
    build_head,
    end_to_end,
    if_range_allows,
    none_match,
    parse_range,
    parse_request,
)
from regproxy.index import Index, TagRow
from regproxy.metrics import Metrics
from regproxy.oci import Accept, Kind, Target, parse_accept, parse_target
from regproxy.policy import STALE_ON, Action, Decision, Held, Plan, Policy, choose_variant
from regproxy.store import Blob, Store
from regproxy.tunnel import Tunnel
from regproxy.upstream import Connection, Upstream

log = logging.getLogger(__name__)

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# A body that is complete within this many bytes is verified before its head goes out, so that a wrong one
# becomes a clear error instead of a cut connection.
VERIFY_FIRST: Final = 65_536
ROUTES_MAX: Final = 1024
ROUTE_HEAD_MAX: Final = 2048  # bytes; with it the memory is bounded
OWN_HOST: Final = "docker.caching.proxy.internal"

_CONDITIONS: Final = frozenset({b"range", b"if-none-match"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_FROM_DISK: Final = frozenset({"HIT", "STALE"})
_BY_DIGEST: Final = frozenset({Kind.BLOB, Kind.MANIFEST})

# nginx's word -> the Cache-Status of RFC 9211
_CACHE_STATUS: Final = {
    "HIT": b"regproxy; hit",
    "MISS": b"regproxy; fwd=miss; stored",
    "UPDATING": b"regproxy; fwd=miss; collapsed",
    "EXPIRED": b"regproxy; fwd=stale; stored",
    "STALE": b"regproxy; hit; fwd=stale; detail=origin-failed",
    "BYPASS": b"regproxy; fwd=bypass",
}


@dataclass(frozen=True, slots=True)
class Route:
    """What a head says, worked out once: clients send the same few heads again and again.

    `by_digest` is the plan when the content is held, None for all but content by digest; `conditional`: a
    range or validator may make the answer something else than all of it.
    """

    request: Request
    target: Target
    by_digest: Plan | None
    conditional: bool


@dataclass(slots=True)
class Services:
    """What the sessions of a worker share."""

    config: Config
    policy: Policy
    reactor: Reactor
    store: Store
    index: Index
    fills: Fills
    upstream: Upstream
    contexts: Contexts
    metrics: Metrics
    access: AccessLog
    pages: pages.Pages
    loop: asyncio.AbstractEventLoop
    draining: bool = False
    _routes: dict[bytes, Route] = field(default_factory=dict)
    _second: int = 0
    _date: bytes = b""

    def route(self, head: bytes) -> Route:
        """Parse a head, or remember it. Raises HeadError."""
        route = self._routes.get(head)
        if route is not None:
            return route
        request = parse_request(head)
        target = parse_target(request.path)
        by_digest = None
        if target.kind in _BY_DIGEST and request.body.empty:
            plan = self.policy.plan(request.method, target, True, None)
            by_digest = plan if plan.action is Action.SERVE else None
        route = Route(request, target, by_digest, any(name in _CONDITIONS for name, _ in request.headers))
        if len(head) <= ROUTE_HEAD_MAX:
            if len(self._routes) >= ROUTES_MAX:
                del self._routes[next(iter(self._routes))]
            self._routes[head] = route
        return route

    def date(self) -> bytes:
        """The Date field and the empty line that ends a head; made once a second."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
        return self._date


class Session:
    """The handler of one client stream; its `on_` methods are what the stream tells (see `_stream`)."""

    __slots__ = (
        "_asked",
        "_asked_seconds",
        "_base",
        "_cache",
        "_kind",
        "_request",
        "_route",
        "_s",
        "_sent_waiter",
        "_started",
        "_status",
        "_task",
        "host",
        "origin",
        "stream",
    )

    def __init__(self, services: Services, stream: Stream) -> None:
        self._s = services
        self.stream = stream
        self.origin: Origin | None = None
        self.host = ""
        self._task: asyncio.Task[None] | None = None
        self._sent_waiter: asyncio.Future[None] | None = None
        self._request: Request | None = None
        self._route: Route | None = None
        self._started = 0.0
        self._reset()
        stream.handler = self
        config = services.config
        stream.set_send_timeout(config.send_timeout)
        stream.next_head(config.client_header_timeout, config.client_header_timeout)

    def _reset(self) -> None:
        self._status = 0
        self._kind = ""
        self._cache = ""
        self._asked = ""
        self._asked_seconds: float | None = None
        self._base = self.stream.plain_sent

    # --- what the stream tells ---------------------------------------------------------------------------

    def on_connect(self, host: str | None, port: int) -> None:
        """Intercept, tunnel or refuse."""
        self._begin(None)
        if host is None:
            self._plain_error(
                400, "CONNECT wants host:port and HTTP/1.1, such as CONNECT ghcr.io:443 HTTP/1.1"
            )
            return
        self.host = host
        plan = self._s.policy.plan_connect(host, port)
        if plan.decision is Decision.INTERCEPT:
            try:
                context = self._s.contexts.for_host(host)
            except RegproxyError as error:
                self._plain_error(502, f"no certificate for {host}: {error}")
                return
            self.origin = Origin("https", host, port)
            self.stream.send(ESTABLISHED)
            self._reset()
            self.stream.start_tls(context, host.encode(), pages.is_address(host))
        elif plan.decision is Decision.TUNNEL:
            self._task = self._s.loop.create_task(self._tunnel(host, port))
        else:
            self._plain_error(403, f"CONNECT {host}:{port} refused: {plan.reason}")

    def on_foreign(self, kind: str) -> None:
        """The first byte is of another protocol."""
        self._begin(None)
        if kind == "tls":
            text = "this port speaks plain HTTP: use http:// in HTTPS_PROXY, not https://"
        else:
            text = f"TLS was expected after CONNECT {self.host}, but plain text came"
        self._plain_error(400, text)

    def on_handshake(self) -> None:
        """TLS with the client is up: its requests follow."""
        timeout = self._s.config.client_header_timeout
        self.stream.next_head(timeout, timeout)

    def on_head(self, head: bytes) -> None:
        """A request."""
        self._started = time.monotonic()
        try:
            route = self._s.route(head)
        except HeadError as error:
            self._begin(None)
            self._error(error.status, error.code, str(error), close=True)
            return
        self._route = route
        self._request = request = route.request
        self._reset()
        origin, target = self.origin, route.target
        if origin is None or origin.host == OWN_HOST:
            self._front(request)
            return
        blob: Blob | None = None
        held: Held | None = None
        age = None
        plan = route.by_digest
        if plan is not None:
            blob = self._lookup(target.reference)
        elif target.kind is Kind.TAG:
            held, blob = self._held(origin, target, request)
            age = time.time() - held.fetched_at if held is not None else None
        if plan is None or blob is None:
            plan = self._s.policy.plan(request.method, target, blob is not None, age)
        self._kind = plan.kind
        if plan.action is Action.SERVE and blob is not None:
            self._serve(blob, "HIT")
        elif plan.action is Action.REFUSE:
            self._error(plan.status, plan.code, f"{origin.host}: {plan.reason}")
        elif plan.action is not Action.PASS and not request.body.empty:
            self._error(400, "UNSUPPORTED", f"a {request.method} with a body can't be answered from a cache")
        else:
            self._task = self._s.loop.create_task(self._carry_out(plan, target, request, blob))

    def on_head_too_large(self) -> None:
        """No end of the head within the limit (RFC 6585 section 5)."""
        self._begin(None)
        self._error(431, "UNSUPPORTED", "the request head is larger than 32 KiB", close=True)

    def on_sent(self) -> None:
        """The answer is out."""
        waiter, self._sent_waiter = self._sent_waiter, None
        if waiter is None:
            self._finish()
        elif not waiter.done():
            waiter.set_result(None)

    def on_body(self, complete: bool, reason: str) -> None:
        """The body of a request that is relayed is over; _send_body replaces this while it matters."""

    def on_source_failed(self, reason: str) -> None:
        """What is being sent can't be completed: the client must not take it for complete."""
        log.warning("cut %s %s: %s", self.host, self.uri, reason)
        if self._cache in _FROM_DISK and self._route is not None and self._route.by_digest is not None:
            # A file that can't be read to its end would be cut for every later client too.
            self._drop(self._route.target.reference)
        self._cut()

    def on_eof(self, partial: bool) -> None:
        """The client has gone between two requests, or within a head."""
        self.stream.close()

    def on_timeout(self, what: str) -> None:
        """Nothing moved: idle (read), or a client that takes nothing (send)."""
        if what == "send":
            self._cut()
        else:
            self._cancel()
            self.stream.close()

    def on_closed(self, reason: str) -> None:
        """The connection broke. Fills go on without this reader."""
        self._cancel()
        if self._status:
            self._record()
        if reason.startswith("TLS handshake failed"):
            log.info("%s: %s: %s", self.stream.peer, self.host, reason)

    # --- the end of a request ----------------------------------------------------------------------------

    def _begin(self, request: Request | None) -> None:
        self._started = time.monotonic()
        self._request = request
        self._reset()

    def _cancel(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _cut(self) -> None:
        """Break the connection where an answer can't be completed."""
        self.stream.abort()
        self._cancel()
        self._record()

    @property
    def uri(self) -> str:
        return self._request.path if self._request is not None else ""

    def _record(self) -> None:
        """Count and log the request that has ended, however it ended."""
        services, request = self._s, self._request
        now = time.monotonic()
        took = now - self._started
        sent = self.stream.plain_sent - self._base
        tally = services.metrics.tally(self.host, self._kind, self._cache, self._status)
        tally.add(sent, took)
        if self._cache == "HIT" or self._cache == "STALE":
            tally.add_saved(sent)
        services.access.line(
            now=time.time(),
            remote_addr=self.stream.peer,
            method=request.method if request is not None else "CONNECT",
            uri=request.path if request is not None else "",
            host=self.host,
            status=self._status,
            bytes_sent=sent,
            request_time=took,
            request_type=self._kind,
            upstream_cache_status=self._cache,
            upstream_response_time=self._asked_seconds,
            proxy_host=self.host if self._asked else "",
            upstream=self._asked,
        )
        self._status = 0

    def _finish(self) -> None:
        """The answer is out: log it, and wait for the next request or close."""
        self._record()
        self._task = None
        request, self._request = self._request, None
        if request is None or not request.keep_alive or self._s.draining or not request.body.empty:
            self.stream.close(request is None or not request.body.empty)
            return
        config = self._s.config
        self.stream.next_head(config.keepalive_timeout, config.client_header_timeout)

    def _send(
        self,
        status: int,
        head: bytes,
        body: bytes = b"",
        source: FileSource | None = None,
        chunked: bool = False,
    ) -> None:
        """Send an answer whose head lacks its Date and empty line."""
        self._status = status
        head += self._s.date()
        self._base = self.stream.plain_sent + len(head)
        if self.stream.send(head, body, source, chunked):
            self._finish()

    def _closes(self) -> bool:
        request = self._request
        return request is None or not request.keep_alive or not request.body.empty or self._s.draining

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """A head without the empty line; the caller's headers and ours."""
        if self._kind:
            headers.append((b"x-docker-registry-proxy-cache-type", self._kind.encode()))
        if self._cache:
            headers.append((b"x-docker-registry-proxy-cache-upstream-status", self._cache.encode()))
            headers.append((b"cache-status", _CACHE_STATUS[self._cache]))
        if self._closes():
            headers.append((b"connection", b"close"))
        return build_head(status, headers)[:-2]

    def _error(self, status: int, code: str, message: str, *, close: bool = False) -> None:
        """An error of ours: OCI JSON for registry paths, else plain text."""
        if close:
            self._request = None
        if self.origin is None or (not self.uri.startswith(("/v2", "/token")) and not close):
            self._plain_error(status, message)
            return
        body = oci.error_body(code, message)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        self._answer(status, headers, body)

    def _plain_error(self, status: int, message: str) -> None:
        body = f"regproxy: {message}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self._answer(status, headers, body)

    def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        head = self._head(status, headers)
        without_body = self._request is not None and self._request.method == "HEAD"
        self._send(status, head, b"" if without_body else body)

    def _front(self, request: Request) -> None:
        """Plain HTTP on the proxy port, or our own name: the pages."""
        page = self._s.pages.front(request)
        self._kind = "page"
        headers = [(b"content-type", page.content_type), (b"content-length", b"%d" % len(page.body))]
        self._answer(page.status, headers, page.body)

    # --- hits --------------------------------------------------------------------------------------------

    def _lookup(self, digest: str) -> Blob | None:
        blob = self._s.store.lookup(digest)
        if blob is not None and not blob.media_type:
            return self._first_sight(blob)
        return blob

    def _first_sight(self, blob: Blob) -> Blob | None:
        """Content that was not in memory: what the index knows of it, and whether the file is still that."""
        row = self._s.index.object(blob.digest)
        if row is not None and row.size != blob.size:
            log.warning("%s has %d bytes on disk instead of %d: removed", blob.digest, blob.size, row.size)
            self._drop(blob.digest)
            return None
        blob.media_type = (row.media_type if row is not None else None) or NO_TYPE
        if row is None:
            # The index was lost: a manifest tells its own type.
            if blob.small is not None:
                with suppress(BadResponse):
                    blob.media_type = oci.check_manifest(blob.small, "")
            self._s.index.put_object(blob.digest, blob.size, blob.media_type if blob.small else None)
        return blob

    def _drop(self, digest: str) -> None:
        self._s.store.remove(digest)
        self._s.index.drop_object(digest)

    def _held(self, origin: Origin, target: Target, request: Request) -> tuple[Held | None, Blob | None]:
        """The stored variant of a tag that suits the request, with its content."""
        rows = self._s.index.tag(origin.host, origin.port, target.repository, target.reference)
        if not rows:
            return None, None
        accept = parse_accept(request.all(b"accept"))
        held = choose_variant(
            tuple(Held(r.digest, r.media_type, r.size, r.fetched_at, r.accepts_index) for r in rows), accept
        )
        blob = self._lookup(held.digest) if held is not None else None
        if blob is None:
            return None, None
        if held is not None and blob.media_type == NO_TYPE:
            blob.media_type = held.media_type
        return held, blob

    def _serve(self, blob: Blob, cache: str) -> None:
        """Answer from the cache: 200, 206, 304 or 416."""
        self._cache = cache
        self._s.index.touch(blob.digest)
        request = self._request
        assert request is not None
        if self._route is None or self._route.conditional:
            self._serve_conditional(blob, request)
            return
        closes = self._closes()
        key = (self._kind + cache, "close" if closes else "")
        head = blob.heads.get(key)
        if head is None:
            head = blob.heads[key] = self._head(200, _content_headers(blob, blob.size))
        if request.method == "HEAD":
            self._send(200, head)
        elif blob.small is not None:
            self._send(200, head, blob.small)
        else:
            self._send(200, head, b"", FileSource(blob.file, 0, blob.size))

    def _serve_conditional(self, blob: Blob, request: Request) -> None:
        etag = blob.etag
        if none_match(request.get(b"if-none-match"), etag):
            self._send(304, self._head(304, [(b"etag", etag)]))
            return
        asked = parse_range(request.get(b"range")) if request.method == "GET" else None
        if asked is not None and if_range_allows(request.get(b"if-range"), etag):
            try:
                span = asked.resolve(blob.size)
            except Unsatisfiable:
                self._unsatisfiable(blob.size)
                return
            headers = _content_headers(blob, span.length)
            headers.append((b"content-range", span.content_range(blob.size)))
            self._send(206, self._head(206, headers), b"", FileSource(blob.file, span.start, span.stop))
            return
        head = self._head(200, _content_headers(blob, blob.size))
        body = FileSource(blob.file, 0, blob.size) if request.method == "GET" else None
        self._send(200, head, b"", body)

    def _unsatisfiable(self, total: int) -> None:
        body = oci.error_body("RANGE_INVALID", f"the content has {total} bytes")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"content-range", b"bytes */%d" % total),
        ]
        self._send(416, self._head(416, headers), body)

    # --- everything that asks an origin ------------------------------------------------------------------

    async def _carry_out(self, plan: Plan, target: Target, request: Request, stale: Blob | None) -> None:
        origin = self.origin
        assert origin is not None
        wanted = Wanted(origin, request, target)
        # By digest there is no stale copy: what is held would have been served.
        had = stale is not None
        try:
            if plan.action is Action.FETCH:
                await self._fetch(wanted, "EXPIRED" if had else "MISS", stale)
            elif plan.action is Action.HEAD:
                await self._ask_head(wanted, "EXPIRED" if had else "MISS", stale)
            else:
                self._cache = "BYPASS"
                await self._pass(wanted)
        except UpstreamAnswer as answer:
            self._relay_answer(answer)
        except RegproxyError as error:
            self._failed(error)
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
            self._error(error.status, error.code, str(error))

    def _serve_stale(self, stale: Blob | None, error: UpstreamError) -> bool:
        """Serve the older copy instead of the origin's trouble, where there is one."""
        troubled = not isinstance(error, UpstreamAnswer) or error.response.status in STALE_ON
        if stale is None or not troubled:
            return False
        log.warning("%s %s: serving a stale copy: %s", self.host, self.uri, error)
        self._serve(stale, "STALE")
        return True

    async def _fetch(self, wanted: Wanted, cache: str, stale: Blob | None) -> None:
        """Join the content's fill, or begin it; answer from it as it grows, or once it is verified."""
        target = wanted.target
        accept = parse_accept(wanted.request.all(b"accept")) if target.kind is Kind.TAG else None
        stop = self._s.fills.waiting()
        try:
            while True:
                fill, mine = self._s.fills.join(wanted, accept)
                self._cache = cache if mine else "UPDATING"
                try:
                    if target.kind is Kind.BLOB:
                        opened = await asyncio.shield(fill.opened)
                        self._note(fill)
                        if self._can_follow(opened):
                            self._follow(opened)
                            return
                    blob = await asyncio.shield(fill.done)
                    break
                except UpstreamError as error:
                    if mine or fill.wanted.signature == wanted.signature:
                        self._note(fill)
                        if self._serve_stale(stale, error):
                            return
                        raise
                    # Somebody else's credentials or registry failed; ours may not.
        finally:
            stop()
        self._note(fill)
        if target.kind is Kind.TAG:
            self._enter_tag(wanted, fill, blob, accept)
        self._serve(blob, self._cache)

    def _note(self, fill: Fill) -> None:
        self._asked, self._asked_seconds = fill.fetched_from, fill.seconds

    def _enter_tag(self, wanted: Wanted, fill: Fill, blob: Blob, accept: Accept | None) -> None:
        origin, target = wanted.origin, wanted.target
        accepts_index = accept is not None and accept.accepts_index
        blob.media_type = fill.media_type
        # One row for each answer that a registry may choose by Accept, not for each spelling of Accept.
        variant = f"{fill.media_type} {'any' if accepts_index else 'single'}"
        row = TagRow(variant, blob.digest, fill.media_type, blob.size, time.time(), accepts_index)
        self._s.index.put_tag(origin.host, origin.port, target.repository, target.reference, row)

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
        digest = parse_target(request.path).reference.encode()
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"docker-content-digest", digest),
            (b"etag", b'"' + digest + b'"'),
            (b"accept-ranges", b"bytes"),
        ]
        if total < 0:
            headers.append((b"transfer-encoding", b"chunked"))
            self._send(200, self._head(200, headers), b"", FileSource(growth.file, 0, -1, growth), True)
            return
        span, status = Span(0, total), 200
        asked = parse_range(request.get(b"range"))
        if asked is not None and if_range_allows(request.get(b"if-range"), b'"' + digest + b'"'):
            try:
                span, status = asked.resolve(total), 206
            except Unsatisfiable:
                self._unsatisfiable(total)
                return
            headers.append((b"content-range", span.content_range(total)))
        headers.append((b"content-length", b"%d" % span.length))
        source = FileSource(growth.file, span.start, span.stop, growth)
        self._send(status, self._head(status, headers), b"", source)

    def _relay_answer(self, answer: UpstreamAnswer) -> None:
        """An origin's refusal goes to the client as it came."""
        response = answer.response
        headers = [h for h in end_to_end(response.headers) if h[0] not in _FRAMING]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        self._answer(response.status, headers, answer.body)

    async def _ask_head(self, wanted: Wanted, cache: str, stale: Blob | None) -> None:
        """HEAD stays HEAD: registries count it less, or not at all."""
        self._cache = cache
        try:
            fetched = await self._s.upstream.fetch(wanted.origin, wanted.request, "HEAD")
        except UpstreamError as error:
            if self._serve_stale(stale, error):
                return
            raise
        self._asked, self._asked_seconds = fetched.connection.address, fetched.seconds
        response = fetched.response
        self._s.upstream.release(fetched.connection, response)
        if stale is not None and response.status in STALE_ON:
            self._serve(stale, "STALE")
            return
        headers = [h for h in end_to_end(response.headers) if h[0] != b"date"]
        if response.status == 200 and wanted.target.kind in _BY_DIGEST:
            digest = wanted.target.reference.encode()
            headers = [h for h in headers if h[0] != b"docker-content-digest"]
            headers.append((b"docker-content-digest", digest))
        self._send(response.status, self._head(response.status, headers))

    # --- uncached ----------------------------------------------------------------------------------------

    async def _pass(self, wanted: Wanted) -> None:
        """Through to the origin and back, nothing stored, no redirect followed."""
        request, upstream = wanted.request, self._s.upstream
        started = time.monotonic()
        if request.body.empty:
            head = upstream.head_for(wanted.origin, request)
            connection, response = await upstream.request(wanted.origin, head, request.method)
        else:
            connection = await upstream.begin(wanted.origin, request)
            try:
                response = await self._send_body(connection, request)
            except BaseException:
                connection.abort()
                raise
        self._asked, self._asked_seconds = connection.address, time.monotonic() - started
        try:
            await self._relay(connection, response, request)
        except BaseException:
            connection.abort()
            raise

    async def _send_body(self, connection: Connection, request: Request) -> Response:
        """Relay the request's body while waiting for the origin's head, which may come before its end."""
        loop, method = self._s.loop, request.method
        if request.expect_continue:
            response = await connection.read_head(method)
            if response.status != 100:
                return response
            self.stream.send(CONTINUE)
        body = _BodyWatch(self, loop)
        self.stream.handler = body
        answer = loop.create_task(_final_head(connection, method))
        try:
            sink = StreamSink(connection.stream, request.body.kind == "chunked")
            self.stream.receive(
                sink, request.body.kind, request.body.length, self._s.config.client_body_timeout
            )
            await asyncio.wait((body.over, answer), return_when=asyncio.FIRST_COMPLETED)
            if body.over.done():
                body.over.result()
                if request.body.kind == "chunked":
                    connection.stream.end_chunks()
            return await answer
        finally:
            answer.cancel()
            if self.stream.handler is body:
                self.stream.pause()
                self.stream.handler = self

    async def _relay(self, connection: Connection, response: Response, request: Request) -> None:
        """Send the origin's answer to the client as it comes, with back-pressure."""
        stream, body = self.stream, response.body
        self._base = stream.plain_sent
        headers = [h for h in end_to_end(response.headers) if h[0] != b"date"]
        chunked = body.kind in ("chunked", "eof") and request.minor >= 1
        if body.kind != "none":
            headers = [h for h in headers if h[0] not in _FRAMING]
            if body.kind == "length":
                headers.append((b"content-length", b"%d" % body.length))
            elif chunked:
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                headers.append((b"connection", b"close"))
        self._status = response.status
        head = self._head(response.status, headers) + self._s.date()
        stream.send(head)
        self._base += len(head)
        await connection.read_body(StreamSink(stream, chunked), body)
        if chunked:
            stream.end_chunks()
        self._s.upstream.release(connection, response)
        if not stream.notify_sent():
            waiter = self._sent_waiter = self._s.loop.create_future()
            await waiter
        if body.kind in ("chunked", "eof") and not chunked:
            self._record()
            stream.close()
            return
        self._finish()

    async def _tunnel(self, host: str, port: int) -> None:
        """A host that is not intercepted: bytes both ways."""
        config, services = self._s.config, self._s
        try:
            fd, address = await services.upstream.dial(host, port, config.tunnel_connect_timeout)
        except RegproxyError as error:
            log.warning("CONNECT %s:%d: %s", host, port, error)
            self._plain_error(error.status, f"CONNECT {host}:{port}: {error}")
            return
        self._kind, self._asked, self._status = "tunnel", address, 200
        self.stream.send(ESTABLISHED)
        self._base = self.stream.plain_sent
        other = Stream(services.reactor, fd)
        services.metrics.tunnel_opened()
        Tunnel(self.stream, other, config.tunnel_read_timeout, config.tunnel_send_timeout, self._tunnel_over)

    def _tunnel_over(self, up: int, down: int) -> None:
        self._task = None
        self._s.metrics.tunnel_closed(up, down)
        self._record()


class _BodyWatch:
    """Stands in as the client stream's handler while a request's body is relayed."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self.over: asyncio.Future[None] = loop.create_future()

    def on_body(self, complete: bool, reason: str) -> None:
        if self.over.done():
            return
        if complete:
            self.over.set_result(None)
        else:
            self.over.set_exception(HeadError(400, f"the request body is incomplete: {reason}"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


async def _final_head(connection: Connection, method: str) -> Response:
    response = await connection.read_head(method)
    while response.status < 200:
        response = await connection.read_head(method)
    return response


def _content_headers(blob: Blob, length: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", blob.media_type.encode("latin-1")),
        (b"content-length", b"%d" % length),
        (b"docker-content-digest", blob.digest.encode()),
        (b"etag", blob.etag),
        (b"accept-ranges", b"bytes"),
        (b"docker-distribution-api-version", b"registry/2.0"),
    ]
