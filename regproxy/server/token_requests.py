"""Answering clients without credentials that ask a token server, where our login may get them a token."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Final

from regproxy.dataplane.sinks import BytesSink
from regproxy.http.messages import Request
from regproxy.http.origin import Origin
from regproxy.policy.lending import FORM_MAX
from regproxy.server.tag_requests import TagAsker

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class TokenAsker(TagAsker):
    """Hands out tokens."""

    __slots__ = ()

    async def _lend(self, server: Origin, request: Request, body: bytes) -> bool:
        """Answer with a token that the server's own login has got; False: not answered, it gets none."""
        issued = await self._s.upstream.lend(server, request, body)
        if issued is None:
            return False
        answer = {"token": issued.value, "access_token": issued.value, "expires_in": int(issued.lifetime)}
        content = json.dumps(answer, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
        ]
        self._answer(200, headers, content)
        return True

    async def _read_form(self, request: Request) -> tuple[Request, bytes]:
        """Take in the little body of a request; return the request as it may go on with that body."""
        if request.body.empty:
            return request, b""
        over = self._body_over = self._s.loop.create_future()
        sink = BytesSink(FORM_MAX)
        try:
            if request.expect_continue:
                self.stream.send(CONTINUE)
            body, timeout = request.body, self._s.config.client_body_timeout
            self.stream.receive(sink, body.kind, body.length, timeout)
            await asyncio.wait((over,))
            over.result()
            self._body_left = False
        finally:
            if self._body_over is not None:
                self._body_over = None
                self.stream.pause()
        headers = tuple(field for field in request.headers if field[0] != b"expect")
        return replace(request, headers=headers, expect_continue=False), bytes(sink.data)
