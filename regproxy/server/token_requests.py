"""Answer clients without credentials that ask a token server, where our login may get them a token."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from msgspec.structs import replace

from regproxy.dataplane.sinks import BytesSink
from regproxy.http.messages import Request
from regproxy.http.origin import Origin
from regproxy.policy.lending import FORM_MAX
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.responder import Responder

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class TokenRequests:
    """Hands out tokens."""

    __slots__ = ("_loop", "_responder", "_rights", "_timeout", "_upstream")

    def __init__(self, services: Services, responder: Responder) -> None:
        self._upstream = services.upstream
        self._rights = services.rights
        self._timeout = services.config.client_body_timeout
        self._loop = services.loop
        self._responder = responder

    async def lend(self, exchange: Exchange, server: Origin, request: Request, body: bytes) -> bool:
        """Answer with a token that the configured login has got; False: there is none, nothing was sent."""
        rights, principal = self._rights, exchange.principal
        issued = await self._upstream.lend(
            *(server, request, body),
            # The login may be the server's own, with a list of its own.
            lambda registry, repository: (
                rights.lends(principal, registry, repository)
                and not rights.access.withholds(principal, server, repository)
            ),
        )
        if issued is None:
            return False
        answer = {"token": issued.value, "access_token": issued.value, "expires_in": int(issued.lifetime)}
        content = json.dumps(answer, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
        ]
        self._responder.answer(exchange, 200, headers, content)
        return True

    async def read_form(self, exchange: Exchange, request: Request) -> tuple[Request, bytes]:
        """Read the small body of a request; return the request as it may be forwarded with that body."""
        if request.body.empty:
            return request, b""
        stream = exchange.stream
        over = exchange.body_over = self._loop.create_future()
        sink = BytesSink(FORM_MAX)
        try:
            if request.expect_continue:
                stream.send(CONTINUE)
            stream.receive(sink, request.body.kind, request.body.length, self._timeout)
            await asyncio.wait((over,))
            over.result()
            exchange.body_left = False
        finally:
            if exchange.body_over is not None:
                exchange.body_over = None
                stream.pause()
        headers = tuple(field for field in request.headers if field[0] != b"expect")
        return replace(request, headers=headers, expect_continue=False), bytes(sink.data)
