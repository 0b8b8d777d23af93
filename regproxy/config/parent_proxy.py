"""Parse parent proxies, and the list of hosts that are reached without one."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from regproxy.config.values import Address, Raw, parse_host, split_host_port
from regproxy.core.addresses import as_address

PROXY_PORT: Final = 3128  # Squid's, and this proxy's own
EVERY_ADDRESS: Final = frozenset({"", "::", "0.0.0.0"})  # listening addresses that mean every address
_WANT_PROXY: Final = "http://host:port or http://user:password@host:port"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ParentProxy:
    """A proxy to connect through, by CONNECT. Neither its text nor its repr shows `authorization`.

    `authorization` is the value of Proxy-Authorization (`Basic ...`, RFC 7617), empty if there is none.
    """

    host: str
    port: int
    authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return str(Address(self.host, self.port))

    def connect_head(self, host: str, port: int) -> bytes:
        """Return the request that opens a tunnel to `host` (RFC 9110 9.3.6)."""
        target = str(Address(host, port)).encode()
        lines = [b"CONNECT " + target + b" HTTP/1.1", b"Host: " + target]
        if self.authorization:
            lines.append(b"Proxy-Authorization: " + self.authorization)
        return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_parent_proxy(text: str) -> ParentProxy | None:
    """Return the ParentProxy of a URL, as in HTTPS_PROXY; None for the empty text.

    Without a scheme, `http://` is assumed, as curl does. No error repeats text that may be a secret.
    """
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_WANT_PROXY) from None
    if parts.scheme != "http":
        raise ValueError(f"{_WANT_PROXY}; a proxy that is itself reached by TLS, or SOCKS, is not supported")
    if parts.path not in ("", "/") or parts.query or parts.fragment or not parts.hostname or port == 0:
        raise ValueError(_WANT_PROXY)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in user or not (user + password).isprintable():
        raise ValueError("a user without a colon and printable text, as Basic authentication takes it")
    pair = parts.username is not None or parts.password is not None
    basic = b"Basic " + b64encode(f"{user}:{password}".encode()) if pair else b""
    try:
        host = parse_host(parts.hostname)
    except ValueError:
        raise ValueError(_WANT_PROXY) from None
    return ParentProxy(host, PROXY_PORT if port is None else port, basic)


@dataclass(frozen=True, slots=True)
class NoProxy:
    """The hosts to reach without HTTPS_PROXY: host names with all below them, addresses, networks, or all.

    `.example.com` is every name below example.com, without itself, as in Go and so docker and containerd. A
    port, if given, has to be the same.
    """

    everybody: bool = False
    names: tuple[tuple[str, int | None], ...] = ()
    networks: tuple[tuple[_Network, int | None], ...] = ()

    def matches(self, host: str, port: int) -> bool:
        """Tell whether `host`, in lower case and without brackets, is reached without it."""
        if self.everybody:
            return True
        ip = as_address(host)
        if ip is not None:
            return any(ip in network and known in (None, port) for network, known in self.networks)
        return any(_below(host, name) and known in (None, port) for name, known in self.names)


def _below(host: str, name: str) -> bool:
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith("." + name)


def parse_no_proxy(raw: Raw) -> NoProxy:
    """Return the NoProxy of a list: `localhost,.svc,10.0.0.0/8,*.example.com,registry.lan:5000`, or `*`."""
    words = raw.replace(",", " ").split() if isinstance(raw, str) else [word.strip() for word in raw]
    names: list[tuple[str, int | None]] = []
    networks: list[tuple[_Network, int | None]] = []
    for word in words:
        if word == "*":
            continue
        network = _network(word)
        if network is not None:
            networks.append((network, None))
            continue
        try:
            host, port = split_host_port(word.lower())
            # `*.example.com` is a common spelling of `.example.com`.
            dotted = "." if host.startswith((".", "*.")) else ""
            name = parse_host(host.removeprefix("*").removeprefix("."))
        except ValueError:
            raise ValueError(
                f"{word!r} is not a host name, an address, a network such as 10.0.0.0/8, or *"
            ) from None
        address = _network(name)
        if address is not None:
            networks.append((address, port))
        else:
            names.append((dotted + name, port))
    return NoProxy("*" in words, tuple(names), tuple(networks))


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its name (RFC 6761 6.3) or address."""
    ip = as_address(host)
    return ip.is_loopback if ip is not None else host == "localhost" or host.endswith(".localhost")


def is_own(proxy: ParentProxy, listens: Iterable[Address]) -> bool:
    """Tell whether a parent proxy is, as written, this proxy itself: requests would loop."""
    return any(proxy.port == own.port and _is_at(proxy.host, own.host) for own in listens)


def _is_at(host: str, listens: str) -> bool:
    if listens in EVERY_ADDRESS:
        return is_loopback(host)
    return host == listens or ("localhost" in (host, listens) and is_loopback(host) and is_loopback(listens))
