"""Connections to origins: name resolution, dialling, TLS, keep-alive pools, one request, redirects.

An origin is (scheme, host, port), so the port of the CONNECT is the port that is dialled.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urljoin, urlsplit

import aiohappyeyeballs

from regproxy._reactor import Reactor
from regproxy._relay import BytesSink
from regproxy._stream import Sink, Stream
from regproxy._tls import Context
from regproxy.auth import Credentials, Origin, keep_across
from regproxy.config import Config
from regproxy.errors import BadResponse, ConnectFailed, Refused, UpstreamError, UpstreamTimeout
from regproxy.heads import Framing, Request, Response, parse_response, upstream_head
from regproxy.policy import MAX_REDIRECTS, REDIRECTS, Policy

HEAD_MAX: Final = 131_072  # bytes; Artifact Registry sends large response heads
INTERIM_MAX: Final = 16  # 1xx answers before the one that counts
IDLE_PER_ORIGIN: Final = 32
IDLE_SECONDS: Final = 55.0  # below the 60 s after which common load balancers drop a connection
HAPPY_EYEBALLS_DELAY: Final = 0.25  # seconds, RFC 8305 section 5
SMALL_BODY: Final = 65_536  # bytes; an error's or a redirect's body is read up to this size

# What a stored answer must not depend on, and what asks for less than all of the content.
_NOT_FORWARDED: Final = frozenset(
    b"accept-encoding expect range if-range if-none-match if-match if-modified-since"
    b" if-unmodified-since".split()
)
# What a host that we were redirected to has no business with.
_NOT_ACROSS: Final = frozenset(b"authorization cookie referer".split())
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_IDENTITY: Final = (b"accept-encoding", b"identity")


class Counters(Protocol):
    """Where requests to origins are counted."""

    def upstream_request(self, host: str, code: int | str, seconds: float) -> None:
        """Count one answer by its status, or a failure by a word, and the seconds until its head."""


class ConnectionLost(UpstreamError):
    """The connection ended before the answer did."""


class Connection:
    """One connection to an origin, and the handler of its stream. One request at a time.

    `patience`: seconds until an answer's first byte, 0 for any.
    """

    __slots__ = ("_on_lost", "_timeout", "_waiter", "address", "origin", "patience", "stream", "used")

    def __init__(self, stream: Stream, origin: Origin, address: str, timeout: float) -> None:
        self.stream = stream
        self.origin = origin
        self.address = address
        self.used = 0
        self._timeout = self.patience = timeout
        self._waiter: asyncio.Future[bytes] | None = None
        self._on_lost: Callable[[Connection], None] | None = None
        stream.handler = self

    # --- what the stream tells ---------------------------------------------------------------------------

    def on_handshake(self) -> None:
        self._settle(b"")

    def on_head(self, head: bytes) -> None:
        self._settle(head)

    def on_sent(self) -> None:
        """Requests are small or relayed: nobody waits for this."""

    def on_body(self, complete: bool, reason: str) -> None:
        if complete:
            self._settle(b"")
        else:
            self._fail(BadResponse(f"{self.origin.host}: {reason}"))

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
        """Start something whose end the stream tells, and wait for it."""
        if not self.stream.open:
            raise ConnectionLost(f"{self.origin.host} closed the connection")
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        begin()
        return await waiter

    # --- one request -------------------------------------------------------------------------------------

    async def start_tls(self, context: Context) -> None:
        """Handshake as the client; ConnectFailed says why it failed."""
        name, is_ip = self.origin.host.encode(), _is_ip(self.origin.host)
        try:
            await self._wait(lambda: self.stream.start_tls(context, name, is_ip, self._timeout))
        except ConnectionLost as error:
            raise ConnectFailed(str(error)) from None

    def wait_without_limit(self) -> None:
        """While a request's body is on its way, its answer can't be late."""
        self.patience = 0.0

    def wait_from_now(self) -> None:
        """The request is complete: the answer has its time from here on."""
        self.patience = self._timeout
        self.stream.extend_read(self._timeout)

    def send(self, head: bytes) -> None:
        """Send a request's head."""
        self.used += 1
        self.stream.send(head)

    async def read_head(self, method: str) -> Response:
        """The next response head, interim ones (1xx) included."""
        head = await self._wait(lambda: self.stream.next_head(self.patience, self._timeout))
        try:
            return parse_response(head, method)
        except BadResponse as error:
            raise BadResponse(f"{self.origin.host}: {error}") from None

    async def read_body(self, sink: Sink, framing: Framing) -> None:
        """Move the body that follows into the sink; BadResponse where it is cut or malformed."""
        if framing.empty:
            return
        await self._wait(lambda: self.stream.receive(sink, framing.kind, framing.length, self._timeout))

    async def read_small(self, response: Response, limit: int = SMALL_BODY) -> bytes:
        """A body of at most `limit` bytes; BadResponse where it is larger or cut."""
        sink = BytesSink(limit)
        await self.read_body(sink, response.body)
        return bytes(sink.data)

    def keep(self, on_lost: Callable[[Connection], None]) -> bool:
        """Stay open for a later request; False where the origin has closed or sent more than it should."""
        self._on_lost = on_lost
        return self.stream.watch_idle(IDLE_SECONDS)

    def take(self) -> None:
        """Out of the pool again."""
        self._on_lost = None
        self.patience = self._timeout

    def abort(self) -> None:
        """Close at once. Whoever waits for something is told."""
        self._on_lost = None
        self._fail(ConnectionLost(f"{self.origin.host}: given up"))

    def close(self) -> None:
        """Close in order, once nobody waits for anything."""
        self._on_lost = None
        self.stream.close()


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer whose body is still to be read. `seconds`: until its head; `origin`: who gave it."""

    connection: Connection
    response: Response
    origin: Origin
    seconds: float


class Upstream:
    """Asks origins. One for each worker."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        credentials: Credentials,
        reactor: Reactor,
        context: Context,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._config = config
        self._policy = policy
        self._credentials = credentials
        self._reactor = reactor
        self._context = context
        self._counters = counters
        self._loop = loop
        self._idle: dict[Origin, deque[Connection]] = {}

    # --- connections -------------------------------------------------------------------------------------

    async def dial(self, host: str, port: int, timeout: float) -> tuple[int, str]:
        """A connected socket's fd, which the caller owns now, and the address it goes to.

        Raises ConnectFailed (no such host, nobody answers), UpstreamTimeout, Refused (address not allowed).
        """
        try:
            async with asyncio.timeout(timeout):
                infos = await self._addresses(host, port)
                sock = await aiohappyeyeballs.start_connection(
                    infos, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, interleave=1, loop=self._loop
                )
        except TimeoutError:
            raise UpstreamTimeout(f"{host}:{port}: no connection within {timeout:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"{host}:{port}: {_os_reason(error)}") from None
        except UnicodeError:
            raise ConnectFailed(f"{host}:{port}: that can't be the name of a host") from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address: str = sock.getpeername()[0]
        except OSError as error:
            # Reset the moment that it was there.
            sock.close()
            raise ConnectFailed(f"{host}:{port}: {_os_reason(error)}") from None
        return sock.detach(), address

    async def _addresses(self, host: str, port: int) -> list[aiohappyeyeballs.AddrInfoType]:
        family = socket.AF_INET if self._config.disable_ipv6 else socket.AF_UNSPEC
        names = self._config.resolve.get(host) or (host,)
        infos: list[aiohappyeyeballs.AddrInfoType] = []
        for name in names:
            found = await self._loop.getaddrinfo(name, port, family=family, type=socket.SOCK_STREAM)
            infos.extend(found)
        allowed = [info for info in infos if self._policy.address_allowed(host, port, str(info[4][0]))]
        if infos and not allowed:
            raise Refused(
                f"{host} resolves to {infos[0][4][0]}, a loopback, link-local or metadata address; "
                f"name {host} in REGPROXY_ALLOW_TARGETS to allow it"
            )
        return allowed

    async def _connect(self, origin: Origin) -> Connection:
        config = self._config
        fd, address = await self.dial(origin.host, origin.port, config.proxy_connect_timeout)
        try:
            stream = Stream(self._reactor, fd, False, HEAD_MAX)
        except BaseException:
            os.close(fd)
            raise
        stream.set_send_timeout(config.proxy_send_timeout)
        connection = Connection(stream, origin, address, config.proxy_read_timeout)
        try:
            if origin.scheme == "https":
                async with asyncio.timeout(config.proxy_connect_timeout):
                    await connection.start_tls(self._context)
        except TimeoutError:
            connection.abort()
            raise UpstreamTimeout(f"{origin.host}:{origin.port}: the TLS handshake took too long") from None
        except BaseException:
            connection.abort()
            raise
        return connection

    def _take_idle(self, origin: Origin) -> Connection | None:
        pool = self._idle.get(origin)
        while pool:
            connection = pool.pop()
            if not pool:
                del self._idle[origin]
            connection.take()
            if connection.stream.open:
                return connection
        return None

    def release(self, connection: Connection, response: Response) -> None:
        """Give a connection back after its answer was read to the end; kept alive if the origin agrees."""
        origin = connection.origin
        if response.keep_alive and response.body.kind != "eof":
            pool = self._idle.setdefault(origin, deque())
            if len(pool) < IDLE_PER_ORIGIN and connection.keep(self._lost):
                pool.append(connection)
                return
            if not pool:
                del self._idle[origin]
        connection.close()

    def _lost(self, connection: Connection) -> None:
        pool = self._idle.get(connection.origin)
        if pool is not None:
            with suppress(ValueError):
                pool.remove(connection)
            if not pool:
                del self._idle[connection.origin]

    def close(self) -> None:
        """Close every idle connection."""
        for pool in self._idle.values():
            for connection in tuple(pool):
                connection.abort()
        self._idle.clear()

    # --- requests ----------------------------------------------------------------------------------------

    async def request(self, origin: Origin, head: bytes, method: str) -> tuple[Connection, Response]:
        """Send a request without a body and read the head of its final answer.

        An idle connection that the origin has just closed costs one more try on a new one.
        """
        started = time.monotonic()
        try:
            # What may have been done already must not be done twice (RFC 9110 9.2.2): no connection that may
            # turn out to be closed.
            idle = self._take_idle(origin) if method in _IDEMPOTENT else None
            if idle is not None:
                with suppress(ConnectionLost):
                    return await self._ask(idle, head, method, started)
            return await self._ask(await self._connect(origin), head, method, started)
        except UpstreamError:
            self._counters.upstream_request(origin.host, "error", time.monotonic() - started)
            raise

    async def _ask(
        self, connection: Connection, head: bytes, method: str, started: float
    ) -> tuple[Connection, Response]:
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
        self._counters.upstream_request(connection.origin.host, response.status, time.monotonic() - started)
        return connection, response

    async def begin(self, origin: Origin, request: Request) -> Connection:
        """Send the head of a request whose body follows; on a new connection, as it can't be sent twice."""
        head = self.head_for(origin, request)
        connection = await self._connect(origin)
        connection.send(head)
        return connection

    def head_for(self, origin: Origin, request: Request) -> bytes:
        """The head of a request that is passed on, with the origin's credentials where it has none."""
        return upstream_head(request, authority(origin), put=self._authorization(origin, request))

    def _authorization(self, origin: Origin, request: Request) -> tuple[tuple[bytes, bytes], ...]:
        basic = None
        if origin.scheme == "https":
            basic = self._credentials.may_inject(request, origin.host, origin.port)
        return ((b"authorization", basic),) if basic is not None else ()

    async def fetch(self, origin: Origin, request: Request, method: str, offset: int = 0) -> Fetched:
        """Ask for unencoded content, from byte `offset` on, and follow redirects.

        Credentials and cookies stay with the registry. Raises UpstreamError; the caller reads the body and
        releases the connection, or aborts it.
        """
        started = time.monotonic()
        always = (_IDENTITY, (b"range", b"bytes=%d-" % offset)) if offset else (_IDENTITY,)
        put = (*always, *self._authorization(origin, request))
        head = upstream_head(
            request, authority(origin), method=method, drop=_NOT_FORWARDED | {b"cookie"}, put=put
        )
        at, url = origin, _url(origin, request.path)
        for _ in range(MAX_REDIRECTS + 1):
            connection, response = await self.request(at, head, method)
            location = response.get(b"location")
            if response.status not in REDIRECTS:
                return Fetched(connection, response, at, time.monotonic() - started)
            if location is None:
                connection.abort()
                raise BadResponse(f"{at.host} redirects ({response.status}) without saying where to")
            await self._finish_redirect(connection, response)
            url = _follow(url, location)
            to = Origin.of(url)
            if at.scheme == "https" and to.scheme != "https":
                raise BadResponse(f"{at.host} redirects to plain HTTP at {to.host}: not followed")
            drop, put = _NOT_FORWARDED | _NOT_ACROSS, always
            if keep_across(origin, to):
                drop, put = _NOT_FORWARDED | {b"cookie"}, (*always, *self._authorization(origin, request))
            at = to
            head = upstream_head(
                request, authority(at), target=_path_of(url), method=method, drop=drop, put=put
            )
        raise BadResponse(f"{origin.host}: more than {MAX_REDIRECTS} redirects")

    async def _finish_redirect(self, connection: Connection, response: Response) -> None:
        """Read a redirect's little body so that the connection can be used again."""
        try:
            await connection.read_small(response)
        except UpstreamError:
            connection.abort()
        except BaseException:
            connection.abort()
            raise
        else:
            self.release(connection, response)


def authority(origin: Origin) -> bytes:
    """`host[:port]` for a Host header (RFC 9110 section 7.2); the scheme's own port is left out."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    default = 443 if origin.scheme == "https" else 80
    return (host if origin.port == default else f"{host}:{origin.port}").encode()


def _url(origin: Origin, path: str) -> str:
    return f"{origin.scheme}://{authority(origin).decode()}{path}"


def _follow(url: str, location: bytes) -> str:
    """The absolute URL that a Location names (RFC 9110 10.2.2); a relative one is the registry's own."""
    try:
        return urljoin(url, location.decode("ascii"))
    except ValueError:
        raise BadResponse("a redirect to something that is not a URL") from None


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _os_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"name resolution failed: {error.strerror}"
    # asyncio puts a text of its own, without the cause, in place of the system's.
    return os.strerror(error.errno) if error.errno else error.strerror or str(error)
