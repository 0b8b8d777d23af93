"""A client connection that begins with TLS, where the proxy port has a CONNECT first."""

from __future__ import annotations

from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tls_contexts import Context
from regproxy.server.sessions.handlers import Handlers
from regproxy.server.sessions.session import Session


class TlsFirstSession(Session):
    """A Session that takes a ClientHello as the first byte, and shows it `context`'s certificate."""

    __slots__ = ("_context",)

    connect_refused = ""  # what a CONNECT is told

    def __init__(self, handlers: Handlers, stream: Stream, context: Context) -> None:
        self._context = context
        super().__init__(handlers, stream)

    def on_connect(self, host: str | None, port: int, login: bytes | None) -> None:
        """Refuse a CONNECT: it belongs on the proxy port."""
        self._responder.plain_error(self._begin(), 405, self.connect_refused)

    def on_foreign(self, kind: str) -> None:
        """Begin TLS: the first byte is that of a ClientHello."""
        timeout = self._services.config.client_header_timeout
        self.stream.start_tls(self._context, b"", True, timeout)
