"""Parse hosts, masks of hosts, ports behind them and listening addresses.

Each `parse_*` function takes text and returns a value, or raises ValueError whose text says what would be
right. The error does not repeat the given text, which may be a secret.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from regproxy.config.values.host_regex import compile_host_regex
from regproxy.config.values.numbers import parse_port

# The underscore is no host name character (RFC 952, 1123), yet Compose service names have it.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

_WANT_HOST = "a host name or IP address, without https:// and without a path"


def parse_host(text: str) -> str:
    """Return a host's normal form: lower case, no trailing dot, IPv6 compressed and without brackets."""
    bracketed = text.startswith("[") and text.endswith("]")
    if bracketed or ":" in text:
        return parse_address(text)
    return _name(text)


def parse_address(text: str) -> str:
    """Return an IPv4 or IPv6 address in its shortest form; IPv6 is accepted with and without brackets."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        raise ValueError("an IP address such as 192.0.2.1 or 2001:db8::1") from None
    if inner is not text and address.version == 4:
        raise ValueError("an IPv4 address without brackets")
    return str(address)


def _name(text: str) -> str:
    """Return a DNS name in lower case without its trailing dot."""
    if not text.isascii():
        raise ValueError("a host name in ASCII; an international name in its xn-- form")
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(_WANT_HOST)
    return name


def split_host_port(text: str) -> tuple[str, int | None]:
    """Return the host part unchanged, brackets included, and the port after it if there is one.

    `reg.example:5000`, `[::1]:5000`; several colons outside brackets are an IPv6 address without a port.
    """
    if "/" in text:
        raise ValueError(_WANT_HOST)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        return text, None
    return host, parse_port(port)


class Address(Struct, frozen=True):
    """A listening address. The empty host is every address of the machine; port 0 is any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Address:
    """Return the Address of `[::]:3128`, `0.0.0.0:3128`, `localhost:3128` or `:3128`."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        raise ValueError("host:port, such as 0.0.0.0:3128, [::]:3128 or :3128")
    return Address(parse_host(host) if host else "", 0 if port == "0" else parse_port(port))


class HostRule(Struct, frozen=True):
    """A host, or an nginx `hostnames` mask, with the port that it applies to; None is any port.

    `*.example.com` is every name below example.com, `.example.com` is those and itself, `reg.*` is every
    name that starts so. A mask's star stands for one label or several, as in nginx. `~` and an expression
    are what `compile_host_regex` makes of it.
    """

    pattern: str
    port: int | None = None

    def matches(self, host: str, port: int) -> bool:
        """Tell whether this rule applies to `host` (any case, trailing dot, brackets) and `port`."""
        if self.port is not None and self.port != port:
            return False
        pattern, name = self.pattern, _comparable(host)
        if pattern.startswith("*."):
            return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
        if pattern.startswith("."):
            return name == pattern[1:] or name.endswith(pattern)
        if pattern.endswith(".*"):
            return name.startswith(pattern[:-1]) and len(name) > len(pattern) - 1
        if pattern.startswith("~"):
            return compile_host_regex(pattern)(name)
        return name == pattern

    @property
    def is_exact(self) -> bool:
        """Whether it is a name or an address, and no mask and no expression."""
        return "*" not in self.pattern and not self.pattern.startswith((".", "~"))

    def __str__(self) -> str:
        bare = self.pattern.startswith("~") or ":" not in self.pattern
        host = self.pattern if bare else f"[{self.pattern}]"
        return host if self.port is None else f"{host}:{self.port}"


def _comparable(host: str) -> str:
    """Return a client's spelling of a host in the form that rules have."""
    if ":" not in host:
        return host.lower().removesuffix(".")
    try:
        return parse_address(host)
    except ValueError:
        return host


def parse_rule(text: str) -> HostRule:
    """Return the HostRule of a host or mask with an optional port."""
    if text.startswith("~"):
        raise ValueError("a host or a mask such as *.example.com; regular expressions (~) are not supported")
    host, port = split_host_port(text)
    if host.startswith("*."):
        return HostRule("*." + _name(host[2:]), port)
    if host.startswith("."):
        return HostRule("." + _name(host[1:]), port)
    if host.endswith(".*"):
        return HostRule(_name(host[:-2]) + ".*", port)
    if "*" in host:
        raise ValueError("a mask with one * at an end: *.example.com, .example.com or reg.*")
    return HostRule(parse_host(host), port)
