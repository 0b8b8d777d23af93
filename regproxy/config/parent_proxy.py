"""Parse parent proxies, and the list of hosts that are reached without one."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from regproxy.config.values.host_rules import Address, parse_host, split_host_port
from regproxy.config.values.lists import Raw
from regproxy.core.addresses import EVERY_ADDRESS, as_address, is_loopback

PROXY_PORT: Final = 3128  # Squid's, and this proxy's own
_WANT_PROXY: Final = "http://host:port or http://user:password@host:port"

# The first octets of a network: `10.*`, `10.`, `192.168.*.*`, `10/8`.
_SHORT: Final = re.compile(r"((?:[0-9]{1,3}\.){0,2}[0-9]{1,3})(?:\.|(?:\.\*){1,3}|/([0-9]{1,2}))")

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


class UnusableProxy(ValueError):
    """A proxy of a kind that can't be used here."""


def parse_parent_proxy(text: str) -> ParentProxy | None:
    """Return the ParentProxy of a URL, as in HTTPS_PROXY; None for the empty text.

    Without a scheme, `http://` is assumed, as curl does. No error repeats text that may be a secret.
    """
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    if url.partition("://")[0].lower() != "http":
        text = f"{_WANT_PROXY}; a proxy that is itself reached by TLS, or SOCKS, is not supported"
        raise UnusableProxy(text)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_WANT_PROXY) from None
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


class NoProxy(Struct, frozen=True):
    """The hosts to reach without HTTPS_PROXY: host names with all below them, addresses, networks, or all.

    `.example.com` is what is below example.com, without itself, as Go and so docker and containerd have it.
    A port, where one is given, has to be the same. `local`: names of one label.
    """

    everybody: bool = False
    names: tuple[tuple[str, int | None], ...] = ()
    networks: tuple[tuple[_Network, int | None], ...] = ()
    local: bool = False

    def matches(self, host: str, port: int) -> bool:
        """Tell whether `host`, in lower case and without brackets, is reached without it."""
        if self.everybody:
            return True
        ip = as_address(host)
        if ip is not None:
            return any(ip in network and known in (None, port) for network, known in self.networks)
        if self.local and "." not in host:
            return True
        return any(_below(host, name) and known in (None, port) for name, known in self.names)


def _below(host: str, name: str) -> bool:
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith("." + name)


def parse_no_proxy(raw: Raw) -> NoProxy:
    """Return the NoProxy of a list; ValueError for an entry that can't be understood."""
    no_proxy, notes = read_no_proxy(raw)
    if notes:
        raise ValueError(notes[0])
    return no_proxy


def read_no_proxy(raw: Raw) -> tuple[NoProxy, list[str]]:
    """Return the NoProxy of a list, and what is wrong with entries that can't be understood.

    What Go, curl and others take: `localhost,.svc,10.0.0.0/8,*.example.com,registry.lan:5000`, `*`, `10.*`,
    `<local>`, URLs; blanks, commas, semicolons or bars between them.
    """
    words = re.split(r"[\s,;|]+", raw) if isinstance(raw, str) else [word.strip() for word in raw]
    entries = [word.strip("\"'").lower() for word in words]
    names: list[tuple[str, int | None]] = []
    networks: list[tuple[_Network, int | None]] = []
    notes: list[str] = []
    for word in entries:
        if word in ("", "*", "<local>"):
            continue
        try:
            target, port = _entry(word)
        except ValueError:
            notes.append(f"{word!r} is not a host name, an address, a network such as 10.0.0.0/8, or *")
            continue
        if isinstance(target, str):
            names.append((target, port))
        else:
            networks.append((target, port))
    return NoProxy("*" in entries, tuple(names), tuple(networks), "<local>" in entries), notes


def _entry(word: str) -> tuple[str | _Network, int | None]:
    """Return a name (`.` ahead of it: what is below alone) or a network, and a port. Raises ValueError."""
    scheme, slashes, rest = word.rpartition("://")
    if slashes:
        if not scheme.isalpha():
            raise ValueError("no scheme")
        word = rest.partition("/")[0].rpartition("@")[2]
    network = _network(word)
    if network is not None:
        return network, None
    host, port = split_host_port(word.removesuffix(":").removesuffix(":*"))
    # `*.example.com` is a common spelling of `.example.com`, `*example.com` of example.com.
    dotted = "." if host.startswith((".", "*.")) else ""
    name = parse_host(host.removeprefix("*").removeprefix("."))
    address = _network(name)
    return (address if address is not None else dotted + name), port


def _network(text: str) -> _Network | None:
    """Return an address or network: 10.1.2.3, 10.0.0.0/8, 10/8, 10.*, 10., [2001:db8::]/32, or None."""
    if (short := _SHORT.fullmatch(text)) is not None:
        octets = re.findall(r"[0-9]+", short[1])
        bits = short[2] or str(8 * len(octets))
        text = ".".join([*octets, *["0"] * (4 - len(octets))]) + f"/{bits}"
    address, bracket, bits = text.partition("]")
    if bracket:
        if not address.startswith("[") or bits[:1] not in ("", "/"):
            return None  # or a port would end the address
        text = address[1:] + bits
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    # As Go has it, ::ffff:10.0.0.1 is 10.0.0.1.
    return (
        ipaddress.ip_network((mapped, network.prefixlen - 96))
        if mapped and network.prefixlen >= 96
        else network
    )


def is_own(proxy: ParentProxy, listens: Iterable[Address]) -> bool:
    """Tell whether a parent proxy is, as written, this proxy itself: requests would loop."""
    return any(proxy.port == own.port and _is_at(proxy.host, own.host) for own in listens)


def _is_at(host: str, listens: str) -> bool:
    if listens in EVERY_ADDRESS:
        return is_loopback(host)
    return host == listens or ("localhost" in (host, listens) and is_loopback(host) and is_loopback(listens))
