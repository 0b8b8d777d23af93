"""Send requests for tokens, and pings of the proxy's own: what an Authorizer asks of servers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from regproxy.core.errors import UpstreamTimeout
from regproxy.core.request_context import current_span, within
from regproxy.http.forwarding import upstream_head
from regproxy.http.messages import Framing, Headers, Request, Response
from regproxy.http.origin import Origin
from regproxy.registry.targets import Kind
from regproxy.upstream.admission import Gate
from regproxy.upstream.sender import Sender

_TOKENS: Final = "tokens"  # a credential of its own: token servers' quotas are no registry's
_TOKEN_SECONDS: Final = 20.0  # for one request to a token server

T = TypeVar("T")


class TokenServers:
    """The token servers of all registries: see token_cache.TokenExchange."""

    def __init__(self, sender: Sender, gate: Gate) -> None:
        self._sender = sender
        self._gate = gate

    async def exchange(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        registry: Origin | None = None,
    ) -> tuple[int, Response, bytes]:
        """Send one request to a token server: see token_cache.TokenExchange."""
        above = current_span()
        if above is None:
            return await self._exchange(origin, method, target, headers, body, registry)
        with within(above.child("token", {"server.address": origin.host, "server.port": origin.port})):
            return await self._exchange(origin, method, target, headers, body, registry)

    async def _exchange(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        registry: Origin | None,
    ) -> tuple[int, Response, bytes]:
        framing = Framing("length", len(body)) if method == "POST" else Framing("none", 0)
        request = Request(method, target, 1, headers, framing, True, False)
        head = upstream_head(request, origin.authority, target=target)
        connection, response = await self._gate.through(
            *(origin, _TOKENS, method, Kind.TOKEN),
            lambda: self._in_token_time(
                origin,
                self._sender.send(origin, head + body, method, fresh=method == "POST", answer_of=registry),
            ),
            limited=False,
        )
        try:
            content = await self._in_token_time(origin, connection.read_small(response))
        except BaseException:
            connection.abort()
            raise
        self._sender.release(connection, response)
        return response.status, response, content

    async def _in_token_time(self, origin: Origin, answer: Coroutine[Any, Any, T]) -> T:
        """Await a token within _TOKEN_SECONDS: many requests may wait for it."""
        try:
            async with asyncio.timeout(_TOKEN_SECONDS):
                return await answer
        except TimeoutError:
            raise UpstreamTimeout(f"{origin.host}: no token within {_TOKEN_SECONDS:g} s") from None
