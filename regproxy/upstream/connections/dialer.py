"""Connect to an origin: its settings, name resolution, TCP, a parent proxy, TLS."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import aiohappyeyeballs
from msgspec import Struct

from regproxy.config.origin_tables import OriginSettings
from regproxy.config.settings import Config
from regproxy.config.values.host_rules import Address
from regproxy.core.addresses import Reach, as_address, client_of, is_loopback, reach_of
from regproxy.core.errors import (
    ConnectFailed,
    OffLimits,
    Refused,
    RegproxyError,
    UnknownCA,
    UpstreamTimeout,
)
from regproxy.core.lru import Seldom
from regproxy.core.own_addresses import is_own_address
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tls import UNKNOWN_CA
from regproxy.http.origin import Origin
from regproxy.policy.interception import Interception
from regproxy.policy.origins import Origins, Way
from regproxy.tls.client_contexts import Trust
from regproxy.upstream.connections import name_lookups
from regproxy.upstream.connections.connect_tunnel import open_tunnel
from regproxy.upstream.connections.connection import HEAD_MAX, Connection
from regproxy.upstream.connections.name_lookups import CLIENT, AddrInfo, LookupLane, Lookups, literal
from regproxy.upstream.connections.resolver import Order, Resolver, address_of, at_port

log = logging.getLogger(__name__)

_LOST: Final = "lost"
HAPPY_EYEBALLS_DELAY: Final = 0.25  # seconds, RFC 8305 section 5


class DialCounters(name_lookups.LookupCounters, Protocol):
    """The counters of name lookups and refused addresses."""

    def target_refused(self, by: str) -> None:
        """Count a host with forbidden addresses. `by`: what has named it, "client" or "answer"."""


class _Trip(Struct, frozen=True):
    """The target of a connection. `answer_of`: the registry whose answer has led there, or None."""

    host: str
    way: Way
    lane: LookupLane
    asker: str
    answer_of: Origin | None = None


class Dialer:
    """Makes connections to origins, by each origin's settings. One for each worker."""

    def __init__(
        self,
        config: Config,
        origins: Origins,
        interception: Interception,
        trust: Trust,
        reactor: Reactor,
        loop: asyncio.AbstractEventLoop,
        counters: DialCounters | None = None,
        resolver: Callable[[LookupLane], Resolver] | None = None,
    ) -> None:
        self._config = config
        self._origins = origins
        self._interception = interception
        self._trust = trust
        self._reactor = reactor
        self._loop = loop
        self._counters = counters
        # Kinds of names are kept apart: one must not slow the lookups of another, or evict its answers.
        self._resolvers = {lane: (resolver or self._resolver)(lane) for lane in LookupLane}
        self._order = Order()
        self._seldom = Seldom()
        self._told_of_private = False

    def _resolver(self, lane: LookupLane) -> Resolver:
        return Resolver(Lookups(self._loop, lane, self._counters, ipv4_only=self._config.disable_ipv6))

    async def connect(self, origin: Origin, answer_of: Origin | None = None) -> Connection:
        """Return a connection that requests can be sent on. Raises like dial(); ConnectFailed if TLS fails.

        `answer_of`: the registry whose answer has led to this origin, None if a client or the configuration
        did: there are addresses that an answer may not lead to (OffLimits).
        """
        settings, way = self._origins.settings(origin), self._origins.way(origin)
        trip = self._trip(origin.host, way, answer_of)
        fd, address = await self._open(trip, settings.connect_timeout)
        try:
            stream = Stream(self._reactor, fd, False, HEAD_MAX)
        except BaseException:
            os.close(fd)
            raise
        stream.set_send_timeout(settings.send_timeout)
        port = way.port if way.proxy is None else way.proxy.port
        connection = Connection(stream, origin, address, settings.read_timeout, port)
        try:
            if way.scheme == "https":
                async with asyncio.timeout(settings.connect_timeout):
                    await connection.start_tls(self._trust.context(settings))
        except TimeoutError:
            connection.abort()
            raise UpstreamTimeout(f"{origin.host}:{origin.port}: the TLS handshake took too long") from None
        except ConnectFailed as error:
            connection.abort()
            if UNKNOWN_CA in str(error):
                raise self._unknown_ca(origin, settings, error, answer_of) from None
            raise
        except BaseException:
            connection.abort()
            raise
        return connection

    def _unknown_ca(
        self, origin: Origin, settings: OriginSettings, error: ConnectFailed, answer_of: Origin | None
    ) -> UnknownCA:
        """Return the error for a certificate from an unknown CA, and log it, once a minute for each origin:
        every request to that origin fails for this reason.
        """
        name = self._origins.ca_setting(origin)
        how = f"{'add that CA to the file' if settings.ca_file else 'name a file with that CA'} in {name}"
        why = str(error).removeprefix(f"{origin.host}: ").replace(f"{UNKNOWN_CA}, ", "")
        text = f"its certificate is not signed by a CA that this proxy knows: {how} ({why})"
        if self._seldom.lets((UNKNOWN_CA, origin.name), time.monotonic()):
            # Not in the error: clients of other registries get that too, while the circuit is open.
            led = "" if answer_of in (None, origin) else f" ({answer_of.name} leads there)"
            log.warning("%s%s: %s", origin.name, led, text)
        return UnknownCA(f"{origin.name}: {text}")

    async def dial(self, host: str, port: int, timeout: float) -> tuple[int, str]:
        """Return a connected socket's fd, which the caller then owns, and the peer's address.

        With a parent proxy, that is the proxy's address. Raises ConnectFailed (no such host, no answer),
        UpstreamTimeout, Refused (address not allowed).
        """
        trip = _Trip(host, self._origins.tunnel(host, port), LookupLane.TUNNEL, client_of(CLIENT.get()))
        fd, address = await self._open(trip, timeout)
        self._tell_of_private(trip, address)
        return fd, address

    def may_reuse(self, connection: Connection, answer_of: Origin | None) -> bool:
        """Return whether a connection that was opened for one request may be used for another."""
        origin = connection.origin
        way = self._origins.way(origin)
        if way.proxy is None:
            return self._allowed(origin.host, way, connection.address, answer_of)
        # Its address is the proxy's.
        ip = as_address(self._names(way)[0])
        return ip is None or self._allowed(origin.host, way, str(ip), answer_of)

    def _trip(self, host: str, way: Way, answer_of: Origin | None) -> _Trip:
        """Return the trip to a host, with the lane and the asker that its lookup counts for."""
        interception = self._interception
        if interception.is_written(way.host):
            return _Trip(host, way, LookupLane.WRITTEN, "", answer_of)
        if answer_of is not None and interception.is_written(answer_of.host):
            return _Trip(host, way, LookupLane.ANSWER, answer_of.host, answer_of)
        return _Trip(host, way, LookupLane.CLIENT, client_of(CLIENT.get()), answer_of)

    async def _open(self, trip: _Trip, timeout: float) -> tuple[int, str]:
        host, way = trip.host, trip.way
        where = f"{host}:{way.port}" if way.host == host else f"{host} (at {way.host}, port {way.port})"
        try:
            async with asyncio.timeout(timeout):
                sock = await self._through(trip) if way.proxy else await self._straight(trip)
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
            # It was reset as soon as it was connected.
            sock.close()
            raise ConnectFailed(f"{where}: {_os_reason(error)}") from None
        return sock.detach(), address

    # --- straight ----------------------------------------------------------------------------------------

    async def _straight(self, trip: _Trip) -> socket.socket:
        way = trip.way
        known = self._literals(way)
        if known is not None:
            sock = await self._race(self._only_allowed(trip, known))
        else:
            sock = await self._reach(
                *(self._resolvers[trip.lane], way.host, way.port, trip.asker),
                lambda infos: self._only_allowed(trip, infos),
            )
        if self._is_self(sock):
            at = str(Address(*sock.getpeername()[:2]))
            sock.close()
            if trip.lane is LookupLane.TUNNEL:
                # Whoever comes in by it would have the proxy's own address, and so may be let in to more.
                raise Refused(f"{at} is this proxy itself")
            # Where DNS sends a registry's clients here, it may send us too.
            raise ConnectFailed(f"{at} is this proxy itself; REGPROXY_RESOLVE says where the registry is")
        return sock

    def _names(self, way: Way) -> tuple[str, ...]:
        return self._config.resolve.get(way.host) or (way.host,)

    def _literals(self, way: Way) -> list[AddrInfo] | None:
        """Return the addresses of IP literals; None for a name. REGPROXY_RESOLVE has only literals."""
        ipv4_only = self._config.disable_ipv6
        found: list[AddrInfo] = []
        for name in self._names(way):
            infos = literal(name, ipv4_only=ipv4_only)
            if infos is None:
                return None
            found += at_port(infos, way.port)
        return found

    async def _reach(
        self,
        resolver: Resolver,
        name: str,
        port: int,
        asker: str,
        allowed: Callable[[list[AddrInfo]], list[AddrInfo]],
    ) -> socket.socket:
        """Connect to a name. While its addresses are being looked up anew, new ones are tried too."""
        infos = allowed(await resolver.lookup(name, port, asker))
        if not resolver.renews(name):
            return await self._race(infos)
        first = self._loop.create_task(self._race(infos))

        async def race_newer() -> socket.socket | None:
            before = {address_of(info) for info in infos}
            found = await resolver.newer(name, port)
            found = [info for info in found if address_of(info) not in before]
            # The remembered addresses may answer just as well.
            await asyncio.wait([first], timeout=HAPPY_EYEBALLS_DELAY)
            return await self._race(allowed(found)) if found else None

        return await _first_of(first, self._loop.create_task(race_newer()))

    async def _race(self, infos: list[AddrInfo]) -> socket.socket:
        """Connect to the first address that answers; all are tried within a short time (RFC 8305)."""
        order, ordered = self._order, self._order.order(infos)
        try:
            sock = await aiohappyeyeballs.start_connection(
                ordered,
                happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY,
                interleave=0,  # done
                loop=self._loop,
            )
        except OSError:
            order.failed(ordered)
            raise
        except asyncio.CancelledError as error:
            # It is mostly cancelled by a timeout, when none of them has answered; if it is cancelled because
            # another race was won, that says nothing about them.
            if error.args != (_LOST,):
                order.failed(ordered)
            raise
        with suppress(OSError):
            won = sock.getpeername()[0]
            addresses = [address_of(info) for info in ordered]
            if won in addresses:
                order.failed(ordered[: addresses.index(won)])
            order.worked(won)
        return sock

    # --- through a parent proxy --------------------------------------------------------------------------

    async def _through(self, trip: _Trip) -> socket.socket:
        """Connect through the parent proxy, which resolves the name and decides which addresses to allow."""
        way, proxy = trip.way, trip.way.proxy
        assert proxy is not None
        to = self._names(way)[0]
        ip = as_address(to)
        if ip is not None and not self._allowed(trip.host, way, str(ip), trip.answer_of):
            raise self._refuse(trip, str(ip))
        try:
            known = literal(proxy.host, ipv4_only=self._config.disable_ipv6)
            if known is not None:
                sock = await self._race(at_port(known, proxy.port))
            else:
                written = self._resolvers[LookupLane.WRITTEN]
                sock = await self._reach(written, proxy.host, proxy.port, "", lambda infos: infos)
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
        """Return whether the peer is a listener of this proxy: requests would go in circles."""
        try:
            peer, port = sock.getpeername()[:2]
            own = sock.getsockname()[0]
        except OSError:  # it was reset; _open() says so
            return False
        config = self._config
        listens = (config.listen, config.admin_listen, *config.transparent_listen, *config.tls_listen)
        return any(port == each.port and _is_at(peer, own, each.host) for each in listens)

    # --- which addresses ---------------------------------------------------------------------------------

    def _allowed(self, host: str, way: Way, address: str, answer_of: Origin | None) -> bool:
        if way.named:
            return True
        led = answer_of is not None and (answer_of.host, answer_of.port) != (host, way.port)
        itself = answer_of is not None and answer_of.host == host
        return self._interception.address_allowed(host, way.port, address, answered=led, itself=itself)

    def _only_allowed(self, trip: _Trip, infos: list[AddrInfo]) -> list[AddrInfo]:
        """Return the allowed addresses; raise if none is. Exactly these addresses are connected to."""
        host, way, answer_of = trip.host, trip.way, trip.answer_of
        allowed = [info for info in infos if self._allowed(host, way, address_of(info), answer_of)]
        if infos and not allowed:
            raise self._refuse(trip, address_of(infos[0]))
        return allowed

    def _refuse(self, trip: _Trip, address: str) -> RegproxyError:
        """Return the error for a forbidden address, and log it, once a minute for each host."""
        host, registry, reach = trip.host, trip.answer_of, reach_of(address)
        text = f"{host} resolves to {address}, {reach.value}"
        if registry is not None:
            text = f"{registry.host} leads to {host}, which resolves to {address}, {reach.value}"
        elif reach is Reach.PRIVATE:
            text += f", and REGPROXY_PRIVATE_TARGETS is {self._config.private_targets}"
        text += f"; name {host} in REGPROXY_ALLOW_TARGETS to allow it"
        if self._counters is not None:
            self._counters.target_refused("client" if registry is None else "answer")
        if self._seldom.lets(host, time.monotonic()):
            log.warning("not connected: %s", text)
        return Refused(text) if registry is None else OffLimits(text)

    def _tell_of_private(self, trip: _Trip, address: str) -> None:
        """Log once that clients can reach private addresses through this proxy."""
        way = trip.way
        if self._told_of_private or way.proxy or way.named or reach_of(address) is not Reach.PRIVATE:
            return
        if not self._interception.names(trip.host, way.port):
            self._told_of_private = True
            log.warning(
                "CONNECT %s:%d leads to %s: private addresses can be reached through this proxy;"
                " REGPROXY_PRIVATE_TARGETS=registries allows only registries and hosts that are named",
                *(trip.host, way.port, address),
            )


