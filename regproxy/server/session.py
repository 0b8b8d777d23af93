"""One client connection: a head comes in, the policy's plan for it is carried out.

A hit is answered within the call that brought the head; everything else becomes a task of the connection.
What a fill or an origin does is never this connection's to stop.
"""

from __future__ import annotations

import logging
import math
import os
import time
from typing import Final

from regproxy.core.errors import HeadError, RegproxyError
from regproxy.dataplane.stream import Stream
from regproxy.fill.fills import Wanted
from regproxy.fill.tag_request import Held
from regproxy.http.origin import Origin
from regproxy.policy.plans import Action, Decision
from regproxy.registry.targets import Kind
from regproxy.server import setup_pages
from regproxy.server.fetches import Asker
from regproxy.server.lookup import Copy
from regproxy.server.routes import Route
from regproxy.server.tunnel import Tunnel
from regproxy.upstream.name_lookups import CLIENT

log = logging.getLogger(__name__)

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
REQUEST_TIMEOUT: Final = 408  # in the log only: the client was in the middle of its body
CLIENT_GONE: Final = 499  # nginx's status for a client that left before its answer began
OWN_HOST: Final = "docker.caching.proxy.internal"

_FROM_DISK: Final = frozenset({"HIT", "STALE"})


class Session(Asker):
    """The handler of one client stream; its `on_` methods are what the stream tells (see `stream`)."""

    __slots__ = ()

    # --- what the stream tells ---------------------------------------------------------------------------

    def on_connect(self, host: str | None, port: int) -> None:
        """Intercept, tunnel or refuse."""
        self._begin(None)
        self._kind = "connect"
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
            timeout = self._s.config.client_header_timeout
            self.stream.start_tls(context, host.encode(), setup_pages.is_address(host), timeout)
        elif plan.decision is Decision.TUNNEL:
            self._task = self._s.loop.create_task(self._tunnel(host, port))
        else:
            self._s.say_refused(host, port, plan.reason)
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
        services = self._s
        try:
            route = services.routes.of(head)
        except HeadError as error:
            self._begin(None)
            self._error(error.status, error.code, str(error), close=True)
            return
        self._route = route
        self._request = request = route.request
        self._keeps, self._body_left = request.keep_alive, route.has_body
        self._reset()
        origin, target = self.origin, route.target
        if origin is None or origin.host == OWN_HOST:
            self._front(request)
            return
        if route.has_body or route.named is not self._addressed:
            refusal = route.refusal(origin)
            if refusal is not None:
                self._error(refusal[0], "UNSUPPORTED", f"{origin.host}: {refusal[1]}")
                return
            self._addressed = route.named
        held: Held | None = None
        copy: Copy | None = None
        plan = route.by_digest
        if plan is not None:
            held = services.lookup.content(origin, target, route)
        elif target.kind is Kind.TAG and not route.shared.own:
            copy = services.lookup.copy(origin, target, route)
            if copy is not None and copy.fresh and route.fresh_tag is not None:
                plan, held = route.fresh_tag[0], copy.held
        if plan is not None and held is not None:
            self._kind = plan.kind
            self._serve(held, "HIT")
        else:
            self._not_at_hand(origin, route, copy)

    def _not_at_hand(self, origin: Origin, route: Route, copy: Copy | None) -> None:
        """Handle a request that is not a fresh hit. `copy`: of a tag that is not fresh."""
        request, target = route.request, route.target
        age = copy.age if copy is not None and copy.current else math.inf
        stretch = self._s.stretch(origin.host) if copy is not None else 1.0
        plan = self._s.policy.plan(request.method, target, copy is not None, age, request.path, stretch)
        if route.shared.own and (passed := self._s.policy.as_own(plan, target)) is not plan:
            self._s.say_own(origin.host, route.shared.own)
            plan = passed
        self._kind = plan.kind
        if plan.action is Action.REFUSE:
            self._error(plan.status, plan.code, f"{origin.host}: {plan.reason}")
        elif plan.action is Action.SERVE and copy is not None:
            self._serve(copy.held, "HIT")
        elif plan.action is Action.STALE and copy is not None:
            self._serve(copy.held, "STALE")
        elif plan.action is Action.RENEW and copy is not None:
            self._renew(Wanted(origin, route.shared.request, target, own=True), copy)
            self._serve(copy.held, "STALE")
        elif plan.action is Action.PONG:
            self._pong()
        else:
            self._task = self._s.loop.create_task(self._carry_out(plan, route, copy))

    def on_head_too_large(self) -> None:
        """No end of the head within the limit (RFC 6585 section 5)."""
        self._begin(None)
        self._error(431, "UNSUPPORTED", "the request head is larger than 32 KiB", close=True)

    def on_sent(self) -> None:
        """The answer is out."""
        waiter, self._sent_waiter = self._sent_waiter, None
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._ending:
            # Not for a head whose body an origin is still sending, nor for a 100.
            self._finish()

    def on_body(self, complete: bool, reason: str) -> None:
        """The body of a request that is relayed is over."""
        over, self._body_over = self._body_over, None
        if over is None or over.done():
            return
        if complete:
            over.set_result(None)
        else:
            over.set_exception(HeadError(400, f"the request body is incomplete: {reason}"))

    def on_source_failed(self, reason: str) -> None:
        """What is being sent can't be completed: the client must not take it for complete."""
        log.warning("cut %s %s: %s", self.host, self.uri, reason)
        if self._cache in _FROM_DISK and self._route is not None and self._route.by_digest is not None:
            # A file that can't be read to its end would be cut for every later client too.
            self._s.lookup.drop(self._route.target.reference)
        self._cut()

    def on_eof(self, partial: bool) -> None:
        """The client has gone between two requests, or within a head."""
        self.stream.close()

    def on_timeout(self, what: str) -> None:
        """Nothing moved: idle (read), or a client that takes nothing (send)."""
        if what == "send":
            self._cut()
        else:
            if self._task is not None:
                self._status = self._status or REQUEST_TIMEOUT
                self._record()
            self._cancel()
            self.stream.close()

    def on_closed(self, reason: str) -> None:
        """The connection broke. Fills go on without this reader."""
        busy = self._task is not None
        self._cancel()
        if self._status or busy:
            self._status = self._status or CLIENT_GONE
            self._record()
        if reason.startswith("TLS handshake failed"):
            log.info("%s: %s: %s", self.stream.peer, self.host, reason)

    async def _tunnel(self, host: str, port: int) -> None:
        """A host that is not intercepted: bytes both ways."""
        config, services = self._s.config, self._s
        CLIENT.set(self.stream.peer)
        try:
            fd, address = await services.upstream.dial(host, port, config.tunnel_connect_timeout)
        except RegproxyError as error:
            log.warning("CONNECT %s:%d: %s", host, port, error)
            self._plain_error(error.status, f"CONNECT {host}:{port}: {error}")
            return
        self._kind, self._asked, self._status = "tunnel", address, 200
        self.stream.send(ESTABLISHED)
        self._base = self.stream.plain_sent
        try:
            other = Stream(services.reactor, fd)
        except Exception as error:
            os.close(fd)
            log.exception("CONNECT %s:%d", host, port)
            self._plain_error(500, f"CONNECT {host}:{port}: internal error: {type(error).__name__}")
            return
        services.metrics.tunnel_opened()
        Tunnel(self.stream, other, config.tunnel_read_timeout, config.tunnel_send_timeout, self._tunnel_over)

    def _tunnel_over(self, up: int, down: int) -> None:
        self._task = None
        self._s.metrics.tunnel_closed(up, down)
        self._record()
