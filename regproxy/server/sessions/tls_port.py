"""Serve clients that speak TLS to the proxy itself: REGPROXY_TLS_LISTEN.

Requests are a mirror's, as on the proxy port. A CONNECT comes from clients that have the proxy as https://,
and brings another TLS connection within this one. Its bytes go through a pair of sockets, whose other end is
served as a connection to the proxy port is after its CONNECT: nothing else has to know of the outer TLS.
"""

from __future__ import annotations

import socket
from typing import Final

from regproxy.auth.clients.certificates import ClientCas
from regproxy.core.errors import CredentialError
from regproxy.dataplane.http1 import connect_target, proxy_login
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tls_contexts import Context
from regproxy.server.routes import Route
from regproxy.server.sessions.handlers import Handlers
from regproxy.server.sessions.session import Session
from regproxy.server.sessions.tls_first import TlsFirstSession
from regproxy.server.tunnel import Tunnel, TunnelEnd

_FOR_EVER: Final = 1e9  # seconds: the inner connection has limits of its own


class TlsPort:
    """Makes the sessions of such clients. One for each worker. `cas`: see `context.client_trust`."""

    def __init__(self, handlers: Handlers, context: Context, cas: ClientCas | None = None) -> None:
        self._handlers = handlers
        self.context = context
        self.cas = cas

    def accept(self, stream: Stream) -> None:
        """Take a client's stream."""
        TlsSession(self._handlers, stream, self)


class TlsSession(TlsFirstSession):
    """A Session of the proxy port whose requests come over TLS."""

    __slots__ = ("_port",)

    def __init__(self, handlers: Handlers, stream: Stream, port: TlsPort) -> None:
        self._port = port
        super().__init__(handlers, stream, port.context)

    def may_mirror(self) -> bool:
        """Return whether requests may be for a registry: not in plain text."""
        return self.stream.tls is not None

    # --- TLS ---------------------------------------------------------------------------------------------

    def on_foreign(self, kind: str) -> None:
        """Begin TLS, once it is known whose certificates are believed."""
        cas = self._port.cas
        if cas is None:
            super().on_foreign(kind)
        else:
            self.exchange.task = self._services.loop.create_task(self._trust(cas, kind))

    async def _trust(self, cas: ClientCas, kind: str) -> None:
        try:
            self._port.context.client_trust = await cas.trust()
        except CredentialError as error:
            self._services.say_no_trust(self.stream.peer, str(error))
            self.stream.abort()
            return
        self.exchange.task = None
        super().on_foreign(kind)

    def on_handshake(self) -> None:
        """Note whose certificate was shown, and read requests."""
        tls, clients = self.stream.tls, self._clients
        certificate = tls.client_certificate if tls is not None and clients is not None else b""
        if certificate and clients is not None:
            self._at = self.exchange.principal = clients.with_certificate(certificate, self._at)
        super().on_handshake()

    # --- requests ----------------------------------------------------------------------------------------

    def on_connect(self, host: str | None, port: int, login: bytes | None) -> None:
        """Take a CONNECT, if it comes over TLS."""
        if self.stream.tls is None:
            self._responder.plain_error(self._begin(), 400, "this port speaks TLS: https:// in HTTPS_PROXY")
        else:
            Session.on_connect(self, host, port, login)

    def on_head(self, head: bytes) -> None:
        """Handle a request, or a CONNECT, which streams look for ahead of TLS alone."""
        if head.startswith(b"CONNECT ") and self.stream.tls is not None:
            host, port = connect_target(head) or (None, 0)
            self.on_connect(host, port, proxy_login(head))
        else:
            super().on_head(head)

    def _connect(self, host: str, port: int) -> None:
        """Go on in a connection of its own. In a task: the stream is still working off what it has read."""
        self.exchange.task = self._services.loop.create_task(self._nest(host, port))

    async def _nest(self, host: str, port: int) -> None:
        services, client = self._services, self.exchange
        near, far = _pair(services.reactor, self.stream)
        client.task = None
        Nested(self.stream, near, services.config.send_timeout)
        Session(self._handlers, far).go_on(host, port, client)

    def _show_page(self, route: Route) -> None:
        """Answer with a page, but for plain text on this port."""
        if self.stream.tls is None:
            self._responder.plain_error(self.exchange, 400, "this port speaks TLS: use https://")
            return
        super()._show_page(route)


class Nested(Tunnel):
    """Relays between a client's TLS connection and the near end of the pair, until either has ended."""

    def __init__(self, client: Stream, near: Stream, send_timeout: float) -> None:
        self._near = near
        super().__init__(client, near, _FOR_EVER, send_timeout, lambda up, down: None)
        # A session that is busy reads no more requests, for as long as it takes.
        near.set_send_timeout(0.0)

    def ended(self, end: TunnelEnd, complete: bool) -> None:
        """Close both where the session has closed its end: the client has nothing to wait for."""
        if complete and end.stream is self._near:
            self.stop(orderly=True)
        else:
            super().ended(end, complete)


def _pair(reactor: Reactor, client: Stream) -> tuple[Stream, Stream]:
    """Return the two ends of a connection within this process, which stand in for a client's."""
    streams: list[Stream] = []
    sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        for each in sockets:
            stream = Stream(reactor, each.fileno())
            each.detach()
            stream.stand_in(client)
            streams.append(stream)
    except BaseException:
        for stream in streams:
            stream.abort()
        raise
    finally:
        for each in sockets:
            each.close()
    return streams[0], streams[1]
