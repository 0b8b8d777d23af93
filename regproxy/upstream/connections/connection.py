"""One connection to an origin, with one request at a time."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Final

from regproxy.core.errors import BadResponse, ConnectFailed, UpstreamError, UpstreamTimeout
from regproxy.dataplane.body import Sink
from regproxy.dataplane.sinks import BytesSink
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tls_contexts import Context
from regproxy.http.hops import hop
from regproxy.http.messages import Framing, Response, parse_response
from regproxy.http.origin import Origin

HEAD_MAX: Final = 131_072  # bytes; Artifact Registry sends large response heads
IDLE_SECONDS: Final = 55.0  # below the 60 s after which common load balancers drop a connection
SMALL_BODY: Final = 65_536  # bytes; an error's or a redirect's body is read up to this size


class ConnectionLost(UpstreamError):
    """The connection ended before the answer did."""


class BodyBroken(BadResponse):
    """The body ended early."""


class Connection:
    """One connection to an origin, and the handler of its stream. One request at a time.

    `patience`: seconds until an answer's first byte, 0: no limit. `private`: the connection itself may be
    authenticated, so other clients must not use it.
    """

    __slots__ = (
        "_on_lost",
        "_timeout",
        "_waiter",
        "address",
        "origin",
        "patience",
        "port",
        "private",
        "stream",
        "used",
    )

    def __init__(
        self, stream: Stream, origin: Origin, address: str, timeout: float, port: int | None = None
    ) -> None:
        self.stream = stream
        self.origin = origin
        self.address = address
        self.port = origin.port if port is None else port
        self.used = 0
        self.private = False
        self._timeout = self.patience = timeout
        self._waiter: asyncio.Future[bytes] | None = None
        self._on_lost: Callable[[Connection], None] | None = None
        stream.handler = self

    def hop(self, seconds: float) -> str:
        """Return it as one of `http.hops`, whose answer took so long."""
        return hop(self.origin.host, self.address, self.port, seconds, self.origin.port)

    # --- what the stream tells ---------------------------------------------------------------------------

    def on_handshake(self) -> None:
        self._settle(b"")

    def on_head(self, head: bytes) -> None:
        self._settle(head)

    def on_sent(self) -> None:
        """Do nothing: requests are small or relayed, and no task waits for this."""

    def on_body(self, complete: bool, reason: str) -> None:
        if complete:
            self._settle(b"")
        else:
            self._fail(BodyBroken(f"{self.origin.host}: {reason}"))

    def on_head_too_large(self) -> None:
        self._fail(BadResponse(f"{self.origin.host}: the response head is larger than {HEAD_MAX} bytes"))

    def on_eof(self, partial: bool) -> None:
        where = "within the response head" if partial else "without an answer"
        self._fail(ConnectionLost(f"{self.origin.host} closed the connection {where}"))

    def on_timeout(self, what: str) -> None:
        if self._waiter is None:
            self.on_closed("idle for too long")
            return
        verb = "sent nothing" if what == "read" else "took nothing"
        self._fail(UpstreamTimeout(f"{self.origin.host} {verb} for {self._timeout:g} s"))

    def on_closed(self, reason: str) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self)
        self._fail(ConnectionLost(f"{self.origin.host}: {reason}"))

    def _settle(self, result: bytes) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(result)

    def _fail(self, error: UpstreamError) -> None:
        self.stream.abort()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    async def _wait(self, begin: Callable[[], None]) -> bytes:
        """Start an operation of the stream, and wait for the callback that ends it."""
        if not self.stream.open:
            raise ConnectionLost(f"{self.origin.host} closed the connection")
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        begin()
        try:
            return await waiter
        finally:
            # Break a reference cycle: the error holds this frame, the frame the waiter and its error.
            del waiter

    # --- one request -------------------------------------------------------------------------------------

    async def start_tls(self, context: Context) -> None:
        """Handshake as the client. Raises ConnectFailed, UpstreamTimeout."""
        name, is_ip = self.origin.host.encode(), _is_ip(self.origin.host)
        try:
            await self._wait(lambda: self.stream.start_tls(context, name, is_ip, self._timeout))
        except ConnectionLost as error:
            raise ConnectFailed(str(error)) from None

    def wait_at_least(self, seconds: float) -> None:
        """Let the next answer begin that late, where less was allowed."""
        if self.patience:
            self.patience = max(self.patience, seconds)

    def wait_without_limit(self) -> None:
        """Suspend the timeout of the answer while the request's body is being sent."""
        self.patience = 0.0

    def wait_from_now(self) -> None:
        """Start the timeout of the answer: the request is complete."""
        self.patience = self._timeout
        self.stream.extend_read(self._timeout)

    def send(self, head: bytes) -> None:
        """Send a request's head."""
        self.used += 1
        self.stream.send(head)

    async def read_head(self, method: str) -> Response:
        """Read the next response head, interim ones (1xx) included."""
        head = await self._wait(lambda: self.stream.next_head(self.patience, self._timeout))
        try:
            return parse_response(head, method)
        except BadResponse as error:
            raise BadResponse(f"{self.origin.host}: {error}") from None

    async def read_body(self, sink: Sink, framing: Framing) -> None:
        """Move the body that follows into the sink. Raises BadResponse where it is cut or malformed."""
        if framing.empty:
            return
        await self._wait(lambda: self.stream.receive(sink, framing.kind, framing.length, self._timeout))

    async def read_small(self, response: Response, limit: int = SMALL_BODY) -> bytes:
        """Read a body of at most `limit` bytes. Raises BadResponse where it is larger or cut."""
        sink = BytesSink(limit)
        await self.read_body(sink, response.body)
        return bytes(sink.data)

    def keep(self, on_lost: Callable[[Connection], None]) -> bool:
        """Stay open for a later request; False where the origin has closed or sent more than it should."""
        self._on_lost = on_lost
        return self.stream.watch_idle(IDLE_SECONDS)

    def take(self) -> None:
        """Prepare for the next request: it has left the pool."""
        self._on_lost = None
        self.patience = self._timeout

    def abort(self) -> None:
        """Close at once, and fail the operation that is awaited."""
        self._on_lost = None
        self._fail(ConnectionLost(f"{self.origin.host}: given up"))

    def too_slow(self, rate: float, seconds: float) -> None:
        """Abort a body of less than `rate` bytes per second for `seconds`."""
        self._fail(UpstreamTimeout(f"{self.origin.host} sent less than {rate:g} bytes/s for {seconds:g} s"))

    def close(self) -> None:
        """Close in order, when no operation is awaited."""
        self._on_lost = None
        self.stream.close()


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
