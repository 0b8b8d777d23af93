"""Serve clients without CONNECT: DNS, or /etc/hosts, gives them this proxy's address for a registry's name.

Over TLS the server name of the ClientHello says which registry is meant (RFC 6066 3), over plain HTTP the
Host of each request. A host that is not an intercepted registry is refused, so this is no open proxy.
Registries are asked at port 443, whatever the port here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from regproxy.core.errors import HeadError
from regproxy.dataplane.stream import Stream
from regproxy.http.origin import Origin
from regproxy.policy.interception import ConnectDecision, Interception
from regproxy.server.routes import Route
from regproxy.server.sessions.handlers import Handlers
from regproxy.server.sessions.tls_first import TlsFirstSession

REGISTRY_PORT: Final = 443
MISDIRECTED: Final = 421  # RFC 9110 15.5.20


class Transparent:
    """Makes the sessions of such clients. One for each worker."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        interception = handlers.services.interception
        self._context = handlers.services.contexts.by_name(lambda host: _is_intercepted(interception, host))

    def accept(self, stream: Stream) -> None:
        """Take a client's stream."""
        TransparentSession(self._handlers, stream, self._context)


class TransparentSession(TlsFirstSession):
    """A Session whose origin comes from the server name of TLS, or from Host, instead of a CONNECT."""

    __slots__ = ()

    takes_logins = False  # clients take this for the registry: what they show is for that
    way = "transparent"
    any_port = True  # a Host names the port that clients connect to here, not the registry's
    connect_refused = "CONNECT is for the proxy's own port; this one takes requests as registries do"

    def may_mirror(self) -> bool:
        """Return False: whoever is sent here means the registry that its Host names."""
        return False

    def on_handshake(self) -> None:
        """Take the origin from the server name of the handshake that is complete."""
        tls = self.stream.tls
        self._address(tls.server_name if tls is not None else "")
        super().on_handshake()

    def on_head(self, head: bytes) -> None:
        """Handle a request. Without TLS, each one on a connection may be for another registry."""
        if self.stream.tls is None:
            self._address("")
            with suppress(HeadError):  # answered by Session.on_head
                named = self._services.routes.of(head).named
                self._address(named[0] if named is not None else "")
        super().on_head(head)

    def _address(self, host: str) -> None:
        """Set the origin of the requests from here on: this host, or None if it is not intercepted."""
        host = host.lower().removesuffix(".")
        intercepted = bool(host) and _is_intercepted(self._services.interception, host)
        self._origin = Origin("https", host, REGISTRY_PORT) if intercepted else None
        self.exchange.host = host

    def _show_page(self, route: Route) -> None:
        """Answer 421 to a request for a host that is not intercepted; OWN_HOST has its pages here too."""
        if self._origin is not None:
            super()._show_page(route)
            return
        host = self.exchange.host or "a request without Host"
        text = f"{host}: no registry that is intercepted here (REGISTRIES)"
        self._responder.plain_error(self.exchange, MISDIRECTED, text)


def _is_intercepted(interception: Interception, host: str) -> bool:
    return interception.plan_connect(host, REGISTRY_PORT).decision is ConnectDecision.INTERCEPT
