"""Handle one client connection: parse each head, and carry out the policy's plan for it.

A hit is answered within the call that brought the head; any request to an origin becomes a task of the
connection. The end of a connection never stops a fill.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, Final

from regproxy.auth.clients.logins import LoginsBusy, LoginsUnavailable
from regproxy.config.hosts import OWN_HOST
from regproxy.core.errors import HeadError, RegproxyError
from regproxy.core.request_context import CURRENT, RequestContext
from regproxy.dataplane.stream import Stream
from regproxy.fill.fills import UpstreamAnswer
from regproxy.fill.tag_request import Held
from regproxy.http.origin import Origin, named
from regproxy.policy.interception import ConnectDecision
from regproxy.policy.plans import PONG, Action, Plan
from regproxy.policy.principals import ANONYMOUS
from regproxy.registry.targets import Kind
from regproxy.server import setup_pages
from regproxy.server.clients import Clients, LoginWanted, NotKnown
from regproxy.server.exchange import Exchange
from regproxy.server.guards import Guards
from regproxy.server.lookup import Copy
from regproxy.server.repeats import SECOND, Repeated
from regproxy.server.routes import Route
from regproxy.server.sessions.handlers import Handlers
from regproxy.server.tunnel_requests import ESTABLISHED
from regproxy.upstream.connections.name_lookups import CLIENT

log = logging.getLogger(__name__)

REQUEST_TIMEOUT: Final = 408  # in the log only: the client was in the middle of its body
CLIENT_GONE: Final = 499  # nginx's status for a client that left before its answer began

# The alerts of clients that don't trust the certificate (RFC 8446 6.2); Go sends bad_certificate.
_DISTRUST: Final = ("alert unknown ca", "alert bad certificate", "alert certificate unknown")
# What clients lack that are not let in, as metrics say it.
_LACKS: Final[dict[type[RegproxyError], str]] = {
    LoginWanted: "basic",
    NotKnown: "unknown",
    LoginsBusy: "busy",
    LoginsUnavailable: "unavailable",
}
_FROM_DISK: Final = frozenset({"HIT", "STALE"})


class ProxyPort:
    """Makes the sessions of clients of the proxy port. One for each worker."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def accept(self, stream: Stream) -> None:
        """Take a client's stream."""
        services = self._handlers.services
        if services.repeats is not None and services.clients is None:
            services.repeats.begin_plain(stream)
        Session(self._handlers, stream)


