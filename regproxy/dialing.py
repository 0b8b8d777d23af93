"""The way to an origin: its settings, name resolution, TCP, a parent proxy, TLS."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Final

import aiohappyeyeballs

from regproxy._reactor import Reactor
from regproxy._stream import Stream
from regproxy.auth import Origin
from regproxy.config import Config
from regproxy.connections import HEAD_MAX, Connection
from regproxy.errors import ConnectFailed, Refused, UpstreamTimeout
from regproxy.origins import Origins, Way
from regproxy.policy import Policy
from regproxy.proxies import EVERY_ADDRESS, as_address
from regproxy.proxying import open_tunnel
from regproxy.resolving import AddrInfo, Resolver, address_of
from regproxy.trust import Trust

HAPPY_EYEBALLS_DELAY: Final = 0.25  # seconds, RFC 8305 section 5


class Dialer:
    """Makes connections, to each origin as its settings say. One for each worker."""

    def __init__(
        self,
        config: Config,
        origins: Origins,
        policy: Policy,
        trust: Trust,
        reactor: Reactor,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._config = config
        self._origins = origins
        self._policy = policy
        self._trust = trust
        self._reactor = reactor
        self._loop = loop
        self._resolver = Resolver(loop, ipv4_only=config.disable_ipv6)

    async def connect(self, origin: Origin) -> Connection:
        """A connection that requests can be sent on. Raises as dial() does; ConnectFailed where TLS fails."""
        settings, way = self._origins.settings(origin), self._origins.way(origin)
        fd, address = await self._open(origin.host, way, settings.connect_timeout)
        try:
            stream = Stream(self._reactor, fd, False, HEAD_MAX)
        except BaseException:
            os.close(fd)
            raise
        stream.set_send_timeout(settings.send_timeout)
        connection = Connection(stream, origin, address, settings.read_timeout)
        try:
            if way.scheme == "https":
                async with asyncio.timeout(settings.connect_timeout):
                    await connection.start_tls(self._trust.context(settings))
        except TimeoutError:
            connection.abort()
            raise UpstreamTimeout(f"{origin.host}:{origin.port}: the TLS handshake took too long") from None
        except BaseException:
            connection.abort()
            raise
        return connection

    async def dial(self, host: str, port: int, timeout: float) -> tuple[int, str]:
        """A connected socket's fd, which the caller owns now, and the address it goes to.

        That is the parent proxy's where there is one. Raises ConnectFailed (no such host, nobody answers),
        UpstreamTimeout, Refused (address not allowed).
        """
        return await self._open(host, self._origins.tunnel(host, port), timeout)

    async def _open(self, host: str, way: Way, timeout: float) -> tuple[int, str]:
        where = f"{host}:{way.port}" if way.host == host else f"{host} (at {way.host}, port {way.port})"
        try:
            async with asyncio.timeout(timeout):
                sock = await self._through(host, way) if way.proxy else await self._straight(host, way)
        except TimeoutError:
            proxy = f" through the proxy {way.proxy}" if way.proxy else ""
            raise UpstreamTimeout(f"{where}: no connection{proxy} within {timeout:g} s") from None
        except ConnectFailed as error:
            raise ConnectFailed(f"{where}: {error}") from None
        except OSError as error:
            raise ConnectFailed(f"{where}: {_os_reason(error)}") from None
        except UnicodeError:
            raise ConnectFailed(f"{where}: that can't be the name of a host") from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address: str = sock.getpeername()[0]
        except OSError as error:
            # Reset the moment that it was there.
            sock.close()
            raise ConnectFailed(f"{where}: {_os_reason(error)}") from None
        return sock.detach(), address

    # --- straight ----------------------------------------------------------------------------------------

    async def _straight(self, host: str, way: Way) -> socket.socket:
        infos: list[AddrInfo] = []
        for name in self._names(way):
            infos += await self._resolver.lookup(name, way.port)
        allowed = [info for info in infos if self._allowed(host, way, address_of(info))]
        if infos and not allowed:
            raise _refused(host, address_of(infos[0]))
        return await self._race(allowed)

    def _names(self, way: Way) -> tuple[str, ...]:
        return self._config.resolve.get(way.host) or (way.host,)

    def _allowed(self, host: str, way: Way, address: str) -> bool:
        return way.named or self._policy.address_allowed(host, way.port, address)

    async def _race(self, infos: list[AddrInfo]) -> socket.socket:
        """Connect to the first of these that answers, all of them tried before long (RFC 8305)."""
        resolver, ordered = self._resolver, self._resolver.order(infos)
        try:
            sock = await aiohappyeyeballs.start_connection(
                ordered,
                happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY,
                interleave=0,  # done
                loop=self._loop,
            )
        except (OSError, asyncio.CancelledError):
            # Cancelled is mostly too late: none of them has answered.
            resolver.failed(ordered)
            raise
        with suppress(OSError):
            won = sock.getpeername()[0]
            addresses = [address_of(info) for info in ordered]
            if won in addresses:
                resolver.failed(ordered[: addresses.index(won)])
            resolver.worked(won)
        return sock

    # --- through a parent proxy --------------------------------------------------------------------------

    async def _through(self, host: str, way: Way) -> socket.socket:
        """The name is for the proxy to resolve: what it stands for is for the proxy to allow."""
        proxy = way.proxy
        assert proxy is not None
        to = self._names(way)[0]
        if as_address(to) is not None and not self._allowed(host, way, to):
            raise _refused(host, to)
        try:
            infos = await self._resolver.lookup(proxy.host, proxy.port)
            sock = await self._race(infos)
        except OSError as error:
            raise ConnectFailed(f"no connection to the proxy {proxy}: {_os_reason(error)}") from None
        try:
            if self._is_self(sock):
                raise ConnectFailed(f"the proxy {proxy}, to go through, is this proxy itself")
            await open_tunnel(self._loop, sock, proxy, to, way.port)
        except BaseException:
            sock.close()
            raise
        return sock

    def _is_self(self, sock: socket.socket) -> bool:
        """Whether the other end is where we listen: what is asked would go round in circles."""
        listen = self._config.listen
        peer, port = sock.getpeername()[:2]
        if port != listen.port:
            return False
        if listen.host not in EVERY_ADDRESS:
            return bool(peer == listen.host)
        ip = as_address(peer)
        return bool(peer == sock.getsockname()[0] or (ip is not None and ip.is_loopback))


def _refused(host: str, address: str) -> Refused:
    return Refused(
        f"{host} resolves to {address}, a loopback, link-local or metadata address; "
        f"name {host} in REGPROXY_ALLOW_TARGETS to allow it"
    )


def _os_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"name resolution failed: {error.strerror}"
    # asyncio puts a text of its own, without the cause, in place of the system's.
    return os.strerror(error.errno) if error.errno else error.strerror or str(error)
