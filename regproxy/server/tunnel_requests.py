"""Answer a CONNECT to a host that is not intercepted: by a tunnel, or a refusal."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Final

from regproxy.core.errors import RegproxyError
from regproxy.core.request_context import CURRENT, RequestContext
from regproxy.dataplane.stream import Stream
from regproxy.http.hops import hop
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.responder import Responder
from regproxy.server.tunnel import Tunnel
from regproxy.upstream.connections.name_lookups import CLIENT

log = logging.getLogger(__name__)

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class TunnelRequests:
    """Opens tunnels. One for each worker; calls name the exchange."""

    __slots__ = ("_responder", "_services")

    def __init__(self, services: Services, responder: Responder) -> None:
        self._services = services
        self._responder = responder

    async def refuse(self, exchange: Exchange, host: str, port: int, reason: str) -> None:
        """Refuse a CONNECT to a port, unless a registry sends its clients there for their tokens."""
        services = self._services
        if await services.upstream.is_token_server(host, port):
            await self.open(exchange, host, port)
            return
        services.say_refused(host, port, reason)
        self._responder.plain_error(exchange, 403, f"CONNECT {host}:{port} refused: {reason}")

    async def open(self, exchange: Exchange, host: str, port: int) -> None:
        """Open a tunnel; it takes the exchange's stream over, and the exchange ends with it."""
        services, responder, stream = self._services, self._responder, exchange.stream
        config = services.config
        CLIENT.set(stream.peer)
        CURRENT.set(RequestContext(responder.id_of(exchange)))
        try:
            fd, address = await services.upstream.dial(host, port, config.tunnel_connect_timeout)
        except RegproxyError as error:
            log.warning("CONNECT %s:%d: %s", host, port, error)
            responder.plain_error(exchange, error.status, f"CONNECT {host}:{port}: {error}")
            return
        exchange.kind, exchange.asked, exchange.status = "tunnel", hop(host, address, port, 0.0), 200
        stream.send(ESTABLISHED)
        exchange.base = stream.plain_sent
        try:
            other = Stream(services.reactor, fd)
        except Exception as error:
            os.close(fd)
            log.exception("CONNECT %s:%d", host, port)
            text = f"CONNECT {host}:{port}: internal error: {type(error).__name__}"
            responder.plain_error(exchange, 500, text)
            return
        services.metrics.tunnel_opened()
        over = partial(self._over, exchange)
        Tunnel(stream, other, config.tunnel_read_timeout, config.tunnel_send_timeout, over)

    def _over(self, exchange: Exchange, up: int, down: int) -> None:
        exchange.task = None
        self._services.metrics.tunnel_closed(up, down)
        self._responder.record(exchange)
