"""Send one request to an origin over an idle or a new connection, and read the head of its answer."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import Final, Protocol

from regproxy.core.errors import BadResponse, UpstreamError
from regproxy.core.request_context import Attributes, current_span, within
from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.upstream.circuit_breaker import Breakers
from regproxy.upstream.connections.connection import Connection, ConnectionLost
from regproxy.upstream.connections.dialer import Dialer
from regproxy.upstream.connections.pool import Idle

INTERIM_MAX: Final = 16  # 1xx answers before the one that counts
DRAIN: Final = 5.0  # seconds for a body that is read only to reuse the connection

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_OTHER_SCHEME: Final = re.compile(
    rb"^(?:proxy-)?authorization:(?![ \t]*(?:basic|bearer)[ \t])", re.IGNORECASE | re.MULTILINE
)


class RequestCounters(Protocol):
    """The counters of requests to origins."""

    def upstream_request(self, host: str, code: int | str, seconds: float) -> None:
        """Count one answer by its status, or a failure by a word, and the seconds until its head."""

    def first_byte(self, host: str, seconds: float) -> None:
        """Count the seconds from a request that was sent to the head of its answer."""


class Sender:
    """Sends the requests of a worker, each traced and counted. The caller reads the body of the answer, and
    then releases the connection, or aborts it.
    """

    def __init__(self, dialer: Dialer, breakers: Breakers, counters: RequestCounters) -> None:
        self._dialer = dialer
        self._breakers = breakers
        self._counters = counters
        self._idle = Idle()

    def release(self, connection: Connection, response: Response) -> None:
        """Give a connection back after its answer has been read; it is kept alive if the origin agrees."""
        self._idle.give(connection, response)

    def close(self) -> None:
        """Close every idle connection."""
        self._idle.close()

    async def send(
        self,
        origin: Origin,
        head: bytes,
        method: str,
        *,
        fresh: bool = False,
        answer_of: Origin | None = None,
        patience: float = 0.0,
    ) -> tuple[Connection, Response]:
        """Send a request, with any small body in `head`, and read the head of its final answer.

        If the origin has just closed an idle connection, try once more on a new one. `fresh`: only on a new
        one. `answer_of`: see Dialer.connect. `patience`: seconds until the answer must begin, where the read
        timeout is shorter. Raises UpstreamError.
        """
        above = current_span()
        if above is None:
            return await self._send(origin, head, method, fresh, answer_of, patience)
        with within(above.child(method, _told(origin, head, method))) as span:
            head = _traced(head, span.traceparent)
            found = await self._send(origin, head, method, fresh, answer_of, patience)
            span.put({"http.response.status_code": found[1].status})
            return found

    async def _send(
        self,
        origin: Origin,
        head: bytes,
        method: str,
        fresh: bool,
        answer_of: Origin | None,
        patience: float,
    ) -> tuple[Connection, Response]:
        started = time.monotonic()
        try:
            # A request that is not idempotent must not be repeated (RFC 9110 9.2.2): it gets no connection
            # that may turn out to be closed.
            idle = None
            if method in _IDEMPOTENT and not fresh:
                idle = self._idle.take(origin, lambda idle: self._dialer.may_reuse(idle, answer_of))
            if idle is not None:
                with suppress(ConnectionLost):
                    return await self._ask(idle, head, method, started, patience)
            connection = await self.connect(origin, answer_of)
            return await self._ask(connection, head, method, started, patience)
        except UpstreamError:
            self._counters.upstream_request(origin.name, "error", time.monotonic() - started)
            raise

    async def connect(self, origin: Origin, answer_of: Origin | None = None) -> Connection:
        """Return a new connection, of which circuit breakers know. `answer_of`: see Dialer.connect."""
        return await self._breakers.run(origin, self._dialer.connect(origin, answer_of))

    async def _ask(
        self, connection: Connection, head: bytes, method: str, started: float, patience: float = 0.0
    ) -> tuple[Connection, Response]:
        # NTLM and Negotiate authenticate a connection, not a request (RFC 4559 6); unknown schemes may too.
        connection.private = connection.private or _OTHER_SCHEME.search(head) is not None
        connection.wait_at_least(patience)
        sent = time.monotonic()
        try:
            connection.send(head)
            response = await connection.read_head(method)
            for _ in range(INTERIM_MAX):
                if response.status >= 200:
                    break
                response = await connection.read_head(method)
            else:
                raise BadResponse(f"{connection.origin.host}: more than {INTERIM_MAX} interim answers")
        except BaseException:
            connection.abort()
            raise
        host, now = connection.origin.name, time.monotonic()
        self._counters.upstream_request(host, response.status, now - started)
        self._counters.first_byte(host, now - sent)
        return connection, response

    async def finish(self, connection: Connection, response: Response) -> None:
        """Read a small body and drop it, so that the connection can be reused."""
        try:
            async with asyncio.timeout(DRAIN):
                await connection.read_small(response)
        except (UpstreamError, TimeoutError):
            connection.abort()
        except BaseException:
            connection.abort()
            raise
        else:
            self.release(connection, response)


def _told(origin: Origin, head: bytes, method: str) -> Attributes:
    """Return what a span tells of a request. A query is left out: signed URLs have their secrets there."""
    path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
    return {
        "http.request.method": method,
        "server.address": origin.host,
        "server.port": origin.port,
        "url.scheme": origin.scheme,
        "url.path": path,
    }


def _traced(head: bytes, traceparent: bytes) -> bytes:
    """Return a request that tells of this trace, and of no other."""
    fields, end, body = head.partition(b"\r\n\r\n")
    first, *others = fields.split(b"\r\n")
    others = [field for field in others if not field.lower().startswith(b"traceparent:")]
    return b"\r\n".join((first, *others, b"traceparent: " + traceparent)) + end + body
