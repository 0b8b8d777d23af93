"""The listening sockets of one configuration. All workers accept from the same ones.

One socket per port, not one per worker (SO_REUSEPORT): connections waiting in the socket of a worker that
hangs or dies would be lost.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

from msgspec import Struct

from regproxy.config.settings import Config
from regproxy.config.values.host_rules import Address
from regproxy.core.errors import ConfigError

BACKLOG: Final = 4096
_LOOK_AGAIN: Final = 0.05
_BEHIND_A_VIEW: Final = Address("127.0.0.1", 0)


class Listeners(Struct, frozen=True):
    """The proxy's socket, that of the admin port, those for clients whom DNS sends here, and those for TLS.

    In this order.

    `addresses`: for each the variable and the address that was asked for.
    """

    sockets: tuple[socket.socket, ...]
    addresses: tuple[tuple[str, Address], ...]

    @classmethod
    def open(cls, config: Config, former: Listeners | None = None, patience: float = 0.0) -> Listeners:
        """Listen where `config` says. A socket of `former` is taken over where its address has not changed.

        An address in use is tried again for `patience` seconds. Raises ConfigError, naming the variable.
        """
        ends = time.monotonic() + patience
        addresses = (
            # Before a debug view's clients come to mitmweb, which connects to whatever port this gets.
            ("REGPROXY_LISTEN", _BEHIND_A_VIEW if config.debug else config.listen),
            ("REGPROXY_ADMIN_LISTEN", config.admin_listen),
            *(("REGPROXY_TRANSPARENT_LISTEN", address) for address in config.transparent_listen),
            *(("REGPROXY_TLS_LISTEN", address) for address in config.tls_listen),
        )
        kept = dict(zip(former.addresses, former.sockets, strict=True)) if former is not None else {}
        opened: list[socket.socket] = []
        sockets: list[socket.socket] = []
        try:
            for variable, address in addresses:
                if (variable, address) in kept:
                    sockets.append(kept[variable, address])
                else:
                    opened.append(_listen(address, variable, ends))
                    sockets.append(opened[-1])
        except ConfigError:
            for sock in opened:
                sock.close()
            raise
        return cls(tuple(sockets), addresses)

    def of(self, variable: str) -> tuple[int, ...]:
        """Return the descriptors of the sockets that a variable asks for."""
        asked = zip(self.addresses, self.sockets, strict=True)
        return tuple(sock.fileno() for (name, _), sock in asked if name == variable)

    def close(self, spare: Listeners | None = None) -> None:
        """Close the sockets that `spare` does not share."""
        for sock in self.sockets:
            if spare is None or sock not in spare.sockets:
                sock.close()


def _listen(address: Address, variable: str, ends: float) -> socket.socket:
    while True:
        try:
            return _bound(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > ends:
                expected = f"can't listen there: {error.strerror or error}"
                raise ConfigError(variable, str(address), expected) from None
        # The workers of a supervisor that was killed may be about to release it.
        time.sleep(_LOOK_AGAIN)


def _bound(address: Address) -> socket.socket:
    """Return a listening, non-blocking socket; `[::]` takes IPv4 too."""
    host = address.host or "::"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if host == "::" and not _has_ipv6():
        host, family = "0.0.0.0", socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it, which saves a system call for each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind((host, address.port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