class Session:
    """The handler of one client stream; the stream calls its `on_` methods (see `stream`).

    `exchange`: the request that is being answered.
    """

    __slots__ = (
        *("_addressed", "_at", "_clients", "_handlers", "_origin", "_responder", "_services", "exchange"),
        "stream",
    )

    way = "connect"  # the word for how clients come here
    any_port = False  # whether the port that a request names in its Host matters not
    takes_logins = True  # whether clients can say here who they are

    def __init__(self, handlers: Handlers, stream: Stream) -> None:
        self._handlers = handlers
        self._responder = handlers.responder
        self._services = services = handlers.services
        self.stream = stream
        self.exchange = exchange = Exchange(stream)
        # Who has the client's address; who says who each request's client is, None once that is settled.
        self._clients = clients = services.clients
        self._at = exchange.principal if clients is None else clients.at(exchange.peer)
        exchange.principal = self._at
        exchange.way = self.way
        # The origin of an intercepted CONNECT.
        self._origin: Origin | None = None
        # The last `Route.named` that was found to be that origin.
        self._addressed: tuple[str, int] | None = None
        stream.handler = self
        config = services.config
        stream.set_send_timeout(config.send_timeout)
        stream.next_head(config.client_header_timeout, config.client_header_timeout)

    # --- callbacks of the stream -------------------------------------------------------------------------

    def on_connect(self, host: str | None, port: int, login: bytes | None) -> None:
        """Intercept, tunnel or refuse a CONNECT."""
        exchange, responder = self._begin(), self._responder
        exchange.kind = "connect"
        if host is None:
            text = "CONNECT wants host:port and HTTP/1.1, such as CONNECT ghcr.io:443 HTTP/1.1"
            responder.plain_error(exchange, 400, text)
            return
        exchange.host = named(host, port)
        if self._clients is None:
            self._connect(host, port)
        else:
            self._identify(self._clients, login, lambda: self._connect(host, port))

    def go_on(self, host: str, port: int, client: Exchange) -> None:
        """Take over a CONNECT that came over another connection, of a client that may be here."""
        self.stream.pause()
        exchange = self._begin()
        exchange.kind, exchange.host = "connect", named(host, port)
        exchange.peer, exchange.principal = client.peer, client.principal
        self._connect(host, port)

    def _connect(self, host: str, port: int) -> None:
        """Do what is planned for a CONNECT, of a client that may be here."""
        exchange, services = self.exchange, self._services
        self._clients = None
        plan = services.interception.plan_connect(host, port)
        if plan.decision is ConnectDecision.INTERCEPT:
            self._intercept(host, port)
        elif plan.decision is ConnectDecision.TUNNEL:
            exchange.task = services.loop.create_task(self._handlers.tunnels.open(exchange, host, port))
        else:
            refused = self._handlers.tunnels.refuse(exchange, host, port, plan.reason)
            exchange.task = services.loop.create_task(refused)

    def may_mirror(self) -> bool:
        """Return whether requests without CONNECT may be for a registry: see MirrorMode."""
        return True

    def on_foreign(self, kind: str) -> None:
        """Answer with an error: the first byte is of another protocol."""
        exchange = self._begin()
        if kind == "tls":
            text = "this port speaks plain HTTP: use http:// in HTTPS_PROXY, not https://"
            self._services.say_tls(self.stream.peer)
        else:
            text = f"TLS was expected after CONNECT {exchange.host}, but plain text came"
        self._responder.plain_error(exchange, 400, text)

    def on_handshake(self) -> None:
        """Read requests: the TLS handshake with the client is complete."""
        services = self._services
        if services.tracer is not None:
            services.tracer.secured(self.exchange)
        timeout = services.config.client_header_timeout
        self.stream.next_head(timeout, timeout)

    def on_head(self, head: bytes) -> None:
        """Handle a request: answer a hit at once."""
        exchange, services, origin = self.exchange, self._services, self._origin
        exchange.started = time.monotonic()
        try:
            if origin is not None or not self.may_mirror():
                route = services.routes.of(head)
            else:
                route = services.plain_routes.of(head)
                origin = self._mirrored(route)
        except HeadError as error:
            self._responder.error(self._begin(), error.status, error.code, str(error), close=True)
            return
        exchange.begin(origin, route)
        if exchange.started < route.again:
            exchange.head = head
        if self._clients is None:
            self._answer_head(origin, route)
        elif origin is None and not route.refused:
            # Pages are for everybody: who is to be let in has to find out how.
            exchange.principal = self._at
            self._answer_head(origin, route)
        else:
            login = route.login if self.takes_logins else None
            self._identify(self._clients, login, lambda: self._answer_head(origin, route))

    def _answer_head(self, origin: Origin | None, route: Route) -> None:
        """Answer a request of a client that may be here: at once, if it is a fresh hit."""
        exchange, services = self.exchange, self._services
        if origin is None or origin.host == OWN_HOST:
            self._show_page(route)
            return
        if route.has_body or route.named is not self._addressed:
            refusal = route.refusal(origin, self.any_port)
            if refusal is not None:
                text = f"{origin.host}: {refusal[1]}"
                self._responder.error(exchange, refusal[0], "UNSUPPORTED", text)
                return
            self._addressed = route.named
        guards, memo = self._handlers.guards, route.passed
        if (
            guards is None
            or (
                # The way of a hit: no call of a Python function.
                memo is not None
                and memo[0] is exchange.principal
                and memo[1] == origin.host
                and memo[2] == origin.port
                and exchange.started < memo[3]
            )
            or guards.passes(exchange, origin, route)
        ):
            self._answer(origin, route)
        else:
            exchange.task = services.loop.create_task(self._await_guards(guards, origin, route))

    def _answer(self, origin: Origin, route: Route) -> None:
        """Answer a request that may be answered: at once, if it is a fresh hit."""
        exchange, services, target = self.exchange, self._services, route.target
        held: Held | None = None
        copy: Copy | None = None
        kind, plan, lifetime = "", route.by_digest, route.lifetime
        repeats = services.repeats if self._clients is None else None
        if repeats is not None and exchange.head:
            repeats.begin_lookup()
        if plan is not None:
            kind = plan.kind
            if route.asks_presence and not services.policy.offline:
                held = services.lookup.present(origin, target, route)
            else:
                held = services.lookup.content(origin, target, route)
        elif lifetime is not None:
            kind = lifetime.name
            copy = services.lookup.copy(origin, target, route, lifetime)
            if copy is not None and copy.fresh and (not route.asks_presence or services.policy.offline):
                held = copy.held
        if held is not None:
            exchange.kind = kind
            if repeats is not None:
                if exchange.head:
                    repeats.may_keep(exchange, route, copy.age if copy is not None else 0.0, lifetime)
                route.again = exchange.started + SECOND
            self._handlers.hits.serve(exchange, held, "HIT")
        else:
            self._not_at_hand(origin, route, copy)

    def on_answering(self, repeated: Repeated, began: float, request_id: bytes) -> None:
        """Take over an answer that the data plane sends again: it does not go out at once."""
        exchange = self.exchange
        exchange.started = began
        exchange.begin(repeated.origin, repeated.route)
        exchange.host, exchange.kind, exchange.cache = repeated.host, repeated.kind, repeated.cache
        exchange.digest, exchange.status = repeated.digest, repeated.status
        exchange.request_id = request_id
        exchange.base -= repeated.size
        exchange.ending = True

    def on_head_too_large(self) -> None:
        """Answer 431 (RFC 6585 section 5): the head did not end within the limit."""
        text = "the request head is larger than 32 KiB"
        self._responder.error(self._begin(), 431, "UNSUPPORTED", text, close=True)

    def on_sent(self) -> None:
        """Wake the task that waits for this, or finish the exchange: all bytes have been sent."""
        exchange = self.exchange
        waiter, exchange.sent_waiter = exchange.sent_waiter, None
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif exchange.ending:
            # Not for a head whose body an origin is still sending, nor for a 100.
            self._responder.finish(exchange)

    def on_body(self, complete: bool, reason: str) -> None:
        """Tell the task that the body of a relayed request has ended."""
        exchange = self.exchange
        over, exchange.body_over = exchange.body_over, None
        if over is None or over.done():
            return
        if complete:
            over.set_result(None)
        else:
            over.set_exception(HeadError(400, f"the request body is incomplete: {reason}"))

    def on_source_failed(self, reason: str) -> None:
        """Cut the connection: the body can't be completed, and the client must not take it for complete."""
        exchange = self.exchange
        about = self._responder.about(exchange)
        log.warning("cut %s %s: %s", exchange.host, exchange.uri, reason, extra=about)
        route = exchange.route
        if exchange.cache in _FROM_DISK and route is not None and route.by_digest is not None:
            # A file that can't be read to its end would fail every later client too.
            self._services.lookup.drop(route.target.reference)
        self._responder.cut(exchange)

    def on_eof(self, partial: bool) -> None:
        """Close: the client has gone between two requests, or within a head."""
        self.stream.close()

    def on_timeout(self, what: str) -> None:
        """End the connection: the client has sent nothing ("read"), or taken nothing ("send")."""
        exchange = self.exchange
        if what == "send":
            self._responder.cut(exchange)
            return
        if exchange.task is not None:
            exchange.status = exchange.status or REQUEST_TIMEOUT
            self._responder.record(exchange)
        exchange.cancel()
        self.stream.close()

    def on_closed(self, reason: str) -> None:
        """Cancel the task: the connection broke. Fills go on without this reader."""
        exchange = self.exchange
        busy = exchange.task is not None
        exchange.cancel()
        if exchange.status or busy:
            exchange.status = exchange.status or CLIENT_GONE
            self._responder.record(exchange)
        if reason.startswith("TLS handshake failed"):
            log.info("%s: %s: %s", self.stream.peer, exchange.host, reason)
            if "certificate verify failed" in reason:  # the client's own
                self._services.metrics.login_refused("certificate")
            if any(alert in reason for alert in _DISTRUST):
                self._services.say_distrusted(self.stream.peer, exchange.host)

    # --- who the client is -------------------------------------------------------------------------------

    def _identify(self, clients: Clients, login: bytes | None, go_on: Callable[[], None]) -> None:
        """Go on once it is known who the client is. `login`: what it shows to the proxy, None for nothing."""
        exchange = self.exchange
        # Requests that share a connection need not be one client's, as behind a balancer.
        exchange.principal = ANONYMOUS
        principal = clients.recall(login, self._at)
        if principal is not None:
            exchange.principal = principal
            go_on()
        else:
            identified = self._identified(clients, login, go_on)
            exchange.task = self._services.loop.create_task(self._or_error(identified))

    async def _identified(self, clients: Clients, login: bytes | None, go_on: Callable[[], None]) -> None:
        exchange = self.exchange
        try:
            exchange.principal = await clients.identify(
                login, self._at, self.stream.peer, takes_logins=self.takes_logins
            )
        except (LoginWanted, NotKnown, LoginsBusy, LoginsUnavailable) as error:
            if not isinstance(error, LoginWanted) or login is not None:  # else it is asked for one
                self._services.metrics.login_refused(_LACKS[type(error)])
                self._responder.note_refusal(exchange, "login", "", str(error))
            self._responder.not_let_in(exchange, error)
            return
        exchange.task = None
        go_on()

    # --- heads -------------------------------------------------------------------------------------------

    def _begin(self) -> Exchange:
        """Begin an answer to something that is no readable request."""
        exchange = self.exchange
        exchange.started = time.monotonic()
        exchange.begin(self._origin, None)
        return exchange

    def _mirrored(self, route: Route) -> Origin | None:
        """Return the registry that a request without CONNECT is for, None if it is for a page, or refused."""
        mirrored = route.mirrored
        self.exchange.host = mirrored.origin.name if mirrored is not None else ""
        return mirrored.origin if mirrored is not None and not route.refused else None

    def _show_page(self, route: Route) -> None:
        """Answer with a page: plain HTTP on the proxy port, or a request to OWN_HOST."""
        if route.refused:
            self._services.say_not_mirrored(self.stream.peer, route.refused)
            self._responder.registry_error(self.exchange, 403, "DENIED", route.refused)
            return
        page = self._services.pages.front(route.request)
        self.exchange.kind = "page"
        headers = [(b"content-type", page.content_type), (b"content-length", b"%d" % len(page.body))]
        self._responder.answer(self.exchange, page.status, headers, page.body)

    def _not_at_hand(self, origin: Origin, route: Route, copy: Copy | None) -> None:
        """Handle a request that is not a fresh hit. `copy`: a tag's copy that is not fresh."""
        exchange, handlers, services = self.exchange, self._handlers, self._services
        request, target = route.request, route.target
        age = copy.age if copy is not None and copy.current else math.inf
        stretch = services.stretch(origin.name) if copy is not None else 1.0
        plan = services.policy.plan(request.method, target, copy is not None, age, request.path, stretch)
        if route.shared.own and (passed := services.policy.as_own(plan, target)) is not plan:
            services.say_own(origin.host, route.shared.own)
            plan = passed
        exchange.kind = plan.kind
        if route.asks_proxy and target.kind is Kind.PING and plan.action is Action.PASS:
            plan = PONG  # whatever the registry wants of its clients is the proxy's to bring
        if plan.action is Action.REFUSE:
            reason = f"{origin.host}: {plan.reason.replace('{host}', origin.host)}"
            handlers.responder.error(exchange, plan.status, plan.code, reason)
        elif plan.action is Action.SERVE and copy is not None:
            handlers.hits.serve(exchange, copy.held, "HIT")
        elif plan.action is Action.STALE and copy is not None:
            handlers.hits.serve(exchange, copy.held, "STALE")
        elif plan.action is Action.RENEW and copy is not None:
            wanted = services.rights.wanted(exchange, origin, route, own_account=True)
            handlers.tags.renew(route, wanted, copy)
            handlers.hits.serve(exchange, copy.held, "STALE")
        elif plan.action is Action.PONG:
            # A mirror's ping is never a registry's to answer: nothing is stale.
            handlers.responder.pong(exchange, "" if route.asks_proxy else "STALE")
        else:
            exchange.task = services.loop.create_task(self._carry_out(plan, origin, route, copy))

    # --- requests to an origin ---------------------------------------------------------------------------

    async def _carry_out(self, plan: Plan, origin: Origin, route: Route, copy: Copy | None) -> None:
        """Answer as planned. `copy`: a tag's; cached content by digest would have been served already."""
        await self._or_error(self._handlers.misses.answer(self.exchange, plan, origin, route, copy))

    async def _await_guards(self, guards: Guards, origin: Origin, route: Route) -> None:
        """Answer a request of which the guards have to find out whether it may be answered."""
        await self._or_error(self._ask_guards(guards, origin, route))

    async def _ask_guards(self, guards: Guards, origin: Origin, route: Route) -> None:
        exchange = self.exchange
        admitted = await guards.admit(exchange, origin, route)
        if admitted is not None:
            exchange.route, exchange.task = admitted, None
            self._answer(origin, admitted)

    async def _or_error(self, answer: Coroutine[Any, Any, None]) -> None:
        """Await the answer to a request; where that fails, answer with the error."""
        # Set for this task and all tasks that it starts: a fill's lookups count for the client that began it.
        CLIENT.set(self.stream.peer)
        self._set_current()
        exchange, responder = self.exchange, self._responder
        try:
            await answer
        except UpstreamAnswer as refusal:
            responder.relay_answer(exchange, refusal)
            # The fill has this error too, and the traceback would keep the fill and its files alive until the
            # garbage collector runs.
            refusal.__traceback__ = None
        except RegproxyError as error:
            responder.failed(exchange, error)
            error.__traceback__ = None
        except Exception as error:
            log.exception("%s %s", exchange.host, exchange.uri)
            responder.failed(exchange, RegproxyError(f"internal error: {type(error).__name__}"))

    def _set_current(self) -> None:
        """Have all that this task logs, and asks of others, be known as this request's."""
        exchange, tracer = self.exchange, self._services.tracer
        request_id = self._responder.id_of(exchange)
        if tracer is not None and exchange.span is None and exchange.kind != "connect":
            exchange.span = tracer.begin(exchange, request_id)
        CURRENT.set(RequestContext(request_id, exchange.span))

    # --- CONNECT -----------------------------------------------------------------------------------------

    def _intercept(self, host: str, port: int) -> None:
        """Start TLS with a certificate for the host that the client has named, and read its requests."""
        exchange, services = self.exchange, self._services
        try:
            context = services.contexts.for_host(host)
        except RegproxyError as error:
            services.contexts.say(host, error)
            self._responder.plain_error(exchange, 502, f"no certificate for {host}: {error}")
            return
        self._origin, name, is_address = _intercepted(host, port)
        if services.repeats is not None:
            services.repeats.begin(self.stream, host, port, exchange.principal, exchange.peer)
        if services.tracer is not None:
            services.tracer.connected(exchange)
        self.stream.send(ESTABLISHED)
        exchange.origin, exchange.kind = self._origin, ""
        timeout = services.config.client_header_timeout
        self.stream.start_tls(context, name, is_address, timeout)


@lru_cache(maxsize=1024)
def _intercepted(host: str, port: int) -> tuple[Origin, bytes, bool]:
    """Return the origin that a CONNECT names, its name as TLS wants it, and whether that is an address."""
    return Origin("https", host, port), host.encode(), setup_pages.is_address(host)