def _is_at(peer: str, own: str, listens: str) -> bool:
    """Tell whether a peer's address is that of a listener, which may be every address of the machine.

    `own`: the address that the connection to it has at this end.
    """
    at, of_listener = as_address(peer), as_address(listens)
    if of_listener is not None and not of_listener.is_unspecified:
        return at == of_listener
    return at == as_address(own) or is_loopback(peer) or is_own_address(peer)


async def _first_of(
    first: asyncio.Task[socket.socket], second: asyncio.Task[socket.socket | None]
) -> socket.socket:
    """Return the socket of the task that has one first; where neither has, raise the error of `first`."""
    pending: set[asyncio.Task[socket.socket] | asyncio.Task[socket.socket | None]] = {first, second}
    won = None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if won is None and not task.cancelled() and task.exception() is None and task.result():
                    won = task
            if won is not None:
                result = won.result()
                assert result is not None
                return result
        return first.result()
    finally:
        for task in (first, second):
            if task is not won:
                task.cancel(_LOST if won is not None else None)
                task.add_done_callback(_close_unwanted)


def _close_unwanted(
    task: asyncio.Task[socket.socket] | asyncio.Task[socket.socket | None],
) -> None:
    if not task.cancelled() and task.exception() is None:
        sock = task.result()
        if sock is not None:
            sock.close()


def _os_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"name resolution failed: {error.strerror}"
    # asyncio replaces the system's text by one of its own, without the cause.
    return os.strerror(error.errno) if error.errno else error.strerror or str(error)
