"""One connection to the admin port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, Final

from regproxy.admin.decoding import BODY_MAX
from regproxy.admin.port import METRICS, AdminPort
from regproxy.admin.replies import Problem, Reply, Streamed, text
from regproxy.core.errors import HeadError
from regproxy.dataplane.sinks import BytesSink
from regproxy.dataplane.stream import Stream
from regproxy.http.forwarding import build_head
from regproxy.http.messages import READS, Request, parse_request

log = logging.getLogger(__name__)

_IDLE: Final = 75.0  # seconds; above the scrape interval that is usual
BODY_SECONDS: Final = 30.0  # for a body as a whole: it is small
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class AdminSession:
    """The handler of one connection to the admin port."""

    __slots__ = ("_body", "_keep_alive", "_port", "_sent", "_stream", "_task")

    def __init__(self, port: AdminPort, stream: Stream) -> None:
        self._port = port
        self._stream = stream
        self._keep_alive = True
        self._task: asyncio.Task[None] | None = None
        self._body: asyncio.Future[None] | None = None
        self._sent: asyncio.Future[None] | None = None
        stream.handler = self
        stream.set_send_timeout(_IDLE)
        stream.next_head(_IDLE, _IDLE)

    # --- requests ----------------------------------------------------------------------------------------

    def on_head(self, head: bytes) -> None:
        """Answer a request."""
        try:
            request = parse_request(head)
        except HeadError as error:
            # It is unknown where the next head would begin.
            self._refuse(text(error.status, f"{error}\n"))
            return
        self._keep_alive = request.keep_alive and request.body.empty
        path = request.path.partition("?")[0]
        page = self._port.page(path)
        if page is None and path != METRICS:
            self._begin(self._serve(request))
        elif page is not None and page.status == 404:
            self._answer(page, request.method)
        elif request.method not in READS:
            self._answer(_not_allowed(f"{request.method} is not allowed here\n"), "GET")
        elif page is not None:
            self._answer(page, request.method)
        else:
            self._begin(self._show_metrics(request))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._port.loop.create_task(work)
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # else the next request, which was pipelined, has begun one
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a request to the admin port", exc_info=error)
            self._stream.abort()

    async def _show_metrics(self, request: Request) -> None:
        self._answer(await self._port.scrape(), request.method)

    async def _serve(self, request: Request) -> None:
        stream = self._stream
        reply = await self._port.serve(request, stream.peer, self._read, stream.here, stream.there)
        if isinstance(reply, Streamed):
            await self._send_chunks(reply, request)
        else:
            self._answer(reply, request.method)

    async def _read(self, request: Request) -> bytes:
        """Read the body of a request. Raises Problem 413, 408 and 400, with which the connection ends."""
        stream, framing = self._stream, request.body
        too_large = Problem(413, f"the body is larger than {BODY_MAX} bytes")
        if framing.length > BODY_MAX:
            raise too_large
        sink = BytesSink(BODY_MAX)
        self._body = self._port.loop.create_future()
        try:
            if request.expect_continue:
                stream.send(_CONTINUE)
            stream.receive(sink, framing.kind, framing.length, BODY_SECONDS)
            async with asyncio.timeout(BODY_SECONDS):
                await self._body
        except TimeoutError:
            stream.pause()
            raise Problem(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
        except BadBody as error:
            raise (too_large if sink.reason else Problem(400, str(error))) from None
        finally:
            self._body = None
        self._keep_alive = request.keep_alive
        return bytes(sink.data)

    def on_body(self, complete: bool, reason: str) -> None:
        """Go on: the body is here, or will not be."""
        if self._body is None or self._body.done():
            return
        if complete:
            self._body.set_result(None)
        else:
            self._body.set_exception(BadBody(reason))

    # --- answers -----------------------------------------------------------------------------------------

    def _answer(self, reply: Reply, method: str) -> None:
        headers = [*reply.headers]
        if reply.content_type:
            headers.append((b"content-type", reply.content_type))
        if reply.status != 204:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        self._keep_alive = self._keep_alive and not self._port.ends()
        if not self._keep_alive:
            headers.append((b"connection", b"close"))
        if self._stream.send(build_head(reply.status, headers), reply.body if method != "HEAD" else b""):
            self.on_sent()

    def _refuse(self, page: Reply) -> None:
        """Answer what is no request, and close."""
        self._keep_alive = False
        self._answer(page, "GET")

    async def _send_chunks(self, reply: Streamed, request: Request) -> None:
        """Send chunks as they come. To HTTP/1.0 the connection's end is theirs."""
        chunked = request.minor >= 1
        headers = [*reply.headers, (b"content-type", reply.content_type)]
        if chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        self._keep_alive = self._keep_alive and chunked and not self._port.ends()
        if not self._keep_alive:
            headers.append((b"connection", b"close"))
        await self._send(build_head(200, headers))
        async with aclosing(reply.chunks) as chunks:
            if request.method != "HEAD":
                async for chunk in chunks:
                    if self._stream.half_closed:
                        break
                    await self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked and request.method != "HEAD":
            await self._send(b"0\r\n\r\n")
        self._keep_alive = self._keep_alive and not self._port.ends()
        self.on_sent()

    async def _send(self, data: bytes) -> None:
        """Send, and wait until the kernel has taken it all."""
        if not self._stream.open:
            raise asyncio.CancelledError
        if not self._stream.send(data):
            self._sent = self._port.loop.create_future()
            try:
                await self._sent
            finally:
                self._sent = None

    def on_sent(self) -> None:
        """Wait for the next request, or close: the answer has been sent."""
        if self._sent is not None:
            if not self._sent.done():
                self._sent.set_result(None)
        elif self._keep_alive:
            self._stream.next_head(_IDLE, _IDLE)
        else:
            self._stream.close(True)

    # --- what is no request ------------------------------------------------------------------------------

    def on_foreign(self, kind: str) -> None:
        """Refuse TLS."""
        self._refuse(text(400, "this port speaks plain HTTP, not TLS\n"))

    def on_connect(self, host: str | None, port: int, login: bytes | None) -> None:
        """Refuse CONNECT: this is no proxy port."""
        self._refuse(_not_allowed("this is the admin port; the proxy listens on another\n"))

    def on_head_too_large(self) -> None:
        """Answer 431 (RFC 6585 section 5)."""
        self._refuse(text(431, "the request head is too large\n"))

    def on_eof(self, partial: bool) -> None:
        """Close: the client has gone."""
        self._stream.close()

    def on_timeout(self, what: str) -> None:
        """Abort a connection that was idle for too long; one whose body is awaited is answered."""
        if what == "read" and self._body is not None:
            return  # its own limit is over at the same time
        self._cancel()
        self._stream.abort()

    def on_closed(self, reason: str) -> None:
        """Stop working for a client that has gone. What it has set going in a thread ends there."""
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _not_allowed(message: str) -> Reply:
    """Return an answer 405, which says what is allowed (RFC 9110 15.5.6)."""
    return text(405, message, ((b"allow", b"GET, HEAD"),))


class BadBody(Exception):
    """A body that broke off, or is malformed."""
