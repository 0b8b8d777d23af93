"""Serve clients of mirror mode over TLS: REGPROXY_TLS_LISTEN."""

from __future__ import annotations

from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tls import Context
from regproxy.server.routes import Route
from regproxy.server.session import Handlers
from regproxy.server.tls_first import TlsFirstSession


class TlsPort:
    """Makes the sessions of such clients. One for each worker."""

    def __init__(self, handlers: Handlers, context: Context) -> None:
        self._handlers = handlers
        self._context = context

    def accept(self, stream: Stream) -> None:
        """Take a client's stream."""
        TlsSession(self._handlers, stream, self._context)


class TlsSession(TlsFirstSession):
    """A Session of the proxy port whose requests come over TLS."""

    __slots__ = ()

    connect_refused = (
        "CONNECT is for the proxy's own port (http:// in HTTPS_PROXY); this one is a registry mirror"
    )

    def may_mirror(self) -> bool:
        """Return whether requests may be for a registry: not in plain text."""
        return self.stream.tls is not None

    def _show_page(self, route: Route) -> None:
        """Answer with a page, but for plain text on this port."""
        if self.stream.tls is None:
            self._responder.plain_error(self.exchange, 400, "this port speaks TLS: use https://")
            return
        super()._show_page(route)
